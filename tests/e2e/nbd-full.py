# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's disk fills up under a guest, and gets room again.

    python3 nbd-full.py BLKSUB VOLUME SOCKET SMALL GOLDEN SIZE SEED LOG

SMALL is the folder where a small file system is mounted that holds the store.
A request that needs space is answered with ENOSPC and changes nothing; reads,
and writes to blocks that the guest has already, go on; a discard makes room; a
worker can be killed and started meanwhile.  With room again all is as ever, and
nothing that was acknowledged is lost."""
import os
import random
import signal
import sys

import nbd
from nbd_worker import Worker

blksub, volume, sock, small, golden, size, seed, log_path = sys.argv[1:]
size, rng = int(size), random.Random(int(seed))
BLOCK, MIB = 4096, 1 << 20
filler = os.path.join(small, "filler")
worker = Worker(blksub, volume, sock, log_path)

with open(golden, "rb") as f:
    model = bytearray(f.read())
model += bytes(size - len(model))
own = set()  # blocks which have their space


def fail(what):
    sys.exit(f"FAILED: SEED={seed}: {what}")


def fill_up(leave=0):
    """Not a byte is left, or about so many."""
    with open(filler, "ab", buffering=0) as f:
        for n in (MIB, 65536, BLOCK, 512, 1):
            try:
                while True:
                    f.write(b"f" * n)
            except OSError:
                pass
        if leave:
            f.truncate(max(0, f.tell() - leave))


def make_room():
    os.unlink(filler)


def verify(h, what):
    for at in range(0, size, 8 * MIB):
        got = h.pread(min(8 * MIB, size - at), at)
        if got != model[at:at + len(got)]:
            i = next(i for i in range(len(got)) if got[i] != model[at + i])
            fail(f"{what}: byte {at + i} is {got[i]:#x}, not {model[at + i]:#x}")


def attempt(call, *args):
    """True, or False where there is no room; nothing else."""
    try:
        call(*args)
        return True
    except nbd.Error as e:
        if e.errno != "ENOSPC":
            fail(f"{call.__name__} at {args[1:2]}: {e.errno}, not ENOSPC")
        return False


def write(h, n, at, flags=0):
    buf = bytearray(rng.randbytes(n))
    blocks = range(at // BLOCK, -(-(at + n) // BLOCK))
    had = own.issuperset(blocks)
    if attempt(h.pwrite, buf, at, flags):
        model[at:at + n] = buf
        own.update(blocks)
        return True
    if flags:  # written, and not flushed: which of the two is open
        got = h.pread(n, at)
        for i in range(n):
            if got[i] != buf[i] and got[i] != model[at + i]:
                fail(f"byte {at + i} is neither old nor new")
        model[at:at + n] = got
    elif had:
        fail(f"no room for blocks at {at} that have their space")
    return False


def zero(h, n, at, flags=0):
    if attempt(h.zero, n, at, flags):
        model[at:at + n] = bytes(n)
        return True
    # Of several chunks some may be zeros now.
    got = h.pread(n, at)
    for i in range(0, n, 512):
        piece = got[i:i + 512]
        if any(piece) and piece != model[at + i:at + i + 512]:
            fail(f"sector at {at + i} is neither old nor new")
    model[at:at + n] = got
    return False


def trim(h, n, at):
    """Never refused; what has space is discarded, the rest may stay."""
    h.trim(n, at)
    for b in range(-(-at // BLOCK), (at + n) // BLOCK):
        got = h.pread(BLOCK, b * BLOCK)
        if any(got) and (b in own or got != model[b * BLOCK:(b + 1) * BLOCK]):
            fail(f"block {b} after a discard")
        model[b * BLOCK:(b + 1) * BLOCK] = got
        own.discard(b)


def again(sig):
    global h
    del h
    worker.end(sig)
    worker.start()
    h = worker.connect()


worker.start()
h = worker.connect()
verify(h, "the first start")
for i in range(40):
    if not write(h, rng.randrange(1, 40000), rng.randrange(2 * MIB)):
        fail("no room from the beginning")
h.flush()

for n, leave in enumerate((0, 300000, 0, 20000)):
    fill_up(leave)
    # Writes to new places, until there is no room.
    n_ok = n_full = 0
    while n_full < 20:
        if write(h, rng.randrange(1, 30000), rng.randrange(2 * MIB, size - 30000)):
            n_ok += 1
        else:
            n_full += 1
        if n_ok > 2000:
            fail("it does not fill up")
    # The guest goes on with what it has.
    verify(h, "full")
    for b in rng.sample(sorted(own), 50):
        write(h, rng.randrange(1, BLOCK), b * BLOCK)
    write(h, BLOCK, rng.choice(sorted(own)) * BLOCK, nbd.CMD_FLAG_FUA)
    zero(h, 3 * MIB, size - 3 * MIB, nbd.CMD_FLAG_NO_HOLE)
    zero(h, 70000, 5 * MIB + 100)
    for _ in range(3):
        attempt(h.flush)
    verify(h, "full, later")
    # Killed and started: nothing is lost, and it can be read and written.
    again(signal.SIGKILL)
    verify(h, "killed and started while full")
    for b in rng.sample(sorted(own), 20):
        write(h, rng.randrange(1, BLOCK), b * BLOCK)
    again(signal.SIGTERM)
    verify(h, "ended and started while full")
    # The guest makes room itself: what it discards can be written elsewhere.
    if n % 2 == 0:
        trim(h, 2 * MIB, 0)
        trim(h, size // 2, size // 2 - 100)
        if not attempt(h.flush):
            fail("a flush of discards needs no room")
        verify(h, "after a discard")
        if not all(write(h, 4 * BLOCK, 3 * MIB + i * 4 * BLOCK)
                   for i in range(8)):
            fail("no room after a discard")
        if not attempt(h.flush):
            fail("no flush after a discard")
    make_room()
    for i in range(30):
        if not write(h, rng.randrange(1, 30000), rng.randrange(size - 30000)):
            fail("no room after there was room again")
    h.flush()
    write(h, 8192, 8192, nbd.CMD_FLAG_FUA)
    again(signal.SIGKILL if n % 2 else signal.SIGTERM)
    verify(h, "with room again")
    print(f"round {n}: {n_ok} writes until it was full")
h.shutdown()
worker.end(signal.SIGTERM)
with open(log_path + ".model", "wb") as f:
    f.write(model)
