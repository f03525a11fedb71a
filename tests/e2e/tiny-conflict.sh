#!/usr/bin/env bash
# A guest that went its own way: what it changed is not overwritten, the group
# of a changed file is left out as a whole, a changed conffile is kept.
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR source=functions.bash
. "$here/functions.bash"
requires_guests

tiny_pair
blksub volume create g --image v1 >/dev/null
start_worker g
boot g
agent_up g

say "the guest changes a file of beta, a conffile of gamma, and adds a file"
guest g 'echo mine >>/usr/lib/beta/grown; echo mine >>/etc/gamma.conf; echo mine >/usr/lib/alpha/own
    rm /usr/share/alpha/small2; sync'
expect 6 blksub apply "$W/p1" --volume g
cat "$W/said"
grep -q /usr/lib/beta/grown "$W/said" || fail "the changed file is not named"
grep -q beta "$W/said" || fail "the group left out is not named"
grep -q /etc/gamma.conf "$W/said" || fail "the kept conffile is not named"

groups_state g /usr/lib/beta/grown >"$W/groups"
cat "$W/groups"
grep -qx 'alpha new' "$W/groups" || fail "alpha was to be patched"
grep -qx 'gamma+delta new' "$W/groups" || fail "gamma and delta were to be patched"
grep -qx 'beta old' "$W/groups" || fail "beta was to stay old"
[ "$(guest g 'tail -c 5 /usr/lib/beta/grown; tail -c 5 /etc/gamma.conf; cat /usr/lib/alpha/own')" = \
    "$(printf 'mine\nmine\nmine')" ] || fail "the guest lost a change"
[ "$(guest g 'cat /etc/gamma.conf.dpkg-dist')" = "$(printf '# gamma\nlevel=2')" ] ||
    fail "the new conffile is not beside the kept one"

say "with its own file taken back, the same command does the rest"
guest_off g
manifest_of g "$W/g.manifest"
without "$W/v1.manifest" "$own_paths" | awk -F '\t' '$1 ~ "^/usr/(lib|share|bin)/beta" && $1 != "/usr/lib/beta/grown"' >"$W/want"
without "$W/g.manifest" "$own_paths" | awk -F '\t' '$1 ~ "^/usr/(lib|share|bin)/beta" && $1 != "/usr/lib/beta/grown"' >"$W/got"
diff -u "$W/want" "$W/got" || fail "a file of the group left out was touched"
boot g
agent_up g
guest g 'head -c 20000 /usr/lib/beta/grown >/tmp/x; cat /tmp/x >/usr/lib/beta/grown; sync'
expect 0 blksub apply "$W/p1" --volume g
all_groups g new

say "roll back: the same care"
guest g 'echo mine >>/usr/lib/delta/data; sync'
expect 6 blksub rollback "$W/p1" --volume g
cat "$W/said"
grep -q /usr/lib/delta/data "$W/said" || fail "the changed file is not named"
groups_state g /usr/lib/delta/data >"$W/groups"
grep -qx 'alpha old' "$W/groups" && grep -qx 'beta old' "$W/groups" || {
    cat "$W/groups"
    fail "alpha and beta were to be rolled back"
}
[ "$(guest g '/usr/sbin/gammad')" = "version 2" ] || fail "gamma must stay with delta, which needs it"
[ "$(guest g 'tail -c 5 /usr/lib/delta/data; tail -c 5 /etc/gamma.conf')" = "$(printf 'mine\nmine')" ] ||
    fail "the guest lost a change"
guest_off g
manifest_of g "$W/g.manifest"
