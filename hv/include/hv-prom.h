// SPDX-License-Identifier: GPL-2.0-or-later
/* hv-prom.h: Prometheus' text format, version 0.0.4: written, and documents of
 * several writers made into one. */
#ifndef HV_PROM_H
#define HV_PROM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bs/err.h"

/* A text that grows. */
struct hv_prom {
    char *text; /* free(); NULL when nothing was written */
    size_t len, cap;
    bool failed; /* no memory: text is not whole */
};

/* Begins a family: its HELP and TYPE lines.  All samples of one family follow
 * each other. */
void hv_prom_family(struct hv_prom *p, const char *name, const char *type,
                    const char *help);
/* labels: names and values in turn, ended by NULL; values are escaped, and what
 * is no UTF-8 in them becomes '?'. */
void hv_prom_sample(struct hv_prom *p, const char *name,
                    const char *const *labels, uint64_t value);
/* The value is in nanoseconds, written in seconds. */
void hv_prom_sample_ns(struct hv_prom *p, const char *name,
                       const char *const *labels, uint64_t ns);
void hv_prom_fini(struct hv_prom *p);

/* Documents become one: what several have of a family is put together under
 * one HELP and TYPE, in the order in which families and documents came. */
struct hv_prom_merge; /* opaque */

int hv_prom_merge_new(struct hv_prom_merge **out); /* 0 or -ENOMEM */
void hv_prom_merge_free(struct hv_prom_merge *m);
/* -EPROTO and a sentence: the text is not of this format, and none of it was
 * taken.  Each sample must stand behind the HELP or TYPE line of its family. */
int hv_prom_merge_add(struct hv_prom_merge *m, const char *text, size_t len,
                      struct bs_err *err);
/* The whole, *text given (free()). 0 or -ENOMEM. */
int hv_prom_merge_text(const struct hv_prom_merge *m, char **text, size_t *len);

#endif
