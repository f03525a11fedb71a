// SPDX-License-Identifier: GPL-2.0-or-later
/* xen-public.h: Xen's public headers of the blkif protocol, for constants and
 * for the layouts that ours are compared with. */
#ifndef HV_XEN_PUBLIC_H
#define HV_XEN_PUBLIC_H

#ifndef __XEN_INTERFACE_VERSION__
#define __XEN_INTERFACE_VERSION__ 0x00040e00
#endif
#include <stdint.h>
#include <stddef.h>
#include <string.h>
#include <xen/xen.h>
#include <xen/io/blkif.h>
#include <xen/io/protocols.h>

#endif
