// SPDX-License-Identifier: GPL-2.0-or-later
/* restart.h: a worker that aborts begins anew.
 *
 * nbdkit 1.32.4 and .5 (Debian 12 has the latter) fail an assertion when a
 * client goes while several of its reads are being answered: so a hypervisor
 * that is killed would take its guest's worker along.  The process then executes
 * nbdkit again, with the same arguments and the same pid.  Nothing is lost that
 * was acknowledged: for the volume it is a kill -9.
 *
 * Only where nbdkit serves a unix socket of its own.  A worker that
 * aborts within a second of its start, twenty times in a row, is let go. */
#ifndef HV_RESTART_H
#define HV_RESTART_H

#include "bs/err.h"

/* Once, when nbdkit is about to serve (after_fork). */
int hv_restart_arm(struct bs_err *err);
/* An abort from here on is the end.  Also from a signal handler. */
void hv_restart_disarm(void);

#endif
