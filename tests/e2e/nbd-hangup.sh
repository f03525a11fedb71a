#!/usr/bin/env bash
# Clients that go without a word, in the middle of their requests: the worker
# stays, or is there again at once under the same pid, and has all that was
# acknowledged; also after an abort.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/functions.bash"
requires nbdkit nbdinfo nbdcopy qemu-img cmp
requires_python_nbd

golden=$W/golden.raw
truncate -s 48M "$golden"
dd if=/dev/urandom of="$golden" bs=1M count=24 conv=notrunc status=none
blksub image import "$golden" --name golden >/dev/null
blksub volume create v --image golden >/dev/null
uri="nbd+unix:///?socket=$W/v/nbd.sock"
model=$W/model.raw
cp --sparse=always "$golden" "$model"
start_worker v --threads 8
pid=$(worker_pid v)

same() {
    wait_for 60 nbd_answers v "$pid"
    nbdcopy "$uri" "$W/out.raw"
    cmp "$W/out.raw" "$model" || fail "$1"
}

# Acknowledged and not flushed; then reads which nobody takes.
cat >"$W/client.py" <<'EOF'
import os, sys
import nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
i = int(sys.argv[2])
h.pwrite(bytearray([i]) * 70000, i * 900001)
bufs = [nbd.Buffer(1 << 18) for _ in range(32)]
for n, b in enumerate(bufs):
    h.aio_pread(b, n << 18)
for _ in range(i):
    h.poll(0)
os.kill(os.getpid(), 9)
EOF
for i in 1 2 3 4 5 6 7 8; do
    "$nbd_python" "$W/client.py" "$uri" "$i" 2>/dev/null || true
    head -c 70000 /dev/zero | tr '\0' "\\$(printf %03o "$i")" |
        dd of="$model" bs=70000 seek=$((i * 900001)) oflag=seek_bytes conv=notrunc status=none
    same "after client $i went"
    ! gone "$pid" || fail "the worker is gone"
done
say "the worker aborted $(grep -c 'aborted, starting again' "$W/worker-v.log" || true) times in all"

say "an abort"
kill -ABRT "$pid"
wait_for 30 grep -q 'worker: aborted, starting again' "$W/worker-v.log"
same "after an abort"
expect 8 blksub serve v --nbd "$W/v/other.sock" # the lock is held again

say "a clean end"
kill "$pid"
r=0
wait "$pid" || r=$?
[ $r = 0 ] || fail "the worker's exit code after SIGTERM is $r"

say "one that aborts at once, always"
start_worker v
pid=$(worker_pid v)
n=0
until gone "$pid"; do
    n=$((n + 1))
    [ $n -le 2000 ] || fail "it never ends"
    kill -ABRT "$pid" 2>/dev/null || true
done
say "done"
