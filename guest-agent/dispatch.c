// SPDX-License-Identifier: GPL-2.0-or-later
/* dispatch.c: which request is allowed when, and who does it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "impl.h"

#define IN(state) (1u << (state))
#define ANY_STATE 0xffu

/* A handler reads r, and either answers and returns 0, or fills err and
 * returns a negative errno, which is answered for it. */
typedef int handler_fn(struct agent *a, struct wire_r *r, struct agent_err *err);

static int hex_digit(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* Zeros when the kernel does not say. */
static void read_boot_id(uint8_t out[16])
{
    char text[64] = "";
    unsigned n = 0;
    ssize_t len = 0;
    size_t i;
    int fd, d;

    memset(out, 0, 16);
    fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        len = read(fd, text, sizeof(text) - 1);
        close(fd);
    }
    for (i = 0; len > 0 && i < (size_t)len && n < 32; i++) {
        d = hex_digit(text[i]);
        if (d < 0)
            continue;
        out[n / 2] = (uint8_t)(out[n / 2] << 4 | d);
        n++;
    }
}

static const uint8_t phase_of[] = {
    [AGENT_NONE] = WIRE_PHASE_NONE,
    [AGENT_CHECKING] = WIRE_PHASE_NONE,
    [AGENT_STAGING] = WIRE_PHASE_STAGING,
    [AGENT_PREPARED] = WIRE_PHASE_PREPARED,
    [AGENT_COMMITTING] = WIRE_PHASE_COMMITTING,
};

static int do_hello(struct agent *a, struct wire_r *r, struct agent_err *err)
{
    struct wire_msg_hello_ok ok = { .version = WIRE_VERSION,
                                    .agent = BLKSUB_VERSION };
    struct wire_msg_hello m;
    struct utsname uts;

    if (!wire_get_hello(r, &m))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed HELLO");
    if (m.ver_min > WIRE_VERSION || m.ver_max < WIRE_VERSION)
        return agent_fail(err, EPROTONOSUPPORT, WIRE_NO_INDEX,
                          "this agent speaks version %d only, the host %u to %u",
                          WIRE_VERSION, m.ver_min, m.ver_max);
    agent_new_peer(a);
    a->greeted = true;
    ok.nonce = m.nonce;
    ok.phase = phase_of[a->job.state];
    if (ok.phase != WIRE_PHASE_NONE) {
        ok.direction = a->job.direction;
        memcpy(ok.job_id, a->job.job_id, 16);
        memcpy(ok.patch_id, a->job.patch_id, 32);
    } else if (a->last.there) {
        ok.phase = WIRE_PHASE_DONE;
        ok.direction = a->last.direction;
        memcpy(ok.job_id, a->last.job_id, 16);
        memcpy(ok.patch_id, a->last.patch_id, 32);
    }
    read_boot_id(ok.boot_id);
    ok.kernel = uname(&uts) == 0 ? uts.release : "";
    wire_put_hello_ok(agent_reply(a), &ok);
    agent_answer(a, WIRE_HELLO_OK);
    return 0;
}

void agent_new_peer(struct agent *a)
{
    a->greeted = false;
    if (a->job.state == AGENT_CHECKING)
        agent_job_fini(&a->job);
    /* Nobody may wait for a host that may never come back: COMMIT takes the
     * locks again, and LEASE the leases. */
    if (a->job.state == AGENT_STAGING)
        agent_lease_drop_all(a);
    agent_dpkg_unlock(a);
}

static const struct {
    uint16_t type;
    uint32_t states;
    handler_fn *fn;
} handlers[] = {
    { WIRE_HELLO, ANY_STATE, do_hello },
    { WIRE_BEGIN, ANY_STATE, agent_do_begin },
    { WIRE_OP, IN(AGENT_CHECKING), agent_do_op },
    { WIRE_STANZA, IN(AGENT_CHECKING), agent_do_stanza },
    { WIRE_PROBE, IN(AGENT_CHECKING) | IN(AGENT_STAGING), agent_do_probe },
    { WIRE_HASH, IN(AGENT_CHECKING) | IN(AGENT_STAGING), agent_do_hash },
    { WIRE_SELECT, IN(AGENT_CHECKING) | IN(AGENT_STAGING), agent_do_select },
    { WIRE_STAGE, IN(AGENT_STAGING), agent_do_stage },
    { WIRE_DATA, IN(AGENT_STAGING), agent_do_data },
    { WIRE_STAGE_END, IN(AGENT_STAGING), agent_do_stage_end },
    { WIRE_HOOK, IN(AGENT_STAGING), agent_do_hook },
    { WIRE_LEASE, IN(AGENT_STAGING), agent_do_lease },
    { WIRE_PREPARE, IN(AGENT_STAGING), agent_do_prepare },
    { WIRE_EVICT, IN(AGENT_PREPARED) | IN(AGENT_COMMITTING), agent_do_evict },
    { WIRE_COMMIT, ANY_STATE, agent_do_commit },
    { WIRE_ABORT, ANY_STATE, agent_do_abort },
    { WIRE_USERS, ANY_STATE, agent_do_users },
    /* Opening a file would break the lease on it: our own. */
    { WIRE_FLUSH, IN(AGENT_NONE) | IN(AGENT_CHECKING), agent_do_flush },
    { WIRE_RESTART, ANY_STATE, agent_do_restart },
};

void agent_request(struct agent *a, const struct wire_frame *f,
                   const uint8_t *payload)
{
    struct agent_err err = { .code = EPROTO, .index = WIRE_NO_INDEX };
    struct wire_r r;
    size_t i;

    a->seq = f->seq;
    for (i = 0; i < N_ELEMS(handlers) && handlers[i].type != f->type; i++)
        ;
    wire_r_init(&r, payload, f->len);
    if (i == N_ELEMS(handlers))
        agent_fail(&err, EPROTO, WIRE_NO_INDEX, "unknown request 0x%x", f->type);
    else if (!a->greeted && f->type != WIRE_HELLO)
        agent_fail(&err, EPROTO, WIRE_NO_INDEX, "HELLO comes first");
    else if (!(handlers[i].states & IN(a->job.state)))
        agent_fail(&err, EPROTO, WIRE_NO_INDEX, "request 0x%x not allowed now",
                   f->type);
    else if (handlers[i].fn(a, &r, &err) == 0)
        return;
    agent_answer_error(a, &err);
}
