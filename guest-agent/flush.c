// SPDX-License-Identifier: GPL-2.0-or-later
/* flush.c: drops cached pages of files and says how many were there and how
 * many stay (mapped ones do). */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "impl.h"

struct flush {
    struct agent *a;
    struct wire_w *w;
    uint32_t n;
};

static int64_t clip(int64_t n)
{
    return n < 0 ? 0 : n > UINT32_MAX ? UINT32_MAX : n;
}

static int flush_path(void *arg, const char *path)
{
    struct wire_flushed m = { .path = path };
    struct flush *fl = arg;
    struct stat st;
    int fd;

    if (!wire_path_ok(path))
        return 0;
    fd = agent_open_file(fl->a, path);
    if (fd < 0)
        return 0; /* it may be gone since */
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        m.pages_before =
            (uint32_t)clip(agent_cached_pages(fd, (uint64_t)st.st_size));
        fsync(fd); /* dirty pages do not go */
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        m.pages_after =
            (uint32_t)clip(agent_cached_pages(fd, (uint64_t)st.st_size));
        wire_put_flushed(fl->w, &m);
        fl->n++;
    }
    close(fd);
    return fl->w->len > WIRE_PAYLOAD_MAX - WIRE_PATH_MAX - 16 ? 1 : 0;
}

HANDLER(flush)
{
    struct flush fl = { .a = a };
    uint32_t n = wire_get_u32(r), i;
    struct wire_w count;

    fl.w = agent_reply(a);
    wire_put_u32(fl.w, 0);
    for (i = 0; i < n && !r->bad; i++)
        if (flush_path(&fl, wire_get_str(r, WIRE_PATH_MAX)) > 0)
            break;
    if (r->bad || (i == n && !wire_r_end(r)))
        return agent_fail(err, EPROTO, WIRE_NO_INDEX, "malformed FLUSH");
    if (n == 0)
        agent_last_paths(a, flush_path, &fl);
    wire_w_init(&count, a->out, 4);
    wire_put_u32(&count, fl.n);
    agent_answer(a, WIRE_FLUSHED);
    return 0;
}
