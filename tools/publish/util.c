// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdio.h>

#include "util.h"

/* Bytes of the sequence that begins at s, or 0 if it is not text. */
static size_t text_seq(const unsigned char *s)
{
    size_t n, i;
    uint32_t c;

    if (s[0] < 0x20 || s[0] == 0x7f)
        return 0;
    if (s[0] < 0x80)
        return 1;
    n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc2 ? 2 : 0;
    if (n == 0 || s[0] > 0xf4)
        return 0;
    c = s[0] & (0x7fu >> n);
    for (i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) /* the final NUL ends here, too */
            return 0;
        c = c << 6 | (s[i] & 0x3fu);
    }
    if ((n == 3 && c < 0x800) || (n == 4 && c < 0x10000) || c > 0x10ffff ||
        (c >= 0xd800 && c <= 0xdfff))
        return 0;
    return n;
}

bool pub_text_ok(const char *s)
{
    size_t n;

    for (; *s; s += n) {
        n = text_seq((const unsigned char *)s);
        if (n == 0)
            return false;
    }
    return true;
}

char *pub_text_escape(const char *s)
{
    char *out = malloc(strlen(s) * 4 + 1), *o = out;
    size_t n;

    if (!out)
        return NULL;
    while (*s) {
        n = text_seq((const unsigned char *)s);
        if (n > 0) {
            memcpy(o, s, n);
            o += n;
            s += n;
        } else {
            o += sprintf(o, "\\x%02x", (unsigned char)*s++);
        }
    }
    *o = 0;
    return out;
}

bool pub_starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool pub_ends(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);

    return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

const char *pub_base(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

size_t pub_parent_len(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? (size_t)(slash - path) : 0;
}

bool pub_below(const char *path, const char *dir)
{
    size_t n = strlen(dir);

    return strncmp(path, dir, n) == 0 && path[n] == '/' && path[n + 1];
}
