// SPDX-License-Identifier: GPL-2.0-or-later
/* xs.h: xenstore as hv-xenbus.h wants it, on libxenstore. */
#ifndef HV_XS_H
#define HV_XS_H

#include "hv-xenbus.h"

extern const struct hv_xs_ops hv_xs_ops; /* its opaque is a struct xs_handle */

#endif
