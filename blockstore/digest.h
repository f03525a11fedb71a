// SPDX-License-Identifier: GPL-2.0-or-later
/* digest.h: inside blockstore: making libsodium ready. */
#ifndef DIGEST_H
#define DIGEST_H

#include "bstore-digest.h"

/* Before any other call of libsodium: picks its fast implementations and
 * opens its source of randomness.  Any thread, any number of times. */
void bstore_crypto_init(void);

#endif
