// SPDX-License-Identifier: GPL-2.0-or-later
/* inplace.c: files whose own blocks the host supersedes.
 *
 * A write lease is the detector and the barrier in one: the kernel grants it
 * only while nobody has the file open, mapped or executing, and lets whoever
 * opens it afterwards wait.  Under it the file's pages are written back and
 * dropped; mincore, not a return code, says that none is left.  A lease that
 * somebody waits for is given up at once while the job is not prepared; later
 * the kernel ends it after its lease-break-time, and the digest at EVICT or
 * COMMIT says whether that did harm. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "impl.h"

#define WINDOW_BYTES (256ull << 20)
#define EVICT_TRIES 50
#define EVICT_PAUSE_US 2000

static volatile sig_atomic_t lease_broken;

static void on_break(int sig)
{
    (void)sig;
    lease_broken = 1;
}

/* SIGIO comes only while the channel waits (ppoll), or is fetched. */
void agent_lease_init(void)
{
    struct sigaction sa = { .sa_handler = on_break };
    sigset_t set;

    sigemptyset(&sa.sa_mask);
    sigaction(SIGIO, &sa, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

static bool break_pending(void)
{
    const struct timespec zero = { 0 };
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    return sigtimedwait(&set, NULL, &zero) > 0;
}

void agent_lease_drop(struct agent_op *op)
{
    if (op->lease_fd < 0)
        return;
    fcntl(op->lease_fd, F_SETLEASE, F_UNLCK);
    close(op->lease_fd);
    op->lease_fd = -1;
}

void agent_lease_drop_all(struct agent *a)
{
    uint32_t i;

    for (i = 0; i < a->job.n_ops; i++)
        agent_lease_drop(&a->job.ops[i]);
}

void agent_lease_poll(struct agent *a)
{
    uint32_t i;

    if (!break_pending() && !lease_broken)
        return;
    lease_broken = 0;
    for (i = 0; i < a->job.n_ops; i++) {
        struct agent_op *op = &a->job.ops[i];

        if (op->lease_fd < 0 || fcntl(op->lease_fd, F_GETLEASE) == F_WRLCK)
            continue;
        agent_debug(a, "%s: somebody waits for the lease", op->path);
        if (a->job.state == AGENT_STAGING)
            agent_lease_drop(op);
    }
}

int64_t agent_cached_pages(int fd, uint64_t size)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    unsigned char *vec;
    int64_t n = 0;
    uint64_t off, len, i;
    void *p;

    vec = malloc(WINDOW_BYTES / page);
    if (!vec)
        return -ENOMEM;
    for (off = 0; off < size; off += WINDOW_BYTES) {
        len = size - off < WINDOW_BYTES ? size - off : WINDOW_BYTES;
        p = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, (off_t)off);
        if (p == MAP_FAILED || mincore(p, len, vec) < 0) {
            n = -errno;
            if (p != MAP_FAILED)
                munmap(p, len);
            break;
        }
        munmap(p, len);
        for (i = 0; i < (len + page - 1) / page; i++)
            n += vec[i] & 1;
    }
    free(vec);
    return n;
}

/* Readahead in flight and pages on their way to a list are dropped a moment
 * later than asked: so again, a bounded number of times. */
int64_t agent_evict(int fd, uint64_t size)
{
    int64_t left = 0;
    int i, r;

    for (i = 0; i < EVICT_TRIES; i++) {
        if (i > 0)
            usleep(EVICT_PAUSE_US);
        r = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        if (r != 0)
            return -r;
        left = agent_cached_pages(fd, size);
        if (left <= 0)
            return left;
    }
    return left;
}

/* 0, or why the file cannot be had. */
static int take_lease(struct agent *a, struct agent_op *op)
{
    struct agent_ident now;
    struct stat st;
    int fd, r;

    fd = agent_open_file(a, op->path);
    if (fd < 0)
        return fd;
    r = -ESTALE;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        goto out;
    agent_ident_of(&now, &st);
    if (!agent_ident_eq(&now, &op->was))
        goto out;
    if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0) {
        r = -errno;
        goto out;
    }
    /* Dirty pages do not go.  They need to be out, not durable: an fsync would
     * also cost a flush of the disk, for each of a thousand clean files. */
    if (sync_file_range(fd, 0, 0,
                        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                            SYNC_FILE_RANGE_WAIT_AFTER) < 0 &&
        fsync(fd) < 0 && errno != EROFS && errno != EINVAL) {
        r = -errno;
        goto out;
    }
    r = agent_evict(fd, (uint64_t)st.st_size) == 0 ? 0 : -EBUSY;
    if (r == 0) {
        op->lease_fd = fd;
        fd = -1;
    }
out:
    if (fd >= 0)
        close(fd); /* and with it the lease */
    return r;
}

static bool in_place(const struct agent_job *job, const struct agent_op *op)
{
    return agent_op_goes(job, op) && op->method == WIRE_IN_PLACE;
}

/* Answers with the indexes of the in-place ops that test refuses. */
static int answer_refused(struct agent *a, uint16_t type, const char *what,
                          int (*test)(struct agent *a, struct agent_op *op),
                          struct agent_err *err)
{
    struct agent_job *job = &a->job;
    uint32_t *v, n = 0, i;
    int r;

    v = malloc(((size_t)job->n_ops + 1) * sizeof(*v));
    if (!v)
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    for (i = 0; i < job->n_ops; i++) {
        struct agent_op *op = &job->ops[i];

        if (!in_place(job, op))
            continue;
        r = test(a, op);
        if (r < 0) {
            agent_debug(a, "%s: %s: %s", op->path, what, strerror(-r));
            v[n++] = i;
        }
        if (i + 1 < job->n_ops)
            agent_progress(a, i, job->n_ops, what);
    }
    wire_put_indexes(agent_reply(a), n, v);
    free(v);
    agent_answer(a, type);
    return 0;
}

static int lease_once(struct agent *a, struct agent_op *op)
{
    if (op->lease_fd >= 0 && fcntl(op->lease_fd, F_GETLEASE) == F_WRLCK)
        return 0;
    agent_lease_drop(op);
    return take_lease(a, op);
}

HANDLER(lease)
{
    int rc;

    if (!wire_r_end(r))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed LEASE");
    rc = answer_refused(a, WIRE_LEASED, "taking leases", lease_once, err);
    agent_step(a, "leased");
    return rc;
}

int agent_prove(struct agent *a, struct agent_op *op)
{
    struct wire_msg_op m;
    uint8_t digest[32];
    struct stat st;
    int fd, r;

    op->proved = false;
    agent_op_get(op, &m);
    /* After a restart the lease is lost; it is had again, or done without. */
    if (op->lease_fd < 0)
        take_lease(a, op);
    fd = op->lease_fd;
    if (fd < 0)
        fd = agent_open_file(a, op->path);
    if (fd < 0)
        return fd;
    r = -ESTALE;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        (uint64_t)st.st_size != m.to.size)
        goto out;
    r = -EBUSY;
    if (agent_evict(fd, m.to.size) != 0)
        goto out;
    r = agent_digest_fd(a, fd, m.to.size, digest);
    if (r == 0 && memcmp(digest, m.to.digest, 32) != 0)
        r = -EBADMSG;
    op->proved = r == 0;
out:
    if (fd != op->lease_fd)
        close(fd);
    return r;
}

HANDLER(evict)
{
    int rc;

    if (!wire_r_end(r))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed EVICT");
    rc = answer_refused(a, WIRE_EVICTED, "evicting", agent_prove, err);
    agent_step(a, "evicted");
    return rc;
}
