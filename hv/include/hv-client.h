// SPDX-License-Identifier: GPL-2.0-or-later
/* hv-client.h: the other end of a volume's control socket: how programs talk
 * to a worker (blksub-control(7)).  One thread a client. */
#ifndef HV_CLIENT_H
#define HV_CLIENT_H

#include <jansson.h>

#include "bstore.h"

struct hv_client; /* opaque */

/* Connects to the volume's worker.
 * -ENOENT no such volume, -EHOSTUNREACH nobody serves it. */
int hv_client_open(struct bstore *store, const char *volume,
                   struct hv_client **out, struct bs_err *err);
void hv_client_close(struct hv_client *c);
int hv_client_fd(const struct hv_client *c); /* borrowed, for poll() */

/* Sends a request; members (taken, may be NULL) are what it has beside id and
 * cmd.  *id names it in what hv_client_next() gives. */
int hv_client_send(struct hv_client *c, const char *cmd, json_t *members,
                   json_int_t *id, struct bs_err *err);
/* The next message, an answer or an event (given).  -ETIMEDOUT, without a
 * sentence, when none is complete within limit_ms; -EHOSTUNREACH when the
 * worker is gone; -EPROTO. */
int hv_client_next(struct hv_client *c, int limit_ms, json_t **out,
                   struct bs_err *err);
/* What an answer says: 0 if "ok", else its error in err. */
int hv_client_result(const json_t *answer, struct bs_err *err);

/* Send, and wait for the answer (given); events meanwhile go to on_event,
 * which may be NULL.  limit_ms is for the whole call: -EHOSTUNREACH beyond. */
int hv_client_call(struct hv_client *c, const char *cmd, json_t *members,
                   void (*on_event)(void *opaque, const json_t *event),
                   void *opaque, int limit_ms, json_t **out, struct bs_err *err);

#endif
