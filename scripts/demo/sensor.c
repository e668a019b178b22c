/* sensor DATASET LEDGER CHUNKS: interrupts and context switches of this machine, from /proc/stat.
 * A row is (uptime in 1/100 s, 3, interrupts, switches). The ledger gets the same rows as text.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ROWS = 50, HEADER = 128 };

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void sample(int64_t *row)
{
    double uptime = 0;
    char line[65536];
    FILE *file = fopen("/proc/uptime", "r");
    if (!file || fscanf(file, "%lf", &uptime) != 1)
        fail("/proc/uptime");
    fclose(file);
    row[0] = (int64_t)(uptime * 100), row[1] = 3;
    file = fopen("/proc/stat", "r");
    if (!file)
        fail("/proc/stat");
    while (fgets(line, sizeof line, file)) {
        sscanf(line, "intr %" SCNd64, &row[2]);
        sscanf(line, "ctxt %" SCNd64, &row[3]);
    }
    fclose(file);
}

int main(int argc, char **argv)
{
    static struct { char header[HEADER]; int64_t rows[ROWS][4]; } chunk;
    if (argc != 4)
        return 2;
    FILE *ledger = fopen(argv[2], "w");
    if (!ledger)
        fail(argv[2]);
    memset(chunk.header, ' ', HEADER);
    memcpy(chunk.header, "\x93NUMPY\x01\x00\x76\x00", 10);
    const char text[] = "{'descr': '<i8', 'fortran_order': False, 'shape': (50, 4), }";
    memcpy(chunk.header + 10, text, sizeof text - 1);
    chunk.header[HEADER - 1] = '\n';

    for (int n = 0; n < atoi(argv[3]); n++) {
        for (int i = 0; i < ROWS; i++) {
            sample(chunk.rows[i]);
            for (int column = 0; column < 4; column++)
                fprintf(ledger, "%" PRId64 "%c", chunk.rows[i][column], column < 3 ? ' ' : '\n');
        }
        char path[4096];
        snprintf(path, sizeof path, "%s/irq-%d.npy", argv[1], n);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0 || write(fd, &chunk, sizeof chunk) != sizeof chunk)
            fail(path);
        if (close(fd) != 0) /* 0 is the promise: the rows are in data.npy */
            fail(path);
        nanosleep(&(struct timespec){ .tv_nsec = 50 * 1000 * 1000 }, NULL);
    }
    return fclose(ledger) != 0;
}
