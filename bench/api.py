#!/usr/bin/python3
"""The API under a load in C, what sandboxes cost in memory, and what they share.

bench/api_load.c speaks to the daemon over its unix socket, one call at a time for times and with 64
calls open for rates. The peer of a time is what the user's page claims for the same thing, where
it does (its table is quoted in docs/PERFORMANCE.md). Memory is what the kernel says of the daemon's
and its sandboxes' processes (smaps_rollup), and the fall of MemAvailable, which others on the
machine move as well. Sharing is counted in READ requests and in
pages. On a tmpfs.

  bench/api.py [--quick | --tiny]
"""

import os
import pathlib
import re
import subprocess
import sys

from common import PROGRAMS, Aim, Table, import_tree, own, running, temporary
from harness import READ_ONLY, afpb, eventually

# Rounds, milliseconds of a rate, batch, idle sandboxes, running ones, sandboxes and MiB that share.
SIZES = {
    "full": (2000, 3000, 1000, 10000, 1000, 400, 100),
    "quick": (200, 700, 1000, 10000, 50, 20, 20),
    "tiny": (5, 50, 20, 50, 3, 3, 1),
}
PAGE = "the page"
# Name in api_load, name here, bound of the value, the page's p50.
LATENCIES = [
    ("create", "create a sandbox", 0.12, 150),
    ("destroy", "destroy an idle sandbox", 0.5, None),
    ("download_1k", "download 1 KB", 0.15, 0.5),
    ("download_1m", "download 1 MB", 1, 15),
    ("upload_1k", "upload 1 KB", None, None),
    ("upload_1m", "upload 1 MB", None, None),
]
RATES = [("reads", "small reads", 40000, 5000), ("uploads", "small uploads", 15000, 3000)]


def load(daemon, codebase, mode, number):
    """Runs api_load: {figure: (value, 99th percentile or None)}."""
    argv = [PROGRAMS / "api_load", f"unix:{daemon.socket}", codebase, mode, str(number)]
    out = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = {}
    for line in out.splitlines():
        name, value, _unit, *worst = line.split()
        found[name] = (float(value), float(worst[0]) if worst else None)
    return found


def bound(value, least=False):
    return Aim(value, least, of_value=True) if value else None


def calls(table, directory, rounds, millis, batch):
    """Times and rates of single calls."""
    with running(directory / "calls") as (daemon, client):
        codebase = client.codebase()
        found = load(daemon, codebase, "latency", rounds)
        for name, text, most, page in LATENCIES:
            value, p99 = found[name]
            table.row(text, value, "ms", PAGE if page else None, page, bound(most), p99)
        found = load(daemon, codebase, "rate", millis)
        for name, text, least, page in RATES:
            table.row(text, found[name][0], "/s", PAGE, page, bound(least, least=True))
        found = load(daemon, codebase, "batch", batch)
        table.row(f"create {batch:,} by one call", found["batch_create"][0], "ms", aim=bound(30))
        table.row(f"destroy {batch:,} by one call", found["batch_destroy"][0], "ms")


# ---- memory -------------------------------------------------------------------------------


def rollup(pid, field):
    """KiB of a process, of a field of smaps_rollup."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    return int(re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)[1])


def available_kib():
    text = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8")
    return int(re.search(r"MemAvailable:\s+(\d+)", text)[1])


def descendants(pid):
    """The processes below a process."""
    found = []
    try:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(child)]
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended meanwhile
    return found


def pss_below(pid):
    """KiB of a process and those below it, and how many those are; of the ones that stay."""
    found = {pid: rollup(pid, "Pss")}
    for child in descendants(pid):
        try:
            found[child] = rollup(child, "Pss")
        except (FileNotFoundError, ProcessLookupError, TypeError):
            continue  # a helper of a start that has just ended
    return sum(found.values()), len(found) - 1


def fds_and_threads(pid):
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def idle_memory(table, directory, idle):
    """What the daemon holds for a sandbox that only exists."""
    with running(directory / "idle", "--exec-pool", "0") as (daemon, client):
        pid = daemon.process.pid
        codebase = client.codebase({"f": "x"})
        load(daemon, codebase, "make", 20)  # what is made once is made
        private, rss = rollup(pid, "Anonymous"), rollup(pid, "Rss")
        fds, threads = fds_and_threads(pid)
        load(daemon, codebase, "make", idle)
        name = f"memory of one of {idle:,} idle sandboxes"
        per = 1024 / idle
        table.row(name, (rollup(pid, "Anonymous") - private) * per, "B", PAGE, 5 << 20, bound(2048))
        table.row(name + ", store included", (rollup(pid, "Rss") - rss) * per, "B", PAGE, 5 << 20)
        more = sum(fds_and_threads(pid)) - fds - threads
        table.row("descriptors and threads for them", more, "", aim=bound(4))


def running_memory(table, directory, count):
    """What a started sandbox costs the machine."""
    with running(directory / "up", "--exec-pool", "0") as (daemon, client):
        pid = daemon.process.pid
        codebase = client.codebase({"f": "x"})
        client.out(client.sandbox(codebase), "true")
        before, processes = pss_below(pid)
        available = available_kib()
        for _ in range(count):
            client.sandbox(codebase)
        gone = available - available_kib()
        after, there = pss_below(pid)
        name = f"of one of {count:,} running sandboxes"
        table.row(f"memory {name}, its processes", (after - before) / count, "KiB", PAGE, 5 << 10)
        whole = max(gone, 0) / count
        table.row(f"memory {name}, all told", whole, "KiB", PAGE, 5 << 10)
        table.row(f"processes {name}", (there - processes) / count, "", PAGE, 2)


# ---- sharing ------------------------------------------------------------------------------


def reads(client):
    """READ requests so far."""
    found = client.inspect.Stats(afpb.StatsRequest()).counters
    return sum(c.value for c in found if c.name == "fuse_read_requests")


def resident_mib(views, names):
    """What the page cache holds of these files, each view's pages counted."""
    found = 0
    for view in views:
        argv = ["fincore", "--bytes", "--noheadings", "--output", "RES", *names]
        out = subprocess.run(argv, cwd=view, stdout=subprocess.PIPE, text=True, check=True).stdout
        found += sum(map(int, out.split()))
    return found / 2**20


def sharing(table, directory, sandboxes, mib):
    """READ requests of those who read what another sandbox has read."""
    tree = directory / "shared"
    tree.mkdir()
    for i in range(mib):
        (tree / f"f{i}").write_bytes(os.urandom(1 << 20))
    own(tree)
    with running(directory / "share", "--exec-pool", "0") as (daemon, client):
        codebase = import_tree(client, tree)
        for level, rules in (("read", READ_ONLY), ("write", [("**/*", "write", 0)])):
            ids = [client.sandbox(codebase, rules, manual=True) for _ in range(sandboxes)]
            before = reads(client)
            client.out(ids[0], "cat f* | cksum")
            first = reads(client) - before
            for sandbox in ids[1:]:
                client.out(sandbox, "cat f* > /dev/null")
            more = (reads(client) - before - first) / (sandboxes - 1)
            name = f"READ requests for {mib} MiB, {sandboxes - 1} more sandboxes, {level} level"
            is_shared = level == "read"
            table.row(name, more, "", "the first", first, bound(0.001) if is_shared else None)
            # Who reads without a READ has the first one's pages.
            views = [daemon.mount / i for i in (ids[:1] if more == 0 else ids)]
            name = f"page cache of {sandboxes} sandboxes that read {mib} MiB, {level} level"
            held = resident_mib(views, [f"f{i}" for i in range(mib)])
            table.row(name, held, "MiB", "the content", mib, Aim(1.2) if is_shared else None)
            for sandbox in ids:
                client.destroy(sandbox)
            eventually(lambda: not any(p.startswith("sb_") for p in os.listdir(daemon.mount)))


def run(table, size="full"):
    """All of it."""
    rounds, millis, batch, idle, up, sandboxes, mib = SIZES[size]
    table.title(f"API, memory and sharing, {rounds:,} rounds")
    with temporary() as directory:
        calls(table, directory, rounds, millis, batch)
        idle_memory(table, directory, idle)
        running_memory(table, directory, up)
        sharing(table, directory, sandboxes, mib)


if __name__ == "__main__":
    run(Table(), sys.argv[1][2:] if len(sys.argv) > 1 else "full")
