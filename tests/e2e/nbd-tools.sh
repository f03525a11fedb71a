#!/usr/bin/env bash
# nbdinfo, nbdcopy, qemu-img, qemu-io and fio on a volume that has blocks of each
# kind: what they copy is what is there, holes stay holes, both ways.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/functions.bash"
requires nbdkit nbdinfo nbdcopy qemu-img qemu-io jq cmp

size=$((64 << 20))
golden=$W/golden.raw
truncate -s $((48 << 20)) "$golden"
dd if=/dev/urandom of="$golden" bs=1M count=3 seek=2 conv=notrunc status=none
dd if=/dev/urandom of="$golden" bs=4k count=100 seek=9999 conv=notrunc status=none
blksub image import "$golden" --name golden >/dev/null
for v in v w; do
    blksub volume create $v --image golden --size $size >/dev/null
    start_worker $v --threads 8
done
v="nbd+unix:///?socket=$W/v/nbd.sock"
w="nbd+unix:///?socket=$W/w/nbd.sock"
model=$W/model.raw
cp --sparse=always "$golden" "$model"
truncate -s $size "$model"

# both COMMAND...: the same by qemu-io on volume and model.
both() {
    local c args=()
    for c; do args+=(-c "$c"); done
    qemu-io -f raw -d unmap -t none "${args[@]}" "$v" >"$W/io.txt" 2>&1 || fail "$(cat "$W/io.txt")"
    ! grep -qiE 'fail|error|pattern verification' "$W/io.txt" || fail "$(cat "$W/io.txt")"
    qemu-io -f raw -d unmap "${args[@]}" "$model" >/dev/null
}
same() { # WHAT [URI]
    qemu-img compare -q -f raw -F raw "${2-$v}" "$model" || fail "$1: not what it should be"
}
allocated() { # FILE: MiB
    echo $(($(stat -c '%b * %B' "$1") >> 20))
}

say "qemu-io: asynchronous, vectors, zeroes, discards"
both "aio_write -P 1 0 70000" "aio_write -P 2 1M 65536" "aio_write -P 3 20000001 999" "aio_flush" \
    "aio_read -P 2 1M 65536" "aio_read -P 1 512 4096" "aio_flush" \
    "writev -P 4 5M 512 1024 4096 7" "readv -P 4 5M 512 1024 4096 7" \
    "aio_write -z 2M 1M" "aio_write -z -u 21M 100k" "aio_flush" "write -z -u -n 30M 2M" \
    "discard 4M 512k" "discard 39M 8k" "write -f -P 5 50M 1M" "write -z 50500k 100k" \
    "aio_write -P 6 $((size - 8192)) 8192" "flush"
# Zeros that keep their space may not be fast: the answer is "not supported".
expect 1 qemu-io -f raw -c "write -z -n 0 1M" "$v"
grep -q 'not supported' "$W/said" || fail "write -z -n: $(cat "$W/said")"
same "qemu-io"
qemu-io -f raw -r -c "map" "$v" >"$W/map.txt"
grep -q 'allocated' "$W/map.txt" || fail "qemu-io map: $(cat "$W/map.txt")"

say "nbdinfo: what it says of holes is true, and adds up"
nbdinfo --json --map "$v" >"$W/map.json"
jq -e "[.[].length] | add == $size" "$W/map.json" >/dev/null || fail "the map has holes of its own"
jq -r '.[] | select(.type == 3) | "\(.offset) \(.length)"' "$W/map.json" >"$W/holes"
[ -s "$W/holes" ] || fail "no holes"
while read -r off n; do
    cmp -n "$n" -i "$off:0" "$model" /dev/zero || fail "$n bytes at $off are no zeros"
done <"$W/holes"
nbdinfo --map --totals "$v" >"$W/totals"
for what in write flush fua trim zero fast-zero cache multi-conn df; do
    nbdinfo --can $what "$v" || fail "nbdinfo --can $what"
done
! nbdinfo --is read-only "$v" || fail "read-only"
nbdinfo --list "$v" | grep -q 'export=""' || fail "nbdinfo --list"
[ "$(nbdinfo --size "$v")" = $size ] || fail "size"

say "qemu-img map says the same"
qemu-img map --output=json -f raw "$v" >"$W/qmap.json"
jq -e "[.[].length] | add == $size" "$W/qmap.json" >/dev/null || fail "qemu-img map"
jq -n --slurpfile a "$W/map.json" --slurpfile b "$W/qmap.json" -e '
    def zeros: [.[] | select(.z)] | map(.length) | add;
    ($a[0] | map({length, z: (.type == 3)}) | zeros) == ($b[0] | map({length, z: .zero}) | zeros)' >/dev/null ||
    fail "nbdinfo and qemu-img tell of different zeros"

say "nbdcopy out: holes stay holes"
for how in "" "--synchronous" "--connections=1 --requests=1" "--connections=8 --requests=16 --request-size=65536" \
    "--no-extents"; do
    # shellcheck disable=SC2086 # options
    nbdcopy $how "$v" "$W/out.raw"
    cmp "$W/out.raw" "$model" || fail "nbdcopy $how"
    [ "$(allocated "$W/out.raw")" -le 12 ] || fail "nbdcopy $how: $(allocated "$W/out.raw") MiB"
    rm "$W/out.raw"
done

say "nbdcopy in: holes become zeros, and take no space"
nbdcopy --flush "$model" "$w"
same "nbdcopy from a file" "$w"
blksub --json volume show w | jq -e '.data_bytes <= 14000000' >/dev/null ||
    fail "$(blksub volume show w)"
nbdcopy --connections=4 "$v" "$w"
same "nbdcopy between two volumes" "$w"
nbdcopy --allocated "$model" "$w"
same "nbdcopy --allocated" "$w"
nbdcopy -- "$v" - | cmp - "$model"

say "qemu-img convert, both ways"
qemu-img convert -f raw -O qcow2 "$v" "$W/out.qcow2"
qemu-img compare -q -f qcow2 -F raw "$W/out.qcow2" "$v"
qemu-img compare -q -s -f qcow2 -F raw "$W/out.qcow2" "$model" || [ $? = 1 ] # strict: allocation differs
[ "$(allocated "$W/out.qcow2")" -le 12 ] || fail "convert: $(allocated "$W/out.qcow2") MiB"
qemu-io -f raw -c "write -P 99 0 $size" "$w" >/dev/null
qemu-img convert -n -W -m 8 -f qcow2 -O raw "$W/out.qcow2" "$w"
same "qemu-img convert -n" "$w"
qemu-io -f raw -c "write -P 98 7M 9M" "$w" >/dev/null
qemu-img convert -n -t none -S 64k -f raw -O raw "$v" "$w"
same "between two volumes" "$w"

say "qemu-img bench"
qemu-img bench -q -f raw -c 3000 -d 32 -s 4096 -S 8192 "$v"
qemu-img bench -q -f raw -c 300 -d 8 -s 65536 "$v"
same "reading changes nothing"
qemu-img bench -q -f raw -w --pattern=7 -c 2000 -d 32 -s 4096 -o 8M "$v"
qemu-img bench -q -f raw -w --pattern=7 -c 200 -d 4 -s 4096 --flush-interval=20 -o 40M "$v"
qemu-io -f raw -c "write -P 7 8M $((2000 * 4096))" -c "write -P 7 40M $((200 * 4096))" "$model" >/dev/null
same "qemu-img bench"

if fio --enghelp 2>/dev/null | grep -qw nbd; then
    say "fio: four jobs, a connection each"
    for rw in randwrite write randrw; do
        fio --output="$W/fio.txt" --ioengine=nbd --uri="$v" --iodepth=8 --rw=$rw --bsrange=512-64k \
            --numjobs=4 --size=8M --offset=16M --offset_increment=8M --verify=crc32c --do_verify=1 \
            --verify_fatal=1 --verify_backlog=64 --verify_state_save=0 --fsync=50 --aux-path="$W" \
            --randseed=$RANDOM --name=j >/dev/null 2>&1 || fail "fio $rw: $(tail -n 20 "$W/fio.txt")"
    done
    # Discards between writes.
    fio --output="$W/fio.txt" --ioengine=nbd --uri="$v" --iodepth=8 --rw=randtrimwrite --bs=4k --size=4M \
        --name=t >/dev/null 2>&1 || fail "fio trim: $(tail -n 20 "$W/fio.txt")"
else
    say "fio has no nbd engine"
fi

say "and the rest is untouched"
nbdcopy "$v" "$W/out.raw"
cmp -n 8388608 -i 4194304 "$W/out.raw" "$model"
stop_worker v
stop_worker w
expect 0 blksub volume export v "$W/export.raw"
cmp "$W/export.raw" "$W/out.raw"
say "done"
