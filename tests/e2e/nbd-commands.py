# SPDX-License-Identifier: GPL-2.0-or-later
"""Every NBD command with every flag, against a flat array.

    python3 nbd-commands.py URI SIZE GOLDEN SEED ROUNDS MODEL

URI serves a volume of SIZE bytes whose golden image is the file GOLDEN.  What
the volume must hold in the end goes to the file MODEL.  Beside single requests
with known answers there are ROUNDS random ones on several connections, and what
is told of holes is compared with what is there."""
import errno
import os
import random
import sys

import nbd

uri, size, golden, seed, rounds, model_path = sys.argv[1:]
size, seed, rounds = int(size), int(seed), int(rounds)
rng = random.Random(seed)
FUA, DF = nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_DF
NO_HOLE, FAST_ZERO = nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO
REQ_ONE = nbd.CMD_FLAG_REQ_ONE
MIB = 1 << 20
n_checks = 0

with open(golden, "rb") as f:
    model = bytearray(f.read())
model += bytes(size - len(model))


def check(what, got, want):
    global n_checks
    n_checks += 1
    if got != want:
        sys.exit(f"FAILED: {what}: got {got!r}, expected {want!r}")


def same(what, got, at):
    global n_checks
    n_checks += 1
    want = model[at:at + len(got)]
    if got == want:
        return
    i = next(i for i in range(len(got)) if got[i] != want[i])
    sys.exit(f"FAILED: {what}: byte {at + i} is {got[i]:#x}, not {want[i]:#x}")


def connect(structured=True, strict=True):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    if structured:
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    if not strict:
        h.set_strict_mode(0)
    h.connect_uri(uri)
    return h


def noise(n):
    return bytearray(rng.randbytes(n))


# ---- what the handshake says

h = connect()
plain = connect(structured=False)
loose = connect(strict=False)  # sends what libnbd would refuse
check("size", h.get_size(), size)
for name in ("can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero",
             "can_multi_conn", "can_cache", "can_df"):
    check(name, getattr(h, name)(), True)
check("read-only", h.is_read_only(), False)
check("rotational", h.is_rotational(), False)
check("structured", h.get_structured_replies_negotiated(), True)
check("no structured", plain.get_structured_replies_negotiated(), False)
check("base:allocation", h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION), True)
check("block sizes", [h.get_block_size(i) for i in
                      (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)],
      [1, 4096, 32 * MIB])


# ---- one request, and the same to the model

def read(h, n, at, flags=0):
    same(f"read {n} at {at} flags {flags}", h.pread(n, at, flags), at)


def structured_read(h, n, at, flags=0):
    got = bytearray(b"\xee" * n)
    chunks = []

    def chunk(buf, where, status, error):
        check("chunk's error", error.value, 0)
        chunks.append((where, len(buf), status))
        if status == nbd.READ_HOLE:
            got[where - at:where - at + len(buf)] = bytes(len(buf))
        else:
            got[where - at:where - at + len(buf)] = buf

    h.pread_structured(n, at, chunk, flags)
    # They cover the range once; with DF there is one.
    pos = at
    for where, length, _ in sorted(chunks):
        check("chunk's place", where, pos)
        pos += length
    check("chunks' end", pos, at + n)
    if flags & DF:
        check("chunks with DF", len(chunks), 1)
    same(f"structured read {n} at {at} flags {flags}", got, at)


def write(h, buf, at, flags=0):
    h.pwrite(buf, at, flags)
    model[at:at + len(buf)] = buf


def zero(h, n, at, flags=0):
    try:
        h.zero(n, at, flags)
    except nbd.Error as e:
        # Only this combination cannot be fast; and then nothing was done.
        check("zero's error", (e.errno, flags & (NO_HOLE | FAST_ZERO)),
              ("ENOTSUP", NO_HOLE | FAST_ZERO))
        read(h, min(n, 70000), at)
        return
    model[at:at + n] = bytes(n)


def trim(h, n, at, flags=0):
    """What a trimmed range reads as is open; here whole blocks are zeros."""
    h.trim(n, at, flags)
    first, last = -(-at // 4096) * 4096, (at + n) // 4096 * 4096
    if last > first:
        model[first:last] = bytes(last - first)


def status(h, n, at, flags=0):
    """(length, flags) of each extent, checked against what is there."""
    runs = []

    def extent(context, where, entries, error):
        check("context", context, nbd.CONTEXT_BASE_ALLOCATION)
        check("where", where, at)
        runs.extend(zip(entries[::2], entries[1::2]))

    h.block_status(n, at, extent, flags)
    check("an extent at least", bool(runs), True)
    pos = at
    for length, kind in runs:
        check("known flags", kind & ~(nbd.STATE_HOLE | nbd.STATE_ZERO), 0)
        check("not empty", length > 0, True)
        if kind & nbd.STATE_ZERO:
            end = min(pos + length, size)
            check(f"zeros {length} at {pos}", any(model[pos:end]), False)
        pos += length
    check("within the disk", pos <= size, True)
    if flags & REQ_ONE:
        check("one extent", len(runs), 1)
        check("not longer than asked", runs[0][0] <= n, True)
    return runs


def all_status(at, n):
    runs, end = [], at + n
    while at < end:
        for length, kind in status(h, end - at, at):
            length = min(length, end - at)
            runs.append((at, length, kind))
            at += length
            if at == end:
                break
    return runs


def refused(what, codes, call, *args):
    global n_checks
    n_checks += 1
    try:
        call(*args)
    except nbd.Error as e:
        check(f"{what}: {e.errno}", e.errno in codes.split(), True)
        return
    sys.exit(f"FAILED: {what} was not refused")


# ---- each command with each of its flags, aligned and not

places = [(4096, 0), (512, 512), (1, 4095), (2, 4095), (4097, 8191), (65536, MIB),
          (70001, 3 * MIB + 3), (4096, size - 4096), (1, size - 1),
          (513, size - 513), (2 * MIB + 5, 2 * MIB - 3), (4 * MIB, 8 * MIB)]
for n, at in places:
    read(h, n, at)
    read(plain, n, at)
    for flags in (0, DF):
        structured_read(h, n, at, flags)
    for flags in (0, FUA):
        write(h, noise(n), at, flags)
        read(plain, n, at)
        structured_read(h, n, at)
        structured_read(h, n, at, DF)
    for flags in (0, FUA):
        trim(h, n, at, flags)
        read(h, n, at)
        write(plain, noise(n), at)
    for flags in range(8):
        flags = (flags & 1) * FUA | (flags >> 1 & 1) * NO_HOLE | \
            (flags >> 2) * FAST_ZERO
        zero(h, n, at, flags)
        structured_read(h, n, at)
        write(h, noise(n), at)
    h.cache(n, at)
    read(h, n, at)
    for flags in (0, REQ_ONE):
        status(h, n, at, flags)
    h.flush()

# ---- the largest request that is offered

big = noise(32 * MIB)
write(h, big, 5)
read(h, len(big), 5)
structured_read(h, len(big), 5)
structured_read(plain if plain.can_df() else h, len(big), 5, DF)
zero(h, 32 * MIB, 4096, FUA)
read(h, 32 * MIB, 4096)
write(h, big, size - len(big), FUA)
read(plain, len(big), size - len(big))
trim(h, 32 * MIB, size - len(big))
read(h, 32 * MIB, size - len(big))
zero(h, size, 0)  # in one
read(h, 32 * MIB, 0)
check("all is one hole", all_status(0, size), [(0, size, 3)])
write(h, big, 3)

# ---- what must be refused, changes nothing and ends no connection

for call, over in ((loose.pwrite, "ENOSPC"), (loose.zero, "ENOSPC"),
                   (loose.trim, "EINVAL"), (loose.cache, "EINVAL"),
                   (loose.pread, "EINVAL")):
    for n, at in ((1, size), (4096, size - 4095), (512, 1 << 40),
                  (4096, (1 << 63) - 4096)):
        arg = noise(n) if call == loose.pwrite else n
        refused(f"{call.__name__} {n} at {at}", over, call, arg, at)
# What length 0 means is open; nbdkit refuses it.
for call in (loose.pread, loose.zero, loose.trim, loose.cache):
    refused(f"{call.__name__} of nothing", "EINVAL ENOSPC", call, 0, 4096)
refused("a write of nothing", "EINVAL ENOSPC", loose.pwrite, bytearray(), 4096)
refused("status beyond the end", "EINVAL", loose.block_status, 4096, size,
        lambda *a: 0)
refused("status of nothing", "EINVAL", loose.block_status, 0, 0, lambda *a: 0)
for call, args in ((loose.pwrite, (b"x" * 512, 0)), (loose.trim, (512, 0)),
                   (loose.flush, ()), (loose.cache, (512, 0))):
    refused(f"{call.__name__} with a flag of another", "EINVAL", call, *args,
            REQ_ONE if call != loose.flush else FUA << 8)
read(loose, MIB, 0)

# ---- holes: where nothing was written, and where zeros were asked for

zero(h, size, 0)
write(h, noise(3 * 4096), 5 * 4096)
zero(h, 4 * MIB, 16 * MIB, NO_HOLE)
trim(h, 4096, 6 * 4096)
check("data between holes", all_status(0, 16 * MIB),
      [(0, 5 * 4096, 3), (5 * 4096, 4096, 0), (6 * 4096, 4096, 3),
       (7 * 4096, 4096, 0), (8 * 4096, 16 * MIB - 8 * 4096, 3)])
for at, n, kind in all_status(16 * MIB, 4 * MIB):
    check("NO_HOLE leaves no hole", kind & nbd.STATE_HOLE, 0)
read(h, 4 * MIB, 16 * MIB)

# ---- connections: what one wrote the others read; a flush is for all

others = [connect(structured=i % 2 == 0) for i in range(4)]
for i in range(40):
    at, n = rng.randrange(size - 9000), rng.randrange(1, 9000)
    write(others[i % 4], noise(n), at)
    read(others[(i + 1) % 4], n, at)
    others[(i + 2) % 4].flush()

# ---- several at a time on one connection, in places of their own

bufs, cookies = [], []
for i in range(64):
    bufs.append(noise(rng.randrange(1, 20000)))
    at = 20 * MIB + i * 20000
    cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bufs[i]), at,
                                flags=FUA if i % 8 == 0 else 0))
    model[at:at + len(bufs[i])] = bufs[i]
for c in cookies:
    while not h.aio_command_completed(c):
        h.poll(-1)
read(plain, 64 * 20000, 20 * MIB)

# ---- at random

handles = others + [h, plain]
structured = [x for x in handles if x.get_structured_replies_negotiated()]
for i in range(rounds):
    hh = rng.choice(handles)
    n = rng.choice((rng.randrange(1, 6000), rng.randrange(1, 300000),
                    rng.randrange(1, 8) * 512, rng.randrange(1, 64) * 4096))
    at = rng.randrange(size - n)
    if rng.random() < 0.6:
        at = at // 512 * 512
    fua = FUA if rng.random() < 0.1 else 0
    op = rng.randrange(12)
    if op < 4:
        write(hh, noise(n), at, fua)
    elif op == 4:
        trim(hh, n * 4 if at + n * 4 < size else n, at, fua)
    elif op == 5:
        zero(hh, n, at, fua | rng.choice((0, NO_HOLE)) | rng.choice((0, FAST_ZERO)))
    elif op < 8:
        read(hh, n, at)
    elif op == 8:
        structured_read(rng.choice(structured), n, at, rng.choice((0, DF)))
    elif op == 9:
        status(rng.choice(structured), n, at, rng.choice((0, REQ_ONE)))
    elif op == 10:
        hh.cache(n, at)
    else:
        hh.flush()

for at in range(0, size, 8 * MIB):
    read(plain, min(8 * MIB, size - at), at)
all_status(0, size)
h.flush()
for x in handles + [loose]:
    x.shutdown()
with open(model_path, "wb") as f:
    f.write(model)
print(f"{n_checks} checks")
