#!/usr/bin/python3
"""Sandboxes at work at one time: how even service is, and what one that hammers does to another.

Each sandbox reads a small file, which always reaches the daemon, once in a period. First all of
them: the p99 beside the p50. Then one of them beside another that makes and unlinks files, or
writes, at full speed: with one thread, which is an equal share, and with many. At last the same
hammers, as the sandbox's own user, under a limit of requests and of bytes a second: what they got
beside what they were to get, and what is left of them for the other. The work is done by
bench/fair_load.c.

  bench/fair.py [--quick | --tiny]
"""

import contextlib
import subprocess
import sys
import time

from common import PROGRAMS, Aim, Table, as_user, running, temporary
from harness import monpb, sbpb

# Sandboxes, period of a read of each (ms), seconds, threads that hammer, rounds.
SIZES = {"full": (400, 100, 10, 32, 5), "quick": (400, 100, 3, 32, 3), "tiny": (3, 10, 0.05, 2, 1)}
VICTIM_PERIOD_MS = 1
IOPS, BANDWIDTH = 500, 16 << 20  # of the sandbox that hammers under a limit
PIECE = 65536  # of fair_load's writes


def read(seconds, period_ms, views):
    """Small reads in these views: (p50, p99) in us."""
    argv = [PROGRAMS / "fair_load", "read", str(seconds), str(int(period_ms * 1000)), *views]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    _, p50, p99, _ = map(float, done.stdout.split())
    return p50, p99


@contextlib.contextmanager
def going(process):
    """A fair_load that hammers for as long as the block lasts."""
    with process:
        try:
            if process.stdout.readline() != "going\n":
                raise RuntimeError(f"{process.args} ended")
            yield
        finally:
            process.kill()


def beside(kind, threads, seconds, victim, hammer):
    """The victim's small reads while another view hammers."""
    argv = [PROGRAMS / "fair_load", kind, str(threads), hammer]
    with going(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)):
        return read(seconds, VICTIM_PERIOD_MS, [victim])


def hammering(client, kind, threads, sandbox, view):
    """The sandbox's own user at work in its view: what root does is not limited."""
    argv = [PROGRAMS / "fair_load", kind, str(threads), "."]
    return going(as_user(argv, view, client.uid_of(sandbox), stdout=subprocess.PIPE, text=True))


def asked(client, sandbox):
    """What reached the daemon so far: (when, requests, writes)."""
    reply = client.monitor.GetStats(monpb.GetStatsRequest(sandbox_id=sandbox))
    counts = {m.labels["operation"]: m.value for m in reply.metrics
              if m.name == "agentfense_view_requests_total"}
    return time.monotonic(), sum(counts.values()), counts.get("write", 0)


def limited(table, client, rounds, seconds, threads, sandbox, hammer, victim):
    """Hammers under a limit: what they get, and the victim beside them."""
    limits = (("create", "requests a second", {"iops": IOPS}, IOPS),
              ("write", "bytes a second", {"bandwidth": BANDWIDTH}, BANDWIDTH))
    for kind, what, limit, wanted in limits:
        got, reads = [], []
        with hammering(client, kind, threads, sandbox, hammer):
            client.views.SetIoLimit(sbpb.SetIoLimitRequest(
                sandbox_id=sandbox, io_limit=sbpb.IoLimit(**limit)))
            for _ in range(rounds):
                began, requests, writes = asked(client, sandbox)
                reads.append(read(seconds, VICTIM_PERIOD_MS, [victim]))
                ended, now, written = asked(client, sandbox)
                done = now - requests if kind == "create" else (written - writes) * PIECE
                got.append(done / (ended - began))
        client.views.SetIoLimit(sbpb.SetIoLimitRequest(sandbox_id=sandbox))
        name = f"{threads} threads under a limit of {what}"
        table.row(name, sorted(got)[len(got) // 2], what, "limit", wanted, Aim(1.05))
        table.row(f"small read, beside {name}, p99", median(reads)[1], "us",
                  "p50", median(reads)[0])


def median(figures):
    """Of the p99, with its p50."""
    return sorted(figures, key=lambda pair: pair[1])[len(figures) // 2]


def run(table, size="full"):
    """Both."""
    count, period_ms, seconds, threads, rounds = SIZES[size]
    table.title(f"{count} sandboxes at work, {rounds} rounds")
    with temporary() as directory, running(directory / "daemon") as (daemon, client):
        codebase = client.codebase({f"small/{i}": "s" * 1024 for i in range(100)})
        ids = [client.sandbox(codebase, manual=True) for _ in range(count)]
        views = [daemon.mount / sandbox for sandbox in ids]
        p50, p99 = median([read(seconds, period_ms, views) for _ in range(rounds)])
        table.row(f"small read, {count} at work, p99", p99, "us", "p50", p50, Aim(10))
        victim, hammer = views[:2]
        alone = [read(seconds, VICTIM_PERIOD_MS, [victim]) for _ in range(rounds)]
        table.row("small read, alone, p99", median(alone)[1], "us", "p50", median(alone)[0])
        for kind, what in (("create", "creates"), ("write", "writes")):
            equal, many = [], []
            for _ in range(rounds):
                equal.append(beside(kind, 1, seconds, victim, hammer))
                many.append(beside(kind, threads, seconds, victim, hammer))
            name = f"small read, another {what} by {threads} threads, "
            table.row(name + "p99", median(many)[1], "us", "by 1 thread", median(equal)[1], Aim(3))
            table.row(name + "p50", median(many)[0], "us", "by 1 thread", median(equal)[0])
        limited(table, client, rounds, seconds, threads, ids[2], views[2], victim)


if __name__ == "__main__":
    run(Table(), sys.argv[1][2:] if len(sys.argv) > 1 else "full")
