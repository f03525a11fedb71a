#!/usr/bin/env bash
# Kills the agent, the guest, the worker and the command at steps of an apply and
# a rollback that the journals know, and the command and the guest at moments
# spread over it.  No group is ever between old and new, and the same command finishes.
# In `make check` at the steps that matter most; LONG=1: at each step, in both
# directions, and at more moments.
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR source=functions.bash
. "$here/functions.bash"
requires_guests

tiny_pair
blksub volume create g --image v1 >/dev/null
start_worker g
boot g
agent_up g
mapfile -t agent_steps < <("$BLKSUB_AGENT" --debug-steps)
mapfile -t worker_steps < <(grep -oh 'hv_stop_at("[^"]*")' "$top"/hv/*.c | cut -d '"' -f 2 | sort -u)
[ ${#agent_steps[@]} -ge 3 ] && [ ${#worker_steps[@]} -ge 3 ] || fail "no steps to die at"

if [ -z "${LONG-}" ]; then
    agent_steps=(stage-written prepared commit-marked commit-renamed commit-dpkg)
    worker_steps=(staged committed guest-committed)
    power_steps=(staged prepared commit-renamed)
else
    power_steps=("${agent_steps[@]}")
fi

now_ms() { date +%s%3N; }

# What the guest has now decides what is done next.
state=old
next() {
    if [ $state = old ]; then
        command=apply want=new
    else
        command=rollback want=old
    fi
}

# After the blow: nothing in between; the same command brings it to an end.
aftermath() { # WHAT EXIT-CODE-OF-THE-DISTURBED
    local r=0
    agent_up g
    job_over g
    whole_groups g
    say "$command, $1: ended with $2; groups: $(cut -d ' ' -f 2 "$W/groups" | sort | uniq -c | xargs)"
    timeout 300 "$B/blksub" $command "$W/p1" --volume g >"$W/said" 2>&1 || r=$?
    [ $r = 0 ] || {
        cat "$W/job.log" "$W/said"
        fail "the same command did not finish: exit code $r"
    }
    all_groups g $want
    state=$want
}

disturbed() {
    local r=0
    timeout 300 "$B/blksub" $command "$W/p1" --volume g >"$W/job.log" 2>&1 </dev/null || r=$?
    echo $r
}

agent_dies_at() {
    local r
    next
    guest g "echo --debug-stop $1 >/run/agent-args; kill -9 \$(pidof blksub-agent)"
    wait_for 60 guest g 'pidof blksub-agent && [ ! -e /run/agent-args ]' 20
    agent_up g
    r=$(disturbed)
    aftermath "agent dies at $1" "$r"
}

# The guest is reset in the moment in which its agent dies: what it had not
# written is lost.
power_dies_at() {
    local r
    next
    guest g "echo --debug-stop $1 >/run/agent-args; touch /run/agent-cuts-power; kill -9 \$(pidof blksub-agent)"
    wait_for 60 guest g 'pidof blksub-agent && [ ! -e /run/agent-args ]' 20
    agent_up g
    r=$(disturbed)
    wait_up g
    # A step that this direction does not have: power stays on.
    guest g 'rm -f /run/agent-armed'
    aftermath "power cut at $1" "$r"
}

worker_dies_at() {
    local r
    next
    kill_worker g
    BLKSUB_WORKER_STOP=$1 start_worker g
    agent_up g
    r=$(disturbed)
    kill_worker g # if it has not died
    start_worker g
    aftermath "worker dies at $1" "$r"
}

worker_is_paused() { grep -q '^State:.*stopped' "/proc/$(worker_pid g)/status"; }

# The worker waits at the step while the command dies.
command_dies_at() {
    local pid r=0
    next
    kill_worker g
    BLKSUB_WORKER_STOP=pause:$1 start_worker g
    agent_up g
    timeout 300 "$B/blksub" $command "$W/p1" --volume g >"$W/job.log" 2>&1 </dev/null &
    pid=$!
    # A job may have no such step; then it ends by itself.
    wait_for 120 eval "worker_is_paused || gone $pid"
    kill -9 $pid 2>/dev/null || true
    kill -CONT "$(worker_pid g)"
    wait $pid || r=$?
    aftermath "command dies at $1" $r
}

strike_at() { # command|guest|worker|agent MILLISECONDS
    local pid r=0
    next
    timeout 300 "$B/blksub" $command "$W/p1" --volume g >"$W/job.log" 2>&1 </dev/null &
    pid=$!
    sleep "$(($2 / 1000)).$(printf %03d $(($2 % 1000)))"
    case $1 in
    command) kill -9 $pid 2>/dev/null || true ;;
    guest)
        "$images/guest-qmp" "$W/g" system_reset >/dev/null
        wait_up g
        ;;
    esac
    wait $pid || r=$?
    aftermath "$1 struck at $2 ms" $r
}

for round in 1 ${LONG:+2}; do
    for step in "${agent_steps[@]}"; do agent_dies_at "$step"; done
    [ -z "${LONG-}" ] || for step in "${agent_steps[@]}"; do agent_dies_at "$step:5"; done
    for step in "${power_steps[@]}"; do power_dies_at "$step"; done
    for step in "${worker_steps[@]}"; do worker_dies_at "$step"; done
    for step in "${worker_steps[@]}"; do command_dies_at "$step"; done
    # The second round goes the other way at each step.
    if [ "$round" = 1 ] && [ -n "${LONG-}" ]; then
        next
        [ "$(disturbed)" = 0 ] || fail "undisturbed, it failed"
        state=$want
    fi
done

next
start=$(now_ms)
[ "$(disturbed)" = 0 ] || fail "undisturbed, it failed"
took=$(($(now_ms) - start))
state=$want
say "undisturbed: $took ms"
n=2
[ -z "${LONG-}" ] || n=8
for i in $(seq $n); do
    strike_at command $((took * (2 * i - 1) / (2 * n)))
    strike_at guest $((took * (2 * i - 1) / (2 * n)))
done

say "and nothing is left behind"
next
[ $state = old ] || [ "$(disturbed)" = 0 ]
guest_off g
manifest_of g "$W/g.manifest"
same_tree "$W/v1.manifest" "$W/g.manifest"
