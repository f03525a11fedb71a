// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bs/log.h"

#define WINDOW_SECONDS 10
#define WINDOW_LINES 5

static atomic_int max_level = BS_LOG_INFO;

void bs_log_set_level(enum bs_log_level level)
{
    atomic_store(&max_level, (int)level);
}

static const char *level_name(enum bs_log_level level)
{
    switch (level) {
    case BS_LOG_ERR:
        return "error";
    case BS_LOG_WARN:
        return "warning";
    case BS_LOG_INFO:
        return "info";
    case BS_LOG_DEBUG:
        break;
    }
    return "debug";
}

/* One write(2) a line, so that lines of several threads and processes do not
 * mix; whatever would break the line or the terminal becomes '?'. */
__attribute__((format(printf, 3, 0))) static void
put_line(enum bs_log_level level, const char *component, const char *fmt,
         va_list ap)
{
    char line[2048];
    size_t len, i;
    int n;

    n = snprintf(line, sizeof(line), "blksub: %s: %s: ", level_name(level),
                 component);
    if (n < 0 || (size_t)n >= sizeof(line) - 1)
        return;
    vsnprintf(line + n, sizeof(line) - 1 - (size_t)n, fmt, ap);
    len = strlen(line);
    for (i = 0; i < len; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 127)
            line[i] = '?';
    line[len++] = '\n';
    if (write(STDERR_FILENO, line, len) < 0)
        return; /* nobody is left to be told */
}

void bs_log(enum bs_log_level level, const char *component, const char *fmt, ...)
{
    va_list ap;

    if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
        return;
    va_start(ap, fmt);
    put_line(level, component, fmt, ap);
    va_end(ap);
}

void bs_log_limited(struct bs_log_limit *limit, enum bs_log_level level,
                    const char *component, const char *fmt, ...)
{
    struct timespec now;
    int_fast64_t start;
    unsigned dropped;
    va_list ap;

    if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    start = atomic_load(&limit->window_start);
    /* The first thread that finds the window over opens the next one; start 0
     * is a limiter that was never used. */
    if ((start == 0 || now.tv_sec - start >= WINDOW_SECONDS) &&
        atomic_compare_exchange_strong(&limit->window_start, &start,
                                       now.tv_sec ? now.tv_sec : 1)) {
        atomic_store(&limit->n_in_window, 0);
        dropped = atomic_exchange(&limit->n_dropped, 0);
        if (dropped > 0)
            bs_log(level, component, "messages dropped count=%u", dropped);
    }
    if (atomic_fetch_add(&limit->n_in_window, 1) >= WINDOW_LINES) {
        atomic_fetch_add(&limit->n_dropped, 1);
        return;
    }
    va_start(ap, fmt);
    put_line(level, component, fmt, ap);
    va_end(ap);
}
