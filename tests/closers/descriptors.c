/* descriptors MODE CHUNK SOURCE [ROUNDS or PROGRAM]: copies SOURCE, a whole .npy, to CHUNK while its descriptor
 * is duplicated, inherited, passed on and closed. Ends with 0 where no call failed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define HEADER 128

static char *source;
static long length;

static void must(int good, const char *what) {
    if (!good) {
        perror(what);
        _exit(1);
    }
}

static int create(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    must(fd >= 0, "open");
    return fd;
}

static void put(int fd, long from, long to) {
    must(write(fd, source + from, to - from) == to - from, "write");
}

static void end(int fd, const char *what) {
    must(close(fd) == 0, what);
}

static void copy(const char *path) {
    int fd = create(path);
    put(fd, 0, length);
    end(fd, "close");
}

static void child_ends_well(pid_t child) {
    int status;
    must(waitpid(child, &status, 0) == child && status == 0, "the child");
}

/* The header by the parent, which closes; the rows by its child, which waits for that. */
static void inherited(const char *path) {
    int go[2], fd = create(path);
    must(pipe(go) == 0, "pipe");
    put(fd, 0, HEADER);
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        char byte;
        end(go[1], "close the pipe");
        must(read(go[0], &byte, 1) == 0, "read");
        put(fd, HEADER, length);
        end(fd, "the child's close");
        _exit(0);
    }
    end(fd, "the parent's close");
    end(go[1], "close the pipe");
    child_ends_well(child);
}

/* Its parent ends in here, and the descriptor lives on in the child. */
static void daemonised(const char *path) {
    int fd = create(path);
    put(fd, 0, HEADER);
    must(daemon(1, 1) == 0, "daemon");
    put(fd, HEADER, length);
    end(fd, "close");
}

static void send_descriptor(int socket, int fd) {
    char byte = 0, control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec io = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    must(sendmsg(socket, &message, 0) == 1, "sendmsg");
}

static int receive_descriptor(int socket) {
    int fd;
    char byte, control[CMSG_SPACE(sizeof fd)];
    struct iovec io = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    must(recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1, "recvmsg");
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

/* The descriptor is in the socket alone when its sender has closed its own, and nobody has it in a
 * table until the receiver takes it. */
static void passed(const char *path) {
    int pair[2], go[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(go) == 0, "socketpair");
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        char byte;
        end(go[1], "close the pipe");
        must(read(go[0], &byte, 1) == 0, "read");
        int fd = receive_descriptor(pair[1]);
        put(fd, HEADER, length);
        end(fd, "the receiver's close");
        _exit(0);
    }
    int fd = create(path);
    put(fd, 0, HEADER);
    send_descriptor(pair[0], fd);
    end(fd, "the sender's close");
    end(go[1], "close the pipe");
    child_ends_well(child);
}

static int shared;
static pthread_barrier_t barrier;

static void *with_a_table_of_its_own(void *unused) {
    (void)unused;
    must(unshare(CLONE_FILES) == 0, "unshare");
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    put(shared, HEADER, length);
    end(shared, "the thread's close");
    return NULL;
}

/* replaced: the other thread's table then holds as many descriptors as this one's. */
static void in_a_thread(const char *path, int replaced) {
    pthread_t thread;
    shared = create(path);
    must(pthread_barrier_init(&barrier, NULL, 2) == 0, "barrier");
    must(pthread_create(&thread, NULL, with_a_table_of_its_own, NULL) == 0, "thread");
    pthread_barrier_wait(&barrier);
    put(shared, 0, HEADER);
    int other = replaced ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1;
    must(!replaced || other >= 0, "open /dev/null");
    /* One that is opened after the close would have its number. */
    end(shared, "the first thread's close");
    pthread_barrier_wait(&barrier);
    must(pthread_join(thread, NULL) == 0, "join");
}

/* While the parent closes its own, the child gives its descriptor another number and back, once
 * each: it has one all the time. */
static void moved(const char *path, int rounds) {
    char name[4096];
    for (int n = 0; n < rounds; n++) {
        int done[2];
        snprintf(name, sizeof name, "%s-%d.npy", path, n);
        int fd = create(name), high = fcntl(fd, F_DUPFD_CLOEXEC, 200);
        must(high >= 0 && pipe(done) == 0, "dup");
        end(fd, "close");
        put(high, 0, HEADER);
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child == 0) {
            usleep(n * 37 % 1000);
            must(dup2(high, 3) == 3, "dup2");
            end(high, "the child's first close");
            char byte;
            end(done[1], "close the pipe");
            must(read(done[0], &byte, 1) == 0, "read");
            put(3, HEADER, length);
            end(3, "the child's last close");
            _exit(0);
        }
        end(high, "the parent's close");
        end(done[0], "close the pipe");
        end(done[1], "close the pipe");
        child_ends_well(child);
    }
}

/* To standard output, once standard input is at its end. */
static void rest(void) {
    char byte;
    if (geteuid() != 0)
        _exit(77);
    must(read(0, &byte, 1) == 0, "read");
    put(1, HEADER, length);
    end(1, "the close of what was inherited");
}

/* The header, and PROGRAM for the rest, which begins after this one has closed. */
static void starts(const char *path, const char *file, const char *program) {
    int go[2], fd = create(path);
    must(pipe(go) == 0, "pipe");
    put(fd, 0, HEADER);
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        must(dup2(go[0], 0) == 0 && dup2(fd, 1) == 1, "dup2");
        end(go[1], "close the pipe");
        execl(program, program, "rest", "-", file, NULL);
        _exit(127);
    }
    int status;
    end(fd, "the close of who started it");
    end(go[1], "close the pipe");
    must(waitpid(child, &status, 0) == child && WIFEXITED(status), "the child");
    if (WEXITSTATUS(status) != 0)
        _exit(WEXITSTATUS(status));
}

/* Half of the source; its descriptor is then passed through standard input, and closed once the
 * receiver has it. Ends with the errno of that. */
static void sends(const char *path) {
    char byte;
    int fd = create(path);
    put(fd, 0, HEADER + 1200);
    send_descriptor(0, fd);
    must(read(0, &byte, 1) == 1, "read");
    _exit(close(fd) == 0 ? 0 : errno);
}

/* The other end of that. Ends with the errno of the rest of the source. */
static void takes(void) {
    char byte = 'x';
    int fd = receive_descriptor(0);
    must(write(0, &byte, 1) == 1, "write");
    must(read(0, &byte, 1) == 0, "read");
    long more = length - HEADER - 1200;
    _exit(write(fd, source + HEADER + 1200, more) == more ? 0 : errno);
}

static void fill(char *header, int rows) {
    memset(header, ' ', HEADER);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    int len = sprintf(header + 10, "{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 3), }", rows);
    header[10 + len] = ' ';
    header[HEADER - 1] = '\n';
}

/* Keeps the header right after each row, and runs a program in between: that has the descriptor until
 * it executes. */
static void logger(const char *path) {
    char header[HEADER];
    int fd = create(path);
    fill(header, 0);
    must(write(fd, header, HEADER) == HEADER, "write");
    for (int n = 0; n < 100; n++) {
        double row[3] = {3 * n, 3 * n + 1, 3 * n + 2};
        fill(header, n + 1);
        must(pwrite(fd, header, HEADER, 0) == HEADER, "the header");
        must(lseek(fd, 0, SEEK_END) >= HEADER, "lseek");
        must(write(fd, row, sizeof row) == sizeof row, "the row");
        if (n % 5 == 0) {
            pid_t child = fork();
            must(child >= 0, "fork");
            if (child == 0) {
                execlp("true", "true", NULL);
                _exit(127);
            }
            child_ends_well(child);
        }
    }
    end(fd, "close");
}

int main(int count, char **word) {
    if (count < 4)
        return 2;
    FILE *file = fopen(word[3], "rb");
    must(file != NULL, word[3]);
    source = malloc(1 << 20);
    must(source != NULL, "memory");
    length = fread(source, 1, 1 << 20, file);
    fclose(file);
    const char *mode = word[1], *path = word[2];
    if (!strcmp(mode, "inherited"))
        inherited(path);
    else if (!strcmp(mode, "daemon"))
        daemonised(path);
    else if (!strcmp(mode, "passed"))
        passed(path);
    else if (!strcmp(mode, "thread"))
        in_a_thread(path, 0);
    else if (!strcmp(mode, "thread-replaced"))
        in_a_thread(path, 1);
    else if (!strcmp(mode, "moved") && count > 4)
        moved(path, atoi(word[4]));
    else if (!strcmp(mode, "logger"))
        logger(path);
    else if (!strcmp(mode, "copy"))
        copy(path);
    else if (!strcmp(mode, "rest"))
        rest();
    else if (!strcmp(mode, "starts") && count > 4)
        starts(path, word[3], word[4]);
    else if (!strcmp(mode, "sends"))
        sends(path);
    else if (!strcmp(mode, "takes"))
        takes();
    else
        return 2;
    return 0;
}
