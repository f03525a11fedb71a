# shellcheck shell=bash
# What the tests on real Xen share, on the host's side.  To be sourced.
# shellcheck source=tests/e2e/functions.bash
. "$(dirname "${BASH_SOURCE[0]}")/../e2e/functions.bash"
xen=$top/tests/xen

# in_dom0 TEST: runs tests/xen/dom0/TEST in a dom0 of its own, with a store that
# has the tiny pair and the volumes g1 and extra of its v1.
in_dom0() {
    requires_guests
    requires depmod xz cpio flock
    [ -e "$B/blksub-xen" ] || { echo "blksub-xen is not built"; exit 77; }
    (
        flock 9
        "$xen/fetch" "$B/xen/packages" || exit 77
        "$xen/make-dom0" "$B/xen/packages" "$B/xen/dom0" "$B/blksub" "$B/blksub-xen"
    ) 9>"$B/xen.lock"
    tiny_pair --table none >"$W/pair.log"
    blksub patch import "$W/p1" >/dev/null
    for v in g1 extra; do
        blksub volume create $v --image v1 >/dev/null
    done
    mkdir "$W/test"
    cp -a "$BLKSUB_STORE" "$W/test/store"
    cp "$GUEST_BOOT/vmlinuz" "$GUEST_BOOT/initramfs.gz" "$top/hv/xen/block-blksub" \
        "$xen/dom0/functions.bash" "$W"/v[12].manifest "$W/test/"
    cp "$xen/dom0/$1" "$W/test/run"
    say "Xen, dom0 and a guest"
    "$xen/boot-dom0" "$B/xen/dom0" "$W/test" >"$W/dom0.log" || {
        r=$?
        grep -v '^(XEN)' "$W/dom0.log" | tail -n 120
        fail "dom0 ended with $r"
    }
    grep '^-- ' "$W/dom0.log"
}
