// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy.h"
#include "util.h"

/* Runs all places of the pattern at once, so that no pattern is slow: live[i]
 * says that glob[i..] may match what is left of the text. */
static bool match(const char *glob, const char *text)
{
    size_t n = strlen(glob), i;
    bool live[512], next[512], any;

    if (n >= sizeof(live))
        return false; /* the parser refuses such a pattern */
    /* Most patterns begin with a path, and most paths with another one. */
    i = strcspn(glob, "*?");
    if (strncmp(glob, text, i) != 0)
        return false;
    memset(live, 0, n + 1);
    live[i] = true;
    text += i;
    for (;; text++) {
        /* A star may stand for nothing. */
        for (i = 0; i < n; i++)
            if (live[i] && glob[i] == '*')
                live[i + 1] = true;
        if (!*text)
            return live[n];
        memset(next, 0, n + 1);
        any = false;
        for (i = 0; i < n; i++) {
            bool wide = glob[i] == '*' &&
                        (glob[i + 1] == '*' || (i > 0 && glob[i - 1] == '*'));

            if (!live[i])
                continue;
            if (glob[i] == '*') {
                if (wide || *text != '/')
                    next[i] = any = true;
            } else if (glob[i] == *text || (glob[i] == '?' && *text != '/')) {
                next[i + 1] = any = true;
            }
        }
        if (!any)
            return false;
        memcpy(live, next, n + 1);
    }
}

bool pub_glob(const char *glob, const char *path)
{
    return match(glob, strchr(glob, '/') ? path : pub_base(path));
}
