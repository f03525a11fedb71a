// SPDX-License-Identifier: GPL-2.0-or-later
/* util.h: growing arrays and strings, for all of the publisher. */
#ifndef PUBLISH_UTIL_H
#define PUBLISH_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* items with room for one more: items itself or a larger copy.  NULL: no
 * memory, and items stays the caller's. */
static inline void *pub_room(void *items, size_t n, size_t *cap, size_t size)
{
    size_t more = *cap ? *cap * 2 : 16;
    void *p;

    if (n < *cap)
        return items;
    p = reallocarray(items, more, size);
    if (p)
        *cap = more;
    return p;
}

/* Is s well-formed UTF-8 (RFC 3629) without control characters?  A manifest
 * can say nothing else. */
bool pub_text_ok(const char *s);
/* A copy of s that is text: other bytes become \xNN.  NULL: no memory. */
char *pub_text_escape(const char *s);

bool pub_starts(const char *s, const char *prefix);
bool pub_ends(const char *s, const char *suffix);
/* What follows the last '/'. */
const char *pub_base(const char *path);
/* The length of the parent's path; 0 = the root. */
size_t pub_parent_len(const char *path);
/* Is path below dir (not dir itself)? */
bool pub_below(const char *path, const char *dir);

#endif
