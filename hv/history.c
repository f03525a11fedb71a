// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bs/file.h"
#include "hv-history.h"

#define HISTORY_NAME "history"
#define TAIL_MAX (4u << 20) /* how far back a reading goes */

/* A torn line before ours must not swallow it. */
static bool ends_with_newline(int fd, uint64_t size)
{
    char c = 0;

    return size == 0 || (bs_file_read(fd, &c, 1, size - 1) == 0 && c == '\n');
}

int hv_history_append(int dirfd, const json_t *entry, struct bs_err *err)
{
    char *text, *line = NULL;
    size_t len, at = 0;
    struct stat st;
    int fd = -1, r;

    text = json_dumps(entry, JSON_COMPACT);
    len = text ? strlen(text) : 0;
    if (text)
        line = malloc(len + 2);
    if (!line) {
        r = bs_fail(err, ENOMEM, "history: no memory");
        goto out;
    }
    fd = openat(dirfd, HISTORY_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0 || fstat(fd, &st) < 0) {
        r = bs_fail_errno(err, errno, "cannot open the volume's history");
        goto out;
    }
    if (!ends_with_newline(fd, (uint64_t)st.st_size))
        line[at++] = '\n';
    memcpy(line + at, text, len);
    at += len;
    line[at++] = '\n';
    r = bs_file_write(fd, line, at, (uint64_t)st.st_size);
    if (r == 0)
        r = bs_file_datasync(fd);
    if (r < 0)
        bs_fail_errno(err, -r, "cannot write the volume's history");
out:
    if (fd >= 0)
        close(fd);
    free(text);
    free(line);
    return r;
}

static json_t *parse_lines(char *buf, size_t len, size_t max)
{
    json_t *list = json_array(), *one;
    char *p = buf, *end = buf + len, *nl;

    while (p < end) {
        nl = memchr(p, '\n', (size_t)(end - p));
        if (!nl)
            nl = end;
        one = json_loadb(p, (size_t)(nl - p), 0, NULL);
        if (json_is_object(one))
            json_array_append(list, one);
        json_decref(one);
        p = nl + 1;
        if (json_array_size(list) > max)
            json_array_remove(list, 0);
    }
    return list;
}

int hv_history_read(int dirfd, size_t max, json_t **out, struct bs_err *err)
{
    uint64_t from, len;
    struct stat st;
    char *buf;
    int fd, r;

    fd = openat(dirfd, HISTORY_NAME, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        *out = json_array();
        return 0;
    }
    if (fd < 0 || fstat(fd, &st) < 0) {
        r = bs_fail_errno(err, errno, "cannot open the volume's history");
        if (fd >= 0)
            close(fd);
        return r;
    }
    len = (uint64_t)st.st_size;
    from = len > TAIL_MAX ? len - TAIL_MAX : 0;
    buf = malloc(len - from + 1);
    r = buf ? bs_file_read(fd, buf, (size_t)(len - from), from) : -ENOMEM;
    if (r < 0)
        bs_fail_errno(err, -r, "cannot read the volume's history");
    else
        *out = parse_lines(buf, (size_t)(len - from), max);
    free(buf);
    close(fd);
    return r;
}
