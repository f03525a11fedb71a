// SPDX-License-Identifier: GPL-2.0-or-later
/* journal.c: what the agent must know after a crash: blksub-agent-journal(5).
 *
 * The journal is a row of frames as on the wire: a head, the messages of the
 * job as they came (the secret left out), and marks.  A torn tail is dropped;
 * no mark counts before fsync has returned, so nothing that matters can be in
 * a tail.  The messages are durable before the first hidden file is made:
 * since hidden names follow from job id and index, staging itself needs no
 * further fsync. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "impl.h"

#define JOURNAL_VERSION 1
#define JOURNAL_BYTES_MAX (1ull << 30)
#define FIXED_BYTES 64
#define RESERVE_BYTES 65536

/* ---- reading ---- */

struct replay {
    struct agent_job *job;
    struct agent_journal_info *info;
    bool begun, headed;
    struct agent_err *err;
};

static int replay_head(struct replay *rp, struct wire_r *r)
{
    unsigned version = wire_get_u16(r);
    uint32_t incompat = wire_get_u32(r);

    wire_get_u32(r); /* compatible features: none matter to a reader */
    wire_get_u32(r); /* clear-on-write: as above, and we never append here */
    if (!wire_r_end(r))
        return -EBADMSG;
    if (version != JOURNAL_VERSION || incompat != 0)
        return agent_fail(rp->err, ENOTSUP, WIRE_NO_INDEX,
                          "the journal was written by a newer agent");
    rp->headed = true;
    return 0;
}

static int replay_ident(struct agent_job *job, struct wire_r *r)
{
    struct agent_op *op = agent_job_op(job, wire_get_u32(r));
    struct agent_ident id;

    memset(&id, 0, sizeof(id));
    id.type = wire_get_u8(r);
    id.ino = wire_get_u64(r);
    id.size = wire_get_u64(r);
    id.ctime_s = (int64_t)wire_get_u64(r);
    id.ctime_ns = wire_get_u32(r);
    if (!wire_r_end(r) || !op || id.type > WIRE_OTHER)
        return -EBADMSG;
    op->was = id;
    /* Nobody but this job had a reason to make it since. */
    op->made = op->to_type == WIRE_DIR && id.type == WIRE_ABSENT;
    return 0;
}

static int replay_stage(struct agent_job *job, struct wire_r *r)
{
    struct agent_op *op = agent_job_op(job, wire_get_u32(r));
    uint8_t method = wire_get_u8(r), flags = wire_get_u8(r);

    if (!wire_r_end(r) || !op || method > WIRE_IN_PLACE ||
        flags > WIRE_STAGE_DIST)
        return -EBADMSG;
    op->method = method;
    op->stage_flags = flags;
    return 0;
}

static int replay_commit(struct agent_job *job, struct wire_r *r)
{
    struct agent_op *op;
    uint32_t n;

    if (!wire_get_n_indexes(r, &n))
        return -EBADMSG;
    while (n-- > 0) {
        op = agent_job_op(job, wire_get_u32(r));
        if (!op)
            return -EBADMSG;
        op->kept = true;
    }
    if (job->state != AGENT_PREPARED && job->state != AGENT_COMMITTING)
        return -EBADMSG;
    job->state = AGENT_COMMITTING;
    return 0;
}

static int replay_record(struct replay *rp, const struct wire_frame *f,
                         const uint8_t *payload)
{
    struct agent_job *job = rp->job;
    struct wire_msg_begin begin;
    const uint8_t *bits;
    const char *s;
    struct wire_r r;
    uint32_t n;

    wire_r_init(&r, payload, f->len);
    if (!rp->headed)
        return f->type == JOURNAL_HEAD ? replay_head(rp, &r) : -EBADMSG;
    if (!rp->begun) {
        if (f->type != WIRE_BEGIN || !wire_get_begin(&r, &begin))
            return -EBADMSG;
        rp->begun = true;
        return agent_job_begin(job, &begin, rp->err);
    }
    switch (f->type) {
    case WIRE_OP:
        return agent_job_add_op(job, payload, f->len, &n, rp->err);
    case JOURNAL_IDENT:
        return replay_ident(job, &r);
    case WIRE_STANZA:
        return agent_job_add_stanza(job, payload, f->len, rp->err);
    case WIRE_SELECT:
        if (!wire_get_bitmap(&r, &n, &bits))
            return -EBADMSG;
        return agent_job_select(job, n, bits, rp->err);
    case WIRE_STAGE:
        return replay_stage(job, &r);
    case WIRE_HOOK:
        if (!wire_get_name(&r, &s))
            return -EBADMSG;
        return agent_job_add_hook(job, s, rp->err);
    case JOURNAL_MADE:
        s = wire_get_str(&r, WIRE_PATH_MAX);
        if (!wire_r_end(&r) || !wire_path_ok(s))
            return -EBADMSG;
        return agent_job_add_made_dir(job, s);
    case WIRE_PREPARE:
        job->state = AGENT_PREPARED;
        return 0;
    case WIRE_COMMIT:
        return replay_commit(job, &r);
    case WIRE_ABORT:
        rp->info->aborting = true;
        return 0;
    default:
        return -EBADMSG;
    }
}

int agent_journal_decode(const uint8_t *buf, size_t len, struct agent_job *job,
                         struct agent_journal_info *info, struct agent_err *err)
{
    struct replay rp = { .job = job, .info = info, .err = err };
    struct wire_frame f;
    size_t off = 0;
    uint32_t seq = 0;
    int r = 0;

    memset(info, 0, sizeof(*info));
    while (len - off >= WIRE_HEADER_BYTES) {
        const uint8_t *payload = buf + off + WIRE_HEADER_BYTES;

        if (!wire_frame_decode(buf + off, &f) || f.seq != seq ||
            f.len > len - off - WIRE_HEADER_BYTES ||
            !wire_frame_crc_ok(buf + off, payload, f.len))
            break; /* the torn tail */
        r = replay_record(&rp, &f, payload);
        if (r < 0)
            break;
        if (rp.begun && job->state == AGENT_NONE)
            job->state = AGENT_STAGING;
        off += WIRE_HEADER_BYTES + f.len;
        seq++;
    }
    info->whole_bytes = off;
    info->next_seq = seq;
    if (r == 0 && !rp.begun)
        return -ENOENT;
    /* Checksums held, so these are not torn: not ours to guess about. */
    if (r == -EPROTO)
        r = -EBADMSG;
    if (r == -EBADMSG)
        agent_fail(err, EBADMSG, WIRE_NO_INDEX, "the journal is malformed");
    return r;
}

static int read_state(struct agent *a, const char *name, uint8_t **out,
                      size_t *out_len)
{
    uint8_t *buf = NULL;
    struct stat st;
    size_t len = 0;
    ssize_t n = 1;
    int fd, r;

    fd = openat(a->state_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    r = -EFBIG;
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size > JOURNAL_BYTES_MAX)
        goto out;
    r = -ENOMEM;
    buf = malloc((size_t)st.st_size + 1);
    if (!buf)
        goto out;
    while (n > 0 && len < (size_t)st.st_size) {
        n = read(fd, buf + len, (size_t)st.st_size - len);
        if (n > 0)
            len += (size_t)n;
    }
    r = n < 0 ? -errno : 0;
    if (r == 0) {
        *out = buf;
        *out_len = len;
        buf = NULL;
    }
out:
    free(buf);
    close(fd);
    return r;
}

/* ---- writing ---- */

static int put_frame(int fd, uint16_t type, uint32_t seq, const void *payload,
                     size_t len)
{
    uint8_t hdr[WIRE_HEADER_BYTES];
    struct iovec iov[2];
    size_t done = 0;
    ssize_t n;

    wire_frame_encode(hdr, type, seq, payload, (uint32_t)len);
    while (done < sizeof(hdr) + len) {
        size_t h = done < sizeof(hdr) ? done : sizeof(hdr);

        iov[0].iov_base = hdr + h;
        iov[0].iov_len = sizeof(hdr) - h;
        iov[1].iov_base = (void *)((uintptr_t)payload + (done - h));
        iov[1].iov_len = len - (done - h);
        n = writev(fd, iov, 2);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    return 0;
}

static int io_fail(struct agent_err *err, int r)
{
    return agent_fail(err, -r, WIRE_NO_INDEX, "the agent's journal: %s",
                      strerror(-r));
}

int agent_journal_append(struct agent *a, uint16_t type, const void *payload,
                         size_t len, struct agent_err *err)
{
    int r;

    r = put_frame(a->journal_fd, type, a->journal_seq, payload, len);
    if (r < 0) {
        /* Half a frame would hide all that comes after it. */
        if (ftruncate(a->journal_fd, (off_t)a->journal_bytes) < 0 ||
            lseek(a->journal_fd, (off_t)a->journal_bytes, SEEK_SET) < 0) {
            close(a->journal_fd);
            a->journal_fd = -1;
        }
        return io_fail(err, r);
    }
    a->journal_seq++;
    a->journal_bytes += WIRE_HEADER_BYTES + len;
    return 0;
}

int agent_journal_sync(struct agent *a, struct agent_err *err)
{
    return fdatasync(a->journal_fd) < 0 ? io_fail(err, -errno) : 0;
}

int agent_journal_reserve(struct agent *a, struct agent_err *err)
{
    if (fallocate(a->journal_fd, FALLOC_FL_KEEP_SIZE, (off_t)a->journal_bytes,
                  RESERVE_BYTES) < 0 && errno != EOPNOTSUPP)
        return io_fail(err, -errno);
    return 0;
}

static void put_head(uint8_t *buf, struct wire_w *w)
{
    wire_w_init(w, buf, FIXED_BYTES);
    wire_put_u16(w, JOURNAL_VERSION);
    wire_put_u32(w, 0);
    wire_put_u32(w, 0);
    wire_put_u32(w, 0);
}

/* Head and BEGIN, which journal and "last" have in common. */
static int put_beginning(int fd, const struct agent_job *job)
{
    struct wire_msg_begin m = { .direction = job->direction,
                                .flags = job->flags,
                                .n_ops = job->n_ops,
                                .n_groups = job->n_groups,
                                .name = job->name };
    uint8_t buf[512];
    struct wire_w w;
    int r;

    put_head(buf, &w);
    r = put_frame(fd, JOURNAL_HEAD, 0, buf, w.len);
    if (r < 0)
        return r;
    memcpy(m.job_id, job->job_id, 16);
    memcpy(m.patch_id, job->patch_id, 32);
    wire_w_init(&w, buf, sizeof(buf));
    wire_put_begin(&w, &m);
    return put_frame(fd, WIRE_BEGIN, 1, buf, w.len);
}

int agent_journal_ident(struct agent *a, uint32_t index, struct agent_err *err)
{
    const struct agent_ident *id = &a->job.ops[index].was;
    uint8_t buf[FIXED_BYTES];
    struct wire_w w;

    wire_w_init(&w, buf, sizeof(buf));
    wire_put_u32(&w, index);
    wire_put_u8(&w, id->type);
    wire_put_u64(&w, id->ino);
    wire_put_u64(&w, id->size);
    wire_put_u64(&w, (uint64_t)id->ctime_s);
    wire_put_u32(&w, id->ctime_ns);
    return agent_journal_append(a, JOURNAL_IDENT, buf, w.len, err);
}

static int write_all_so_far(struct agent *a, struct agent_err *err)
{
    struct agent_job *job = &a->job;
    uint32_t i;
    off_t at;
    int r;

    a->journal_fd = openat(a->state_fd, "journal",
                           O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                           0600);
    if (a->journal_fd < 0)
        return io_fail(err, -errno);
    a->journal_seq = 2;
    r = put_beginning(a->journal_fd, job);
    if (r < 0)
        return io_fail(err, r);
    at = lseek(a->journal_fd, 0, SEEK_CUR);
    if (at < 0)
        return io_fail(err, -errno);
    a->journal_bytes = (uint64_t)at;
    for (i = 0; r == 0 && i < job->n_ops; i++) {
        if (!job->ops[i].payload)
            continue;
        r = agent_journal_append(a, WIRE_OP, job->ops[i].payload,
                                 job->ops[i].len, err);
        if (r == 0)
            r = agent_journal_ident(a, i, err);
    }
    for (i = 0; r == 0 && i < job->n_stanzas; i++)
        r = agent_journal_append(a, WIRE_STANZA, job->stanzas[i].payload,
                                 job->stanzas[i].len, err);
    if (r < 0)
        return r;
    if (fsync(a->journal_fd) < 0 || fsync(a->state_fd) < 0)
        return io_fail(err, -errno);
    return 0;
}

static int remove_journal(struct agent *a, struct agent_err *err)
{
    if (unlinkat(a->state_fd, "journal", 0) < 0 && errno != ENOENT)
        return io_fail(err, -errno);
    if (fsync(a->state_fd) < 0)
        return io_fail(err, -errno);
    if (a->journal_fd >= 0)
        close(a->journal_fd);
    a->journal_fd = -1;
    return 0;
}

int agent_journal_create(struct agent *a, struct agent_err *err)
{
    int r = write_all_so_far(a, err);

    if (r < 0)
        remove_journal(a, NULL);
    else
        agent_step(a, "journal-begun");
    return r;
}

int agent_journal_end(struct agent *a, struct agent_err *err)
{
    int r = remove_journal(a, err);

    if (r < 0)
        return r; /* the job stays open: it may be ended again */
    agent_job_fini(&a->job);
    agent_dpkg_unlock(a);
    return 0;
}

/* ---- "last": the job finished last ---- */

static int put_paths(struct agent *a, int fd)
{
    struct agent_job *job = &a->job;
    uint32_t i, n = 0, seq = 2;
    struct wire_w w;
    int r = 0;

    wire_w_init(&w, a->out, WIRE_PAYLOAD_MAX);
    wire_put_u32(&w, 0);
    for (i = 0; r == 0 && i <= job->n_ops; i++) {
        if (i == job->n_ops || w.len > WIRE_PAYLOAD_MAX - WIRE_PATH_MAX - 8) {
            struct wire_w count;

            wire_w_init(&count, a->out, 4);
            wire_put_u32(&count, n);
            r = put_frame(fd, WIRE_FLUSH, seq++, a->out, w.len);
            n = 0;
            w.len = 4;
        }
        if (i == job->n_ops || !agent_op_goes(job, &job->ops[i]) ||
            job->ops[i].to_type != WIRE_FILE)
            continue;
        wire_put_str(&w, job->ops[i].path);
        n++;
    }
    return r;
}

int agent_last_write(struct agent *a, struct agent_err *err)
{
    int fd, r;

    fd = openat(a->state_fd, "last.new",
                O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return io_fail(err, -errno);
    r = put_beginning(fd, &a->job);
    if (r == 0)
        r = put_paths(a, fd);
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    close(fd);
    if (r == 0 && renameat(a->state_fd, "last.new", a->state_fd, "last") < 0)
        r = -errno;
    if (r == 0 && fsync(a->state_fd) < 0)
        r = -errno;
    if (r < 0)
        return io_fail(err, r);
    a->last.there = true;
    a->last.direction = a->job.direction;
    memcpy(a->last.job_id, a->job.job_id, 16);
    memcpy(a->last.patch_id, a->job.patch_id, 32);
    return 0;
}

/* Reads "last": fills a->last, and calls each unless NULL. */
static int read_last(struct agent *a, int (*each)(void *arg, const char *path),
                     void *arg)
{
    struct wire_msg_begin m;
    struct wire_frame f;
    uint8_t *buf = NULL;
    size_t len = 0, off = 0;
    struct wire_r r;
    uint32_t n;
    int rc;

    rc = read_state(a, "last", &buf, &len);
    while (rc == 0 && len - off >= WIRE_HEADER_BYTES) {
        const uint8_t *payload = buf + off + WIRE_HEADER_BYTES;

        if (!wire_frame_decode(buf + off, &f) ||
            f.len > len - off - WIRE_HEADER_BYTES ||
            !wire_frame_crc_ok(buf + off, payload, f.len))
            break;
        wire_r_init(&r, payload, f.len);
        if (f.type == WIRE_BEGIN && wire_get_begin(&r, &m)) {
            a->last.there = true;
            a->last.direction = m.direction;
            memcpy(a->last.job_id, m.job_id, 16);
            memcpy(a->last.patch_id, m.patch_id, 32);
        } else if (f.type == WIRE_FLUSH && each) {
            for (n = wire_get_u32(&r); rc == 0 && n > 0 && !r.bad; n--)
                rc = each(arg, wire_get_str(&r, WIRE_PATH_MAX));
        }
        off += WIRE_HEADER_BYTES + f.len;
    }
    free(buf);
    return rc;
}

int agent_last_paths(struct agent *a, int (*each)(void *arg, const char *path),
                     void *arg)
{
    int r = read_last(a, each, arg);

    return r == -ENOENT ? 0 : r;
}

int agent_recover(struct agent *a, struct agent_err *err)
{
    struct agent_journal_info info;
    uint8_t *buf = NULL;
    size_t len;
    int r;

    read_last(a, NULL, NULL);
    r = read_state(a, "journal", &buf, &len);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return io_fail(err, r);
    r = agent_journal_decode(buf, len, &a->job, &info, err);
    free(buf);
    if (r == -ENOENT)
        return agent_journal_end(a, err); /* a crash before anything was done */
    if (r < 0)
        return r;
    a->journal_fd = openat(a->state_fd, "journal", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (a->journal_fd < 0)
        return io_fail(err, -errno);
    if (a->job.state == AGENT_STAGING || info.aborting) {
        agent_log(a, "undoing what was staged of \"%s\"", a->job.name);
        r = agent_undo(a, err);
        return r < 0 ? r : agent_journal_end(a, err);
    }
    agent_log(a, "\"%s\" is %s: waiting for the host", a->job.name,
              a->job.state == AGENT_PREPARED ? "prepared" : "half committed");
    /* What follows the last whole frame goes before more is written. */
    a->journal_seq = info.next_seq;
    if (ftruncate(a->journal_fd, (off_t)info.whole_bytes) < 0 ||
        lseek(a->journal_fd, 0, SEEK_END) < 0)
        return io_fail(err, -errno);
    a->journal_bytes = info.whole_bytes;
    return 0;
}
