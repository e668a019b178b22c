/* reader DATA STOP: opens the array again and again until the file STOP is there. Every open must
 * agree with itself (header, size, end of file), have at least the rows of the one before, and its
 * new rows must be whole. Prints how often it opened.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void fail(const char *what, long a, long b)
{
    fprintf(stderr, "%s: %ld, %ld (%s)\n", what, a, b, strerror(errno));
    exit(1);
}

int main(int argc, char **argv)
{
    char header[129] = "";
    static uint32_t rows[4096][4];
    long before = 0, opens = 0;
    int last = 0;

    if (argc != 3)
        return 2;
    while (!last) {
        last = access(argv[2], F_OK) == 0;
        int fd = open(argv[1], O_RDONLY);
        if (fd < 0) {
            if (errno == ENOENT && before == 0 && !last)
                continue;
            fail("open", opens, before);
        }
        struct stat stat;
        if (pread(fd, header, 128, 0) != 128 || fstat(fd, &stat) != 0)
            fail("header", opens, before);
        long count = atol(strstr(header + 10, "'shape': (") + 10);
        if (stat.st_size != 128 + count * 16)
            fail("size and header differ", stat.st_size, count);
        if (count < before)
            fail("fewer rows", count, before);
        if (pread(fd, rows, 16, stat.st_size) != 0)
            fail("bytes behind the end", count, before);
        /* Seldom all of the new rows, always the newest. */
        long from = count - before > 4096 ? count - 4096 : before;
        ssize_t want = (count - from) * 16;
        if (pread(fd, rows, want, 128 + from * 16) != want)
            fail("short read", from, count);
        for (long r = 0; r < count - from; r++) {
            uint32_t *row = rows[r];
            if (row[3] != row[0] * 1000003u + row[1] * 10007u + row[2] * 101u + 12345u)
                fail("a row that nobody wrote", from + r, count);
        }
        before = count;
        opens++;
        close(fd);
    }
    printf("%ld %ld\n", opens, before);
    return 0;
}
