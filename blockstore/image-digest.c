// SPDX-License-Identifier: GPL-2.0-or-later
/* The digest of an image.  It is worked off in windows: two threads digest the
 * blocks of a window, then the digests go into the sum in order.  Holes cost
 * nothing but their place in the sum. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sodium.h>

#include "bs/bytes.h"
#include "bs/file.h"
#include "digest.h"
#include "image.h"

#define WINDOW_BLKS 16384u /* 64 MiB of image, 512 KiB of digests */
#define READ_BLKS 64u
#define N_THREADS 2

struct job {
    /* Set before the threads run. */
    int fd;
    const struct bstore_digest *zero;
    struct bstore_digest *digests; /* of the window's blocks */
    uint64_t first_blk;
    uint32_t n_blks;

    /* Set by its thread, read after it ended. */
    uint8_t *buf; /* READ_BLKS blocks */
    uint32_t n_nonzero;
    int r;
};

static bool is_zero(const uint8_t *blk)
{
    return blk[0] == 0 && memcmp(blk, blk + 1, BSTORE_IMAGE_BLK - 1) == 0;
}

static void digest_run(struct job *j, uint32_t at, uint32_t n)
{
    uint32_t i;

    j->r = bs_file_read_zfill(j->fd, j->buf, (size_t)n * BSTORE_IMAGE_BLK,
                              (j->first_blk + at) * BSTORE_IMAGE_BLK);
    for (i = 0; j->r == 0 && i < n; i++) {
        const uint8_t *blk = j->buf + (size_t)i * BSTORE_IMAGE_BLK;

        if (is_zero(blk)) {
            j->digests[at + i] = *j->zero;
            continue;
        }
        bstore_digest_of(&j->digests[at + i], blk, BSTORE_IMAGE_BLK);
        j->n_nonzero++;
    }
}

static void *digest_job(void *opaque)
{
    struct job *j = opaque;
    uint32_t at, n;

    for (at = 0; j->r == 0 && at < j->n_blks; at += n) {
        n = j->n_blks - at < READ_BLKS ? j->n_blks - at : READ_BLKS;
        digest_run(j, at, n);
    }
    return NULL;
}

/* One thread less, for want of resources, is slower but not wrong. */
static int run_jobs(struct job jobs[N_THREADS])
{
    bool started[N_THREADS] = { false };
    pthread_t threads[N_THREADS];
    int i, r = 0;

    for (i = 1; i < N_THREADS; i++)
        started[i] = jobs[i].n_blks &&
                     pthread_create(&threads[i], NULL, digest_job, &jobs[i]) == 0;
    digest_job(&jobs[0]);
    for (i = 1; i < N_THREADS; i++) {
        if (started[i])
            pthread_join(threads[i], NULL);
        else
            digest_job(&jobs[i]);
    }
    for (i = 0; i < N_THREADS; i++)
        if (r == 0)
            r = jobs[i].r;
    return r;
}

/* Where data begins at or after off; `end` if there is none.  A file system
 * that does not know says off. */
static uint64_t next_data(int fd, uint64_t off, uint64_t end)
{
    off_t at = lseek(fd, (off_t)off, SEEK_DATA);

    if (at < 0)
        return errno == ENXIO ? end : off;
    return (uint64_t)at < end ? (uint64_t)at : end;
}

struct summing {
    crypto_generichash_state sum;
    struct bstore_digest zero;
    struct bstore_digest *digests; /* WINDOW_BLKS */
    struct job jobs[N_THREADS];
};

static int summing_init(struct summing *s, int fd)
{
    static const uint8_t zeros[BSTORE_IMAGE_BLK];
    int i;

    bstore_digest_of(&s->zero, zeros, sizeof(zeros));
    s->digests = malloc(WINDOW_BLKS * sizeof(*s->digests));
    if (!s->digests)
        return -ENOMEM;
    for (i = 0; i < N_THREADS; i++) {
        s->jobs[i].fd = fd;
        s->jobs[i].zero = &s->zero;
        s->jobs[i].buf = malloc(READ_BLKS * BSTORE_IMAGE_BLK);
        if (!s->jobs[i].buf)
            return -ENOMEM;
    }
    return 0;
}

static void summing_fini(struct summing *s)
{
    int i;

    for (i = 0; i < N_THREADS; i++)
        free(s->jobs[i].buf);
    free(s->digests);
}

/* Blocks of zeros stay holes of the digests file. */
static int write_digests(struct summing *s, int fd, uint64_t first_blk,
                         uint32_t n)
{
    static const struct bstore_digest none;
    uint32_t i;

    for (i = 0; i < n; i++)
        if (bstore_digest_eq(&s->digests[i], &s->zero))
            s->digests[i] = none;
    return bs_file_write(fd, s->digests, (size_t)n * sizeof(*s->digests),
                         first_blk * sizeof(*s->digests));
}

static int sum_window(struct summing *s, int fd, uint64_t first_blk, uint32_t n,
                      int digests_fd)
{
    uint64_t off = first_blk * BSTORE_IMAGE_BLK;
    uint64_t end = off + (uint64_t)n * BSTORE_IMAGE_BLK;
    uint32_t i, part = (uint32_t)bs_div_up(n, N_THREADS), at = 0, nonzero = 0;
    int r;

    if (next_data(fd, off, end) == end) {
        for (i = 0; i < n; i++)
            crypto_generichash_update(&s->sum, s->zero.b, sizeof(s->zero.b));
        return 0;
    }
    for (i = 0; i < N_THREADS; i++) {
        struct job *j = &s->jobs[i];

        j->first_blk = first_blk + at;
        j->digests = s->digests + at;
        j->n_blks = n - at < part ? n - at : part;
        j->n_nonzero = 0;
        j->r = 0;
        at += j->n_blks;
    }
    r = run_jobs(s->jobs);
    if (r < 0)
        return r;
    crypto_generichash_update(&s->sum, (const uint8_t *)s->digests,
                              (size_t)n * sizeof(*s->digests));
    for (i = 0; i < N_THREADS; i++)
        nonzero += s->jobs[i].n_nonzero;
    if (digests_fd >= 0 && nonzero)
        r = write_digests(s, digests_fd, first_blk, n);
    return r;
}

int bstore_image_digest_blocks(int fd, uint64_t size_bytes, int digests_fd,
                               uint64_t base,
                               const struct bstore_progress *progress,
                               struct bstore_digest *out, struct bs_err *err)
{
    uint64_t n_blks = size_bytes / BSTORE_IMAGE_BLK, at;
    struct summing s = { 0 };
    uint8_t size_le[8];
    uint32_t n;
    int r;

    r = summing_init(&s, fd);
    if (r < 0) {
        bs_fail(err, -r, "no memory");
        goto out;
    }
    bs_put_le64(size_le, size_bytes);
    crypto_generichash_init(&s.sum, NULL, 0, sizeof(out->b));
    crypto_generichash_update(&s.sum, size_le, sizeof(size_le));
    for (at = 0; at < n_blks; at += n) {
        n = n_blks - at < WINDOW_BLKS ? (uint32_t)(n_blks - at) : WINDOW_BLKS;
        r = sum_window(&s, fd, at, n, digests_fd);
        if (r < 0) {
            bs_fail_errno(err, -r, "cannot read the image or write its digests");
            goto out;
        }
        if (progress && progress->step(progress->opaque,
                                       base + (at + n) * BSTORE_IMAGE_BLK,
                                       base + size_bytes)) {
            r = bs_fail(err, ECANCELED, "stopped on request");
            goto out;
        }
    }
    if (digests_fd >= 0) {
        r = bs_file_truncate(digests_fd, n_blks * sizeof(struct bstore_digest));
        if (r < 0) {
            bs_fail_errno(err, -r, "cannot write the digests");
            goto out;
        }
    }
    crypto_generichash_final(&s.sum, out->b, sizeof(out->b));
out:
    summing_fini(&s);
    return r;
}

/* The size of a file or block device. */
static int size_of_fd(int fd, uint64_t *bytes, struct bs_err *err)
{
    off_t end = lseek(fd, 0, SEEK_END);

    if (end < 0)
        return bs_fail_errno(err, errno, "cannot find the image's size");
    if (end == 0)
        return bs_fail(err, EINVAL, "the image is empty");
    *bytes = bs_align_up((uint64_t)end, BSTORE_IMAGE_BLK);
    return 0;
}

int bstore_image_digest_of_fd(int fd, const struct bstore_progress *progress,
                              struct bstore_digest *out, uint64_t *size_bytes,
                              struct bs_err *err)
{
    uint64_t bytes = 0;
    int r;

    r = size_of_fd(fd, &bytes, err);
    if (r < 0)
        return r;
    r = bstore_image_digest_blocks(fd, bytes, -1, 0, progress, out, err);
    if (r == 0)
        *size_bytes = bytes;
    return r;
}
