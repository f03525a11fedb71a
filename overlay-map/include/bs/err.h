// SPDX-License-Identifier: GPL-2.0-or-later
/* bs/err.h: an error of the control path: a code and one sentence.
 *
 * The sentence is written where the facts are, names the file or field, and
 * is printed once, at the top.  The data path returns codes only.
 *
 * Codes used in blksub, one meaning each (all negative when returned):
 *   EBADMSG      malformed, or a digest does not match
 *   EKEYREJECTED a signature does not hold, or its key is not trusted
 *   ENOTSUP      an unknown incompatible feature, version or codec
 *   EMEDIUMTYPE  a patch for another base image
 *   ESTALE       an older generation or serial
 *   ENOENT       no such image, patch, volume, key or file
 *   EEXIST       the name is taken
 *   EBUSY        in use by somebody else
 *   ENOSPC       no room
 *   EHOSTUNREACH no agent or no worker answers
 *   EPROTO       the other side breaks the protocol
 *   ECANCELED    stopped on request
 *   ENXIO        beyond the device
 *   EIO          the medium
 *   EINVAL       the caller's mistake
 *   ENOMEM       no memory */
#ifndef BS_ERR_H
#define BS_ERR_H

#include <stddef.h>

struct bs_err {
    int code; /* positive errno, 0 = none */
    char text[1024];
};

/* Writes the sentence into err (which may be NULL) and returns -code.
 * No newline, no full stop at its end. */
int bs_fail(struct bs_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* As bs_fail, and appends ": " and strerror(code). */
int bs_fail_errno(struct bs_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "TEXT: " in front of the sentence err holds; returns code as it is. */
int bs_prefix(struct bs_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
