#!/usr/bin/env bash
# A guest whose root is mounted data=journal: file content goes through the
# journal there, so neither tokens nor blocks superseded in place would be safe.
# The agent takes the copies; a power cut in the midst of it, and the way back.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/functions.bash"
requires_guests
requires tune2fs

"$images/make-tiny" "$W/img"
for v in v1 v2; do
    qemu-img convert -O raw "$W/img/$v.qcow2" "$W/$v.raw"
    tune2fs -o journal_data "$W/$v.raw?offset=$(offset_of "$W/$v.raw")" >/dev/null
    qemu-img convert -O qcow2 "$W/$v.raw" "$W/img/$v.qcow2"
    rm "$W/$v.raw"
done
make_store
blksub volume create g --image v1 >/dev/null
start_worker g
boot g
agent_up g
# The mount's own options do not say so.
guest g 'grep -qx data=journal /proc/fs/ext4/vda1/options' || fail "root is not data=journal"

say "neither tokens nor in place"
blksub --json apply "$W/p1" --volume g --dry-run >"$W/plan.json"
jq -e '.volumes[0].report.methods | .copy.files > 0 and .token.files == 0 and .in_place.files == 0' \
    "$W/plan.json" >/dev/null || fail "methods: $(cat "$W/plan.json")"

say "apply, and a power cut in its midst"
booted=$(guest g 'cat /proc/sys/kernel/random/boot_id')
guest g 'echo --debug-stop commit-renamed:3 >/run/agent-args; touch /run/agent-cuts-power; kill -9 $(pidof blksub-agent)'
wait_for 60 guest g 'pidof blksub-agent && [ ! -e /run/agent-args ]' 20
agent_up g
timeout 300 "$B/blksub" apply "$W/p1" --volume g >"$W/job.log" 2>&1 </dev/null || true
wait_up g
agent_up g
job_over g
[ "$(guest g 'cat /proc/sys/kernel/random/boot_id')" != "$booted" ] || fail "the power was not cut"
whole_groups g
expect 0 blksub apply "$W/p1" --volume g
all_groups g new
guest_off g
manifest_of g "$W/g.manifest"
same_tree "$W/v2.manifest" "$W/g.manifest"

say "and back"
boot g
agent_up g
expect 0 blksub rollback "$W/p1" --volume g
all_groups g old
guest_off g
manifest_of g "$W/g.manifest"
same_tree "$W/v1.manifest" "$W/g.manifest"
