/* What the system calls of a hit cost, with nothing around them: one process sends a file over
   loopback in each way in turn, a child on the other processor reads 1 MiB at a time.

     cc -O2 -o calls calls.c && ./calls FILE ROUNDS

   FILE must be in memory. Printed: median and least processor time of the sender per GB, and GB/s.
   The framed ways send 3 bytes before every 128 KiB, as a raw run has them (no checksums). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 131072L
#define FRAMED (BLOCK + 3)
#define ROUNDS_MAX 100
#define MUST(x) ({ long r_ = (x); if (r_ < 0) { perror(#x); exit(1); } r_; })

enum way { SENDFILE, SENDFILE_BLOCK, SPLICE_PLAIN, SPLICE_WRITE, SPLICE_VMSPLICE, SPLICE_TEE, MAPPED, WAYS };
static const char *names[WAYS] = {
    "sendfile, 2 MiB a call, no framing",
    "sendfile, 128 KiB a call, no framing",
    "splice into a pipe, 896 KiB to the socket, no framing",
    "the same, framing by write",
    "the same, framing by vmsplice (what tarpon does)",
    "the same, framing by tee",
    "pages of a mapping and framing by one vmsplice of 896 KiB",
};

static int file, pipe_ends[2], framing[2], nowhere;
static long blocks;
static char *mapping, page[4096] __attribute__((aligned(4096)));

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void pin(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    MUST(sched_setaffinity(0, sizeof set, &set));
}

static void writable(int s) {
    struct pollfd p = {.fd = s, .events = POLLOUT};
    MUST(poll(&p, 1, -1));
}

static void plain(int s, long max) {
    for (loff_t at = 0; at < blocks * BLOCK;)
        if (sendfile(s, file, &at, max) < 0) {
            if (errno != EAGAIN) MUST(-1);
            writable(s);
        }
}

static int frame(enum way way, long len) {
    struct iovec v = {page, len};
    if (way == SPLICE_WRITE) return write(pipe_ends[1], page, len) == len;
    if (way == SPLICE_VMSPLICE) return vmsplice(pipe_ends[1], &v, 1, SPLICE_F_NONBLOCK) == len;
    return tee(framing[0], pipe_ends[1], len, SPLICE_F_NONBLOCK) == len;
}

/* Gathers up to 7 blocks from wire offset `at`; gives how many bytes. */
static long gather(enum way way, long at) {
    struct iovec v[14];
    long n = 0, bytes = 0;
    for (int i = 0; i < 7 && at + bytes < blocks * FRAMED; i++) {
        long block = (at + bytes) / FRAMED, in = (at + bytes) % FRAMED;
        if (in < 3) {
            long head = 3 - in;
            if (way == MAPPED) v[n++] = (struct iovec){page, head};
            else if (!frame(way, head)) break;
            bytes += head;
            in = 3;
        }
        loff_t from = block * BLOCK + in - 3;
        if (way == MAPPED) {
            v[n++] = (struct iovec){mapping + from, FRAMED - in};
            bytes += FRAMED - in;
            continue;
        }
        long put = splice(file, &from, pipe_ends[1], 0, FRAMED - in, SPLICE_F_NONBLOCK);
        if (put > 0) bytes += put;
        if (put < FRAMED - in) break;
    }
    return way == MAPPED ? vmsplice(pipe_ends[1], v, n, SPLICE_F_NONBLOCK) : bytes;
}

/* The same without framing. */
static long gather_plain(long at) {
    long bytes = 0;
    for (int i = 0; i < 7 && at + bytes < blocks * BLOCK; i++) {
        loff_t from = at + bytes;
        long want = BLOCK - from % BLOCK;
        long put = splice(file, &from, pipe_ends[1], 0, want, SPLICE_F_NONBLOCK);
        if (put > 0) bytes += put;
        if (put < want) break;
    }
    return bytes;
}

static void gathered(int s, enum way way) {
    long end = blocks * (way == SPLICE_PLAIN ? BLOCK : FRAMED);
    for (long at = 0; at < end;) {
        unsigned counts[9]; /* SO_MEMINFO: 3 is the buffer's size, 5 what is in it */
        socklen_t len = sizeof counts;
        MUST(getsockopt(s, SOL_SOCKET, SO_MEMINFO, counts, &len));
        if (counts[5] >= counts[3]) {
            writable(s);
            continue;
        }
        long bytes = MUST(way == SPLICE_PLAIN ? gather_plain(at) : gather(way, at));
        long sent = splice(pipe_ends[0], 0, s, 0, bytes, SPLICE_F_NONBLOCK | SPLICE_F_MORE);
        if (sent < 0) {
            if (errno != EAGAIN) MUST(-1);
            writable(s);
            sent = 0;
        }
        at += sent;
        for (bytes -= sent; bytes > 0;)
            bytes -= MUST(splice(pipe_ends[0], 0, nowhere, 0, bytes, SPLICE_F_NONBLOCK));
    }
}

static void once(int listener, struct sockaddr_in *to, enum way way, double *cpu, double *wall) {
    pid_t child = fork();
    if (child == 0) {
        static char buffer[1 << 20];
        pin(1);
        int s = socket(AF_INET, SOCK_STREAM, 0);
        MUST(connect(s, (void *)to, sizeof *to));
        while (MUST(read(s, buffer, sizeof buffer)) > 0) {}
        _exit(0);
    }
    int s = MUST(accept4(listener, 0, 0, SOCK_NONBLOCK)), on = 1;
    MUST(setsockopt(s, IPPROTO_TCP, TCP_CORK, &on, sizeof on));
    double c = seconds(CLOCK_PROCESS_CPUTIME_ID), w = seconds(CLOCK_MONOTONIC);
    if (way == SENDFILE) plain(s, 2 << 20);
    else if (way == SENDFILE_BLOCK) plain(s, BLOCK);
    else gathered(s, way);
    close(s);
    *cpu = (seconds(CLOCK_PROCESS_CPUTIME_ID) - c) / (blocks * BLOCK) * 1e12;
    MUST(waitpid(child, 0, 0));
    *wall = (blocks * BLOCK) / (seconds(CLOCK_MONOTONIC) - w) / 1e9;
}

static int less(const void *a, const void *b) {
    double x = *(double *)a, y = *(double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "calls FILE ROUNDS\n"), 2;
    int rounds = atoi(argv[2]);
    if (rounds < 1 || rounds > ROUNDS_MAX) return fprintf(stderr, "1 to %d rounds\n", ROUNDS_MAX), 2;
    struct stat stat;
    file = MUST(open(argv[1], O_RDONLY));
    MUST(fstat(file, &stat));
    blocks = stat.st_size / BLOCK;
    mapping = mmap(0, blocks * BLOCK, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
    if (mapping == MAP_FAILED) MUST(-1);
    nowhere = MUST(open("/dev/null", O_WRONLY));
    MUST(pipe2(pipe_ends, O_NONBLOCK));
    MUST(fcntl(pipe_ends[1], F_SETPIPE_SZ, 1 << 20));
    MUST(pipe2(framing, O_NONBLOCK));
    page[2] = 0x10; /* the header of a full raw block */
    struct iovec head = {page, 3};
    MUST(vmsplice(framing[1], &head, 1, 0));
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof to;
    int listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(listener, (void *)&to, sizeof to));
    MUST(listen(listener, 5));
    MUST(getsockname(listener, (void *)&to, &len));
    pin(0);
    static double cpu[WAYS][ROUNDS_MAX], wall[WAYS][ROUNDS_MAX];
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < WAYS; i++) {
            int way = (i + r) % WAYS;
            once(listener, &to, way, &cpu[way][r], &wall[way][r]);
        }
    for (int way = 0; way < WAYS; way++) {
        qsort(cpu[way], rounds, sizeof(double), less);
        qsort(wall[way], rounds, sizeof(double), less);
        printf("%5.1f ms/GB, least %5.1f; %5.2f GB/s  %s\n", cpu[way][rounds / 2], cpu[way][0],
               wall[way][rounds / 2], names[way]);
    }
}
