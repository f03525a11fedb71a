#!/usr/bin/env bash
# The main road, on each kind of disk: publish, apply to a running guest,
# status, again, reboot, roll back, by each strategy; each time compared with the images by the
# reference reader.
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR source=functions.bash
. "$here/functions.bash"
requires_guests

# Turns a bit in a block of the pool that the disk of g reads from, and back.
pool_is_checked() {
    local run id off pool
    run=$(blksub --json volume map g | jq -cs 'map(select(.patch != null and .offset != null))[0]')
    id=$(jq -r .patch <<<"$run")
    off=$(jq -r .offset <<<"$run")
    pool=$BLKSUB_STORE/patches/$id/pool
    expect 0 blksub volume check g --rate 0
    flip_bit "$pool" $((off + 7))
    expect 11 blksub --json volume check g --rate 0
    jq -e --argjson at "$(jq .start <<<"$run")" --argjson off "$off" --arg path "patches/$id/pool" '
        .n_findings == 1 and (.findings[0] | .part == "pool" and .path == $path and
            .offset == $off and .bytes == 4096 and (.file | startswith("/")) and
            any(.guest[]; .offset == $at))' "$W/said" >/dev/null || fail "$(cat "$W/said")"
    flip_bit "$pool" $((off + 7))
    expect 0 blksub volume check g --rate 0
}

for run in ${RUNS:-mbr:auto none:token gpt:copy}; do
    table=${run%:*} strategy=${run#*:}
    say "disk: $table, strategy: $strategy"
    rm -rf "$W/img" "$BLKSUB_STORE" "$W"/key.* "$W/p1" "$W/g"
    tiny_pair --table "$table" --rebuilt
    blksub inspect "$W/p1" --verify
    blksub volume create g --image v1 >/dev/null
    start_worker g
    boot g
    agent_up g
    # Somebody works in it meanwhile.
    guest g 'echo mine >/root/mine; watch-files /run/watch /usr/lib/libalpha.so.1.0 /usr/lib/alpha/big \
        /usr/lib/beta/grown /usr/bin/beta /usr/sbin/gammad >/dev/null 2>&1 &'
    wait_for 60 guest g '[ $(grep -c ^map /run/watch) = 5 ]'
    up=$(guest g 'cut -d . -f 1 /proc/uptime')

    say "dry run"
    expect 0 blksub apply "$W/p1" --volume g --dry-run
    all_groups g old

    say "apply"
    expect 0 blksub apply "$W/p1" --volume g --strategy "$strategy"
    cat "$W/said"
    all_groups g new
    [ "$(guest g 'cut -d . -f 1 /proc/uptime')" -ge "$up" ] || fail "the guest was restarted"
    # What the status says: the daemon runs old code.
    expect 0 blksub status --volume g
    cat "$W/said"
    grep -q gammad "$W/said" || fail "gammad still runs old code and status does not say so"
    guest g 'kill $(pidof gammad)'
    wait_for 30 guest g 'pidof gammad'

    say "apply again"
    expect 0 blksub apply "$W/p1" --volume g
    grep -qi 'already applied' "$W/said" || fail "it does not say: already applied"

    say "no reader saw a mix"
    guest g 'cat /run/watch' >"$W/watch"
    ! grep -E '^(held|fail)' "$W/watch" || fail "a mapping changed or a file was not there"
    awk '{ n[$1 " " $2]++ } END { for (k in n) if (n[k] != 2) { print k, n[k]; bad = 1 } exit bad }' "$W/watch" ||
        fail "other than two contents were seen: $(cat "$W/watch")"

    say "power off, compare with v2"
    guest_off g
    manifest_of g "$W/g.manifest"
    same_tree "$W/v2.manifest" "$W/g.manifest" '/root/mine'
    same_paths "$W/v1.manifest" "$W/g.manifest" '/etc/machine-id|/etc/ssh/ssh_host_.*|/var/log/image.log'
    disk_of g "$W/g.raw"
    file_of "$W/g.raw" /var/lib/dpkg/status | paragraphs >"$W/status.got"
    qemu-img convert -O raw "$W/img/v2.qcow2" "$W/v2.raw"
    file_of "$W/v2.raw" /var/lib/dpkg/status | paragraphs >"$W/status.want"
    diff -u "$W/status.want" "$W/status.got" || fail "the package database differs"
    [ "$(file_of "$W/g.raw" /root/mine)" = mine ] || fail "the guest lost its own file"
    rm -f "$W/g.raw" "$W/v2.raw"

    if [ "$strategy" != copy ]; then
        say "damage in the patch's pool is named with its file"
        pool_is_checked
    fi

    say "the worker starts again, the guest boots on it, roll back"
    stop_worker g
    start_worker g
    boot g
    agent_up g
    all_groups g new
    guest g '[ "$(/usr/sbin/gammad)" = "version 2" ]' || fail "the guest does not run the new program"
    expect 0 blksub rollback "$W/p1" --volume g
    all_groups g old
    guest_off g
    manifest_of g "$W/g.manifest"
    same_tree "$W/v1.manifest" "$W/g.manifest" '/root/mine'
    stop_worker g

    if [ "$table" = mbr ]; then
        say "v2 with another layout: the same result"
        blksub image import "$W/img/v2r.qcow2" --name v2r >/dev/null
        blksub publish v1 v2r -o "$W/p2" --key "$W/key.key" >/dev/null
        blksub volume create r --image v1 >/dev/null
        start_worker r
        boot r
        agent_up r
        expect 0 blksub apply "$W/p2" --volume r
        guest_off r
        manifest_of r "$W/r.manifest"
        same_tree "$W/v2.manifest" "$W/r.manifest"
        stop_worker r
    fi
done
