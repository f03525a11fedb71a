// SPDX-License-Identifier: GPL-2.0-or-later
/* The progress bar, and Ctrl-C. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cmd.h"

#define REDRAW_MS 100

static volatile sig_atomic_t interrupted;
static struct sigaction old_int, old_term;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

bool cmd_interrupted(void)
{
    return interrupted != 0;
}

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int terminal_width(void)
{
    struct winsize ws;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) != 0 || ws.ws_col == 0)
        return 80;
    return ws.ws_col < 20 ? 20 : ws.ws_col > 200 ? 200 : ws.ws_col;
}

/* " 120.0 MiB/s  0:42 left", or what of it can be known. */
static void rate_and_rest(const struct cmd_progress *p, uint64_t done,
                          uint64_t total, int64_t elapsed_ms, char *buf,
                          size_t cap)
{
    char size[24];
    double rate;
    uint64_t rest;
    size_t len = 0;

    buf[0] = '\0';
    if (elapsed_ms < 500 || done <= p->start_done)
        return;
    rate = (double)(done - p->start_done) / ((double)elapsed_ms / 1000.0);
    if (!p->not_bytes) {
        snprintf(buf, cap, "  %s/s", cmd_size((uint64_t)rate, size));
        len = strlen(buf);
    }
    if (total <= done)
        return;
    rest = (uint64_t)((double)(total - done) / rate) + 1;
    if (rest < 3600)
        snprintf(buf + len, cap - len, "  %u:%02u left", (unsigned)(rest / 60),
                 (unsigned)(rest % 60));
    else if (rest < 100 * 3600)
        snprintf(buf + len, cap - len, "  %uh%02um left",
                 (unsigned)(rest / 3600), (unsigned)(rest / 60 % 60));
}

void cmd_progress_line(const struct cmd_progress *p, uint64_t done,
                       uint64_t total, int64_t elapsed_ms, int width, char *buf)
{
    char tail[64], percent[8] = "";
    int bar, full, len, tail_room;

    if (done > total)
        done = total;
    if (total > 0)
        snprintf(percent, sizeof(percent), "%3u %%",
                 (unsigned)((double)done / (double)total * 100.0));
    rate_and_rest(p, done, total, elapsed_ms, tail, sizeof(tail));
    /* WHAT [####....]  42 %  120.0 MiB/s  0:42 left */
    tail_room = p->not_bytes ? 14 : 28; /* so that the bar keeps its length */
    if ((int)strlen(tail) > tail_room)
        tail_room = (int)strlen(tail);
    bar = width - (int)strlen(p->what) - (int)strlen(percent) - tail_room - 5;
    if (bar > 40)
        bar = 40;
    if (bar < 5 || total == 0) {
        snprintf(buf, (size_t)width + 1, "%s %s%s", p->what, percent, tail);
        return;
    }
    full = (int)((double)done / (double)total * bar);
    len = snprintf(buf, (size_t)width + 1, "%s [", p->what);
    memset(buf + len, '#', (size_t)full);
    memset(buf + len + full, '.', (size_t)(bar - full));
    len += bar;
    snprintf(buf + len, (size_t)(width + 1 - len), "] %s%s", percent, tail);
}

static int step(void *opaque, uint64_t done, uint64_t total)
{
    struct cmd_progress *p = opaque;
    int64_t now;
    char line[201];

    if (interrupted)
        return 1;
    if (!p->tty)
        return 0;
    now = now_ms();
    if (!p->drawn || done < p->last_done) { /* the next stage counts anew */
        p->start_ms = now;
        p->start_done = done;
    } else if (now - p->last_ms < REDRAW_MS) {
        return 0;
    }
    p->last_ms = now;
    p->last_done = done;
    p->drawn = true;
    /* One column less: a full line would wrap on some terminals. */
    cmd_progress_line(p, done, total, now - p->start_ms, terminal_width() - 1,
                      line);
    fprintf(stderr, "\r%s\033[K", line);
    fflush(stderr);
    return 0;
}

void cmd_progress_begin(struct cmd_progress *p, const struct cmd_ctx *ctx,
                        const char *what)
{
    const char *term = getenv("TERM");
    struct sigaction sa = { .sa_handler = on_signal,
                            .sa_flags = (int)SA_RESETHAND };

    memset(p, 0, sizeof(*p));
    p->hook.step = step;
    p->hook.opaque = p;
    p->what = what;
    p->tty = !ctx->json && isatty(STDERR_FILENO) && term &&
             strcmp(term, "dumb") != 0;
    /* No SA_RESTART: what waits shall notice.  The second signal kills, which
     * is safe at any moment, as kill -9 is. */
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, &old_int);
    sigaction(SIGTERM, &sa, &old_term);
}

void cmd_progress_end(struct cmd_progress *p)
{
    if (p->drawn)
        fputs("\r\033[K", stderr);
    p->drawn = false;
    sigaction(SIGINT, &old_int, NULL);
    sigaction(SIGTERM, &old_term, NULL);
}
