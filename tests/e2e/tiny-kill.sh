#!/usr/bin/env bash
# Kills the worker, the agent or the command, or resets the guest, at moments
# spread over an apply and a rollback.  No group is ever between old and new,
# and the same command finishes.  KILLS = moments per victim (default 3).
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR source=functions.bash
. "$here/functions.bash"
requires_guests
kills=${KILLS:-3}

tiny_pair
blksub volume create g --image v1 >/dev/null
start_worker g
boot g
agent_up g

now_ms() { date +%s%3N; }

# How long one takes when nobody disturbs it.
start=$(now_ms)
expect 0 blksub apply "$W/p1" --volume g
took_apply=$(($(now_ms) - start))
start=$(now_ms)
expect 0 blksub rollback "$W/p1" --volume g
took_rollback=$(($(now_ms) - start))
say "undisturbed: apply $took_apply ms, rollback $took_rollback ms"

strike() {
    case $1 in
    command) kill -9 "$2" 2>/dev/null || true ;;
    worker) kill -9 "$(worker_pid g)" ;;
    agent) guest g 'kill -9 $(pidof blksub-agent)' 60 || true ;;
    guest) "$images/guest-qmp" "$W/g" system_reset >/dev/null ;;
    esac
}

# round COMMAND VICTIM DELAY-MS WANT
round() {
    local command=$1 victim=$2 delay=$3 want=$4 pid r=0
    timeout 300 "$B/blksub" "$command" "$W/p1" --volume g >"$W/job.log" 2>&1 </dev/null &
    pid=$!
    sleep "$((delay / 1000)).$(printf %03d $((delay % 1000)))"
    strike "$victim" $pid
    [ "$victim" != worker ] || start_worker g
    [ "$victim" != guest ] || wait_up g
    wait $pid || r=$?
    agent_up g
    whole_groups g
    say "$command, $victim at $delay ms: ended with $r, $(cut -d ' ' -f 2 "$W/groups" | sort | uniq -c | xargs)"
    r=0
    timeout 300 "$B/blksub" "$command" "$W/p1" --volume g >"$W/said" 2>&1 || r=$?
    [ $r = 0 ] || {
        cat "$W/job.log" "$W/said"
        fail "the same command did not finish: exit code $r"
    }
    all_groups g "$want"
}

for victim in command agent worker guest; do
    for i in $(seq "$kills"); do
        round apply $victim $((took_apply * (2 * i - 1) / (2 * kills))) new
        round rollback $victim $((took_rollback * (2 * i - 1) / (2 * kills))) old
    done
done

say "and nothing is left behind"
guest_off g
manifest_of g "$W/g.manifest"
same_tree "$W/v1.manifest" "$W/g.manifest"
