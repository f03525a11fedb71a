// SPDX-License-Identifier: GPL-2.0-or-later
/* control.h: the server of a volume's control socket (blksub-control(7)).
 *
 * It moves lines: a complete line that is a JSON object goes to the request
 * function, which answers, now or later and from any thread, with
 * hv_control_send().  A client that sends anything else gets one error and is
 * closed; so is one that does not read what it asked for. */
#ifndef HV_CONTROL_H
#define HV_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "bs/err.h"

#define HV_CONTROL_NAME "control.sock"
#define HV_CONTROL_LINE_MAX (64u << 10)  /* a request */
#define HV_CONTROL_QUEUE_MAX (16u << 20) /* answers that a client left unread */
#define HV_CONTROL_CLIENTS_MAX 32

struct hv_control; /* opaque */

/* Called in the server's thread, with no lock held; req is borrowed. */
typedef void hv_request_fn(void *opaque, uint64_t client, json_t *req);

/* Makes the socket in dirfd (borrowed), taking the place of an old one: the
 * caller holds the volume's lock, so nobody listens on that.  The thread
 * starts at once. */
int hv_control_start(int dirfd, hv_request_fn *fn, void *opaque,
                     struct hv_control **out, struct bs_err *err);
/* Removes the socket, sends what is queued as far as it goes, ends. */
void hv_control_stop(struct hv_control *c);

/* Queues one line.  obj is taken.  A client that is gone is no error. */
void hv_control_send(struct hv_control *c, uint64_t client, json_t *obj);

/* Is the client still there? */
bool hv_control_has(struct hv_control *c, uint64_t client);

/* {"id":ID,"ok":false,"error":{"code":"EBUSY","text":"..."}}; id may be NULL
 * and is borrowed. */
json_t *hv_control_error(const json_t *id, const struct bs_err *err);

/* Binds (listen) or connects to NAME in dirfd; a path longer than a socket
 * address does not matter.  A descriptor or a negative errno. */
int hv_control_socket(int dirfd, const char *name, bool listening);

#endif
