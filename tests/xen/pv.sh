#!/usr/bin/env bash
# Real Xen: a PV guest on a volume.  KILLS (20): of its worker.
# shellcheck source=tests/xen/functions.bash
. "$(dirname "$0")/functions.bash"
in_dom0 pv
