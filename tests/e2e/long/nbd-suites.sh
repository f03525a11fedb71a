#!/usr/bin/env bash
# Suites that others wrote, from Debian's sources, built here and pointed at a
# volume: nbd's own tester (package nbd), and libnbd's interop and server tests.
# NBD_SOURCE= and LIBNBD_SOURCE= name tarballs or folders to use instead.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/../functions.bash"
requires nbdkit nbdinfo nbdcopy qemu-img gcc pkg-config curl openssl cmp
pkg-config --exists glib-2.0 libnbd || {
    echo "needs libglib2.0-dev and libnbd-dev"
    exit 77
}
pool=${DEBIAN_MIRROR:-http://deb.debian.org/debian}/pool/main
src=$W/src
mkdir "$src"
: >"$W/results"

# fetch NAME OVERRIDE [PATH SHA256]...: the first that is there, as $src/NAME
fetch() {
    local name=$1 from=$2
    shift 2
    mkdir "$src/$name"
    if [ -d "$from" ]; then
        cp -r "$from/." "$src/$name"
        return
    fi
    while [ -z "$from" ] && [ $# -ge 2 ]; do
        if curl -sSf --retry 3 -m 120 -o "$src/$name.tar" "$pool/$1" 2>"$W/curl.txt" &&
            echo "$2  $src/$name.tar" | sha256sum -c --quiet >/dev/null 2>&1; then
            from=$src/$name.tar
            say "$name: ${1##*/}"
        fi
        shift 2
    done
    [ -n "$from" ] || {
        echo "the Debian mirror does not give $name's source: $(tail -n 1 "$W/curl.txt")"
        exit 77
    }
    tar -xf "$from" -C "$src/$name" --strip-components=1
}
fetch libnbd "${LIBNBD_SOURCE-}" \
    libn/libnbd/libnbd_1.14.2.orig.tar.gz 83cc3a88d63b17353275ff4c7c8dcc778437f48ca5d51caa76da415981a7a0cf
fetch nbd "${NBD_SOURCE-}" \
    n/nbd/nbd_3.26.1.orig.tar.xz f0cf509fa5b20b1a07f7904eb637e9b47d3e30b6ed6f00075af5d8b701c78fef \
    n/nbd/nbd_3.24.orig.tar.gz a771022599525fd4f5c17c7b1c88696a91927c227e770425a55f67a7384441b6

# try NAME COMMAND...: it ends well, or is skipped (77), or is written down.
try() {
    local name=$1 r=0
    shift
    timeout 300 "$@" >"$W/try.log" 2>&1 </dev/null || r=$?
    case $r in
    0) echo "passed $name" ;;
    77) echo "skipped $name: $(tail -n 1 "$W/try.log")" ;;
    *)
        echo "FAILED $name: exit code $r"
        tail -n 12 "$W/try.log"
        ;;
    esac | tee -a "$W/results"
}

# volume NAME BYTES [FILE]: a fresh one, of zeros or of what is in FILE
volume() {
    local image=${3+of-$1}
    image=${image:-zeros-$2}
    if ! blksub image show "$image" >/dev/null 2>&1; then
        truncate -s "$2" "$W/golden"
        blksub image import "${3-$W/golden}" --name "$image" >/dev/null
        rm "$W/golden"
    fi
    blksub volume create "$1" --image "$image" >/dev/null
}

# ---- nbd-tester-client ------------------------------------------------------

say "nbd's tester"
# Its configure wants a bison for the server that is not built here.
cat >"$src/nbd/config.h" <<'EOF'
#define SIZEOF_UNSIGNED_SHORT_INT 2
#define SIZEOF_UNSIGNED_INT 4
#define SIZEOF_UNSIGNED_LONG_INT 8
#define SIZEOF_UNSIGNED_LONG_LONG_INT 8
#define PACKAGE_VERSION "here"
EOF
read -ra glib < <(pkg-config --cflags --libs glib-2.0)
gcc -w -O1 -D_GNU_SOURCE -DPROG_NAME='"tester"' -I"$src/nbd" -o "$W/tester" \
    "$src/nbd/tests/run/nbd-tester-client.c" "$src/nbd/cliserv.c" "${glib[@]}" >"$W/build.txt" 2>&1 ||
    fail "nbd-tester-client does not build: $(tail -n 5 "$W/build.txt")"
runs=$src/nbd/tests/run
tester() { # NAME OPTION...
    local name=$1
    shift
    try "nbd-tester-client $name" "$W/tester" -N export1 "$@" -u "$W/t/nbd.sock"
}
# Not with -l: that lets overlapping requests overtake one another, as a server
# may let them, and takes the outcome for an error.
for what in integrity integrityhuge; do
    volume t 52428800
    start_worker t --threads 8
    tester $what -i -t "$runs/$what-test.tr"
    stop_worker t
    blksub volume remove t >/dev/null
done
volume t 52428800
start_worker t
tester "read"
tester "write" -w
tester "write, flush" -w -f
tester "oversized" -o
stop_worker t
start_worker t --read-only
tester "write, read-only" -w -F
stop_worker t

# ---- libnbd: programs that start their server themselves ---------------------

# An nbdkit that serves a volume where the test asked for memory or null: the
# tests name the plugin and its size, and all the rest stays as they want it.
mkdir "$W/bin" "$W/tests" "$W/interop"
cat >"$W/bin/nbdkit" <<'EOF'
#!/usr/bin/env bash
set -eu
args=() plugin='' bytes='' name=n$$
for a; do
    case $a in
    memory | null)
        plugin=$a
        args+=("$B/nbdkit-blksub-plugin.so" "store=$BLKSUB_STORE" "volume=$name")
        ;;
    size=*) bytes=${a#size=} ;;
    [0-9]*) if [ -n "$plugin" ]; then bytes=$a; else args+=("$a"); fi ;;
    *) args+=("$a") ;;
    esac
done
[ -n "$plugin" ] || exec "$REAL_NBDKIT" "$@"
bytes=$(numfmt --from=iec "$(echo "${bytes:-1M}" | tr km KM)")
"$B/blksub" image show "zeros-$bytes" >/dev/null 2>&1 || {
    truncate -s "$bytes" "$W/$name.raw"
    "$B/blksub" image import "$W/$name.raw" --name "zeros-$bytes" >&2
}
"$B/blksub" volume create $name --image "zeros-$bytes" >&2
echo "$name $bytes: $*" >>"$W/served"
exec "$REAL_NBDKIT" "${args[@]}"
EOF
chmod +x "$W/bin/nbdkit"
REAL_NBDKIT=$(command -v nbdkit)
export REAL_NBDKIT W
touch "$src/libnbd/config.h"
t=$src/libnbd/tests
build() { # OUT SOURCE OPTION...
    local out=$1 from=$2
    shift 2
    gcc -w -O1 -D_GNU_SOURCE -I"$src/libnbd" -I"$t" -I"$src/libnbd/common/include" "$@" -o "$out" "$from" \
        "$t/requires.c" "$t/pick-a-port.c" -lnbd -lpthread 2>"$W/build.txt"
}

say "libnbd's tests that serve memory or nothing"
# Not get-size, errors-*-unaligned: their exports are no whole blocks.
cd "$W/tests"
for name in errors-bad-cookie errors-client-oversize errors-client-unknown-flags errors-client-zerosize \
    errors-connect-twice errors-not-negotiating errors-notify-not-blocked errors-pread-structured \
    errors-server-invalid-offset errors-server-unknown-flags errors-server-zerosize pread-initialize \
    connect-systemd-socket-activation connect-unix connect-tcp aio-connect aio-connect-port \
    oldstyle opt-abort opt-list-meta read-only-flag read-write-flag server-death shutdown-flags; do
    if ! build "./$name" "$t/$name.c"; then
        echo "skipped $name: does not build: $(grep -m1 error: "$W/build.txt")" | tee -a "$W/results"
        continue
    fi
    : >"$W/served"
    try "tests/$name" env PATH="$W/bin:$PATH" "./$name"
    [ -s "$W/served" ] || fail "$name did not use a volume"
done

say "libnbd's interop programs"
tls=$W/tests/pki
mkdir "$tls"
(
    cd "$tls"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test-ca \
        -keyout ca-key.pem -out ca-cert.pem
    for who in server client; do
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost \
            -keyout $who-key.pem -out $who.csr
        openssl x509 -req -days 2 -in $who.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial \
            -out $who-cert.pem -extfile <(echo "subjectAltName=DNS:localhost")
    done
) >"$W/openssl.txt" 2>&1
echo "alice:$(openssl rand -hex 32)" >"$W/tests/keys.psk"
chmod 600 "$W/tests/keys.psk"
volume i $((1 << 20))
plugin="\"$B/nbdkit-blksub-plugin.so\", \"store=$BLKSUB_STORE\", \"volume=i\""
cd "$W/interop"
interop() { # NAME SOURCE NBDKIT-WORDS [OPTION...]
    local name=$1 from=$2 words=$3
    shift 3
    build "./$name" "$src/libnbd/interop/$from.c" "-DSERVER=\"$REAL_NBDKIT\"" \
        "-DSERVER_PARAMS=$words $plugin" "$@" || fail "$name: $(tail -n 5 "$W/build.txt")"
    try "interop/$name" "./$name"
}
s='"-s", "--exit-with-parent",'
certs='"--tls-certificates=../tests/pki",' psk='"--tls-psk=../tests/keys.psk",'
interop interop-nbdkit interop "$s"
interop interop-nbdkit-tls-certs interop "\"--tls=require\", $certs $s" -DCERTS=1 -DTLS_MODE=LIBNBD_TLS_REQUIRE
interop interop-nbdkit-tls-certs-allow-enabled interop "\"--tls=require\", $certs $s" \
    -DCERTS=1 -DTLS_MODE=LIBNBD_TLS_ALLOW
interop interop-nbdkit-tls-certs-allow-fallback interop "\"--tls=off\", $s" \
    -DCERTS=1 -DTLS_MODE=LIBNBD_TLS_ALLOW -DTLS_FALLBACK=1
interop interop-nbdkit-tls-psk interop "\"--tls=require\", $psk $s" -DPSK=1 -DTLS_MODE=LIBNBD_TLS_REQUIRE
interop interop-nbdkit-tls-psk-allow-enabled interop "\"--tls=require\", $psk $s" \
    -DPSK=1 -DTLS_MODE=LIBNBD_TLS_ALLOW
interop interop-nbdkit-tls-psk-allow-fallback interop "\"--tls=off\", $s" \
    -DPSK=1 -DTLS_MODE=LIBNBD_TLS_ALLOW -DTLS_FALLBACK=1
interop interop-nbdkit-socket-activation interop '"-f", "--exit-with-parent",' -DSOCKET_ACTIVATION=1
interop socket-activation-nbdkit socket-activation '"-f", "--exit-with-parent",'
interop list-exports-nbdkit list-exports "$s" '-DEXPORTS=""' '-DDESCRIPTIONS=""'

say "libnbd's data integrity programs, on what nbdkit's pattern plugin serves"
cd "$W/tests"
for spec in "synch-parallel 8 pattern" "aio-parallel 64 pattern" "aio-parallel-load 64"; do
    read -r name mib pattern <<<"$spec"
    v=${name//-/}
    build "./$name" "$t/$name.c" || fail "$name: $(tail -n 5 "$W/build.txt")"
    rm -f "$W/pattern"
    # shellcheck disable=SC2016 # nbdkit's variable
    [ -z "$pattern" ] || nbdkit -U - pattern "size=${mib}M" --run 'nbdcopy "$uri" '"$W/pattern"
    volume "$v" $((mib << 20)) ${pattern:+"$W/pattern"}
    start_worker "$v" --threads 8
    try "tests/$name" "./$name" "$W/$v/nbd.sock"
    stop_worker "$v"
done
cd /

cut -d ' ' -f 1 "$W/results" | sort | uniq -c
! grep -q '^FAILED' "$W/results" || fail "$(grep -c '^FAILED' "$W/results") of them"
say "done"
