// SPDX-License-Identifier: GPL-2.0-or-later
/* token.c: writing files that consist of tokens (blksub-wire(7), Tokens).
 *
 * Whole blocks go out with O_DIRECT, so that each token reaches the host's
 * write path as it is and the page cache never holds one.  The last block of
 * most files is the difficulty: an O_DIRECT write of all of it would move the
 * file's end, and cutting it back makes the guest read the block and write it
 * again as its own.  But a token is zeros after its first 64 bytes, and so is
 * a block after the file's end: where 64 bytes or more of the file lie in its
 * last block, the token's part of it is written through the page cache, pushed
 * out, and its page dropped, with proof.  The disk sees a whole token, the
 * block stays the pool's.  A shorter tail goes the long way. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "impl.h"

#define TOKEN_USED_BYTES 64u
#define BATCH_BLKS (AGENT_IO_BYTES / AGENT_BLK)

static int set_direct(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0)
        return -errno;
    flags = on ? flags | O_DIRECT : flags & ~O_DIRECT;
    if (fcntl(fd, F_SETFL, flags) < 0)
        return errno == EINVAL ? -EOPNOTSUPP : -errno;
    return 0;
}

static int pwrite_all(int fd, const uint8_t *p, size_t len, uint64_t off)
{
    ssize_t n;

    while (len > 0) {
        n = pwrite(fd, p, len, (off_t)off);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        p += n;
        len -= (size_t)n;
        off += (uint64_t)n;
    }
    return 0;
}

/* The runs as a row of blocks. */
struct cursor {
    const struct wire_run *run;
    uint32_t n_runs, i, done; /* blocks done of run i */
};

static const struct wire_run *cursor_next(struct cursor *c, uint64_t *src_blk)
{
    const struct wire_run *run;

    while (c->i < c->n_runs && c->done == c->run[c->i].count) {
        c->i++;
        c->done = 0;
    }
    if (c->i == c->n_runs)
        return NULL;
    run = &c->run[c->i];
    *src_blk = run->src_blk + c->done++;
    return run;
}

/* Blocks are allocated in one piece where that can be; holes stay. */
static int allocate(int fd, const struct wire_run *runs, uint32_t n_runs)
{
    uint64_t off = 0, start = 0, end = 0, bytes;
    uint32_t i;

    for (i = 0; i <= n_runs; i++) {
        bytes = i < n_runs ? (uint64_t)runs[i].count * AGENT_BLK : 0;
        if (i < n_runs && runs[i].source != WIRE_SRC_HOLE) {
            if (start == end)
                start = off;
            end = off + bytes;
        } else if (start < end) {
            if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)start,
                          (off_t)(end - start)) < 0 &&
                errno != EOPNOTSUPP)
                return -errno;
            start = end;
        }
        off += bytes;
    }
    return 0;
}

struct out {
    struct agent *a;
    int fd;
    uint64_t off; /* of the batch */
    uint32_t n;   /* blocks in it */
};

static int flush_batch(struct out *o)
{
    int r = 0;

    if (o->n > 0)
        r = pwrite_all(o->fd, o->a->io_buf, (size_t)o->n * AGENT_BLK, o->off);
    o->n = 0;
    return r;
}

static int put_token(struct out *o, uint64_t off, uint8_t source, uint64_t src_blk)
{
    uint8_t *buf = o->a->io_buf;
    int r = 0;

    if (o->n == BATCH_BLKS ||
        (o->n > 0 && o->off + (uint64_t)o->n * AGENT_BLK != off))
        r = flush_batch(o);
    if (o->n == 0)
        o->off = off;
    wire_token_encode(buf + (size_t)o->n * AGENT_BLK, o->a->job.secret, source,
                      src_blk);
    o->n++;
    return r;
}

/* -EAGAIN: the page could not be dropped. */
static int put_tail(struct agent *a, int fd, uint64_t off, size_t len,
                    uint8_t source, uint64_t src_blk)
{
    uint8_t *buf = a->io_buf;
    int64_t left;
    int r;

    wire_token_encode(buf, a->job.secret, source, src_blk);
    r = set_direct(fd, false);
    if (r == 0)
        r = pwrite_all(fd, buf, len, off);
    if (r < 0)
        return r;
    if (sync_file_range(fd, (off_t)off, AGENT_BLK,
                        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                            SYNC_FILE_RANGE_WAIT_AFTER) < 0 &&
        fdatasync(fd) < 0)
        return -errno;
    left = agent_evict(fd, off + len);
    r = set_direct(fd, true);
    if (r < 0)
        return r;
    return left == 0 ? 0 : -EAGAIN;
}

int agent_token_write(struct agent *a, int fd, uint64_t size,
                      const struct wire_run *runs, uint32_t n_runs)
{
    struct cursor c = { .run = runs, .n_runs = n_runs };
    struct out o = { .a = a, .fd = fd };
    uint64_t blk, n_blks = size / AGENT_BLK + (size % AGENT_BLK != 0);
    uint64_t src_blk = 0, sum = 0, last;
    size_t tail = size % AGENT_BLK;
    const struct wire_run *run = NULL;
    uint32_t i;
    int r;

    for (i = 0; i < n_runs; i++)
        sum += runs[i].count;
    if (sum != n_blks)
        return -EPROTO;
    r = set_direct(fd, true);
    if (r == 0)
        r = allocate(fd, runs, n_runs);
    if (r == 0 && ftruncate(fd, (off_t)size) < 0)
        r = -errno;
    for (blk = 0; r == 0 && blk < n_blks; blk++) {
        run = cursor_next(&c, &src_blk);
        if (run->source == WIRE_SRC_HOLE ||
            (blk == n_blks - 1 && tail >= TOKEN_USED_BYTES))
            continue;
        r = put_token(&o, blk * AGENT_BLK, run->source, src_blk);
    }
    if (r == 0)
        r = flush_batch(&o);
    if (r < 0 || tail == 0 || run->source == WIRE_SRC_HOLE)
        return r;
    last = (n_blks - 1) * AGENT_BLK;
    if (tail >= TOKEN_USED_BYTES) {
        r = put_tail(a, fd, last, tail, run->source, src_blk);
        if (r != -EAGAIN)
            return r;
        r = put_token(&o, last, run->source, src_blk);
        if (r == 0)
            r = flush_batch(&o);
        if (r < 0)
            return r;
    }
    return ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}
