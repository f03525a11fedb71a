#!/usr/bin/env bash
# A volume over NBD, with other people's clients: what they read is what they
# wrote, also after kill -9; there is one worker for each volume.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/functions.bash"
requires nbdkit nbdinfo nbdcopy qemu-img qemu-io jq socat

size=$((48 << 20))
golden=$W/golden.raw
truncate -s $size "$golden"
# Data, holes between it, and an end that is no whole megabyte of data.
dd if=/dev/urandom of="$golden" bs=1M count=4 conv=notrunc status=none
dd if=/dev/urandom of="$golden" bs=4k count=300 seek=5000 conv=notrunc status=none
dd if=/dev/urandom of="$golden" bs=4k count=1 seek=$((size / 4096 - 1)) conv=notrunc status=none
qemu-img convert -f raw -O qcow2 "$golden" "$W/golden.qcow2"
blksub image import "$W/golden.qcow2" --name golden >/dev/null
blksub volume create v --image golden >/dev/null
digest=$(blksub --json image show golden | jq -r .digest)
uri="nbd+unix:///?socket=$W/v/nbd.sock"
# What the volume must hold: the same operations on a plain file.
model=$W/model.raw
cp --sparse=always "$golden" "$model"

say "a worker, and what it offers"
start_worker v --threads 8
nbdinfo --json "$uri" >"$W/info.json"
jq -e ".exports[0] | .\"export-size\" == $size and (.is_read_only | not) and
    .can_flush and .can_fua and .can_trim and .can_zero and .can_multi_conn and
    .can_cache and .block_size_minimum == 1 and .block_size_preferred == 4096" "$W/info.json" >/dev/null ||
    fail "nbdinfo: $(cat "$W/info.json")"

say "the golden image through it"
nbdcopy "$uri" "$W/out.raw"
cmp "$W/out.raw" "$golden"
qemu-img compare -q -f raw -F raw "$uri" "$golden"
nbdinfo --map --totals "$uri" >"$W/totals"
grep -qE 'hole|zero' "$W/totals" || fail "no holes reported: $(cat "$W/totals")"

# both COMMAND...: the same by qemu-io on volume and model.
both() {
    local c args=()
    for c; do args+=(-c "$c"); done
    qemu-io -f raw -d unmap "${args[@]}" "$uri" >"$W/io.txt"
    ! grep -qiE 'fail|error|pattern verification' "$W/io.txt" || fail "$(cat "$W/io.txt")"
    qemu-io -f raw -d unmap "${args[@]}" "$model" >/dev/null
}
same() { qemu-img compare -q -f raw -F raw "$uri" "$model" || fail "volume and model differ: $1"; }

say "patterns, aligned and not"
both "write -P 0x11 0 4k" "write -P 0x22 512 512" "write -P 0x33 4095k 2k" \
    "write -P 0x44 20479k 1537" "write -P 0x55 8M 1M" "write -f -P 0x66 9000001 70001" \
    "read -P 0x22 512 512" "read -P 0x11 1024 3072" "read -P 0x66 9000001 70001"
same "after writes"
both "write -z 1M 300k" "write -z -u 20M 33k" "discard 2M 1M" "write -z 3000001 12345" \
    "write -P 0x77 2500k 64k" "discard 2510k 20k"
# What a discard leaves is unspecified in general; here it is zeros.
qemu-io -f raw -r -c "read -P 0 2M 400k" "$uri" | grep -q "read 409600/409600" || fail "discard"
both "write -z 2M 1M"
same "after zeroes and discards"
both "write -P 0x88 $((size - 4096)) 4096" "write -P 0x99 $((size - 512)) 512"
same "at the end"
! qemu-io -f raw -c "write $size 512" "$uri" >/dev/null 2>&1 || fail "a write beyond the end"

say "many in flight"
if fio --enghelp 2>/dev/null | grep -qw nbd; then
    fio --name=v --ioengine=nbd --uri="$uri" --rw=randrw --bsrange=512-64k --bs_unaligned=0 \
        --iodepth=16 --offset=24M --size=16M --io_size=24M --verify=crc32c --do_verify=1 \
        --verify_fatal=1 --verify_state_save=0 --aux-path="$W" --randseed=7 --output="$W/fio.txt" >/dev/null 2>&1 ||
        fail "fio: $(tail -n 20 "$W/fio.txt")"
else
    say "fio has no nbd engine: qemu-img bench instead"
    qemu-img bench -q -f raw -w -c 4000 -d 16 -s 4096 -o 24M "$uri"
fi

say "one worker for each volume"
expect 8 blksub serve v --nbd "$W/v/other.sock"
expect 8 blksub serve v --nbd "$W/v/nbd.sock"
[ ! -e "$W/v/other.sock" ] || fail "the second worker made its socket"
expect 8 blksub volume remove v
expect 8 blksub volume export v "$W/no.raw"
blksub --json volume show v | jq -e .served >/dev/null
nbdinfo --size "$uri" >/dev/null || fail "the first worker is gone"

say "kill -9 loses nothing that was flushed"
nbdcopy "$uri" "$model"
for i in 1 2 3; do
    both "write -P $((i * 16)) $((i * 1000003)) 200000" "flush"
    kill -9 "$(worker_pid v)"
    wait_for 10 gone "$(worker_pid v)"
    [ -S "$W/v/nbd.sock" ] || fail "there should be a stale socket"
    start_worker v
    same "after kill -9, round $i"
done

say "a whole disk written through it"
dd if=/dev/urandom of="$W/new.raw" bs=1M count=$((size >> 20)) status=none
nbdcopy --flush "$W/new.raw" "$uri"
qemu-img compare -q -f raw -F raw "$uri" "$W/new.raw"
cp "$W/new.raw" "$model"

say "a clean end, and what stays"
kill "$(worker_pid v)"
r=0
wait "$(worker_pid v)" || r=$?
[ $r = 0 ] || fail "the worker's exit code after SIGTERM is $r"
expect 0 blksub volume export v "$W/export.qcow2"
qemu-img compare -q "$W/export.qcow2" "$model" || fail "export differs"

say "read-only"
start_worker v --read-only
nbdinfo --json "$uri" | jq -e '.exports[0].is_read_only' >/dev/null
! qemu-io -f raw -c "write 0 4k" "$uri" >/dev/null 2>&1 || fail "read-only took a write"
qemu-img compare -q -f raw -F raw "$uri" "$model"
stop_worker v

say "it ends with its parent"
(
    "$B/blksub" serve v --nbd "$W/v/nbd.sock" --exit-with-parent 2>>"$W/worker-v.log" &
    echo $! >"$W/child"
    wait_for 30 nbd_answers v $!
)
wait_for 20 gone "$(cat "$W/child")"

say "filters of nbdkit, behind --"
start_worker v -- --filter=stats "statsfile=$W/stats"
nbdcopy "$uri" null:
stop_worker v
grep -q read "$W/stats" || fail "the filter did not run"

if command -v openssl >/dev/null && nbdkit --dump-config | grep -qx tls=yes; then
    say "TLS"
    tls=$W/tls
    mkdir "$tls"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
        -subj /CN=test-ca -keyout "$tls/ca-key.pem" -out "$tls/ca-cert.pem" 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost \
        -keyout "$tls/server-key.pem" -out "$tls/server.csr" 2>/dev/null
    openssl x509 -req -days 2 -in "$tls/server.csr" -CA "$tls/ca-cert.pem" \
        -CAkey "$tls/ca-key.pem" -CAcreateserial -out "$tls/server-cert.pem" \
        -extfile <(echo subjectAltName=DNS:localhost) 2>/dev/null
    tls_uri="nbds+unix://localhost/?socket=$W/v/nbd.sock&tls-certificates=$tls"
    "$B/blksub" serve v --nbd "$W/v/nbd.sock" --tls-certificates "$tls" \
        >>"$W/worker-v.log" 2>&1 </dev/null &
    tls_worker=$!
    pids+=("$tls_worker")
    wait_for 30 nbdinfo --size "$tls_uri"
    [ "$(nbdinfo --size "$tls_uri")" = $size ] || fail "TLS: another size"
    ! nbdinfo --size "$uri" >/dev/null 2>&1 || fail "served without TLS"
    end_process "$tls_worker"
fi

# The golden image is what it was.
blksub volume remove v >/dev/null
blksub image import "$golden" >"$W/again"
grep -q "$digest" "$W/again" || fail "the golden image changed"
cmp "$golden" "$BLKSUB_STORE/images/$digest/data"
say "done"
