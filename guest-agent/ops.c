// SPDX-License-Identifier: GPL-2.0-or-later
/* ops.c: the tables of a job.  An op is kept as the bytes it came in, checked
 * once, and decoded again where it is needed: a decoded op is a hundred times
 * the size of its index entry. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>

#include "impl.h"

void agent_job_init(struct agent_job *job)
{
    memset(job, 0, sizeof(*job));
    job->copy_fd = -1;
}

void agent_job_fini(struct agent_job *job)
{
    uint32_t i;

    for (i = 0; job->ops && i < job->n_ops; i++) {
        if (job->ops[i].lease_fd >= 0)
            close(job->ops[i].lease_fd);
        free(job->ops[i].payload);
    }
    for (i = 0; i < job->n_stanzas; i++)
        free(job->stanzas[i].payload);
    for (i = 0; i < job->n_hooks; i++)
        free(job->hooks[i]);
    for (i = 0; i < job->n_made_dirs; i++)
        free(job->made_dirs[i]);
    if (job->copy_fd >= 0)
        close(job->copy_fd);
    free(job->ops);
    free(job->stanzas);
    free(job->made_dirs);
    free(job->swaps);
    free(job->selected);
    free(job->name);
    sodium_memzero(job->secret, sizeof(job->secret));
    agent_job_init(job);
}

int agent_job_begin(struct agent_job *job, const struct wire_msg_begin *m,
                    struct agent_err *err)
{
    uint32_t i;

    if (m->n_ops > AGENT_MAX_OPS || m->n_groups > AGENT_MAX_GROUPS)
        return agent_fail(err, EPROTO, WIRE_NO_INDEX,
                          "%u ops in %u groups are too many", m->n_ops,
                          m->n_groups);
    job->ops = calloc((size_t)m->n_ops + 1, sizeof(*job->ops));
    job->selected = calloc((size_t)m->n_groups / 8 + 1, 1);
    job->name = strdup(m->name);
    if (!job->ops || !job->selected || !job->name) {
        agent_job_fini(job);
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    }
    for (i = 0; i < m->n_ops; i++)
        job->ops[i].lease_fd = -1;
    job->n_ops = m->n_ops;
    job->n_groups = m->n_groups;
    memcpy(job->job_id, m->job_id, 16);
    memcpy(job->patch_id, m->patch_id, 32);
    memcpy(job->secret, m->secret, 32);
    job->direction = m->direction;
    job->flags = m->flags;
    return 0;
}

/* 0, or why the job cannot hold len bytes more. */
static int count_bytes(struct agent_job *job, uint32_t len, struct agent_err *err)
{
    if (job->payload_bytes + len > AGENT_JOB_BYTES_MAX)
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "the job is too large");
    job->payload_bytes += len;
    return 0;
}

static bool group_ok(const struct agent_job *job, uint32_t group)
{
    return group < job->n_groups || group == WIRE_NO_INDEX;
}

static int copy_bytes(uint8_t **out, const uint8_t *p, uint32_t len)
{
    *out = malloc(len ? len : 1);
    if (!*out)
        return -ENOMEM;
    memcpy(*out, p, len);
    return 0;
}

/* A folder that takes the place of something else, or the other way round. */
static int add_swap(struct agent_job *job, uint32_t index)
{
    uint32_t *p = realloc(job->swaps, (job->n_swaps + 1) * sizeof(*p));

    if (!p)
        return -ENOMEM;
    job->swaps = p;
    p[job->n_swaps++] = index;
    return 0;
}

int agent_job_add_op(struct agent_job *job, const uint8_t *payload, uint32_t len,
                     uint32_t *index, struct agent_err *err)
{
    struct wire_msg_op m;
    struct agent_op *op;
    struct wire_r r;
    int rc;

    wire_r_init(&r, payload, len);
    if (!wire_get_op(&r, &m) || m.index >= job->n_ops || !group_ok(job, m.group) ||
        (m.from.type == WIRE_ABSENT && m.to.type == WIRE_ABSENT))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed OP");
    op = &job->ops[m.index];
    if (op->payload)
        return agent_fail(err, EPROTO, m.index, "OP %u was sent before", m.index);
    rc = count_bytes(job, len, err);
    if (rc < 0)
        return rc;
    rc = copy_bytes(&op->payload, payload, len);
    if (rc == 0 && m.to.type == WIRE_DIR && m.from.type != WIRE_DIR &&
        m.from.type != WIRE_ABSENT)
        rc = add_swap(job, m.index);
    if (rc < 0)
        return agent_fail(err, -rc, m.index, "no memory");
    op->len = len;
    op->group = m.group;
    op->from_type = m.from.type;
    op->to_type = m.to.type;
    agent_op_get(op, &m);
    op->path = m.path;
    *index = m.index;
    return 0;
}

int agent_job_add_stanza(struct agent_job *job, const uint8_t *payload,
                         uint32_t len, struct agent_err *err)
{
    struct wire_msg_stanza m;
    struct agent_stanza *s;
    struct wire_r r;
    int rc;

    wire_r_init(&r, payload, len);
    if (!wire_get_stanza(&r, &m) || !group_ok(job, m.group) || !m.package[0])
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed STANZA");
    if (job->n_stanzas == AGENT_MAX_STANZAS)
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "too many stanzas");
    rc = count_bytes(job, len, err);
    if (rc < 0)
        return rc;
    s = realloc(job->stanzas, (job->n_stanzas + 1) * sizeof(*s));
    if (!s)
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    job->stanzas = s;
    s += job->n_stanzas;
    memset(s, 0, sizeof(*s));
    if (copy_bytes(&s->payload, payload, len) < 0)
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    s->len = len;
    s->group = m.group;
    job->n_stanzas++;
    return 0;
}

int agent_job_select(struct agent_job *job, uint32_t n, const uint8_t *bits,
                     struct agent_err *err)
{
    if (n != job->n_groups || !bits)
        return agent_fail(err, EPROTO, WIRE_NO_INDEX,
                          "SELECT of %u groups, the job has %u", n, job->n_groups);
    memcpy(job->selected, bits, ((size_t)n + 7) / 8);
    return 0;
}

int agent_job_add_hook(struct agent_job *job, const char *name,
                       struct agent_err *err)
{
    uint32_t i;

    for (i = 0; i < job->n_hooks; i++)
        if (strcmp(job->hooks[i], name) == 0)
            return 0;
    if (job->n_hooks == AGENT_MAX_HOOKS)
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "too many hooks");
    job->hooks[job->n_hooks] = strdup(name);
    if (!job->hooks[job->n_hooks])
        return agent_fail(err, ENOMEM, WIRE_NO_INDEX, "no memory");
    job->n_hooks++;
    return 0;
}

int agent_job_add_made_dir(struct agent_job *job, const char *path)
{
    char **p = realloc(job->made_dirs, (job->n_made_dirs + 1) * sizeof(*p));

    if (!p)
        return -ENOMEM;
    job->made_dirs = p;
    p[job->n_made_dirs] = strdup(path);
    if (!p[job->n_made_dirs])
        return -ENOMEM;
    job->n_made_dirs++;
    return 0;
}

bool agent_job_made(const struct agent_job *job, const char *path)
{
    uint32_t i;

    for (i = 0; i < job->n_made_dirs; i++)
        if (strcmp(job->made_dirs[i], path) == 0)
            return true;
    return false;
}

bool agent_job_selected(const struct agent_job *job, uint32_t group)
{
    return group == WIRE_NO_INDEX ||
           (group < job->n_groups && job->selected[group / 8] >> (group % 8) & 1);
}

struct agent_op *agent_job_op(struct agent_job *job, uint32_t index)
{
    if (index >= job->n_ops || !job->ops[index].payload)
        return NULL;
    return &job->ops[index];
}

void agent_op_get(const struct agent_op *op, struct wire_msg_op *m)
{
    struct wire_r r;

    wire_r_init(&r, op->payload, op->len);
    wire_get_op(&r, m);
}

void agent_stanza_get(const struct agent_stanza *s, struct wire_msg_stanza *m)
{
    struct wire_r r;

    wire_r_init(&r, s->payload, s->len);
    wire_get_stanza(&r, m);
}

bool agent_op_goes(const struct agent_job *job, const struct agent_op *op)
{
    return op->payload && op->method != 0 && !op->kept &&
           agent_job_selected(job, op->group);
}

uint8_t agent_node_type(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return WIRE_FILE;
    case S_IFDIR:
        return WIRE_DIR;
    case S_IFLNK:
        return WIRE_SYMLINK;
    case S_IFCHR:
        return WIRE_CHAR;
    case S_IFBLK:
        return WIRE_BLOCK;
    case S_IFIFO:
        return WIRE_FIFO;
    default:
        return WIRE_OTHER;
    }
}

void agent_ident_of(struct agent_ident *id, const struct stat *st)
{
    memset(id, 0, sizeof(*id));
    id->type = agent_node_type(st->st_mode);
    id->ino = st->st_ino;
    if (id->type == WIRE_DIR)
        return; /* what happens inside a folder changes neither */
    id->size = (uint64_t)st->st_size;
    id->ctime_s = st->st_ctim.tv_sec;
    id->ctime_ns = (uint32_t)st->st_ctim.tv_nsec;
}

bool agent_ident_eq(const struct agent_ident *a, const struct agent_ident *b)
{
    return a->type == b->type && a->ino == b->ino && a->size == b->size &&
           a->ctime_s == b->ctime_s && a->ctime_ns == b->ctime_ns;
}

int agent_op_recheck(struct agent *a, const struct agent_op *op)
{
    struct agent_ident now = { .type = WIRE_ABSENT };
    struct stat st;
    int r;

    r = agent_lstat(a, op->path, &st);
    if (r == 0)
        agent_ident_of(&now, &st);
    else if (r != -ENOENT && r != -ENOTDIR)
        return r;
    if (op->was.type == WIRE_ABSENT && now.type == WIRE_DIR &&
        (op->made || agent_job_made(&a->job, op->path)))
        return 0;
    return agent_ident_eq(&op->was, &now) ? 0 : -ESTALE;
}
