# shellcheck shell=bash
# What the tests inside dom0 share.  /test holds: store/ (copied to a file
# system that knows holes), vmlinuz and initramfs.gz of the guests.
set -Eeuo pipefail
export BLKSUB_STORE=/tmp/store
cp -a /test/store /tmp/store
mkdir -p /tmp/w
cp /test/block-blksub /etc/xen/scripts/

say() { printf -- "-- %s (%s s)\n" "$*" "$SECONDS"; }
fail() {
    echo "FAILED: $*"
    exit 1
}
at_end() {
    local r=$?
    [ $r = 0 ] || for f in /tmp/w/*.log /var/log/xen/*.log; do
        [ -s "$f" ] || continue
        echo "== the end of $f"
        tail -n 25 "$f"
    done
    exit $r
}
trap at_end EXIT
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND"' ERR

wait_for() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "waited in vain for: $*"
        usleep 50000
    done
}

start_backend() {
    blksub-xen >>/tmp/w/backend.log 2>&1 &
}

# config NAME EXTRA-DISK...: an xl.cfg; the root disk is the volume NAME
config() {
    local name=$1 d
    shift
    {
        printf 'name="%s"\ntype="pv"\nmemory=192\nvcpus=1\n' "$name"
        printf 'kernel="/test/vmlinuz"\nramdisk="/test/initramfs.gz"\n'
        printf 'extra="console=hvc0 ro quiet loglevel=3 panic=-1"\n'
        printf 'channel=["name=unused,connection=pty","name=org.blksub.agent.0,connection=socket,path=/run/blksub/%s.agent"]\n' "$name"
        printf 'on_poweroff="destroy"\non_crash="destroy"\non_reboot="destroy"\n'
        printf 'disk=["vdev=xvda,access=rw,script=block-blksub,target=%s"' "$name"
        for d; do printf ',"%s"' "$d"; done
        printf ']\n'
    } >"/tmp/w/$name.cfg"
}

create() { # NAME
    xl create "/tmp/w/$1.cfg" >"/tmp/w/xl-$1.log" 2>&1
    wait_for 240 guest "$1" true 5
}

# guest NAME SCRIPT [SECONDS]: on its console, whose output xenconsoled logs
guest() {
    local name=$1 id=$RANDOM$RANDOM tty line end=$((SECONDS + ${3:-120}))
    tty=$(xenstore-read "/local/domain/$(xl domid "$name")/console/tty") || return 125
    printf '%s %s\n' "$id" "$(printf %s "$2" | base64 -w 0)" >"$tty"
    while [ $SECONDS -lt $end ]; do
        # A line that is not yet complete is none for read.
        line=$(tr -d '\r' <"/var/log/xen/guest-$name.log" | while IFS= read -r line; do
            [[ "$line" != "$id "* ]] || echo "$line"
        done)
        if [ -n "$line" ]; then
            # shellcheck disable=SC2086
            set -- $line
            printf %s "${3-}" | base64 -d
            return "$2"
        fi
        usleep 100000
    done
    return 124
}

# worker_of PATH: pids of the workers of a backend, or of all below it
worker_of() {
    local f
    for f in /proc/[0-9]*/cmdline; do
        [[ " $(tr '\0' ' ' <"$f" 2>/dev/null)" == *" --disk $1"* ]] || continue
        f=${f#/proc/}
        echo "${f%/cmdline}"
    done
}

# Nothing of ours is left in xenstore of this domain.
clean() { # DOMID
    ! xenstore-ls -f /local/domain/0/backend 2>/dev/null | grep -q "/vbd/$1/"
}
