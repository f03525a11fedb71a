// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "bs/file.h"
#include "bs/view.h"

/* From this length on the kernel's copy in one call is as fast. */
#define LARGE_BYTES (64u * 1024u)
#define LINE_BYTES 64u
#define AHEAD_BYTES 256u /* of the next piece; the processor goes on by itself */

/* ThreadSanitizer's memcpy cannot be left by a jump. */
#ifdef __SANITIZE_THREAD__
#define MAY_MAP false
#else
#define MAY_MAP true
#endif

/* ---- SIGBUS ---------------------------------------------------------------- */

/* Where this thread goes on when a mapping has no bytes; else NULL. */
static _Thread_local sigjmp_buf *volatile escape;
static struct sigaction former;

static void on_sigbus(int sig)
{
    if (escape)
        siglongjmp(*escape, 1);
    /* Not ours.  The instruction runs again, under whoever was here before. */
    sigaction(sig, &former, NULL);
}

static void catch_sigbus(void)
{
    /* NODEFER: it is left by a jump, and nobody would unblock the signal. */
    struct sigaction sa = { .sa_handler = on_sigbus, .sa_flags = SA_NODEFER };

    sigemptyset(&sa.sa_mask);
    sigaction(SIGBUS, &sa, &former);
}

/* ---- views ----------------------------------------------------------------- */

void bs_view_open(struct bs_view *view, int fd, uint64_t bytes)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    void *base;

    *view = (struct bs_view){ .fd = fd };
    if (!MAY_MAP || bytes == 0 || bytes > SIZE_MAX / 2)
        return;
    pthread_once(&once, catch_sigbus);
    base = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return;
    (void)madvise(base, (size_t)bytes, MADV_DONTDUMP);
    view->base = base;
    view->bytes = bytes;
}

void bs_view_close(struct bs_view *view)
{
    if (view->base)
        munmap((void *)(uintptr_t)view->base, (size_t)view->bytes);
    *view = (struct bs_view){ .fd = -1 };
}

static bool is_mapped(const struct bs_piece *p)
{
    return p->view->base && p->n < LARGE_BYTES && p->off < p->view->bytes &&
           p->n <= p->view->bytes - p->off;
}

/* The pieces lie all over the memory: while one is copied the next begins to
 * be fetched. */
static void fetch(const struct bs_piece *p)
{
    const uint8_t *at = p->view->base + p->off;
    size_t i;

    for (i = 0; i < AHEAD_BYTES && i < p->n; i += LINE_BYTES)
        __builtin_prefetch(at + i);
}

/* Copies those pieces that is_mapped().  -EIO: a mapping had no bytes. */
static int copy_mapped(const struct bs_piece *pieces, size_t n)
{
    sigjmp_buf here;
    size_t i;

    if (sigsetjmp(here, 0)) {
        escape = NULL;
        return -EIO;
    }
    escape = &here;
    atomic_signal_fence(memory_order_seq_cst);
    for (i = 0; i < n; i++) {
        if (i + 1 < n && is_mapped(&pieces[i + 1]))
            fetch(&pieces[i + 1]);
        if (is_mapped(&pieces[i]))
            memcpy(pieces[i].to, pieces[i].view->base + pieces[i].off,
                   pieces[i].n);
    }
    atomic_signal_fence(memory_order_seq_cst);
    escape = NULL;
    return 0;
}

int bs_view_read(const struct bs_piece *pieces, size_t n)
{
    bool copied = n > 1 && bs_file_reads_plainly() && copy_mapped(pieces, n) == 0;
    size_t i;
    int r = 0;

    for (i = 0; r == 0 && i < n; i++)
        if (!copied || !is_mapped(&pieces[i]))
            r = bs_file_read(pieces[i].view->fd, pieces[i].to, pieces[i].n,
                             pieces[i].off);
    return r;
}
