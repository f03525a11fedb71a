#!/usr/bin/env bash
# Real Xen: a PV guest is patched, and given back.
# shellcheck source=tests/xen/functions.bash
. "$(dirname "$0")/functions.bash"
in_dom0 agent
