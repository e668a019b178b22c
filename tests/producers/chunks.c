/* A chunk of 100 rows [n, n + 0.5, n + 0.25] with no library. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    double rows[100][3];
    char header[128], path[4096];

    if (argc != 2)
        return 2;
    for (int n = 0; n < 100; n++) {
        rows[n][0] = n;
        rows[n][1] = n + 0.5;
        rows[n][2] = n + 0.25;
    }
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10); /* 0x76: 118 bytes follow */
    int len = sprintf(header + 10, "{'descr': '<f8', 'fortran_order': False, 'shape': (100, 3), }");
    header[10 + len] = ' ';
    header[127] = '\n';

    snprintf(path, sizeof path, "%s/c.npy", argv[1]);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(header, sizeof header, 1, file) != 1 ||
        fwrite(rows, sizeof rows, 1, file) != 1 || fclose(file) != 0) {
        perror(path);
        return 1;
    }
    return 0; /* fclose said 0: the rows are in data.npy */
}
