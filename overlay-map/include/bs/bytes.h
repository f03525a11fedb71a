// SPDX-License-Identifier: GPL-2.0-or-later
/* bs/bytes.h: little-endian integers in byte buffers, and alignment.
 *
 * Formats are read and written with these; no struct is laid on bytes. */
#ifndef BS_BYTES_H
#define BS_BYTES_H

#include <stddef.h>
#include <stdint.h>

#define N_ELEMS(a) (sizeof(a) / sizeof((a)[0]))

static inline uint16_t bs_get_le16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t bs_get_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

static inline uint64_t bs_get_le64(const uint8_t *p)
{
    return (uint64_t)bs_get_le32(p) | (uint64_t)bs_get_le32(p + 4) << 32;
}

static inline void bs_put_le16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void bs_put_le32(uint8_t *p, uint32_t v)
{
    bs_put_le16(p, (uint16_t)v);
    bs_put_le16(p + 2, (uint16_t)(v >> 16));
}

static inline void bs_put_le64(uint8_t *p, uint64_t v)
{
    bs_put_le32(p, (uint32_t)v);
    bs_put_le32(p + 4, (uint32_t)(v >> 32));
}

/* to is a power of two. */
static inline uint64_t bs_align_down(uint64_t v, uint64_t to)
{
    return v & ~(to - 1);
}

/* The caller has made sure that v + to - 1 does not wrap. */
static inline uint64_t bs_align_up(uint64_t v, uint64_t to)
{
    return (v + to - 1) & ~(to - 1);
}

static inline uint64_t bs_div_up(uint64_t v, uint64_t by)
{
    return v / by + (v % by != 0);
}

#endif
