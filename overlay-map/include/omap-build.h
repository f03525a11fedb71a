// SPDX-License-Identifier: GPL-2.0-or-later
/* omap-build.h: makes a map of several layers.
 *
 * Layers are given oldest first; where two cover a block the newer wins.
 * Within one layer runs may come in any order, and the one added later wins.
 * Adjacent runs that continue each other in the same source are joined, so
 * that a lookup does not get slower with the number of layers.
 * A builder belongs to one thread. */
#ifndef OMAP_BUILD_H
#define OMAP_BUILD_H

#include "omap.h"

struct omap_builder; /* opaque */

/* NULL: no memory, or size_blk > OMAP_MAX_BLK. */
struct omap_builder *omap_builder_new(uint64_t size_blk);
void omap_builder_free(struct omap_builder *b);

/* Opens the next layer; runs added from now on belong to it. */
void omap_builder_next_layer(struct omap_builder *b);

/* source may be OMAP_BASE (then src_blk must be blk): the layer gives the
 * block back to the golden image.
 * 0, -EINVAL empty or inconsistent, -ENXIO beyond size_blk, -ENOMEM. */
int omap_builder_add(struct omap_builder *b, const struct omap_run *run);

/* Adds a whole map as the next layer; its sources are shifted by
 * source_offset.  As omap_builder_add; after an error part of it is in. */
int omap_builder_add_map(struct omap_builder *b, const struct omap *map,
                         uint32_t source_offset);

/* The merged map; the builder stays usable and is still the caller's.  Its
 * n_sources is 1 + the highest source that was added, in use or not.
 * 0 or -ENOMEM. */
int omap_builder_finish(struct omap_builder *b, struct omap **out);

#endif
