# shellcheck shell=bash
# What the end-to-end tests share.  To be sourced by a test, which then runs
# with  set -euo pipefail,  a work folder $W (removed at the end, kept when the
# test failed and KEEP is set), a store in it, and these helpers.  A step that
# fails ends the test: with its line, the worker's and the guest's last words.
set -Eeuo pipefail
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
B=$(cd "${B:-$top/build}" 2>/dev/null && pwd) || {
    echo "nothing is built"
    exit 77
}
export B BLKSUB_AGENT=$B/blksub-agent
images=$top/images
# Short: a socket's path has at most 107 bytes.
W=$(mktemp -d "${TMPDIR:-/tmp}/bs.XXXXXX")
export BLKSUB_STORE=$W/store
: "${GUEST_BOOT:=$W/boot}"
export GUEST_BOOT
pids=()

# requires COMMAND...: skips the test where one is missing.
requires() {
    local c
    for c; do
        command -v "$c" >/dev/null || {
            echo "needs $c"
            exit 77
        }
    done
    for c in blksub blksub-agent nbdkit-blksub-plugin.so; do
        [ -e "$B/$c" ] || {
            echo "$c is not built"
            exit 77
        }
    done
}

requires_guests() {
    requires qemu-system-x86_64 socat jq busybox qemu-img mke2fs debugfs e2fsck sfdisk nbdkit nbdinfo
    "$images/make-initramfs" "$GUEST_BOOT" >"$W/make.log" 2>&1 || {
        tail -n 1 "$W/make.log"
        exit 77
    }
}

# requires_python_nbd: sets nbd_python to a Python that has libnbd's module.
requires_python_nbd() {
    for nbd_python in python3 /usr/bin/python3; do
        ! "$nbd_python" -c 'import nbd' 2>/dev/null || return 0
    done
    echo "needs python3-libnbd"
    exit 77
}

say() { printf -- '-- %s\n' "$*"; }

fail() {
    echo "FAILED: $*"
    exit 1
}

# A zombie is gone too: not every container's init reaps.
gone() {
    local state
    state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) || return 0
    [ -z "$state" ] || [ "$state" = Z ]
}

# end_process PID: asks, waits, insists.
end_process() {
    local _
    kill "$1" 2>/dev/null || return 0
    for _ in $(seq 100); do
        gone "$1" && return 0
        sleep 0.1
    done
    kill -9 "$1" 2>/dev/null || true
}

at_end() {
    local r=$? p f
    trap - EXIT ERR
    # Guests, which came last, end first.
    for ((p = ${#pids[@]} - 1; p >= 0; p--)); do
        end_process "${pids[p]}"
    done
    if [ $r != 0 ] && [ $r != 77 ]; then
        for f in "$W"/*.log "$W"/*/console.log "$W"/*/qemu.log; do
            [ -s "$f" ] || continue
            echo "== the end of ${f#"$W"/}"
            tail -n 15 "$f"
        done
        [ -z "${KEEP-}" ] || {
            echo "kept: $W"
            exit $r
        }
    fi
    ! mountpoint -q "$W/small" || umount "$W/small"
    rm -rf "$W"
    exit $r
}
trap at_end EXIT
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND"' ERR

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "waited in vain for: $*"
        sleep 0.1
    done
}

blksub() { "$B/blksub" "$@"; }

# expect CODE COMMAND...: it ends with CODE, and says something when that is
# not 0.  What it printed is then in $W/said.
expect() {
    local want=$1 r=0
    shift
    "$@" >"$W/said" 2>&1 || r=$?
    if [ $r != "$want" ]; then
        cat "$W/said"
        fail "exit code $r, expected $want: $*"
    fi
    [ "$want" = 0 ] || [ -s "$W/said" ] || fail "failed without a word: $*"
}

# flip_bit FILE BYTE: turns one bit of it.
flip_bit() {
    local was
    chmod u+w "$1"
    was=$(od -An -tu1 -j "$2" -N 1 "$1")
    printf '%b' "\\x$(printf %02x $((was ^ 16)))" |
        dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# ---- images and store ------------------------------------------------------

# tiny_pair [option of make-tiny...]: $W/img/v1.qcow2 and v2.qcow2, imported
# as v1 and v2, a key that the store trusts, and $W/p1, the patch.
tiny_pair() {
    "$images/make-tiny" "$@" "$W/img"
    make_store
}

make_store() {
    local v
    blksub keygen -o "$W/key"
    for v in v1 v2; do
        blksub image import "$W/img/$v.qcow2" --name $v >/dev/null
        # What the reference reader sees in them.
        "$top/tests/e2e/tree-manifest" "$W/img/$v.qcow2" >"$W/$v.manifest"
    done
    blksub trust add "$W/key.pub" >/dev/null
    blksub publish v1 v2 -o "$W/p1" --key "$W/key.key" --serial 10 >"$W/publish.log"
}

# ---- workers and guests ----------------------------------------------------

# start_worker VOLUME [serve option...]: $W/VOLUME/nbd.sock; pid in worker_VOLUME
start_worker() {
    local v=$1
    shift
    mkdir -p "$W/$v"
    "$B/blksub" serve "$v" --nbd "$W/$v/nbd.sock" --agent "$W/$v/agent.sock" "$@" \
        >>"$W/worker-$v.log" 2>&1 </dev/null &
    printf -v "worker_$v" %d $!
    pids+=($!)
    # The socket's file may be an old one: somebody must answer.
    wait_for 30 nbd_answers "$v" $!
}

nbd_answers() {
    ! gone "$2" && nbdinfo --size "nbd+unix:///?socket=$W/$1/nbd.sock"
}

worker_pid() {
    local n=worker_$1
    echo "${!n}"
}

stop_worker() {
    end_process "$(worker_pid "$1")"
}

# With a guest on it: nbdkit would answer the guest's requests with errors
# while it ends, where a killed one just goes away and may come back.
kill_worker() {
    kill -9 "$(worker_pid "$1")" 2>/dev/null || true
    wait_for 10 gone "$(worker_pid "$1")"
}

# boot VOLUME [boot-guest option...]: and waits until the guest answers.
boot() {
    local v=$1 pid
    shift
    pid=$("$images/boot-guest" --nbd "$W/$v/nbd.sock" "$@" "$W/$v")
    printf -v "guest_$v" %d "$pid"
    pids+=("$pid")
    wait_up "$v"
}

wait_up() { wait_for "${BOOT_LIMIT:-240}" "$images/guest-run" "$W/$1" true 5; }

# guest VOLUME SCRIPT [SECONDS]
guest() { "$images/guest-run" "$W/$1" "$2" "${3:-180}"; }

guest_pid() {
    local n=guest_$1
    echo "${!n}"
}

# A hard reset, as of a power failure: nothing is written out.
guest_reset() {
    "$images/guest-qmp" "$W/$1" system_reset >/dev/null
    wait_up "$1"
}

# A clean power-off.
guest_off() {
    "$images/guest-run" "$W/$1" 'sync; (sleep 0.5; poweroff || busybox poweroff) >/dev/null 2>&1 &' 30 || true
    wait_for 120 gone "$(guest_pid "$1")"
}

guest_kill() {
    kill -9 "$(guest_pid "$1")" 2>/dev/null || true
    wait_for 10 gone "$(guest_pid "$1")"
}

# agent_up VOLUME: the worker has spoken with the guest's agent.
agent_up() { wait_for "${2:-120}" agent_is_up "$1"; }
agent_is_up() { # VOLUME [--store DIR]
    blksub --json "${@:2}" status --volume "$1" | jq -e '.. | objects | select(.agent? != null) |
        .agent | .connected? == true'
}

# A job goes on without the command that began it.
job_over() { wait_for 300 job_is_over "$1"; }
job_is_over() {
    blksub --json status --volume "$1" | jq -e '.volumes[0].status.job == null'
}

# ---- comparison ------------------------------------------------------------

# offset_of RAW: where its file system begins.
offset_of() {
    local sector
    sector=$({ sfdisk -d "$1" 2>/dev/null || true; } | sed -n 's/.*start= *\([0-9]*\).*/\1/p' | head -n 1)
    echo $((${sector:-0} * 512))
}

# disk_of VOLUME OUT: the disk as a guest would see it, with the guest off.
disk_of() {
    rm -f "$2"
    qemu-img convert -f raw -O raw "nbd+unix:///?socket=$W/$1/nbd.sock" "$2"
}

# manifest_of VOLUME OUT: file system clean, and what is in it.
manifest_of() {
    local raw=$W/$1.raw
    disk_of "$1" "$raw"
    # Its exit code does not tell of a journal that was left to replay.
    if ! e2fsck -fn "$raw?offset=$(offset_of "$raw")" >"$W/fsck.log" 2>&1 ||
        grep -Eq 'journal recovery|Fix\?' "$W/fsck.log"; then
        cat "$W/fsck.log"
        fail "the file system of $1 is not clean"
    fi
    "$top/tests/e2e/tree-manifest" "$raw" >"$2"
    rm -f "$raw"
}

# Paths that a guest changes by itself, or that a patch leaves to each guest
# (blksub-publish's policy).  Extended regular expressions over whole paths.
own_paths='/lost\+found|/var/lib/blksub-agent(/.*)?|/var/log(/.*)?|/etc/machine-id|/etc/ssh/ssh_host_.*'
own_paths+='|/var/lib/systemd(/.*)?|/var/cache(/.*)?|/var/tmp(/.*)?|/var/lib/dpkg/(status|available)(-old)?|/var/lib/dpkg/lock.*'

# without MANIFEST REGEX: the lines of all other paths.
without() { awk -F '\t' -v re="^($2)\$" '$1 !~ re' "$1"; }

# same_tree WANT GOT [REGEX]: equal but for own_paths and REGEX.
same_tree() {
    local re=$own_paths${3:+|$3}
    without "$1" "$re" >"$W/want"
    without "$2" "$re" >"$W/got"
    diff -u "$W/want" "$W/got" >"$W/diff" || {
        head -n 60 "$W/diff"
        fail "$2 is not what $1 says"
    }
    [ "$(wc -l <"$W/want")" -gt 50 ] || fail "$1 has next to nothing to compare"
}

# same_paths MANIFEST MANIFEST REGEX: equal on these paths alone.
same_paths() {
    diff -u <(awk -F '\t' -v re="^($3)\$" '$1 ~ re' "$1") \
        <(awk -F '\t' -v re="^($3)\$" '$1 ~ re' "$2") || fail "$3 differs"
}

# A package database as sorted paragraphs, so that order does not matter.
paragraphs() {
    awk 'BEGIN { RS = ""; FS = "\n" } { gsub(/\n/, "\001"); print }' | sort
}

# groups_state VOLUME [PATH]: a line "GROUP old|new|MIXED" for each package of
# the tiny images, from digests taken inside the running guest; PATH does not
# count.
groups_state() {
    guest "$1" 'find /usr /etc /opt -xdev -type f -print0 | xargs -0 sha256sum' |
        sed 's/^\([0-9a-f]*\)  \(.*\)$/\2\tG\t\1/' >"$W/$1.sums"
    [ -s "$W/$1.sums" ] || fail "no digests from the guest"
    awk -F '\t' -v but="${2-}" '
        function group(p) {
            if (p == but) return ""
            if (p ~ /^\/usr\/sbin\/gammad$|^\/usr\/lib\/delta\//) return "gamma+delta"
            if (p ~ /^\/usr\/lib\/libalpha|\/alpha\//) return "alpha"
            if (p ~ /^\/usr\/(lib|share)\/beta\/|^\/usr\/bin\/beta/) return "beta"
            if (p ~ /^\/usr\/lib\/eta\//) return "eta"
            if (p ~ /^\/usr\/lib\/zeta\//) return "zeta"
        }
        $2 == "H" && FILENAME == ARGV[1] { old[$1] = $3; all[$1] }
        $2 == "H" && FILENAME == ARGV[2] { new[$1] = $3; all[$1] }
        $2 == "G" { now[$1] = $3; if ($1 ~ /\.blksub/) print "leftover", $1 }
        END {
            for (p in all) {
                g = group(p)
                if (g == "" || old[p] == new[p]) continue
                s = now[p] == old[p] ? "old" : now[p] == new[p] ? "new" : "OTHER:" p
                if (g in is && is[g] != s) is[g] = "MIXED:" p
                else is[g] = s
            }
            for (g in is) print g, is[g]
        }' "$W/v1.manifest" "$W/v2.manifest" "$W/$1.sums" | sort
}

# all_groups VOLUME old|new
all_groups() {
    whole_groups "$1"
    ! grep -v " $2\$" "$W/groups" || fail "not all is $2"
}

# whole_groups VOLUME: no group is between old and new.
whole_groups() {
    groups_state "$1" >"$W/groups"
    [ "$(wc -l <"$W/groups")" -ge 5 ] || fail "groups are missing"
    ! grep -E 'MIXED|OTHER' "$W/groups" || fail "a group is between old and new"
}

# file_of IMAGE PATH: a file's content, by debugfs
file_of() {
    debugfs -R "cat $2" "$1?offset=$(offset_of "$1")" 2>/dev/null
}
