// SPDX-License-Identifier: GPL-2.0-or-later
/* link.h: the host's end of the agent's channel (blksub-wire.h).
 *
 * A byte stream that QEMU offers as a unix socket.  The socket may be there
 * while no agent is: so being connected says nothing, and only an answered
 * HELLO makes the link "up".  Requests are pipelined: hv_link_submit() queues
 * one and returns when the window has room, the answer comes to its function
 * while a later submit or drain waits.  One thread.
 *
 * What comes from the guest is hostile.  A frame that breaks a rule drops the
 * connection; whatever the guest does or omits, no call here waits longer than
 * its limit, holds more than one frame, or believes a length. */
#ifndef HV_LINK_H
#define HV_LINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "blksub-wire.h"
#include "bs/err.h"

struct hv_link; /* opaque */

/* What the agent said of itself last. Texts are printable ASCII. */
struct hv_hello {
    uint16_t version;
    uint8_t phase, direction; /* enum wire_phase, enum wire_direction */
    uint8_t job_id[16], patch_id[32], boot_id[16];
    char agent[64], kernel[128];
};

/* wake_fd: an eventfd (borrowed) whose posting ends every wait early; the
 * link empties it.  limit_ms: how long the agent may be silent while it owes
 * an answer. */
int hv_link_new(const char *path, int wake_fd, unsigned limit_ms,
                struct hv_link **out);
void hv_link_free(struct hv_link *l);

/* *stop, *cancel (borrowed, may be NULL): when true, waiting calls return
 * -ECANCELED.  The flag's setter posts wake_fd. */
void hv_link_set_flags(struct hv_link *l, const atomic_bool *stop,
                       const atomic_bool *cancel);
void hv_link_get_flags(const struct hv_link *l, const atomic_bool **stop,
                       const atomic_bool **cancel);

/* Allows a HELLO while an answer is overdue: an agent that was started anew,
 * which the channel does not tell, answers it at once and the link is dropped
 * instead of waiting out the limit.  Only where a HELLO does the agent's job no
 * harm: from SELECT on, when it has a journal. */
void hv_link_allow_ping(struct hv_link *l, bool allow);

/* How long to wait before connecting again; 500 ms at first. */
void hv_link_set_retry(struct hv_link *l, int retry_ms);

bool hv_link_is_up(const struct hv_link *l);
const struct hv_hello *hv_link_hello(const struct hv_link *l);
/* Why it is not up, one clause. */
const char *hv_link_problem(const struct hv_link *l);

/* Idle: keeps the connection (retries quietly, asks now and then whether the
 * agent still lives) for at most timeout_ms or until woken.  1: an agent has
 * just answered HELLO after a time without; 0 otherwise. */
int hv_link_idle(struct hv_link *l, int timeout_ms);
/* Makes sure that an agent answers now: a fresh HELLO, limit_ms for the
 * answer.  -EHOSTUNREACH, -EPROTO (another protocol version), -ECANCELED. */
int hv_link_refresh(struct hv_link *l, int limit_ms, struct bs_err *err);
/* Lets go of the connection; it is made anew by idle or refresh. */
void hv_link_drop(struct hv_link *l, const char *why);

/* An answer to the request that was submitted with this tag: type is WIRE_OK,
 * WIRE_ERROR or the request's own answer type.  A negative result fails the
 * conversation: what is still outstanding is read and dropped, and the next
 * submit or drain returns it. */
typedef int hv_answer_fn(void *opaque, uint32_t tag, uint16_t type,
                         struct wire_r *r, struct bs_err *err);
typedef void hv_progress_fn(void *opaque, uint32_t done, uint32_t total,
                            const char *text);

/* The payload of the next request: empty, to be filled. */
struct wire_w *hv_link_payload(struct hv_link *l);
int hv_link_submit(struct hv_link *l, uint16_t type, hv_answer_fn *fn,
                   void *opaque, uint32_t tag, struct bs_err *err);
/* Waits until nothing is outstanding. */
int hv_link_drain(struct hv_link *l, struct bs_err *err);
/* submit + drain with a limit of its own (0: the usual one); progress may be
 * NULL. */
int hv_link_call(struct hv_link *l, uint16_t type, hv_answer_fn *fn,
                 void *opaque, unsigned limit_ms, hv_progress_fn *progress,
                 struct bs_err *err);
/* After a failure: forgets it and reads what is outstanding, ignoring
 * cancellation; drops the link if that does not come within limit_ms. */
void hv_link_settle(struct hv_link *l, unsigned limit_ms);

/* An answer function for requests whose answer says nothing but OK. */
int hv_answer_ok(void *opaque, uint32_t tag, uint16_t type, struct wire_r *r,
                 struct bs_err *err);
/* The sentence and code of an ERROR's payload. */
int hv_link_refusal(struct wire_r *r, const char *what, struct bs_err *err);
/* Reads an ERROR: false if it is malformed. */
int hv_link_malformed(const char *what, struct bs_err *err);

/* Copies what a guest wrote: printable ASCII, all else becomes '?'. */
void hv_clean_text(char *dst, size_t cap, const char *src);
int64_t hv_now_ms(void); /* CLOCK_MONOTONIC */

#endif
