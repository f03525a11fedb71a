// SPDX-License-Identifier: GPL-2.0-or-later
/* hangup.h: ends nbdkit's connections when it was told to end.
 *
 * On SIGTERM nbdkit accepts no more clients but waits for those it has, and a
 * running guest never leaves.  So the signal is seen here too, and the clients'
 * sockets are shut for reading: nbdkit answers what is under way and closes. */
#ifndef HV_HANGUP_H
#define HV_HANGUP_H

#include "bs/err.h"

/* Once, when nbdkit has set its signal handlers (after_fork).  fn is called,
 * from a thread of its own, before the clients are hung up. */
int hv_hangup_start(void (*fn)(void *opaque), void *opaque, struct bs_err *err);
void hv_hangup_stop(void);

#endif
