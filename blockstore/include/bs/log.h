// SPDX-License-Identifier: GPL-2.0-or-later
/* bs/log.h: messages of a long-running process, one line an event, to
 * standard error:  "blksub: LEVEL: COMPONENT: text key=value ...".
 * Any thread.  Secrets are never passed to it. */
#ifndef BS_LOG_H
#define BS_LOG_H

#include <stdatomic.h>
#include <stdint.h>

enum bs_log_level { BS_LOG_ERR, BS_LOG_WARN, BS_LOG_INFO, BS_LOG_DEBUG };

/* Messages above this level are dropped; BS_LOG_INFO at first. */
void bs_log_set_level(enum bs_log_level level);
void bs_log(enum bs_log_level level, const char *component, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* For what a guest or a peer can cause: at most 5 lines in 10 seconds a
 * limiter, then one line that counts what was dropped. */
struct bs_log_limit {
    atomic_int_fast64_t window_start; /* seconds, CLOCK_MONOTONIC */
    atomic_uint n_in_window, n_dropped;
};
void bs_log_limited(struct bs_log_limit *limit, enum bs_log_level level,
                    const char *component, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
