#!/usr/bin/env bash
# A guest's file systems on a volume: made, loaded with verification, trimmed,
# checked; the guest's power cut and the worker killed under load.  Nothing that
# was promised is lost, every file system is clean afterwards, and what fstrim
# gave back is free on the host.
# In `make check` the power goes on ext4 and the worker on XFS, once; LONG=1: on
# ext4, also with data=journal and on two partitions, XFS, btrfs and f2fs, several
# of each.
# usage: guest-fs.sh [KIND...]
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR source=functions.bash
. "$here/functions.bash"
requires_guests
requires fio mkfs.xfs xfs_repair nbdcopy

flavour=cloud-amd64
cuts=1 kills=1 fio_mb=6
if [ -n "${LONG-}" ]; then
    flavour=amd64 # f2fs is not in the cloud's kernel
    cuts=4 kills=5 fio_mb=32
fi
"$images/make-initramfs" --flavour $flavour "$GUEST_BOOT" >"$W/make.log" 2>&1 &&
    "$images/make-fstools" --flavour $flavour "$W/tools" >>"$W/make.log" 2>&1 || {
    tail -n 1 "$W/make.log"
    exit 77
}
mapfile -t kinds <"$W/tools/fs-list"
if [ -n "${LONG-}" ]; then
    [ "${#kinds[@]}" = 4 ] || fail "only ${kinds[*]}: packages or kernel modules are missing"
    kinds+=(ext4-journal ext4-linear)
else
    kinds=(ext4 xfs)
fi
[ $# = 0 ] || kinds=("$@")

# Every block of the golden image is marked: none may be seen where a file
# system discarded or wrote.
size_mb=400
yes 'a line of the GOLDEN-IMAGE' | head -c $((size_mb << 20)) >"$W/golden.raw" || true
blksub image import "$W/golden.raw" --name golden >/dev/null
rm "$W/golden.raw"

# choose KIND: FS, or ext4-journal, or ext4-linear: ext4 on two partitions that
# the device mapper puts together, as LVM does.
choose() {
    kind=$1 fs=${1%%-*} options=defaults device=/dev/vda
    case $1 in
    *-journal) options=data=journal ;;
    *-linear) device=/dev/mapper/data ;;
    f2fs) options=nodiscard ;; # else it discards when it is idle, and fstrim nothing
    esac
    case $fs in
    ext4) check="e2fsck -fn" mkfs="mkfs.ext4 -q -F -b 4096" ;;
    xfs) check="xfs_repair -n" mkfs="mkfs.xfs -q -f" ;;
    btrfs) check="btrfs check --readonly" mkfs="mkfs.btrfs -q -f" ;;
    f2fs) check="fsck.f2fs --dry-run" mkfs="mkfs.f2fs -q -f" ;;
    *) fail "no such kind: $1" ;;
    esac
}
boot_fs() {
    boot v --extra "$W/tools/tools.raw" --root /dev/vdb --memory 384
    guest v "for m in crc32c_generic crc32_generic $fs; do modprobe \$m 2>/dev/null; done; true"
    [ "$kind" != ext4-linear ] || guest v 'modprobe dm_mod 2>/dev/null
        [ -b /dev/vda2 ] || blkdiscard /dev/vda
        [ -b /dev/vda2 ] || printf "label: gpt\nstart=1MiB,size=150MiB\nsize=240MiB\n" | sfdisk -q /dev/vda
        a=$(cat /sys/block/vda/vda1/size) b=$(cat /sys/block/vda/vda2/size)
        printf "0 $a linear /dev/vda2 0\n$a $((b - a)) linear /dev/vda2 $a\n$b $a linear /dev/vda1 0\n" |
            dmsetup create data && dmsetup mknodes'
}
mnt() { guest v "mount -t $fs -o $options $device /mnt/v"; }
# By this guest, which has the file system in no cache, as it is not mounted.
clean_in_guest() {
    guest v "$check $device" 400 >"$W/fsck.log" 2>&1 || {
        cat "$W/fsck.log"
        fail "$kind is not clean: $1"
    }
    # An exit code of 0 does not always say that nothing was found.
    ! grep -Eiq 'Fix\?|\[ASSERT\]|\[FIX\]|would (reset|clear|rebuild)|[1-9][0-9]* error|journal recovery' "$W/fsck.log" || {
        cat "$W/fsck.log"
        fail "$kind is not clean: $1"
    }
}

data_file() { echo "$BLKSUB_STORE/volumes/v/data"; }
allocated() { echo $(($(stat -c %b "$(data_file)") * 512)); }
shown() { blksub --json volume show v | jq -r "$1"; }

# What the command tells of a volume that is served, in its ways, is one thing.
figures_agree() {
    local origin
    [ "$(shown .data_bytes)" = "$(allocated)" ] || return 1
    [ "$(shown '([.origins[].bytes] | add) == .size_bytes')" = true ] || return 1
    blksub --json volume map v >"$W/map.json"
    for origin in own zero image; do
        [ "$(shown "[.origins[] | select(.origin == \"$origin\") | .bytes] | add")" = \
            "$(jq -s "[.[] | select(.origin == \"$origin\") | .length] | add" "$W/map.json")" ] || return 1
    done
}

# The flush after it gives space back on the host.  XFS frees in the background,
# so the first may come too early.
trimmed_below() {
    guest v "fstrim /mnt/v && date >/mnt/v/after && sync"
    [ "$(allocated)" -lt "$1" ]
}

promises() { # SEED: the last promise for each file
    tr -d '\r' <"$W/v/console.log" |
        awk -v seed="$1" '$1 == "fs-load" && $2 == seed && $3 == "durable" && NF == 5 { last[$4] = $5 }
            END { for (f in last) print f "=" last[f] }'
}
n_promises() { grep -c "fs-load $1 durable" "$W/v/console.log" || true; }
promised() { [ "$(n_promises "$1")" -ge "$2" ]; }

load() { # SEED OPS: in the background of the guest
    guest v "mkdir -p /mnt/v/load$1; (fs-load run /mnt/v/load$1 $1 $2 >/dev/ttyS0 2>&1 </dev/null &) &"
}
fio_job() { # past the cache, with verification while it writes
    printf '%s' "fio --name=v --directory=/mnt/v --size=${fio_mb}M --rw=randrw --bsrange=4k-64k \
        --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c --verify_backlog=64 --verify_fatal=1 \
        --do_verify=1 --verify_state_save=0 --fsync=64 --randrepeat=0 --output=/tmp/fio.txt \
        >/dev/null 2>&1"
}

power_cuts() {
    local i seed
    for i in $(seq "$cuts"); do
        seed=$((RANDOM + 1))
        load $seed 100000
        # Twelve come before the load begins.
        wait_for 120 promised $seed $((20 + RANDOM % 60))
        guest_kill v
        boot_fs
        mnt
        guest v "fs-load verify /mnt/v/load$seed $seed $(promises $seed | xargs) && rm -r /mnt/v/load$seed" ||
            fail "$kind after a power cut"
        guest v "umount /mnt/v"
        clean_in_guest "power cut $i"
        mnt
    done
    say "$kind: $cuts power cuts"
}

worker_kills() {
    local i seed=$((RANDOM + 1)) from
    # In the background: the guest does one request at a time.
    guest v "rm -f /tmp/fio.*
        (r=0; while [ \$r = 0 ] && [ ! -e /tmp/fio.stop ]; do $(fio_job); r=\$?; done
            echo \$r >/tmp/fio.done) >/dev/null 2>&1 &"
    load $seed 100000
    for i in $(seq "$kills"); do
        from=$(n_promises $seed)
        wait_for 120 promised $seed $((from + 5 + RANDOM % 20))
        kill_worker v
        start_worker v
    done
    from=$(n_promises $seed)
    wait_for 120 promised $seed $((from + 5))
    guest v 'touch /tmp/fio.stop'
    wait_for 500 guest v '[ -s /tmp/fio.done ]'
    guest v '[ "$(cat /tmp/fio.done)" = 0 ] || { tail -n 30 /tmp/fio.txt; exit 1; }' ||
        fail "$kind: fio while the worker was killed"
    guest v "killall fs-load; sync; echo 3 >/proc/sys/vm/drop_caches
        fs-load verify /mnt/v/load$seed $seed $(promises $seed | xargs) && rm -r /mnt/v/load$seed" ||
        fail "$kind after the worker's death"
    ! grep -a "fs-load: " "$W/v/console.log" || fail "$kind read back something else"
    guest v "umount /mnt/v"
    clean_in_guest "worker killed"
    say "$kind: the worker killed $kills times under load"
}

guest_sees() { [ "$(guest v 'cat /sys/block/vda/size')" = $(($1 / 512)) ]; }

# The volume grows while it is written to; QEMU asks for the size when it
# connects anew, and the file system takes the room without being unmounted.
grow() {
    local larger=$(((size_mb + 150) << 20)) seed=$((RANDOM + 1))
    load $seed 100000
    wait_for 120 promised $seed 20
    blksub volume resize v $larger >/dev/null
    kill_worker v
    start_worker v
    wait_for 120 promised $seed $(($(n_promises $seed) + 5))
    "$images/guest-qmp" "$W/v" \
        "{\"execute\":\"block_resize\",\"arguments\":{\"node-name\":\"d0\",\"size\":$larger}}" >"$W/qmp.txt"
    ! grep -q '"error"' "$W/qmp.txt" || fail "QEMU: $(cat "$W/qmp.txt")"
    wait_for 60 guest_sees $larger
    guest v "case $fs in
        ext4) resize2fs $device ;;
        xfs) xfs_growfs /mnt/v ;;
        btrfs) btrfs filesystem resize max /mnt/v ;;
        esac >/tmp/grow.txt 2>&1 || { cat /tmp/grow.txt; exit 1; }
        [ \$(df -k /mnt/v | awk '{ kb = \$2 } END { print kb }') -gt $(((size_mb + 20) * 1024)) ]
        yes new room | head -c $(((size_mb + 20) << 20)) >/mnt/v/large && sync && rm /mnt/v/large" 500 ||
        fail "$kind does not grow"
    wait_for 120 promised $seed $(($(n_promises $seed) + 5))
    guest v "killall fs-load; sync; echo 3 >/proc/sys/vm/drop_caches
        fs-load verify /mnt/v/load$seed $seed $(promises $seed | xargs) && rm -r /mnt/v/load$seed" ||
        fail "$kind after it grew"
    guest v "umount /mnt/v"
    clean_in_guest "grown"
    mnt
    say "$kind: grown under load"
}

for k in "${kinds[@]}"; do
    choose "$k"
    say "$kind"
    blksub volume create v --image golden >/dev/null
    start_worker v
    boot_fs
    guest v "$mkfs $device"
    mnt
    guest v "$(fio_job) || { tail -n 30 /tmp/fio.txt; exit 1; }" 500 || fail "$kind: fio"

    # The space of a file that is gone.
    guest v "rm /mnt/v/v.*; sync; yes TO-BE-TRIMMED | head -c 60000000 >/mnt/v/gone; sync"
    full=$(allocated)
    [ "$full" -ge 60000000 ] || fail "the data file has $full bytes"
    guest v "rm /mnt/v/gone; sync"
    wait_for 120 trimmed_below $((full - 55000000))
    left=$(allocated)
    wait_for 60 figures_agree # the guest may still write something
    say "$kind: $((full >> 20)) MiB on the host, $((left >> 20)) MiB after fstrim"

    [ -z "${LONG-}" ] && [ $# = 0 ] && [ "$kind" != ext4 ] || power_cuts
    case "${LONG:+long}-$kind" in long-ext4 | long-xfs | long-btrfs) grow ;; esac
    [ -z "${LONG-}" ] && [ $# = 0 ] && [ "$kind" = ext4 ] || worker_kills
    guest_off v
    disk_of v "$W/v.raw"
    ! grep -aq -e TO-BE-TRIMMED -e GOLDEN-IMAGE "$W/v.raw" || fail "$kind: what was discarded is still to be read"
    # And with this host's own look at it, where it is not made of parts.
    [ $device != /dev/vda ] || $check "$W/v.raw" >"$W/fsck.log" 2>&1 || {
        cat "$W/fsck.log"
        fail "$kind is not clean on the host"
    }
    rm "$W/v.raw"
    stop_worker v
    blksub volume remove v >/dev/null
    rm -rf "$W/v"
done
say "done"
