/* paused ROUND: a chunk of 100 rows of 3, ROUND * 1000 and up, to standard output: its header, and
 * after 3 ms its rows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **word) {
    double rows[300];
    char header[128];

    if (count != 2)
        return 2;
    for (int n = 0; n < 300; n++)
        rows[n] = atoi(word[1]) * 1000.0 + n;
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    int len = sprintf(header + 10, "{'descr': '<f8', 'fortran_order': False, 'shape': (100, 3), }");
    header[10 + len] = ' ';
    header[127] = '\n';
    if (write(1, header, sizeof header) != sizeof header)
        return 1;
    usleep(3000);
    if (write(1, rows, sizeof rows) != sizeof rows)
        return 1;
    return close(1) != 0;
}
