#!/usr/bin/env bash
# The Debian pair, under load: apply, compare, boot the new kernel, roll back,
# compare; then v2 in another layout.  Takes minutes.
here=$(dirname "$0")/..
# shellcheck source-path=SCRIPTDIR source=../functions.bash
. "$here/functions.bash"
requires_guests
[ "$(id -u)" = 0 ] || {
    echo "making the Debian images needs root"
    exit 77
}
requires debootstrap
img=${DEBIAN_IMAGES:-$images/out/debian}
"$images/make-debian" --rebuilt "$img" >"$W/make.log" 2>&1 || {
    cat "$W/make.log"
    exit 1
}
libs=/usr/lib/x86_64-linux-gnu
BOOT_LIMIT=600
debian=(--memory 1024 --cpus 2)

for v in v1 v2; do
    blksub image import "$img/$v.qcow2" --name $v >/dev/null
    "$top/tests/e2e/tree-manifest" "$img/$v.qcow2" >"$W/$v.manifest"
    qemu-img convert -O raw "$img/$v.qcow2" "$W/$v.raw"
    file_of "$W/$v.raw" /var/lib/dpkg/status | paragraphs >"$W/status.$v"
    rm "$W/$v.raw"
done
blksub keygen -o "$W/key"
blksub trust add "$W/key.pub" >/dev/null
blksub publish v1 v2 -o "$W/p1" --key "$W/key.key"
say "patch: $(stat -c %s "$W/p1") bytes; .debs: $(awk '!/^#/ { n += $4 } END { print n }' "$img/upgrades.txt")"

# What Debian's services write by themselves, and what is made in the guest
# (hooks) or left to each guest.  Nothing else may differ.
runtime='/tmp/.*|/var/lib/dbus/machine-id|/var/lib/nginx/.*|/var/backups(/.*)?|/root/fio.*|/etc/resolv.conf'
runtime+='|/boot/initrd.img-.*|/etc/ld.so.cache|/var/lib/dpkg/(triggers|updates)/.*|/var/lib/apt/.*'
runtime+='|/etc/.*\.dpkg-(old|dist|new)|/var/lib/initramfs-tools/.*|/var/lib/systemd/.*|/var/lib/ucf/.*'
runtime+='|.*/__pycache__(/.*)?'

# What the patch leaves out as rebuild noise stays v1's: not more than that.
noise_of() {
    blksub --json inspect "$1" --files | jq -r '.. | .left_out? // empty | .[]? |
        select(.reason | test("noise|only.*build"; "i")) | .path' | sort -u
}

# compare WANT(v1|v2) GOT-MANIFEST NOISE-FILE
compare() {
    local noise=$3
    without "$W/$1.manifest" "$own_paths|$runtime" >"$W/want"
    without "$2" "$own_paths|$runtime" >"$W/got"
    awk -F '\t' 'FILENAME == ARGV[1] { noise[$1]; next } $1 in noise' "$noise" "$W/v1.manifest" >"$W/noise.want"
    for f in want got; do
        awk -F '\t' 'FILENAME == ARGV[1] { noise[$1]; next } !($1 in noise)' "$noise" "$W/$f" >"$W/$f.rest"
    done
    diff "$W/want.rest" "$W/got.rest" >"$W/diff" || {
        wc -l <"$W/diff"
        head -n 60 "$W/diff"
        fail "the guest is not what $1 says"
    }
    [ "$(wc -l <"$W/want.rest")" -gt 10000 ] || fail "next to nothing was compared"
}

database_is() { # v1|v2
    disk_of "$guest" "$W/g.raw"
    file_of "$W/g.raw" /var/lib/dpkg/status | paragraphs >"$W/status.got"
    rm "$W/g.raw"
    diff "$W/status.$1" "$W/status.got" | head -n 20
    cmp -s "$W/status.$1" "$W/status.got" || fail "the package database is not $1's"
}

load() {
    guest "$guest" "PAUSE_MS=300 nohup setsid watch-files /run/watch $libs/libssl.so.3 $libs/libcrypto.so.3 \
        $libs/libexpat.so.1 $libs/liblzma.so.5 /usr/sbin/nginx /usr/bin/rsync /usr/bin/openssl /usr/bin/python3.11 \
        >/dev/null 2>&1 &
        nohup setsid sh -c 'fio --name=load --filename=/root/fio --size=64M --rw=randrw --bs=4k --direct=1 \
            --rate_iops=60 --verify=crc32c --verify_state_save=0 --time_based --runtime=7200 >/run/fio.out 2>&1; echo \$? >/run/fio.rc' \
        >/dev/null 2>&1 &
        nohup setsid heartbeat /run/heartbeat /dev/vda 80 >/dev/null 2>&1 &"
    wait_for 120 "$images/guest-run" "$W/$guest" '[ "$(grep -c ^map /run/watch)" = 8 ]' 20
}

load_is_fine() {
    guest "$guest" '[ ! -e /run/fio.rc ]' || fail "fio ended: $(guest "$guest" 'cat /run/fio.out')"
    guest "$guest" 'cat /run/watch' >"$W/watch"
    ! grep -E '^(held|fail)' "$W/watch" || fail "a mapping changed, or a file was not there"
    awk '{ n[$1 " " $2]++ } END { for (k in n) if (n[k] > 2) { print k, n[k]; bad = 1 } exit bad }' "$W/watch" ||
        fail "a mix of old and new was seen: $(cat "$W/watch")"
    say "$(guest "$guest" 'cat /run/heartbeat')"
}

boot_debian() { # VOLUME v1|v2|own
    local k=$img/$2.vmlinuz i=$img/$2.initrd
    if [ "$2" = own ]; then # the kernel and the initramfs that are in the volume
        local raw=$W/boot.raw name
        disk_of "$1" "$raw"
        name=$(debugfs -R "ls -p /boot" "$raw?offset=1048576" 2>/dev/null | cut -d / -f 6 |
            sed -n 's/^vmlinuz-//p' | sort -V | tail -n 1)
        k=$W/own.vmlinuz i=$W/own.initrd
        debugfs -R "dump /boot/vmlinuz-$name $k" "$raw?offset=1048576" 2>/dev/null
        debugfs -R "dump /boot/initrd.img-$name $i" "$raw?offset=1048576" 2>/dev/null
        [ -s "$k" ] && [ -s "$i" ] || fail "no kernel or initramfs in $1"
        rm "$raw"
    fi
    boot "$1" "${debian[@]}" --kernel "$k" --initrd "$i"
    guest "$1" 'while systemctl is-system-running | grep -q starting; do sleep 1; done' 600
    agent_up "$1" 300
}

guest=g
noise_of "$W/p1" >"$W/noise"
say "$(wc -l <"$W/noise") files left out as rebuild noise"
blksub volume create g --image v1 >/dev/null
start_worker g
boot_debian g v1
failed_before=$(guest g 'systemctl list-units --failed --no-legend')
load
up=$(guest g 'cut -d . -f 1 /proc/uptime')
say "apply"
time expect 0 blksub apply "$W/p1" --volume g
cat "$W/said"
load_is_fine
[ "$(guest g 'cut -d . -f 1 /proc/uptime')" -ge "$up" ] || fail "the guest was restarted"
guest g 'nginx -v; openssl version; rsync --version | head -n 1; dpkg --verify' 600 >"$W/verify"
cat "$W/verify"
! grep -E '^(missing|\?\?5|..5)' "$W/verify" || fail "dpkg --verify finds differences"
say "restart what runs old code"
expect 0 blksub apply "$W/p1" --volume g --restart
cat "$W/said"
blksub status --volume g
[ "$(guest g 'systemctl list-units --failed --no-legend')" = "$failed_before" ] || fail "a unit failed"
load_is_fine
guest_off g
manifest_of g "$W/g.manifest"
compare v2 "$W/g.manifest" "$W/noise"
database_is v2

say "the new kernel boots, with the initramfs made in the guest"
boot_debian g own
guest g 'uname -r; systemctl list-units --failed --no-legend'
[ "$(guest g 'uname -r')" = "$(guest g 'ls /lib/modules | sort -V | tail -n 1')" ] || fail "not the new kernel"
load
say "roll back"
time expect 0 blksub rollback "$W/p1" --volume g
cat "$W/said"
load_is_fine
guest_off g
manifest_of g "$W/g.manifest"
compare v1 "$W/g.manifest" /dev/null
database_is v1
boot_debian g v1
guest_off g
stop_worker g

say "v2 in another layout"
blksub image import "$img/v2r.qcow2" --name v2r >/dev/null
blksub publish v1 v2r -o "$W/p2" --key "$W/key.key" >/dev/null
noise_of "$W/p2" >"$W/noise"
guest=r
blksub volume create r --image v1 >/dev/null
start_worker r
boot_debian r v1
expect 0 blksub apply "$W/p2" --volume r
guest_off r
manifest_of r "$W/r.manifest"
compare v2 "$W/r.manifest" "$W/noise"
database_is v2
