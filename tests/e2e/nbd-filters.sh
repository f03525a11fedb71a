#!/usr/bin/env bash
# nbdkit's own filters in front of the plugin: each does what it is for, and the
# volume holds what it should.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/functions.bash"
requires nbdkit nbdinfo nbdcopy qemu-img qemu-io jq cmp
requires_python_nbd

size=$((24 << 20))
golden=$W/golden.raw
truncate -s $size "$golden"
dd if=/dev/urandom of="$golden" bs=1M count=2 seek=1 conv=notrunc status=none
dd if=/dev/urandom of="$golden" bs=4k count=60 seek=4001 conv=notrunc status=none
blksub image import "$golden" --name golden >/dev/null
blksub volume create v --image golden >/dev/null
uri="nbd+unix:///?socket=$W/v/nbd.sock"
model=$W/model.raw
cp --sparse=always "$golden" "$model"

# has FILTER...: this host's nbdkit has them.
has() {
    local f
    for f; do
        nbdkit "--filter=$f" --version null >/dev/null 2>&1 || {
            say "$f: not with this nbdkit"
            return 1
        }
    done
}

with() { # FILTER... [-- KEY=VALUE...]
    local args=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        args+=("--filter=$1")
        shift
    done
    [ $# = 0 ] || shift
    say "${args[*]} $*"
    start_worker v --threads 8 -- "${args[@]}" "$@"
}

# both COMMAND...: the same by qemu-io on volume and model.
both() {
    local c args=()
    for c; do args+=(-c "$c"); done
    qemu-io -f raw -d unmap "${args[@]}" "$uri" >"$W/io.txt" 2>&1 || fail "$(cat "$W/io.txt")"
    ! grep -qiE 'fail|error|pattern verification' "$W/io.txt" || fail "$(cat "$W/io.txt")"
    qemu-io -f raw -d unmap "${args[@]}" "$model" >/dev/null
}
same() { qemu-img compare -q -f raw -F raw "$uri" "$model" || fail "${1-} the volume is not what it should be"; }

n=0
exercise() {
    n=$((n + 1))
    both "write -P $n ${n}k 70001" "write -z $((n * 3))k 9000" "discard 5M 64k" "read -P $n $((n + 60))k 512" \
        "write -f -P $((n + 100)) $((6 + n % 8))M 300k" "write -z -u $((n * 37))k 100k" "flush"
    same
}

# What passes all requests on, whole or in other pieces, sooner or later.
while read -r filters args; do
    # shellcheck disable=SC2086 # words
    has ${filters//,/ } || continue
    # shellcheck disable=SC2086
    with ${filters//,/ } -- $args
    exercise
    stop_worker v
done <<EOF
delay rdelay=2ms wdelay=2ms delay-zero=1ms delay-trim=1ms delay-extents=1ms
blocksize minblock=4096 maxdata=64k maxlen=1M
blocksize minblock=512 maxdata=1M maxlen=4M
blocksize-policy blocksize-minimum=1 blocksize-preferred=65536 blocksize-maximum=8M
readahead,cache cache-on-read=true
cache cache=writethrough cache-on-read=true
cache cache=writeback
cacheextents
noextents
nozero
nozero zeromode=emulate
fua fuamode=emulate
fua fuamode=force
noparallel serialize=all-requests
nofilter
stats statsfile=$W/stats
log logfile=$W/log
multi-conn multi-conn-mode=emulate
rate rate=1000M
pause pause-control=$W/pause.sock
retry-request
EOF

if has error; then
    with error -- error=EIO error-rate=30%
    "$nbd_python" - "$uri" "$model" <<'EOF' || fail "the error filter"
import random, sys
import nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
model = bytearray(open(sys.argv[2], "rb").read())
failed = 0
for i in range(400):
    n, at = random.randrange(1, 50000), random.randrange(len(model) - 50000)
    buf = bytearray(random.randbytes(n))
    try:
        if i % 8 == 0:
            h.zero(n, at)
            buf = bytes(n)
        else:
            h.pwrite(buf, at)
        model[at:at + n] = buf
    except nbd.Error as e:  # and was not done
        assert e.errno == "EIO", e
        failed += 1
assert 20 < failed < 250, failed
open(sys.argv[2], "wb").write(model)
EOF
    stop_worker v
    start_worker v
    same "after errors"
    stop_worker v
fi

# All fails until something is mended; retry closes the volume's handle each
# time and opens it again.
while read -r filter args; do
    has error "$filter" || continue
    : >"$W/fail"
    # shellcheck disable=SC2086
    with "$filter" error -- error=EIO error-rate=100% "error-file=$W/fail" $args
    : >"$W/worker-v.log"
    (
        wait_for 30 grep -q 'injecting EIO' "$W/worker-v.log"
        rm "$W/fail"
    ) &
    exercise
    grep -q 'injecting EIO' "$W/worker-v.log" || fail "nothing failed"
    stop_worker v
done <<EOF
retry-request retry-request-retries=20 retry-request-delay=1
retry retries=20 retry-delay=1 retry-exponential=no
EOF

if has blocksize-policy; then
    with blocksize-policy -- blocksize-minimum=4096 blocksize-error-policy=error
    [ "$(nbdinfo --json "$uri" | jq '.exports[0].block_size_minimum')" = 4096 ] || fail "the minimum is another"
    "$nbd_python" - "$uri" <<'EOF' || fail "unaligned requests"
import sys
import nbd
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
for call in (lambda: h.pread(512, 0), lambda: h.pwrite(b"x" * 512, 4096),
             lambda: h.zero(4096, 100), lambda: h.trim(100, 0)):
    try:
        call()
    except nbd.Error as e:
        assert e.errno == "EINVAL", e
    else:
        sys.exit("taken")
EOF
    both "write -P 55 8k 16k" "write -z 12k 4k"
    same
    stop_worker v
fi

if has checkwrite; then
    with checkwrite
    nbdcopy "$model" "$uri" || fail "checkwrite: what is there was not taken"
    cp "$model" "$W/other.raw"
    printf x | dd of="$W/other.raw" bs=1 seek=9000123 conv=notrunc status=none
    ! nbdcopy "$W/other.raw" "$uri" 2>/dev/null || fail "checkwrite: something else was taken"
    same
    stop_worker v
fi

if has cow; then
    with cow
    qemu-io -f raw -c "write -P 9 0 4M" -c "discard 5M 1M" -c "write -z 9M 4M" -c flush "$uri" >/dev/null
    qemu-io -f raw -r -c "read -P 9 0 4M" -c "read -P 0 9M 4M" "$uri" >/dev/null
    stop_worker v
    start_worker v
    same "behind cow"
    stop_worker v
fi

if has exitlast; then
    say "--filter=exitlast"
    "$B/blksub" serve v --nbd "$W/v/nbd.sock" -- --filter=exitlast 2>>"$W/worker-v.log" &
    pids+=($!)
    # nbdinfo would be the last client.
    wait_for 30 grep -q "$W/v/nbd.sock" /proc/net/unix
    qemu-io -f raw -c "write -P 77 4k 100k" "$uri" >/dev/null
    qemu-io -f raw -c "write -P 77 4k 100k" "$model" >/dev/null
    wait_for 30 gone $!
    wait $! || fail "exitlast: exit code $?"
    expect 0 blksub volume export v "$W/export.raw"
    cmp "$W/export.raw" "$model"
fi
say "done"
