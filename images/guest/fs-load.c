// SPDX-License-Identifier: GPL-2.0-or-later
/* fs-load.c: a load whose outcome is known after a power cut.
 *
 *   fs-load run DIR SEED OPS       at most OPS operations; lines to stdout
 *   fs-load verify DIR SEED NAME=OP...
 *
 * The operations follow from SEED alone.  They write runs of 512-byte records
 * into files r0..r7, cached or past the cache, punch holes, read back, fsync,
 * and put whole new files p0..p3 in place by rename.  Each record says which
 * operation wrote it.  "durable NAME OP" is said when all operations below OP
 * on the file NAME are durable.
 *
 * verify, told the last such line of each file, finds each record as the last
 * operation below OP left it or as one after that did, and each p file whole
 * and not older than OP.  0: so it is.  1: it is not, and says where. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REC 512u
#define N_FILES 8u
#define N_RECS 2048u
#define N_WHOLE 4u
#define WHOLE_MAX (200u * 1024u)
#define AFTER 20000u /* operations that may follow the last that was reported */
#define PUNCHED (1u << 31)

enum kind { WRITE, WRITE_DIRECT, PUNCH, READ, SYNC, REPLACE };

struct op {
    enum kind kind;
    unsigned file, rec, count;
    uint32_t size; /* REPLACE */
};

/* The last operation on each record, 0 for none; PUNCHED if it left zeros. */
static uint32_t model[N_FILES][N_RECS];
static uint64_t seed;
static uint8_t *buf; /* aligned for O_DIRECT */

static void die(const char *what)
{
    printf("fs-load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void bad(const char *what, unsigned file, unsigned rec, uint32_t got,
                uint32_t want)
{
    printf("fs-load: %s: file %u record %u: operation %u, expected %u%s\n", what,
           file, rec, got, want & ~PUNCHED, want & PUNCHED ? " (a hole)" : "");
    exit(1);
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Numbers start at 1: 0 is nobody's. */
static struct op op_of(uint32_t i)
{
    uint64_t a = mix(seed << 32 ^ i), b = mix(a);
    struct op op = { .file = a % N_FILES, .rec = (a >> 8) % N_RECS };
    unsigned dice = (a >> 32) % 32;

    op.count = 1 + (unsigned)((a >> 40) % ((a >> 60) ? 16 : 256));
    if (op.count > N_RECS - op.rec)
        op.count = N_RECS - op.rec;
    op.kind = dice < 15 ? WRITE : dice < 22 ? WRITE_DIRECT : dice < 24 ? PUNCH
              : dice < 27 ? READ : dice < 31 ? SYNC : REPLACE;
    if (op.kind == WRITE_DIRECT) { /* as every file system takes it */
        op.rec &= ~7u;
        op.count = (op.count + 7) & ~7u;
    }
    if (op.kind == REPLACE) {
        op.file %= N_WHOLE;
        op.size = 16 + (uint32_t)(b % (WHOLE_MAX - 16));
    }
    return op;
}

/* A record: 8 words, over and over. */
static void fill(uint8_t *to, unsigned file, unsigned rec, uint32_t i)
{
    uint64_t w[8] = { 0x6c62736673626c6bu, i, (uint64_t)file << 32 | rec, seed };
    unsigned k;

    for (k = 4; k < 8; k++)
        w[k] = mix(w[1] << 40 ^ w[2] ^ seed << 8 ^ k);
    for (k = 0; k < REC; k += sizeof(w))
        memcpy(to + k, w, sizeof(w));
}

/* Which operation wrote it: 0 zeros, -1 nobody. */
static int64_t who_wrote(const uint8_t *rec, unsigned file, unsigned at)
{
    static const uint8_t zeros[REC];
    uint8_t want[REC];
    uint64_t i;

    if (memcmp(rec, zeros, REC) == 0)
        return 0;
    memcpy(&i, rec + 8, 8);
    if (i == 0 || i >= PUNCHED)
        return -1;
    fill(want, file, at, (uint32_t)i);
    return memcmp(rec, want, REC) == 0 ? (int64_t)i : -1;
}

static void fill_whole(uint8_t *to, uint32_t size, unsigned file, uint32_t i)
{
    uint32_t k;

    for (k = 0; k < size; k++)
        to[k] = (uint8_t)(mix(i + (k >> 3)) >> 8 * (k & 7));
    memcpy(to, &i, 4);
    memcpy(to + 4, &size, 4);
    memcpy(to + 8, &file, 4);
}

static void apply_to_model(const struct op *op, uint32_t i)
{
    for (unsigned k = 0; k < op->count; k++)
        model[op->file][op->rec + k] = op->kind == PUNCH ? i | PUNCHED : i;
}

/* ---- run ------------------------------------------------------------------- */

static void open_file(int dir, unsigned file, int fd[2])
{
    char name[16];

    snprintf(name, sizeof(name), "r%u", file);
    fd[0] = openat(dir, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd[0] < 0 || ftruncate(fd[0], N_RECS * REC) != 0 || fsync(fd[0]) != 0)
        die(name);
    fd[1] = openat(dir, name, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd[1] < 0) /* not every file system can */
        fd[1] = fd[0];
}

static void durable(char letter, unsigned file, uint32_t i)
{
    printf("fs-load %llu durable %c%u %u\n", (unsigned long long)seed, letter, file, i);
    fflush(stdout);
}

static void do_write(const int fd[2], const struct op *op, uint32_t i)
{
    size_t n = op->count * REC;
    unsigned k;

    for (k = 0; k < op->count; k++)
        fill(buf + k * REC, op->file, op->rec + k, i);
    if (pwrite(fd[op->kind == WRITE_DIRECT], buf, n, op->rec * REC) != (ssize_t)n)
        die("pwrite");
}

static void check_read(int fd, const struct op *op)
{
    size_t n = op->count * REC;
    int64_t got;
    uint32_t want;
    unsigned k;

    if (pread(fd, buf, n, op->rec * REC) != (ssize_t)n)
        die("pread");
    for (k = 0; k < op->count; k++) {
        want = model[op->file][op->rec + k];
        got = who_wrote(buf + k * REC, op->file, op->rec + k);
        if (got != (want & PUNCHED ? 0 : (int64_t)want))
            bad("read", op->file, op->rec + k, (uint32_t)got, want);
    }
}

static void replace(int dir, const struct op *op, uint32_t i)
{
    char tmp[16], name[16];
    int fd;

    snprintf(tmp, sizeof(tmp), "t%u", op->file);
    snprintf(name, sizeof(name), "p%u", op->file);
    fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    fill_whole(buf, op->size, op->file, i);
    if (fd < 0 || write(fd, buf, op->size) != (ssize_t)op->size || fsync(fd) != 0 ||
        close(fd) != 0 || renameat(dir, tmp, dir, name) != 0 || fsync(dir) != 0)
        die("replace");
    durable('p', op->file, i);
}

static int run(int dir, uint32_t ops)
{
    int fd[N_FILES][2];
    struct op op;
    uint32_t i;

    for (i = 0; i < N_FILES; i++)
        open_file(dir, i, fd[i]);
    if (fsync(dir) != 0)
        die("fsync");
    for (i = 0; i < N_FILES; i++)
        durable('r', i, 1);
    for (i = 1; i <= ops; i++) {
        op = op_of(i);
        switch (op.kind) {
        case WRITE:
        case WRITE_DIRECT:
            do_write(fd[op.file], &op, i);
            apply_to_model(&op, i);
            break;
        case PUNCH:
            if (fallocate(fd[op.file][0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          op.rec * REC, op.count * REC) != 0)
                die("fallocate");
            apply_to_model(&op, i);
            break;
        case READ: /* from the cache, or from the disk */
            check_read(fd[op.file][0], &op);
            break;
        case SYNC:
            if (fsync(fd[op.file][0]) != 0)
                die("fsync");
            durable('r', op.file, i);
            if (posix_fadvise(fd[op.file][0], 0, 0, POSIX_FADV_DONTNEED) != 0)
                die("fadvise");
            break;
        case REPLACE:
            replace(dir, &op, i);
            break;
        }
    }
    printf("fs-load %llu done\n", (unsigned long long)seed);
    return 0;
}

/* ---- verify ---------------------------------------------------------------- */

static uint32_t since[2][N_FILES]; /* what was reported of r and p files */

static void verify_records(int dir, unsigned file)
{
    static uint8_t zeroed_later[N_RECS];
    uint32_t i, last = since[0][file] + AFTER, want;
    struct op op;
    char name[16];
    int64_t got;
    unsigned k;
    int fd;

    memset(zeroed_later, 0, sizeof(zeroed_later));
    for (i = 1; i <= last; i++) {
        op = op_of(i);
        if (op.file != file || op.kind > PUNCH)
            continue;
        if (i < since[0][file])
            apply_to_model(&op, i);
        else if (op.kind == PUNCH)
            memset(zeroed_later + op.rec, 1, op.count);
    }
    snprintf(name, sizeof(name), "r%u", file);
    fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        die(name);
    for (k = 0; k < N_RECS; k++) {
        if (pread(fd, buf, REC, k * REC) != REC)
            die(name);
        want = model[file][k];
        got = who_wrote(buf, file, k);
        if (got == (want & PUNCHED ? 0 : (int64_t)want) || (got == 0 && zeroed_later[k]))
            continue;
        if (got > 0 && got >= since[0][file]) {
            op = op_of((uint32_t)got);
            if (op.kind <= WRITE_DIRECT && op.file == file && k >= op.rec &&
                k < op.rec + op.count)
                continue;
        }
        bad("after the cut", file, k, (uint32_t)got, want);
    }
    close(fd);
}

static void verify_whole(int dir, unsigned file)
{
    uint8_t *want = malloc(WHOLE_MAX);
    char name[16];
    struct op op;
    uint32_t i = 0;
    ssize_t n;
    int fd;

    snprintf(name, sizeof(name), "p%u", file);
    fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && since[1][file] == 0)
        goto out;
    n = fd < 0 ? -1 : read(fd, buf, WHOLE_MAX);
    if (n < 0 || !want)
        die(name);
    if (n >= 4)
        memcpy(&i, buf, 4);
    op = op_of(i);
    if (i < since[1][file] || op.kind != REPLACE || op.file != file || n != op.size)
        bad("whole file", file, (unsigned)n, i, since[1][file]);
    fill_whole(want, op.size, file, i);
    if (memcmp(want, buf, op.size) != 0)
        bad("content of whole file", file, 0, i, i);
    close(fd);
out:
    free(want);
}

static int verify(int dir, int n, char **said)
{
    unsigned file;
    uint32_t i;
    char letter;
    int k;

    for (k = 0; k < n; k++) {
        if (sscanf(said[k], "%c%u=%u", &letter, &file, &i) != 3 || file >= N_FILES)
            return 2;
        since[letter == 'p'][file] = i;
    }
    for (file = 0; file < N_FILES; file++)
        if (since[0][file])
            verify_records(dir, file);
    for (file = 0; file < N_WHOLE; file++)
        verify_whole(dir, file);
    printf("as it was promised: %d files\n", n);
    return 0;
}

int main(int argc, char **argv)
{
    void *mem;
    int dir;

    if (argc < 4 || posix_memalign(&mem, 4096, (size_t)256 * 4096) != 0)
        return 2;
    buf = mem;
    seed = strtoull(argv[3], NULL, 0) & 0xffffffff;
    dir = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        die(argv[2]);
    if (strcmp(argv[1], "run") == 0 && argc == 5)
        return run(dir, (uint32_t)strtoul(argv[4], NULL, 0));
    if (strcmp(argv[1], "verify") == 0)
        return verify(dir, argc - 4, argv + 4);
    return 2;
}
