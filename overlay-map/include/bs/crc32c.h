// SPDX-License-Identifier: GPL-2.0-or-later
/* bs/crc32c.h: CRC-32C (Castagnoli; RFC 3720 B.4), the checksum of our
 * on-disk formats.  Pass 0 first and the result to go on. */
#ifndef BS_CRC32C_H
#define BS_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t bs_crc32c(uint32_t crc, const void *buf, size_t len);

#endif
