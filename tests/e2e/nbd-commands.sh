#!/usr/bin/env bash
# libnbd's Python module against a volume: each NBD command with each flag, at
# any offset and length, what must be refused, several connections, and holes;
# compared with a flat array, and once more by nbdcopy after a new start.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/functions.bash"
requires nbdkit nbdinfo nbdcopy qemu-img cmp
requires_python_nbd

size=$((72 << 20))
golden=$W/golden.raw
truncate -s $((64 << 20)) "$golden" # the volume is larger
dd if=/dev/urandom of="$golden" bs=1M count=3 conv=notrunc status=none
dd if=/dev/urandom of="$golden" bs=4k count=500 seek=7000 conv=notrunc status=none
blksub image import "$golden" --name golden >/dev/null
blksub volume create v --image golden --size $size >/dev/null
uri="nbd+unix:///?socket=$W/v/nbd.sock"
seed=${SEED:-$RANDOM}

say "commands and flags, SEED=$seed"
start_worker v --threads 8
"$nbd_python" "$top/tests/e2e/nbd-commands.py" "$uri" $size "$golden" "$seed" \
    "${LONG:+5}000" "$W/model.raw" || fail "SEED=$seed"
nbdcopy "$uri" "$W/out.raw"
cmp "$W/out.raw" "$W/model.raw"

say "and after a new start"
stop_worker v
start_worker v
nbdcopy "$uri" "$W/out.raw"
cmp "$W/out.raw" "$W/model.raw"
say "done"
