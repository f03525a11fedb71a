#!/usr/bin/env bash
# What must be refused: one clear sentence, the documented exit code, and
# nothing changed.
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR source=functions.bash
. "$here/functions.bash"
requires_guests

# refuse CODE WORDS COMMAND...: WORDS (an extended regular expression) stand
# in the sentence.
refuse() {
    local code=$1 words=$2
    shift 2
    expect "$code" "$@"
    grep -Eqi -- "$words" "$W/said" || {
        cat "$W/said"
        fail "the sentence does not say: $words"
    }
    [ "$(grep -c '^blksub:' "$W/said")" -le 1 ] || {
        cat "$W/said"
        fail "more than one sentence"
    }
    ! grep -Eqi 'assert|core dumped|sanitizer' "$W/said" || fail "it crashed"
    say "$code: $(tail -n 1 "$W/said")"
}

tiny_pair
blksub volume create g --image v1 >/dev/null
blksub volume create other --image v2 >/dev/null
start_worker g
start_worker other
blksub volume create o --image v1 >/dev/null
start_worker o

say "without an agent"
refuse 7 agent blksub apply "$W/p1" --volume g

say "with an agent of another version"
for how in refuses answers; do
    socat "UNIX-LISTEN:$W/o/agent.sock,unlink-early" "EXEC:$top/tests/e2e/other-agent $how" 2>>"$W/socat.log" &
    socat_pid=$!
    pids+=("$socat_pid")
    # Until the worker has met it, the sentence is that no agent answers.
    for _ in $(seq 100); do
        blksub apply "$W/p1" --volume o >"$W/said" 2>&1 || true
        ! grep -qi version "$W/said" || break
        sleep 0.2
    done
    refuse 7 version blksub apply "$W/p1" --volume o
    end_process $socat_pid
done

boot g
agent_up g
"$images/guest-run" "$W/g" 'find / -xdev -type f ! -path "/proc/*" ! -path "/sys/*" ! -path "/run/*" -print0 |
    sort -z | xargs -0 sha256sum' >"$W/sums.before"

say "the command line"
refuse 2 usage blksub apply
refuse 2 'usage|no command' blksub no-such-command
refuse 3 'nope' blksub apply "$W/nope" --volume g
refuse 3 'nope' blksub apply "$W/p1" --volume nope

say "another base"
refuse 5 'image|base' blksub apply "$W/p1" --volume other

say "signatures"
blksub keygen -o "$W/foreign"
blksub publish v1 v2 -o "$W/foreign.patch" --key "$W/foreign.key" >/dev/null
refuse 4 'sign|key|trust' blksub apply "$W/foreign.patch" --volume g

# A damaged copy of a patch that the store holds is no harm: the store's own
# is taken.  Here the store must not have it.
blksub patch remove "$(blksub --json inspect "$W/p1" | jq -r .id)"

say "a bundle cut short, at many places"
size=$(stat -c %s "$W/p1")
for cut in 0 1 16 100 4096 $((size / 3)) $((size / 2)) $((size - 4096)) $((size - 1)); do
    head -c "$cut" "$W/p1" >"$W/cut"
    refuse 4 . blksub apply "$W/cut" --volume g
done

say "one byte flipped, at many places"
for at in 0 5 9 40 100 300 1000 5000 $((size / 4)) $((size / 2)) $((size * 3 / 4)) $((size - 2000)) $((size - 40)) $((size - 1)); do
    cp "$W/p1" "$W/flip"
    byte=$(od -An -tu1 -j $at -N 1 "$W/p1" | tr -d ' ')
    printf '%b' "\\x$(printf %02x $((byte ^ 64)))" | dd of="$W/flip" bs=1 seek=$at conv=notrunc status=none
    refuse 4 . blksub apply "$W/flip" --volume g
done
head -c "$size" /dev/zero >"$W/zeros"
refuse 4 . blksub apply "$W/zeros" --volume g

say "nothing has changed"
"$images/guest-run" "$W/g" 'find / -xdev -type f ! -path "/proc/*" ! -path "/sys/*" ! -path "/run/*" -print0 |
    sort -z | xargs -0 sha256sum' >"$W/sums.after"
diff <(grep -v /var/lib/blksub-agent/ "$W/sums.before") <(grep -v /var/lib/blksub-agent/ "$W/sums.after") ||
    fail "a refused patch changed something"

say "a full file system in the guest"
guest g 'dd if=/dev/zero of=/root/filler bs=1M >/dev/null 2>&1; dd if=/dev/zero of=/root/filler2 bs=4k >/dev/null 2>&1; sync; df /'
refuse 9 'full|space' blksub apply "$W/p1" --volume g
all_groups g old
guest g 'rm /root/filler*; sync'
expect 0 blksub apply "$W/p1" --volume g
all_groups g new

if mkdir "$W/small" && mount -t tmpfs -o size=64M tmpfs "$W/small" 2>/dev/null; then
    say "a full disk on the host"
    blksub --store "$W/small/store" image import "$W/img/v1.qcow2" --name v1 >/dev/null
    blksub --store "$W/small/store" trust add "$W/key.pub" >/dev/null
    blksub --store "$W/small/store" volume create s --image v1 >/dev/null
    start_worker s --store "$W/small/store"
    boot s
    wait_for 60 agent_is_up s --store "$W/small/store"
    dd if=/dev/zero of="$W/small/filler" bs=64k >/dev/null 2>&1 || true
    refuse 9 'space|full' blksub --store "$W/small/store" apply "$W/p1" --volume s
    rm "$W/small/filler"
    whole_groups s
    ! grep -v ' old$' "$W/groups" || fail "something changed"
    expect 0 blksub --store "$W/small/store" apply "$W/p1" --volume s
    all_groups s new
    guest_off s
    stop_worker s
    umount "$W/small"
fi

say "older than what is applied: a way back to v1, published before"
blksub publish v2 v1 -o "$W/older" --key "$W/key.key" --serial 5 >/dev/null
refuse 5 'older|serial' blksub apply "$W/older" --volume g
expect 0 blksub rollback "$W/p1" --volume g
guest_off g
manifest_of g "$W/g.manifest"
same_tree "$W/v1.manifest" "$W/g.manifest"
