#!/usr/bin/env bash
# What users are told of volumes: where every block comes from, the room they
# take, what holds images and patches, metrics, exports.  A volume without a
# guest, which bench_prep has patched in place, written to and given tokens.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/functions.bash"
requires nbdkit nbdinfo nbdcopy qemu-img qemu-io jq mke2fs fio
[ -x "$B/tests/bench/bench_prep" ] || {
    echo "bench_prep is not built: make tests-build"
    exit 77
}
check=$top/tests/e2e/prom-check

# A file is replaced on its blocks; the patch's name is a trial for escaping.
mkdir "$W/tree"
for i in 1 2 3 4; do head -c 500000 /dev/urandom >"$W/tree/f$i"; done
mk() { truncate -s 16M "$1" && mke2fs -q -t ext4 -b 4096 -d "$W/tree" "$1"; }
mk "$W/v1.raw"
head -c 500000 /dev/urandom >"$W/tree/f2"
mk "$W/v2.raw"
blksub keygen -o "$W/key" >/dev/null
blksub trust add "$W/key.pub" >/dev/null
blksub image import "$W/v1.raw" --name v1 >/dev/null
blksub image import "$W/v2.raw" --name v2 >/dev/null
odd='up "date" \1 {x="y"}'
blksub publish v1 v2 -o "$W/p1" --key "$W/key.key" --name "$odd" >/dev/null
patch=$(blksub --json patch import "$W/p1" | jq -r .id)
for v in g h; do blksub volume create $v --image v1 --size 20M >/dev/null; done
"$B/tests/bench/bench_prep" "$BLKSUB_STORE" g 5 2 "$patch"
blksub volume export g "$W/g.raw" >/dev/null
uri() { echo "nbd+unix:///?socket=$W/$1/nbd.sock"; }
image=$(blksub --json image show v1 | jq -r .digest)

say "the map says where each block is"
blksub --json volume map g >"$W/map"
jq -es '(.[0].start == 0) and (map(.length) | add == 20971520) and
    ([range(1; length) as $i | .[$i].start == .[$i - 1].start + .[$i - 1].length] | all) and
    (map(.origin) | unique == ["image", "own", "patch", "token"])' "$W/map" >/dev/null ||
    fail "not a map: $(head -n 5 "$W/map")"
# The volume again, made of nothing but the map and the files it names.
truncate -s 20M "$W/again.raw"
pieces=0
while read -r origin source start offset bytes; do
    case $origin in
    own) file=$BLKSUB_STORE/volumes/g/data ;;
    image) file=$BLKSUB_STORE/images/$source/data ;;
    *) file=$BLKSUB_STORE/patches/$source/pool ;;
    esac
    dd if="$file" of="$W/again.raw" bs=4096 skip=$((offset / 4096)) seek=$((start / 4096)) \
        count=$((bytes / 4096)) conv=notrunc status=none
    pieces=$((pieces + 1))
done < <(jq -r 'select(.data) | "\(.origin) \(.patch // .image // "-") \(.start) \(.offset) \(.length)"' "$W/map")
[ $pieces -gt 100 ] || fail "only $pieces pieces"
cmp "$W/again.raw" "$W/g.raw"
# Text has the same lines, and a range is a part of it.
blksub volume map g >"$W/map.txt"
[ "$(($(wc -l <"$W/map.txt") - 1))" = "$(wc -l <"$W/map")" ] || fail "text and JSON differ"
blksub --json volume map g --offset 1M --length 2M | jq -es 'map(.length) | add == 2097152' >/dev/null

say "a worker tells the same, and show adds it up"
blksub --json volume show g >"$W/show"
jq -e '.served | not' "$W/show" >/dev/null
start_worker g
blksub --json volume map g | cmp - "$W/map"
blksub --json volume show g >"$W/show.served"
jq -e --argjson pid "$(worker_pid g)" '.served and .pid == $pid' "$W/show.served" >/dev/null
same() { jq -S "$1" "$W/show" | cmp -s - <(jq -S "$1" "$W/show.served") || fail "served or not: $1"; }
same .origins
same .applied
same '.stands_on | map(del(.how))'
jq -s 'group_by(.origin) | map({(.[0].origin): (map(.length) | add)}) | add' "$W/map" >"$W/sums"
jq -e --slurpfile sums "$W/sums" '(.origins | map({(.origin): .bytes}) | add) == $sums[0]' "$W/show" >/dev/null ||
    fail "show: $(jq -c .origins "$W/show")"
jq -e --arg i "$image" --arg p "$patch" '(.stands_on | map(.image // .patch) == [$i, $p]) and
    (.stands_on[0] | .volumes == 2 and .how == ["image"]) and
    (.stands_on[1] | .volumes == 1 and .how == ["applied", "tokens"])' "$W/show" >/dev/null
blksub volume show g >"$W/said"
grep -q "^served   yes, by process $(worker_pid g)\$" "$W/said" || fail "show: $(cat "$W/said")"

say "the room it takes is what du says"
[ "$(jq .space.frees_bytes "$W/show")" = "$(du -s -B1 "$BLKSUB_STORE/volumes/g" | cut -f 1)" ] ||
    fail "space: $(jq -c .space "$W/show"), du: $(du -a -B1 "$BLKSUB_STORE/volumes/g")"

mkdir "$W/small"
truncate -s 400M "$W/small.img"
if [ "$(id -u)" = 0 ] && command -v mkfs.xfs >/dev/null && mkfs.xfs -q -m reflink=1 "$W/small.img" &&
    mount -o loop "$W/small.img" "$W/small" 2>/dev/null; then
    say "what two volumes share is not freed"
    at=(--store "$W/small/store")
    two=$W/small/store/volumes
    blksub "${at[@]}" image import "$W/v1.raw" --name v1 >/dev/null
    blksub "${at[@]}" volume create one --image v1 >/dev/null
    dd if=/dev/urandom of="$two/one/data" bs=1M count=3 conv=notrunc,fsync status=none
    blksub "${at[@]}" --json volume show one |
        jq -e '.space | .shared_bytes == 0 and .frees_bytes > 3145728' >/dev/null
    cp -r --reflink=always "$two/one" "$two/two"
    sync -f "$two"
    for v in one two; do
        blksub "${at[@]}" --json volume show $v | jq -e '.space | .shared_bytes == 3145728 and
            .frees_bytes == .data_bytes + .log_bytes + .other_bytes - .shared_bytes' >/dev/null
    done
    blksub "${at[@]}" volume show two | grep -q '; 3.0 MiB of data are shared with other volumes$'
    umount "$W/small"
else
    say "no XFS on a loop device: what volumes share is left out"
fi

say "what holds an image, a patch, a volume"
expect 8 blksub --json image remove v1
jq -e --arg p "$patch" '.error | .code == "EBUSY" and (.text | test("2 volumes and 1 patch")) and
    (.holders | map(.volume // .patch) == ["g", "h", $p]) and (.holders[0].served) and
    (.holders[2].how == ["from"])' "$W/said" >/dev/null || fail "holders: $(cat "$W/said")"
expect 8 blksub image remove v1
[ "$(wc -l <"$W/said")" = 4 ] && grep -qF "patch $odd (" "$W/said" &&
    grep -qx "  volume g (served) is made of it, its worker may take files of it" "$W/said" ||
    fail "holders: $(cat "$W/said")"
expect 8 blksub patch remove "$patch"
grep -q '^  volume g (served) has it applied, has files of it$' "$W/said" || fail "holders: $(cat "$W/said")"
expect 8 blksub --json volume remove g
jq -e --argjson pid "$(worker_pid g)" '.error.holders == [{"worker": $pid}]' "$W/said" >/dev/null
blksub inspect "$W/p1" | grep -q '^used by    1 volume$'
# v2 holds nothing: a patch that makes it does not need it.
blksub image show v2 | grep -q "makes it"
expect 0 blksub image remove v2

say "a volume that cannot be read"
blksub volume create odd --image v1 >/dev/null
echo '{}' >"$BLKSUB_STORE/volumes/odd/meta.json"
blksub --json image list >"$W/list" 2>"$W/said"
grep -q 'not counted, as it cannot be read: volume odd: ' "$W/said" || fail "odd: $(cat "$W/said")"
jq -e '.images[0] | .name == "v1" and .volumes == 2' "$W/list" >/dev/null
rm -r "$BLKSUB_STORE/volumes/odd"

say "one worker for a volume; an image that was taken away"
for _ in 1 2; do
    expect 8 blksub serve g --nbd "$W/g/other.sock"
    [ "$(cat "$W/said")" = "blksub: volume g is served by process $(worker_pid g): end that first" ] ||
        fail "two workers: $(cat "$W/said")"
done
mv "$BLKSUB_STORE/images/$image" "$W/taken"
nbdcopy "$(uri g)" "$W/g.nbd" # who has it open goes on
cmp "$W/g.nbd" "$W/g.raw"
for c in "serve h --nbd $W/h.sock" "volume map h" "volume show h" "volume export h $W/h.raw"; do
    # shellcheck disable=SC2086
    expect 3 blksub $c
    [ "$(cat "$W/said")" = "blksub: volume h: the store has no image ${image:0:16}" ] || fail "$c: $(cat "$W/said")"
done
mv "$W/taken" "$BLKSUB_STORE/images/$image"

say "metrics"
# The judge is judged first.
n=0
while IFS= read -r doc; do
    printf "%b" "$doc" >"$W/bad"
    ! "$check" "$W/bad" >/dev/null || fail "prom-check takes: $doc"
    n=$((n + 1))
done <<'BAD'
x 1\n
# TYPE x gauge\nx 1\n
# HELP x h\n# TYPE x gauge\nx one\n
# HELP x h\n# TYPE x gauge\nx{a="b} 1\n
# HELP x h\n# TYPE x gauge\nx{a="\\t"} 1\n
# HELP x h\n# TYPE x gauge\nx{a="b",a="c"} 1\n
# HELP x h\n# TYPE x gauge\nx 1\nx 1\n
# HELP x h\n# TYPE x counter\nx 1\n
# HELP x h\n# TYPE x gauge\n# TYPE x gauge\nx 1\n
# HELP x h\n# TYPE x gauge\nx 1\n# HELP y h\n# TYPE y gauge\ny 1\n# HELP x h\n
# HELP x h\n# TYPE x histogram\nx_bucket{le="1"} 1\nx_sum 1\nx_count 1\n
# HELP x h\n# TYPE x histogram\nx_bucket{le="1"} 2\nx_bucket{le="+Inf"} 1\nx_sum 1\nx_count 1\n
# HELP x h\n# TYPE x histogram\nx_bucket{le="1"} 1\nx_bucket{le="0.5"} 1\nx_bucket{le="+Inf"} 1\nx_sum 1\nx_count 1\n
# HELP x h\n# TYPE x histogram\nx_bucket{le="+Inf"} 1\nx_sum 1\nx_count 2\n

BAD
[ $n = 15 ] || fail "$n bad documents"

# value METRIC: of the sample whose name and labels are so.
value() { awk -v m="$1" 'index($0, m " ") == 1 { print $NF; n++ } END { exit n != 1 }' "$W/prom"; }
measure() { # [--volume V...]: into $W/prom, checked
    blksub metrics "$@" >"$W/prom"
    "$check" "$W/prom" || fail "not the text format"
}
start_worker h
measure
writes=$(value 'blksub_io_requests_total{volume="g",op="write"}')
qemu-io -f raw -c "write -P 7 1M 64k" -c "write -P 0 4M 2M" -c "discard 8M 1M" -c flush "$(uri g)" >/dev/null
measure
[ "$(value 'blksub_io_requests_total{volume="g",op="write"}')" -gt "$writes" ]
[ "$(value 'blksub_io_bytes_total{volume="g",op="write"}')" = $((65536 + 2097152)) ]
[ "$(value 'blksub_io_bytes_total{volume="g",op="trim"}')" = 1048576 ]
[ "$(value 'blksub_io_requests_total{volume="g",op="flush"}')" -ge 1 ]
[ "$(value 'blksub_io_requests_total{volume="h",op="write"}')" = 0 ]
[ "$(value 'blksub_volume_blocks{volume="g",state="zero"}')" = 256 ]
[ "$(value 'blksub_io_duration_seconds_count{volume="g",op="write"}')" = \
    "$(value 'blksub_io_requests_total{volume="g",op="write"}')" ]
for v in g h; do [ "$(value "blksub_worker_up{volume=\"$v\"}")" = 1 ]; done
grep -qF 'name="up \"date\" \\1 {x=\"y\"}"' "$W/prom" || fail "escaping: $(grep -F blksub_patch_groups "$W/prom")"
[ "$(value 'blksub_io_errors_total{volume="g",op="write",errno="EIO"}')" = 0 ]
if /usr/bin/python3 -c 'import prometheus_client.parser' 2>/dev/null; then
    /usr/bin/python3 - "$W/prom" "$odd" <<'PY' || fail "prometheus_client does not take it"
import sys
from prometheus_client.parser import text_string_to_metric_families as parse
f = {m.name: m for m in parse(open(sys.argv[1]).read())}
assert f["blksub_io_duration_seconds"].type == "histogram"
assert f["blksub_io_requests"].type == "counter"
assert all(s.labels["name"] == sys.argv[2] for s in f["blksub_patch_groups"].samples)
assert {s.labels["volume"] for s in f["blksub_worker_up"].samples} == {"g", "h"}
PY
else
    say "no prometheus_client: its parser is left out"
fi
measure --volume h --volume h
! grep -q 'volume="g"' "$W/prom" || fail "more than asked for"
# Under load too; in flight is never more than the client has out.
fio --name=x --ioengine=nbd --uri="$(uri g)" --rw=randrw --bs=4k --iodepth=8 --size=20M --time_based --runtime=1 \
    --output="$W/fio.txt" --aux-path="$W" >/dev/null 2>&1 &
fio=$!
pids+=("$fio")
while ! gone $fio; do
    measure --volume g
    [ "$(value 'blksub_io_in_flight{volume="g",op="read"}')" -le 8 ] || fail "in flight: $(grep in_flight "$W/prom")"
done
wait $fio || fail "fio: $(cat "$W/fio.txt")"
measure --volume g
[ "$(value 'blksub_io_in_flight{volume="g",op="read"}')" = 0 ]
[ "$(value 'blksub_io_requests_total{volume="g",op="read"}')" -gt 1000 ]
# Workers that are gone, or hang.
kill_worker h
measure
[ "$(value 'blksub_worker_up{volume="h"}')" = 0 ]
! grep 'volume="h"' "$W/prom" | grep -qv ^blksub_worker_up || fail "figures of nobody"
expect 7 blksub metrics --volume h
expect 7 blksub --json metrics --volume h --volume g
jq -e '.volumes == [{"volume": "h", "up": false}, {"volume": "g", "up": true}] and
    (.text | test("blksub_volume_size_bytes{volume=\"g\"} 20971520"))' "$W/said" >/dev/null
kill -STOP "$(worker_pid g)"
blksub metrics >"$W/prom" 2>"$W/said"
kill -CONT "$(worker_pid g)"
[ "$(value 'blksub_worker_up{volume="g"}')" = 0 ]
grep -q "the worker of g does not answer" "$W/said"

say "exports: what a client reads, and no space for zeros"
rm "$W/g.nbd"
qemu-io -f raw -c "write -P 0 4M 2M" -c "discard 8M 1M" "$(uri g)" >/dev/null
nbdcopy "$(uri g)" "$W/g.nbd"
expect 8 blksub volume export g "$W/no.raw"
stop_worker g
mkdir "$W/out"
blksub volume export g "$W/out/g.raw" >/dev/null
blksub volume export g "$W/out/g.qcow2" >/dev/null
blksub --json volume export g "$W/out/small" --compress | jq -e '.format == "qcow2"' >/dev/null
for f in g.raw g.qcow2 small; do
    qemu-img compare -q "$W/g.nbd" "$W/out/$f" || fail "$f differs from nbdcopy"
done
[ "$(stat -c %s "$W/out/small")" -lt "$(stat -c %s "$W/out/g.qcow2")" ]
# Two MiB of zeros that the guest wrote, and what it discarded, are holes.
qemu-img map --output=json -f raw "$W/out/g.raw" >"$W/holes"
for range in "4194304 6291456" "8388608 9437184"; do
    # shellcheck disable=SC2086
    jq -e --argjson a ${range% *} --argjson b ${range#* } \
        'all(.[]; (.data | not) or .start >= $b or .start + .length <= $a)' "$W/holes" >/dev/null ||
        fail "data in $range"
done

say "an export that is stopped leaves nothing"
rm -f "$W"/out/*
mkdir "$W/bin"
cat >"$W/bin/qemu-img" <<SH
#!/bin/sh
echo \$\$ >"$W/qemu-img.new" && mv "$W/qemu-img.new" "$W/qemu-img.pid"
exec sleep 1000
SH
chmod +x "$W/bin/qemu-img"
for signal in INT TERM; do
    rm -f "$W/qemu-img.pid"
    # What a shell puts into the background ignores SIGINT, were it not for env.
    { trap - ERR; PATH=$W/bin:$PATH exec env --default-signal=INT "$B/blksub" volume export g "$W/out/g.qcow2"; } \
        >"$W/said" 2>&1 &
    pid=$!
    pids+=("$pid")
    wait_for 20 test -s "$W/qemu-img.pid"
    kill -$signal $pid
    r=0
    wait $pid || r=$?
    [ $r = 10 ] && [ "$(cat "$W/said")" = "blksub: stopped; nothing was exported" ] || fail "$signal: $r $(cat "$W/said")"
    wait_for 10 gone "$(cat "$W/qemu-img.pid")"
    [ -z "$(ls -A "$W/out")" ] || fail "left: $(ls -A "$W/out")"
done
# At any moment, and by kill -9: all of it or nothing.
for signal in INT KILL; do
    for delay in 0 0.002 0.005 0.01 0.02 0.04 0.08; do
        { trap - ERR; exec env --default-signal=INT "$B/blksub" volume export g "$W/out/g.raw"; } >/dev/null 2>&1 &
        pid=$!
        sleep $delay
        kill -$signal $pid 2>/dev/null || true
        { wait $pid; } 2>/dev/null || true
        if [ -e "$W/out/g.raw" ]; then
            cmp "$W/out/g.raw" "$W/g.nbd"
            rm "$W/out/g.raw"
        fi
        [ -z "$(ls -A "$W/out")" ] || fail "left: $(ls -A "$W/out")"
    done
done
say "done"
