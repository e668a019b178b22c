/* ring MODE CHUNK SOURCE: copies SOURCE, a whole .npy, to CHUNK by io_uring. With "direct" the file is
 * opened, written and closed as a descriptor of the ring's own; with "registered" an ordinary one is
 * registered after the header, closed, and the ring writes the rest. Ends with 77 where there is no
 * io_uring. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HEADER 128

static int ring;
static unsigned *submitted, *submit_mask, *submit_array, *completed, *complete_tail, *complete_mask;
static struct io_uring_sqe *entries;
static struct io_uring_cqe *answers;

static void must(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(1);
    }
}

static void set_up(void) {
    struct io_uring_params p = {0};
    ring = syscall(SYS_io_uring_setup, 4, &p);
    if (ring < 0) {
        perror("io_uring_setup");
        exit(77);
    }
    size_t size = p.sq_off.array + p.sq_entries * sizeof(unsigned);
    char *sq = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    size = p.cq_off.cqes + p.cq_entries * sizeof *answers;
    char *cq = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    entries = mmap(NULL, p.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                   IORING_OFF_SQES);
    must(sq != MAP_FAILED && cq != MAP_FAILED && entries != MAP_FAILED, "mmap");
    submitted = (unsigned *)(sq + p.sq_off.tail);
    submit_mask = (unsigned *)(sq + p.sq_off.ring_mask);
    submit_array = (unsigned *)(sq + p.sq_off.array);
    completed = (unsigned *)(cq + p.cq_off.head);
    complete_tail = (unsigned *)(cq + p.cq_off.tail);
    complete_mask = (unsigned *)(cq + p.cq_off.ring_mask);
    answers = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
}

/* Submits one request and waits for its answer. */
static int done(struct io_uring_sqe request) {
    unsigned tail = *submitted, slot = tail & *submit_mask;
    entries[slot] = request;
    submit_array[slot] = slot;
    __atomic_store_n(submitted, tail + 1, __ATOMIC_RELEASE);
    must(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1, "enter");
    unsigned head = *completed;
    must(head != __atomic_load_n(complete_tail, __ATOMIC_ACQUIRE), "no answer");
    int answer = answers[head & *complete_mask].res;
    __atomic_store_n(completed, head + 1, __ATOMIC_RELEASE);
    return answer;
}

static void put(const char *bytes, unsigned length, unsigned long at) {
    struct io_uring_sqe request = {.opcode = IORING_OP_WRITE, .flags = IOSQE_FIXED_FILE, .fd = 0,
                                   .addr = (unsigned long)bytes, .len = length, .off = at};
    must(done(request) == (int)length, "write by the ring");
}

static void register_file(int fd) {
    must(syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, &fd, 1) == 0, "register");
}

int main(int count, char **word) {
    static char source[1 << 20];
    if (count != 4)
        return 2;
    FILE *file = fopen(word[3], "rb");
    must(file != NULL, word[3]);
    unsigned length = fread(source, 1, sizeof source, file);
    set_up();
    if (!strcmp(word[1], "direct")) {
        register_file(-1);
        struct io_uring_sqe open = {.opcode = IORING_OP_OPENAT, .fd = AT_FDCWD,
                                    .addr = (unsigned long)word[2], .len = 0644,
                                    .open_flags = O_WRONLY | O_CREAT | O_EXCL, .file_index = 1};
        must(done(open) == 0, "open by the ring");
        put(source, HEADER, 0);
        put(source + HEADER, length - HEADER, HEADER);
        struct io_uring_sqe close = {.opcode = IORING_OP_CLOSE, .file_index = 1};
        must(done(close) == 0, "close by the ring");
    } else {
        int fd = open(word[2], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        must(fd >= 0 && write(fd, source, HEADER) == HEADER, "write");
        register_file(fd);
        must(close(fd) == 0, "close");
        put(source + HEADER, length - HEADER, HEADER);
        must(syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_FILES, NULL, 0) == 0,
             "unregister");
    }
    return 0;
}
