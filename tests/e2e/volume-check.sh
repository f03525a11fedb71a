#!/usr/bin/env bash
# blksub volume check with a real worker whose guest writes: nothing is found
# where nothing is wrong; a bit that is turned in any file of the volume is
# found and named; it keeps to its rate, is canceled, and blocks nobody.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/functions.bash"
requires nbdkit nbdinfo nbdcopy qemu-io qemu-img jq socat

size=$((32 << 20))
golden=$W/golden.raw
truncate -s $size "$golden"
dd if=/dev/urandom of="$golden" bs=1M count=8 conv=notrunc status=none
dd if=/dev/urandom of="$golden" bs=4k count=100 seek=6000 conv=notrunc status=none
blksub image import "$golden" --name golden >/dev/null
blksub volume create v --image golden >/dev/null
digest=$(blksub --json image show golden | jq -r .digest)
uri="nbd+unix:///?socket=$W/v/nbd.sock"
vol=$BLKSUB_STORE/volumes/v

# check WANT [option...]: exit code WANT; the answer is in $W/check.json
check() {
    local want=$1 r=0
    shift
    blksub --json volume check v "$@" >"$W/check.json" 2>"$W/check.err" || r=$?
    [ $r = "$want" ] || fail "check: exit code $r, not $want: $(cat "$W/check.json" "$W/check.err")"
}

# is FILTER: true of the answer
is() {
    jq -e "$1" "$W/check.json" >/dev/null || fail "not $1: $(cat "$W/check.json")"
}

# found PART PATH OFFSET: this alone
found() {
    is ".outcome == \"damaged\" and .n_findings == 1 and (.findings[0] |
        .part == \"$1\" and .path == \"$2\" and .offset <= $3 and
        (.bytes == 0 or .offset + .bytes > $3) and
        (.what | length > 0) and (.todo | length > 0))"
}

say "a volume that nobody serves, never checked"
check 0
is '.outcome == "clean" and (.served | not) and .images == 1 and .own_bytes == 0'

say "with a worker, while the guest writes"
start_worker v --threads 4
write_on() {
    local i=0
    while [ ! -e "$W/enough" ]; do
        i=$((i + 1))
        qemu-io -f raw -c "write -P $((i % 250)) $((i * 53 % 3000))k 64k" \
            -c "write -P 7 $((20 + i % 10))M 128k" -c "discard $((i % 8))M 16k" \
            -c "flush" "$uri" >/dev/null
        echo $i >"$W/written"
    done
}
if fio --enghelp 2>/dev/null | grep -qw nbd; then
    fio --name=v --ioengine=nbd --uri="$uri" --rw=randrw --bsrange=4k-64k --iodepth=8 \
        --offset=10M --size=8M --time_based --runtime=600 --aux-path="$W" --output="$W/fio.txt" \
        >/dev/null 2>&1 &
    fio=$!
    pids+=("$fio")
fi
write_on &
writer=$!
pids+=("$writer")
wait_for 60 test -s "$W/written"
for _ in 1 2 3; do
    check 0 --rate 0
    is '.outcome == "clean" and .served and .own_bytes > 0'
done
is '.compared_bytes > 0 and .taken_bytes > 0' # some were written since, some were not
blksub volume check v >"$W/text"
grep -q '^v: no damage: 1 image, 0 patches, ' "$W/text" || fail "$(cat "$W/text")"

say "no faster than it may"
check 0 --rate 8
is '.pauses > 0 and .duration_ms > 0 and .read_bytes * 1000 <= (8 * 1048576 * 1.05 + 1) * .duration_ms'

say "one at a time; others are answered meanwhile; Ctrl-C and a client that goes away end it"
"$B/blksub" --json volume check v --rate 1 >"$W/slow.json" 2>&1 &
slow=$!
pids+=("$slow")
checking() { blksub --json status --volume v | jq -e '.volumes[0].status.check.stage'; }
wait_for 30 checking
check 8 # a second
is '.error.code == "EBUSY"'
blksub --json status --volume v | jq -e '.volumes[0].status.job == null' >/dev/null
kill -INT $slow
r=0
wait $slow || r=$?
[ $r = 10 ] || fail "Ctrl-C: exit code $r: $(cat "$W/slow.json")"
not_checking() { ! checking; }
wait_for 30 not_checking
"$B/blksub" volume check v --rate 1 >/dev/null 2>&1 &
slow=$!
pids+=("$slow")
wait_for 30 checking
kill -9 $slow
wait_for 30 not_checking
# By hand, and canceled by somebody else.
coproc raw { socat - "UNIX-CONNECT:$vol/control.sock"; }
echo '{"id":5,"cmd":"check","rate":1048576}' >&"${raw[1]}"
wait_for 30 checking
echo '{"id":6,"cmd":"cancel","what":"check"}' | socat - "UNIX-CONNECT:$vol/control.sock" |
    jq -e '.ok' >/dev/null
while read -r line <&"${raw[0]}"; do
    jq -e 'has("event")' <<<"$line" >/dev/null || break
done
jq -e '.id == 5 and .error.code == "ECANCELED"' <<<"$line" >/dev/null || fail "$line"
# shellcheck disable=SC2154 # coproc sets it
kill "$raw_PID" 2>/dev/null || true

touch "$W/enough"
wait $writer
if [ -n "${fio-}" ]; then
    end_process "$fio"
fi
qemu-io -f raw -c "write -P 0x33 5M 1M" -c flush "$uri" >/dev/null
check 0

say "a bit in each file, served"
flip_bit "$BLKSUB_STORE/images/$digest/data" $((100 * 4096 + 5))
check 11
found image "images/$digest/data" $((100 * 4096))
is '.findings[0].block == 100 and (.findings[0].guest | type) == "array"'
r=0
blksub volume check v >"$W/text" || r=$?
[ $r = 11 ] || fail "text: exit code $r"
grep -q "^image .*images/${digest:0:12}/data .*0x64000 " "$W/text" || fail "$(cat "$W/text")"
grep -q 'What to do: ' "$W/text" || fail "$(cat "$W/text")"
flip_bit "$BLKSUB_STORE/images/$digest/data" $((100 * 4096 + 5))
flip_bit "$BLKSUB_STORE/images/$digest/digests" $((50 * 32))
check 11
found image "images/$digest/digests" $((50 * 32))
flip_bit "$BLKSUB_STORE/images/$digest/digests" $((50 * 32))
flip_bit "$vol/log" 90
check 11
found log volumes/v/log 90
flip_bit "$vol/log" 90
flip_bit "$vol/meta.json" 0
check 11
found meta volumes/v/meta.json 0
flip_bit "$vol/meta.json" 0
flip_bit "$vol/data" $(((5 << 20) + 9000))
check 11
found data volumes/v/data $(((5 << 20) + 9000))
is '.findings[0].guest[0].offset == 5251072 and (.findings[0].what | test("without a write"))'
flip_bit "$vol/sums" $((4096 + 100)) # of another chunk
check 11
is '.n_findings == 2 and any(.findings[]; .part == "sums")'

say "status, show, log and history know"
blksub status --volume v >"$W/text"
grep -q '^checked   .*: 2 damaged places' "$W/text" || fail "$(cat "$W/text")"
blksub volume show v >"$W/text"
grep -q '^checked  .*: 2 damaged places' "$W/text" || fail "$(cat "$W/text")"
blksub --json volume show v | jq -e '.last_check.outcome == "damaged"' >/dev/null
blksub log --volume v | grep -q 'check .*damaged, 2 places' || fail "log"
tail -n 1 "$vol/history" | jq -e '.what == "check" and (.findings | length == 2)' >/dev/null

say "the guest writes the block anew; the worker ends in order, and nothing is wrong"
qemu-io -f raw -c "write -P 0x34 5M 1M" -c flush "$uri" >/dev/null
check 0
stop_worker v
check 0
is '.compared_bytes == .own_bytes and .own_bytes > 0'
blksub volume show v | grep -q '^checked  .*: no damage' || fail "show"

say "damage while nobody has it, and kill -9"
flip_bit "$vol/data" $((5 << 20))
check 11
found data volumes/v/data $((5 << 20))
start_worker v
qemu-io -f raw -c "write -P 0x35 5M 4k" -c flush "$uri" >/dev/null
check 0
kill_worker v
start_worker v
check 0 # what it saw before the kill is void: no false alarm
is '.compared_bytes == 0 and .taken_bytes > 0'
check 0
is '.compared_bytes == .own_bytes'
stop_worker v

say "a volume that cannot be opened"
cp "$vol/log" "$W/log"
flip_bit "$vol/log" 80
check 11
found log volumes/v/log 80
cp "$W/log" "$vol/log"
check 0
expect 3 blksub volume check none
expect 2 blksub volume check v --rate x
expect 2 blksub volume check
say "done"
