/* Chunks of 100 rows [n, n + 0.5, n + 0.25] with stdio: item by item, unbuffered, and with a header
   that is patched when the count is known. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double parts[3] = {0.0, 0.5, 0.25};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void header(FILE *file, int rows) {
    char text[129];
    int n = snprintf(text, sizeof text, "{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 3), }", rows);
    memset(text + n, ' ', 117 - n);
    text[117] = '\n';
    if (fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, file) != 10 || fwrite(text, 1, 118, file) != 118)
        fail("header");
}

static void rows(FILE *file, int first) {
    for (int i = first; i < first + 100; i++)
        for (int j = 0; j < 3; j++) {
            double number = i + parts[j];
            if (fwrite(&number, sizeof number, 1, file) != 1)
                fail("row");
        }
}

int main(int argc, char **argv) {
    const char *names[3] = {"buffered", "unbuffered", "patched"};
    for (int k = 0; k < 3; k++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s.npy", argv[argc - 1], names[k]);
        FILE *file = fopen(path, "wb");
        if (!file)
            fail(path);
        if (k == 1)
            setvbuf(file, NULL, _IONBF, 0);
        header(file, k == 2 ? 0 : 100);
        rows(file, 100 * k);
        if (k == 2) {
            rewind(file);
            header(file, 100);
        }
        if (fclose(file) != 0)
            fail(path);
    }
    return 0;
}
