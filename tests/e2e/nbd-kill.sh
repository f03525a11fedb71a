#!/usr/bin/env bash
# kill -9 of the worker, again and again, under real clients: what they were
# told is there, flushed or not.  LONG=1: 200 rounds instead of 6; ROUNDS=,
# SEED= as one likes.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/functions.bash"
requires nbdkit nbdinfo nbdcopy qemu-img fio cmp
requires_python_nbd

size=$((48 << 20))
rounds=${ROUNDS:-6}
[ -z "${LONG-}" ] || rounds=${ROUNDS:-200}
seed=${SEED:-$RANDOM}
golden=$W/golden.raw
truncate -s $size "$golden"
dd if=/dev/urandom of="$golden" bs=1M count=8 conv=notrunc status=none
blksub image import "$golden" --name golden >/dev/null
blksub volume create v --image golden >/dev/null
mkdir -p "$W/v"
uri="nbd+unix:///?socket=$W/v/nbd.sock"

say "$rounds rounds, SEED=$seed"
"$nbd_python" "$top/tests/e2e/nbd-kill.py" "$B/blksub" v "$W/v/nbd.sock" "$golden" $size \
    "$seed" "$rounds" "$W/rounds.log" &
driver=$!
pids+=("$driver")
wait "$driver" || {
    tail -n 5 "$W/rounds.log.worker"
    fail "SEED=$seed"
}
tail -n 3 "$W/rounds.log"

say "what an export says after the last kill"
expect 0 blksub volume export v "$W/export.raw"
cmp "$W/export.raw" "$W/rounds.log.model"

if ! fio --enghelp 2>/dev/null | grep -qw nbd; then
    say "fio has no nbd engine"
    exit 0
fi
# Two jobs, each in its own half, which write and, in another life, verify.
fio_jobs() { # ROUND OPTION...
    local n=$1
    shift
    fio --output="$W/fio.txt" --ioengine=nbd --uri="$uri" --iodepth=8 --rw=randwrite \
        --bsrange=512-32k --norandommap=0 --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
        --aux-path="$W" --allrandrepeat=1 --randseed="$n" --size=12M "$@" \
        --name=one --offset=0 --name=two --offset=24M >/dev/null 2>&1 ||
        fail "fio, round $n $*: $(grep -iE 'verify|error|bad' "$W/fio.txt" | head -n 8)"
}
say "fio writes, the worker is killed, fio verifies"
start_worker v
for n in $(seq $((rounds > 20 ? 20 : 2))); do
    if [ $((n % 2)) = 0 ]; then
        fio_jobs "$n" --do_verify=0 --fsync=$((n * 5))
    else
        fio_jobs "$n" --do_verify=0
    fi
    kill_worker v
    start_worker v
    fio_jobs "$n" --verify_only
done
stop_worker v
say "done"
