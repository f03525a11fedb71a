#!/usr/bin/env bash
# Patches on patches, and several guests: a second patch that goes from v2 to
# v1 is applied on top of the first, both are rolled back, newest first; and
# --all: one guest first, those at another image skipped.
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR source=functions.bash
. "$here/functions.bash"
requires_guests

tiny_pair
blksub publish v2 v1 -o "$W/back" --key "$W/key.key" --serial 20 >/dev/null
for v in g h; do
    blksub volume create $v --image v1 >/dev/null
    start_worker $v
done
blksub volume create other --image v2 >/dev/null
start_worker other
boot g
agent_up g

say "the second patch needs the first"
expect 5 blksub apply "$W/back" --volume g
expect 0 blksub apply "$W/p1" --volume g
all_groups g new
expect 0 blksub apply "$W/back" --volume g
cat "$W/said"
all_groups g old
expect 0 blksub status --volume g
cat "$W/said"

say "rolled back in the right order only"
expect 8 blksub rollback "$W/p1" --volume g
expect 0 blksub rollback "$W/back" --volume g
all_groups g new
expect 0 blksub rollback "$W/p1" --volume g
all_groups g old

say "--all: the first one fails, so no other is begun"
guest_off g
expect 7 blksub apply "$W/p1" --all
grep -q 'not begun' "$W/said" || fail "it does not say what was not begun"

say "--all: guests at another image are skipped"
stop_worker g
boot h
agent_up h
expect 0 blksub apply "$W/p1" --all
cat "$W/said"
grep -q 'skipped' "$W/said" || fail "it does not say what was skipped"
all_groups h new
blksub log | tee "$W/log"
[ "$(grep -c ' done' "$W/log")" = 5 ] || fail "the log does not hold what was done"
[ "$(blksub --json log --volume h | jq '.entries | length')" -ge 1 ] || fail "--json log"
expect 0 blksub flush h /usr/lib/alpha/big
cat "$W/said"
