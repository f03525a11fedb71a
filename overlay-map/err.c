// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "bs/err.h"

int bs_fail(struct bs_err *err, int code, const char *fmt, ...)
{
    va_list ap;

    if (err) {
        err->code = code;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
    }
    return -code;
}

int bs_fail_errno(struct bs_err *err, int code, const char *fmt, ...)
{
    size_t len;
    va_list ap;

    if (err) {
        err->code = code;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
        len = strlen(err->text);
        snprintf(err->text + len, sizeof(err->text) - len, ": %s",
                 strerror(code));
    }
    return -code;
}

int bs_prefix(struct bs_err *err, int code, const char *fmt, ...)
{
    char old[sizeof(err->text)];
    size_t len;
    va_list ap;

    if (err) {
        memcpy(old, err->text, sizeof(old));
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
        len = strlen(err->text);
        snprintf(err->text + len, sizeof(err->text) - len, ": %s", old);
    }
    return code;
}
