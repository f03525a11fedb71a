// SPDX-License-Identifier: GPL-2.0-or-later
/* bs/ckd.h: checked arithmetic.  Each returns true when the result does not
 * fit, and then *out holds nothing useful. */
#ifndef BS_CKD_H
#define BS_CKD_H

#include <stdbool.h>
#include <stdint.h>

static inline bool bs_add(uint64_t *out, uint64_t a, uint64_t b)
{
    return __builtin_add_overflow(a, b, out);
}

static inline bool bs_mul(uint64_t *out, uint64_t a, uint64_t b)
{
    return __builtin_mul_overflow(a, b, out);
}

/* Is [off, off + count) inside [0, size)?  Never wraps. */
static inline bool bs_within(uint64_t off, uint64_t count, uint64_t size)
{
    return off <= size && count <= size - off;
}

#endif
