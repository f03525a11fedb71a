// SPDX-License-Identifier: GPL-2.0-or-later
/* msg.c: errors, answers, notes and the log. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "impl.h"

int agent_fail(struct agent_err *err, int code, uint32_t index, const char *fmt,
               ...)
{
    va_list ap;

    if (err) {
        err->code = code;
        err->index = index;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
    }
    return -code;
}

__attribute__((format(printf, 1, 0))) static void vlog(const char *fmt,
                                                       va_list ap)
{
    char line[1024];

    vsnprintf(line, sizeof(line), fmt, ap);
    fprintf(stderr, "blksub-agent: %s\n", line);
}

void agent_log(const struct agent *a, const char *fmt, ...)
{
    va_list ap;

    (void)a;
    va_start(ap, fmt);
    vlog(fmt, ap);
    va_end(ap);
}

void agent_debug(const struct agent *a, const char *fmt, ...)
{
    va_list ap;

    if (!a->verbose)
        return;
    va_start(ap, fmt);
    vlog(fmt, ap);
    va_end(ap);
}

void agent_note(struct agent *a, const char *fmt, ...)
{
    struct agent_notes *notes = &a->notes;
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    agent_log(a, "note: %s", text);
    if (notes->n == AGENT_MAX_NOTES) {
        notes->full = true;
        return;
    }
    if (notes->n == AGENT_MAX_NOTES - 1)
        snprintf(text, sizeof(text), "more notes are in the guest's log");
    notes->text[notes->n] = strdup(text);
    if (notes->text[notes->n])
        notes->n++;
}

void agent_notes_clear(struct agent_notes *notes)
{
    while (notes->n > 0)
        free(notes->text[--notes->n]);
    notes->full = false;
}

int64_t agent_now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

struct wire_w *agent_reply(struct agent *a)
{
    wire_w_init(&a->reply, a->out, WIRE_PAYLOAD_MAX);
    return &a->reply;
}

void agent_answer(struct agent *a, uint16_t type)
{
    struct agent_err err;

    if (!wire_w_ok(&a->reply)) {
        agent_fail(&err, E2BIG, WIRE_NO_INDEX, "the answer exceeds a frame");
        agent_answer_error(a, &err);
        return;
    }
    a->send(a->send_arg, type, a->seq, a->out, (uint32_t)a->reply.len);
}

void agent_answer_ok(struct agent *a)
{
    agent_reply(a);
    agent_answer(a, WIRE_OK);
}

void agent_answer_index(struct agent *a, uint16_t type, uint32_t index)
{
    wire_put_index(agent_reply(a), index);
    agent_answer(a, type);
}

static uint16_t wire_code(int code)
{
    switch (code) {
    case EPROTO:
    case EINVAL:
        return WIRE_E_PROTOCOL;
    case EPROTONOSUPPORT:
        return WIRE_E_VERSION;
    case EBUSY:
        return WIRE_E_BUSY;
    case ENOSPC:
    case EDQUOT:
        return WIRE_E_NOSPC;
    case EBADMSG:
        return WIRE_E_DIGEST;
    case ESTALE:
        return WIRE_E_CHANGED;
    case EOPNOTSUPP:
        return WIRE_E_UNSUPPORTED;
    case ESRCH:
        return WIRE_E_NO_JOB;
    case EROFS:
        return WIRE_E_READ_ONLY;
    default:
        return WIRE_E_IO;
    }
}

void agent_answer_error(struct agent *a, const struct agent_err *err)
{
    struct wire_msg_error m = { .code = wire_code(err->code),
                                .index = err->index,
                                .text = err->text };

    agent_debug(a, "error %u: %s", m.code, m.text);
    wire_put_error(agent_reply(a), &m);
    agent_answer(a, WIRE_ERROR);
}

void agent_progress(struct agent *a, uint32_t done, uint32_t total,
                    const char *text)
{
    struct wire_msg_progress m = { .done = done, .total = total, .text = text };
    int64_t now = agent_now_ms();

    if (done != total && now - a->progress_ms < 500)
        return;
    a->progress_ms = now;
    wire_put_progress(agent_reply(a), &m);
    agent_answer(a, WIRE_PROGRESS);
}
