#!/usr/bin/env bash
# A guest whose requests are held waits and fails nothing; a job that a crash
# cut short is finished after the hold, not in it; and a running guest gets to
# see that its disk has grown.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/functions.bash"
requires_guests

tiny_pair
blksub volume create g --image v1 >/dev/null
start_worker g
boot g
agent_up g

status_is() { blksub --json status --volume g | jq -e ".volumes[0].status | $1" >/dev/null; }
# qmp COMMAND ARGUMENTS: QEMU's answer.
qmp() {
    {
        printf '{"execute":"qmp_capabilities"}\n{"execute":"%s","arguments":%s}\n' "$1" "${2-{\}}"
        sleep 0.5
    } | timeout 20 socat -t 1 - UNIX-CONNECT:"$W/g/qmp.sock" | tail -n +3
}

say "held while the guest writes, five times"
guest g 'dmesg -n 8; dmesg -c >/dev/null; mount -o remount,rw /
    (while [ ! -e /tmp/stop ]; do dd if=/dev/urandom of=/tmp-hold bs=4k count=64 conv=fsync 2>/dev/null || echo bad >>/tmp/bad; done; touch /tmp/stopped) >/dev/null 2>&1 &'
for _ in 1 2 3 4 5; do
    blksub hold g --limit 60 >/dev/null
    wait_for 60 status_is '.hold.waiting > 0'
    blksub resume g >/dev/null
done
blksub hold g >/dev/null
expect 8 blksub apply "$W/p1" --volume g
grep -q "resume" "$W/said" || fail "$(cat "$W/said")"
blksub resume g >/dev/null
guest g 'touch /tmp/stop; while [ ! -e /tmp/stopped ]; do sleep 0.1; done; rm -f /tmp-hold; [ ! -e /tmp/bad ]'
guest g '! dmesg | grep -iE "i/o error|buffer error|timed? ?out|remount"' || fail "the guest complains"
status_is '.stats.errors == 0' || fail "a request has failed"

say "a job that was cut short waits for the end of the hold"
stop_worker g
BLKSUB_WORKER_STOP=committed start_worker g
agent_up g
expect 7 blksub apply "$W/p1" --volume g
wait_for 30 gone "$(worker_pid g)"
agent=$(guest g 'pidof blksub-agent')
guest g "kill -STOP $agent" # it does not answer yet
start_worker g
blksub hold g --limit 600 >/dev/null
guest g "kill -CONT $agent"
# The agent answers, or waits for its disk.
wait_for 120 status_is '.agent.connected or .hold.waiting > 0'
status_is '.applied[0].phase == "applying" and .hold.state == "held"' || fail "it was finished while the volume was held"
blksub resume g >/dev/null
wait_for 120 status_is '.applied[0].phase == "applied"'
all_groups g new

say "the guest sees a larger disk"
size=$(blksub --json volume show g | jq .size_bytes)
larger=$((size + (16 << 20)))
blksub volume resize g $larger >/dev/null
[ "$(guest g 'cat /sys/block/vda/size')" = $((size / 512)) ]
qmp block_resize "{\"node-name\":\"d0\",\"size\":$larger}" | grep -q "Cannot grow NBD nodes" ||
    say "this QEMU does not need a new connection"
kill_worker g
start_worker g
# The first request brings QEMU back.
guest g 'dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null'
qmp block_resize "{\"node-name\":\"d0\",\"size\":$larger}" | grep -q '"return"' || fail "QEMU refuses the new size"
[ "$(guest g 'cat /sys/block/vda/size')" = $((larger / 512)) ] || fail "the guest does not see it"
guest g "dd if=/dev/urandom of=/tmp/x bs=4096 count=1 2>/dev/null
    dd if=/tmp/x of=/dev/vda bs=4096 seek=$((larger / 4096 - 1)) oflag=direct conv=notrunc 2>/dev/null
    dd if=/dev/vda bs=4096 skip=$((larger / 4096 - 1)) iflag=direct 2>/dev/null | cmp - /tmp/x" ||
    fail "the last block of the larger disk"
guest_off g
manifest_of g "$W/got.manifest"
same_tree "$W/v2.manifest" "$W/got.manifest"
say "done"
