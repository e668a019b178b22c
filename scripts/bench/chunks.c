/* Writes N chunks of BYTES bytes of rows, open-write-close each, and prints the rate and the
 * median time of one in microseconds: chunks DIRECTORY PREFIX N BYTES [fsync] */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int count, char **word) {
    if (count < 5) return 2;
    int n = atoi(word[3]), bytes = atoi(word[4]), sync = count > 5, header = 128;
    char *chunk = malloc(header + bytes), path[4096];
    double *times = malloc(n * sizeof *times);
    if (!chunk || !times) return 1;
    memset(chunk, ' ', header);
    memcpy(chunk, "\x93NUMPY\x01\x00\x76\x00", 10);
    int len = sprintf(chunk + 10, "{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }", bytes / 8);
    chunk[10 + len] = ' ';
    chunk[header - 1] = '\n';
    for (int i = 0; i < bytes / 8; i++) ((double *)(chunk + header))[i] = i;
    double start = now();
    for (int i = 0; i < n; i++) {
        double begin = now();
        snprintf(path, sizeof path, "%s/%s-%07d.npy", word[1], word[2], i);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0 || write(fd, chunk, header + bytes) != header + bytes
            || (sync && fsync(fd)) || close(fd)) {
            perror(path);
            return 1;
        }
        times[i] = now() - begin;
    }
    double took = now() - start;
    qsort(times, n, sizeof *times, by_size);
    printf("%.1f %.2f\n", n / took, times[n / 2] * 1e6);
    return 0;
}
