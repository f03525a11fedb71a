# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills a volume's worker, again and again, under several connections.

    python3 nbd-kill.py BLKSUB VOLUME SOCKET GOLDEN SIZE SEED ROUNDS LOG

A guest outlives its worker and takes for written what was acknowledged.  So
after each kill -9, and a new start, each sector is what the last acknowledged
request made it; but for sectors of requests that were under way, which are old
or new.  Flushed or not makes no difference: no power is cut.  LOG gets a line
for each round."""
import os
import random
import select
import signal
import sys
import time

import nbd
from nbd_worker import Worker

blksub, volume, sock, golden, size, seed, rounds, log_path = sys.argv[1:]
size, seed, rounds = int(size), int(seed), int(rounds)
rng = random.Random(seed)
SECTOR, BLOCK, N_CONNS, DEPTH = 512, 4096, 4, 24
log = open(log_path, "a", buffering=1)
worker = Worker(blksub, volume, sock, log_path + ".worker")

with open(golden, "rb") as f:
    model = bytearray(f.read())
model += bytes(size - len(model))
totals = dict.fromkeys(
    ("acked", "under_way", "new", "old", "recent", "early",
     "clean", "compactions"), 0)


def fail(what):
    sys.exit(f"FAILED: SEED={seed}: {what}")


# ---- requests

class Request:
    """One that is under way: what its range becomes."""

    def __init__(self, at, new):
        self.at, self.new, self.done = at, new, False

    def complete(self, error):
        self.done = True
        if over:  # a handle that goes tells of what it never heard
            return 1
        if error.value:
            fail(f"a request at {self.at} failed: {os.strerror(error.value)}")
        if self.new is not None:
            model[self.at:self.at + len(self.new)] = self.new
        return 1

    def sectors(self):
        if self.new is None:
            return range(0)
        return range(self.at // SECTOR, -(-(self.at + len(self.new)) // SECTOR))


def submit(conns, under_way):
    """False where the range is one that another request is at."""
    h = rng.choice(conns)
    kind = rng.randrange(20)
    if kind < 3:
        req = Request(0, None)
        under_way.append(req)
        h.aio_flush(completion=req.complete)
        return True
    n = rng.choice((rng.randrange(1, 9000), rng.randrange(1, 17) * SECTOR,
                    rng.randrange(1, 33) * BLOCK, rng.randrange(1, 300000)))
    at = rng.randrange(size - n)
    # Some places often, so that blocks change in each state.
    if rng.random() < 0.5:
        at %= 6 << 20
    if rng.random() < 0.6:
        at = at // BLOCK * BLOCK
    fua = nbd.CMD_FLAG_FUA if rng.random() < 0.05 else 0
    first, last = -(-at // BLOCK) * BLOCK, (at + n) // BLOCK * BLOCK
    if kind == 3:  # trim: whole blocks become zeros
        if last <= first:
            return False
        req = Request(first, bytes(last - first))
    elif kind < 6:
        req = Request(at, bytes(n))
    else:
        req = Request(at, rng.randbytes(n))
    mine = req.sectors()
    for other in under_way:
        theirs = other.sectors()
        if mine.start < theirs.stop and theirs.start < mine.stop:
            return False
    under_way.append(req)
    if kind == 3:
        h.aio_trim(n, at, completion=req.complete, flags=fua)
    elif kind < 6:
        if rng.random() < 0.3:
            fua |= nbd.CMD_FLAG_NO_HOLE
        h.aio_zero(n, at, completion=req.complete, flags=fua)
    else:
        h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(req.new)), at,
                     completion=req.complete, flags=fua)
    return True


def turn(conns):
    """Moves what can be moved, waits 20 ms at most."""
    p = select.poll()
    by_fd = {}
    for h in conns:
        d = h.aio_get_direction()
        fd = h.aio_get_fd()
        by_fd[fd] = h
        p.register(fd, (select.POLLIN if d & nbd.AIO_DIRECTION_READ else 0) |
                   (select.POLLOUT if d & nbd.AIO_DIRECTION_WRITE else 0))
    for fd, events in p.poll(20):
        h = by_fd[fd]
        d = h.aio_get_direction()
        if events & (select.POLLIN | select.POLLHUP) and d & nbd.AIO_DIRECTION_READ:
            h.aio_notify_read()
        elif events & select.POLLOUT and d & nbd.AIO_DIRECTION_WRITE:
            h.aio_notify_write()


def work(conns, n_requests):
    """As many requests; those that are under way in the end."""
    under_way, n_acked = [], 0
    try:
        while n_acked < n_requests:
            for _ in range(4):
                if len(under_way) < DEPTH:
                    submit(conns, under_way)
            turn(conns)
            n_acked += sum(r.done for r in under_way)
            under_way = [r for r in under_way if not r.done]
    except nbd.Error as e:
        fail(f"round {n}: {e}")
    totals["acked"] += n_acked
    return under_way


# ---- what must be there

def verify(h, under_way, what):
    may = {}
    for r in under_way:
        for s in r.sectors():
            new = bytearray(model[s * SECTOR:(s + 1) * SECTOR])
            lo, hi = max(r.at, s * SECTOR), min(r.at + len(r.new), (s + 1) * SECTOR)
            new[lo - s * SECTOR:hi - s * SECTOR] = r.new[lo - r.at:hi - r.at]
            may[s] = new
    step = 8 << 20
    for at in range(0, size, step):
        got = h.pread(min(step, size - at), at)
        if got == model[at:at + len(got)]:
            for s in [s for s in may if at <= s * SECTOR < at + step]:
                totals["old"] += 1
                del may[s]
            continue
        for s in range(at // SECTOR, (at + len(got)) // SECTOR):
            is_ = got[s * SECTOR - at:(s + 1) * SECTOR - at]
            was = model[s * SECTOR:(s + 1) * SECTOR]
            if is_ == was:
                totals["old"] += s in may
            elif s in may and is_ == may[s]:
                totals["new"] += 1
                model[s * SECTOR:(s + 1) * SECTOR] = is_
            else:
                fail(f"{what}: sector {s} is {'neither old nor new' if s in may else 'lost'}:"
                     f" {is_[:8].hex()}..., not {was[:8].hex()}...")


def log_bytes():
    return os.stat(worker.file("log")).st_size


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def ask_for_compaction():
    """blksub-volume(5): who finds an unknown clear-on-write bit writes a new
    log, without it, before anything else."""
    with open(worker.file("log"), "r+b") as f:
        head = bytearray(f.read(64))
        head[24:28] = (1 << 31).to_bytes(4, "little")
        head[60:64] = crc32c(head[:60]).to_bytes(4, "little")
        f.seek(0)
        f.write(head)
    totals["compactions"] += 1


n, over = 0, False
worker.start()
h = worker.connect()
verify(h, [], "the first start")
for n in range(1, rounds + 1):
    conns = [h] + [worker.connect() for _ in range(N_CONNS - 1)]
    before = log_bytes()
    n_requests = rng.choice((1, rng.randrange(2, 30), rng.randrange(30, 400)))
    under_way = work(conns, n_requests)
    totals["compactions"] += log_bytes() < before
    clean = rng.random() < 0.06
    if clean:
        while under_way:  # nbdkit answers them with errors while it ends
            turn(conns)
            under_way = [r for r in under_way if not r.done]
        code = worker.end(signal.SIGTERM)
        if code:
            fail(f"round {n}: exit code {code} after SIGTERM")
        totals["clean"] += 1
    else:
        worker.end()
        totals["recent"] += os.path.exists(worker.file("recent"))
    totals["under_way"] += sum(r.new is not None for r in under_way)
    over = True
    del h, conns
    early = 0
    if rng.random() < 0.2:
        ask_for_compaction()
    while rng.random() < 0.3:  # while it takes over what the last one left
        worker.start()
        time.sleep(rng.random() * 0.05)
        worker.end()
        early += 1
    totals["early"] += early
    worker.start()
    over = False
    h = worker.connect()
    verify(h, under_way, f"round {n}")
    log.write(f"round {n}: {n_requests} acknowledged, {len(under_way)} under way, "
              f"{'SIGTERM' if clean else 'SIGKILL'}, {early} more kills at the start,"
              f" log {log_bytes()} bytes\n")
worker.end()
summary = f"{rounds} rounds, " + ", ".join(f"{k} {v}" for k, v in totals.items() if v)
log.write(summary + "\n")
print(summary)
with open(log_path + ".model", "wb") as f:
    f.write(model)
