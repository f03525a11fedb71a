#!/usr/bin/env bash
# A worker under load is held, resumed and made larger many times: no request
# fails, what was written is there, new clients see the new size.  A clone is
# what its source was, and goes its own way.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/functions.bash"
requires nbdkit nbdinfo nbdcopy qemu-img qemu-io jq socat

mib=$((1 << 20))
golden=$W/golden.raw
truncate -s 32M "$golden"
dd if=/dev/urandom of="$golden" bs=1M count=32 conv=notrunc status=none
blksub image import "$golden" --name golden >/dev/null
blksub volume create v --image golden --size 48M >/dev/null
uri="nbd+unix:///?socket=$W/v/nbd.sock"
size=$((48 * mib))

# control REQUEST: what the worker answers.
control() { echo "$1" | timeout 30 socat -t 10 - UNIX-CONNECT:"$BLKSUB_STORE/volumes/v/control.sock"; }
status_is() { blksub --json status --volume v | jq -e ".volumes[0].status | $1" >/dev/null; }
# io COMMAND...: by qemu-io, which must succeed.
io() {
    local c args=()
    for c; do args+=(-c "$c"); done
    qemu-io -f raw "${args[@]}" "$uri" >"$W/io.txt" 2>&1 || fail "$(cat "$W/io.txt")"
    ! grep -qiE 'fail|error|pattern verification' "$W/io.txt" || fail "$(cat "$W/io.txt")"
}

say "a load that verifies what it reads, in the second quarter"
start_worker v --threads 8
load() {
    local n=0
    while [ ! -e "$W/stop" ]; do
        if fio --enghelp 2>/dev/null | grep -qw nbd; then
            fio --name=v --ioengine=nbd --uri="$uri" --rw=randrw --bs=$((512 << n % 8)) --iodepth=16 \
                --offset=8M --size=8M --io_size=8M --verify=crc32c --do_verify=1 --verify_fatal=1 \
                --verify_state_save=0 --aux-path="$W" --randseed=$n --output="$W/fio.txt" >/dev/null 2>&1 ||
                return 1
        else
            qemu-io -f raw -c "write -P $((n % 256)) 8M 8M" -c "read -P $((n % 256)) 8M 8M" "$uri" >"$W/fio.txt" 2>&1 ||
                return 1
            ! grep -q "verification failed" "$W/fio.txt" || return 1
        fi
        n=$((n + 1))
        echo $n >"$W/rounds"
    done
}
load &
loader=$!
pids+=("$loader")
wait_for 60 test -s "$W/rounds"

say "held, resumed, made larger, 20 times"
for i in $(seq 20); do
    gone "$loader" && fail "the load has failed in round $i: $(tail -n 20 "$W/fio.txt")"
    blksub hold v --limit 60 >/dev/null
    status_is '.hold.state == "held" and .hold.limit == 60'
    # The load, which never rests, waits.
    [ $((i % 4)) != 0 ] || wait_for 30 status_is '.hold.waiting > 0'
    before=$(blksub --json status --volume v | jq -c '.volumes[0].status.stats | [.blks_own, .write_bytes]')
    [ $((i % 4)) = 0 ] && expect 8 blksub volume resize v $((size + mib))
    status_is '.hold.state == "held"'
    [ "$(blksub --json status --volume v | jq -c '.volumes[0].status.stats | [.blks_own, .write_bytes]' | cut -d, -f1)" = \
        "$(cut -d, -f1 <<<"$before")" ] || fail "a block became own while it was held"
    blksub resume v >/dev/null
    size=$((size + i * 4096 * 37))
    blksub volume resize v $size >/dev/null
    [ "$(nbdinfo --size "$uri")" = $size ] || fail "a new client sees $(nbdinfo --size "$uri"), not $size"
done
wait_for 60 status_is '.hold == null and .stats.errors == 0'
expect 2 blksub volume resize v 48M
grep -q "cannot shrink" "$W/said" || fail "$(cat "$W/said")"
touch "$W/stop"
wait "$loader" || fail "the load has failed: $(tail -n 20 "$W/fio.txt")"
say "$(cat "$W/rounds") rounds of the load"

say "old data, zeros in what is new, and room up to the end"
same() { # OFF LEN
    nbdcopy "$uri" "$W/now.raw"
    cmp -s -i "$1" -n "$2" "$W/now.raw" "$golden" || fail "$2 bytes at $1 have changed"
}
same 0 $((8 * mib))
same $((16 * mib)) $((16 * mib))
io "read -P 0 32M $((size - 32 * mib))" "write -P 0x5a $((size - 4608)) 4608" "read -P 0x5a $((size - 4608)) 4608"
! qemu-io -f raw -c "write $size 512" "$uri" >/dev/null 2>&1 || fail "a write beyond the end"

say "a hold ends by itself, is renewed, and refuses what cannot be"
blksub hold v --limit 1 >/dev/null
io "write -P 0x11 32M 64k" # waits for the limit
wait_for 30 status_is '.hold == null'
expect 3 blksub resume v
grep -q "limit" "$W/said" || fail "$(cat "$W/said")"
blksub hold v --limit 2 >/dev/null
blksub hold v --limit 600 >/dev/null
status_is '.hold.left > 500'
none=$(printf '0%.0s' {1..64})
control "{\"id\":1,\"cmd\":\"apply\",\"patch\":\"$none\"}" | jq -e '.error.code == "EBUSY"' >/dev/null ||
    fail "a job began on a volume that is held"
control '{"id":1,"cmd":"ping"}' | jq -e .ok >/dev/null
blksub resume v >/dev/null
expect 3 blksub resume v

say "a worker that is told to end lets what waits finish"
blksub hold v --limit 600 >/dev/null
qemu-io -f raw -c "write -P 0x77 33M 64k" "$uri" >"$W/late.txt" 2>&1 &
late=$!
wait_for 30 status_is '.hold.waiting > 0'
stop_worker v
wait $late || fail "the request that waited: $(cat "$W/late.txt")"

say "killed while it is held"
start_worker v
io "read -P 0x77 33M 64k" "write -P 0x22 34M 64k" flush
blksub hold v >/dev/null
kill_worker v
start_worker v
[ "$(nbdinfo --size "$uri")" = $size ] || fail "the size is $(nbdinfo --size "$uri")"
io "read -P 0x22 34M 64k" "read -P 0x77 33M 64k"

say "a clone"
expect 8 blksub volume clone v c
grep -q worker "$W/said" || fail "$(cat "$W/said")"
stop_worker v
blksub volume clone v c >/dev/null
expect 8 blksub volume clone v c
blksub --json volume show c | jq -e ".size_bytes == $size and .patches == 0 and (.served | not)" >/dev/null
[ -z "$(find "$BLKSUB_STORE" -name '.tmp-*')" ] || fail "left over: $(find "$BLKSUB_STORE" -name '.tmp-*')"
start_worker v
start_worker c
clone_uri="nbd+unix:///?socket=$W/c/nbd.sock"
qemu-img compare -q -f raw -F raw "$uri" "$clone_uri" || fail "the clone differs"
nbdcopy "$uri" "$W/v.raw"
nbdcopy "$clone_uri" "$W/c.raw"
cmp "$W/v.raw" "$W/c.raw"
qemu-io -f raw -c "write -P 0x33 9M 1M" "$clone_uri" >/dev/null
io "write -P 0x44 9M 64k"
blksub volume resize c $((size + mib)) >/dev/null
qemu-io -f raw -c "read -P 0x33 9M 1M" "$clone_uri" | grep -q "read 1048576/1048576" || fail "the clone's own write"
cmp -s -n $((9 * mib)) "$W/v.raw" <(nbdcopy "$clone_uri" - | head -c $((9 * mib))) || fail "the clone has changed"
io "read -P 0x44 9M 64k"
stop_worker v
stop_worker c
blksub volume remove v >/dev/null
expect 8 blksub image remove golden
blksub volume export c "$W/c2.raw" >/dev/null
[ "$(stat -c %s "$W/c2.raw")" = $((size + mib)) ] || fail "the clone's size"

if [ "$(id -u)" = 0 ] && command -v mkfs.btrfs >/dev/null; then
    truncate -s 256M "$W/btrfs.img"
    mkfs.btrfs -q "$W/btrfs.img" >"$W/mkfs.log" 2>&1
    mkdir "$W/small" # unmounted at the end
    if mount -o loop "$W/btrfs.img" "$W/small" 2>/dev/null; then
        say "a clone shares its data where the file system can"
        export BLKSUB_STORE=$W/small/store
        truncate -s 64M "$W/blank.raw"
        blksub image import "$W/blank.raw" --name blank >/dev/null
        blksub volume create v --image blank >/dev/null
        start_worker v
        dd if=/dev/urandom bs=1M count=48 status=none | nbdcopy --flush - "$uri"
        stop_worker v
        sync -f "$W/small"
        free=$(df --output=avail -B1 "$W/small" | tail -n 1)
        blksub volume clone v c >/dev/null
        sync -f "$W/small"
        used=$((free - $(df --output=avail -B1 "$W/small" | tail -n 1)))
        [ $used -lt $((8 * mib)) ] || fail "the clone takes $used bytes"
        blksub volume export v "$W/v.raw2" >/dev/null
        blksub volume export c "$W/c.raw2" >/dev/null
        cmp "$W/v.raw2" "$W/c.raw2"
    fi
fi
say "done"
