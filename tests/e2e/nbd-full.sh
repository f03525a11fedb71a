#!/usr/bin/env bash
# The store's file system fills up under a guest and gets room again: on tmpfs,
# and on ext4 where a loop device can be had.
# shellcheck source-path=SCRIPTDIR
if [ -z "${IN_MOUNT_NAMESPACE-}" ]; then
    # Mounts end with the test, whatever ends it.
    export IN_MOUNT_NAMESPACE=1
    if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
        exec unshare -m "$0"
    elif unshare -rm true 2>/dev/null; then
        exec unshare -rm "$0"
    fi
    echo "needs root or user namespaces to mount a small file system"
    exit 77
fi
. "$(dirname "$0")/functions.bash"
requires nbdkit nbdinfo qemu-img cmp mke2fs
requires_python_nbd

golden=$W/golden.raw
size=$((64 << 20))
truncate -s $((16 << 20)) "$golden"
dd if=/dev/urandom of="$golden" bs=1M count=1 conv=notrunc status=none
dd if=/dev/urandom of="$golden" bs=1M seek=9 count=1 conv=notrunc status=none
seed=${SEED:-$RANDOM}
mkdir "$W/small"

filled() { # KIND
    export BLKSUB_STORE=$W/small/store
    blksub image import "$golden" --name golden >/dev/null
    blksub volume create v --image golden --size $size >/dev/null
    say "on $1, SEED=$seed"
    "$nbd_python" "$top/tests/e2e/nbd-full.py" "$B/blksub" v "$W/nbd.sock" "$W/small" "$golden" \
        $size "$seed" "$W/worker.log" || fail "on $1, SEED=$seed"
    rm -f "$W/export.raw"
    expect 0 blksub volume export v "$W/export.raw"
    cmp "$W/export.raw" "$W/worker.log.model"
    umount "$W/small"
}

mount -t tmpfs -o size=24M tmpfs "$W/small" 2>/dev/null || {
    echo "cannot mount a tmpfs"
    exit 77
}
filled tmpfs
truncate -s 32M "$W/small.ext4"
mke2fs -q -F -t ext4 -m 0 "$W/small.ext4"
if mount -o loop "$W/small.ext4" "$W/small" 2>/dev/null; then
    filled ext4
else
    say "no loop device: not on ext4"
fi
say "done"
