/* producer MODE DIRECTORY PRODUCER CHUNKS: writes chunks of rows (producer, chunk, row, hash).
 *
 * pieces: writes of odd sizes, front to back
 * patch:  a provisional header first, the true one last (stdio)
 * halves: the second half by a forked child that inherits the descriptor
 * local:  plain files, for somebody else to move
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define HEADER 128

static void fail(const char *what, const char *path)
{
    fprintf(stderr, "%s %s: %s\n", what, path, strerror(errno));
    exit(1);
}

/* The same in rows.py. */
static uint32_t rows_of(uint32_t p, uint32_t c)
{
    if (c == 100)
        return (3 << 20) / 16;
    if (c % 53 == 17)
        return 1 + (c * 7919 + p * 104729) * 31 % 196608;
    return 1 + (c * 7919 + p * 104729) % 60;
}

static uint32_t hash(uint32_t p, uint32_t c, uint32_t r)
{
    return p * 1000003u + c * 10007u + r * 101u + 12345u;
}

static void header(char *out, uint32_t rows)
{
    memcpy(out, "\x93NUMPY\x01\x00\x76\x00", 10);
    int n = 10 + snprintf(out + 10, HEADER - 10,
                          "{'descr': '<u4', 'fortran_order': False, 'shape': (%u, 4), }", rows);
    memset(out + n, ' ', HEADER - n);
    out[HEADER - 1] = '\n';
}

static void put(int fd, const char *bytes, size_t len, size_t piece, const char *path)
{
    while (len > 0) {
        ssize_t n = write(fd, bytes, len < piece ? len : piece);
        if (n < 0)
            fail("write", path);
        bytes += n;
        len -= n;
    }
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    const char *mode = argv[1];
    uint32_t p = atoi(argv[3]), chunks = atoi(argv[4]);
    char *file = malloc(HEADER + (4 << 20));

    for (uint32_t c = 0; c < chunks; c++) {
        uint32_t rows = rows_of(p, c), *row = (uint32_t *)(file + HEADER);
        size_t len = HEADER + (size_t)rows * 16;
        char path[4096];
        snprintf(path, sizeof path, "%s/p%u-c%u.npy", argv[2], p, c);
        header(file, rows);
        for (uint32_t r = 0; r < rows; r++, row += 4) {
            row[0] = p, row[1] = c, row[2] = r, row[3] = hash(p, c, r);
        }
        if (strcmp(mode, "patch") == 0) {
            FILE *out = fopen(path, "wx");
            char provisional[HEADER];
            header(provisional, 0);
            if (!out)
                fail("fopen", path);
            if (fwrite(provisional, HEADER, 1, out) != 1 ||
                fwrite(file + HEADER, len - HEADER, 1, out) != 1 || fseek(out, 0, SEEK_SET) != 0 ||
                fwrite(file, HEADER, 1, out) != 1)
                fail("fwrite", path);
            if (fclose(out) != 0)
                fail("fclose", path);
            continue;
        }
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0)
            fail("open", path);
        if (strcmp(mode, "halves") == 0) {
            size_t half = len / 2;
            put(fd, file, half, len, path);
            if (c % 10 == 0) {
                int status;
                pid_t child = fork();
                if (child == 0) {
                    put(fd, file + half, len - half, len, path);
                    _exit(close(fd) != 0);
                }
                if (waitpid(child, &status, 0) < 0 || status != 0)
                    fail("child", path);
            } else {
                put(fd, file + half, len - half, len, path);
            }
        } else {
            size_t odd = 1 + (c * 7919) % 400000;
            put(fd, file, len, strcmp(mode, "local") == 0 || odd < 50 ? len : odd, path);
        }
        if (close(fd) != 0)
            fail("close", path);
    }
    free(file);
    return 0;
}
