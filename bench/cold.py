#!/usr/bin/python3
"""First looks in processor time: a walk and a git status that nobody has done before, and again.

Times of commands mean little on a machine that others use as well; the processor time that one
takes, ours and the daemon's together, holds. Each round imports the codebase anew. A fresh view is
the first that looks at it; then comes a second view of it; then two that may only read, of which
the second counts. Each in turn with fresh peers; the least of a few rounds counts, for others only
add. (What a peer's own daemon takes is not in it.) Besides, the requests that reached our daemon.
All of it as root, who may walk through the mount's top directory.

  bench/cold.py [--quick | --tiny]
"""

import os
import resource
import subprocess
import sys

from common import NATIVE, OVERLAY, Aim, Peers, Table, import_tree, own, running, temporary
from harness import FULL, READ_ONLY, afpb
from work import WALK, make_repository, write_text_files

SIZES = {"full": (20000, 10), "quick": (5000, 5), "tiny": (60, 1)}  # files, rounds
KINDS = (NATIVE, OVERLAY)
# Looks of a round, in order: rules of the view, whether it is the one before, bound against native.
LOOKS = [
    ("fresh view", FULL, False, 2.5),
    ("fresh view, again", FULL, True, 1.3),
    ("second view", FULL, False, 2),
    (None, READ_ONLY, False, None),  # makes the inodes that the next one shares
    ("second view, read level", READ_ONLY, False, 2),
]
COMMANDS = [("walk", WALK), ("git status", "git -c safe.directory='*' status --porcelain")]


def daemon_ms(pid):
    """Processor time of the daemon so far."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as stat:
            total += int(stat.read().split()[0])
    return total / 1e6


def children_ms():
    """Processor time of the commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000


def requests(client):
    """Requests so far, but for those that the kernel sends when it likes."""
    found = client.inspect.Stats(afpb.StatsRequest()).counters
    return sum(c.value for c in found if c.name.startswith("fuse_")
               and c.name.endswith("_requests") and c.name not in ("fuse_forget_requests",
                                                                   "fuse_slow_requests"))


def look(command, place, pid):
    """One command there: (its own processor time, the daemon's), in ms."""
    own_before, daemon_before = children_ms(), daemon_ms(pid)
    subprocess.run(command, shell=True, cwd=place, check=True, stdout=subprocess.DEVNULL)
    return children_ms() - own_before, daemon_ms(pid) - daemon_before


def measure(command, client, pid, codebase, mount, peers, found):
    """One round: adds {(look, place): [(the command's ms, the daemon's, requests)]}."""
    place = None
    fresh = {kind: [peers.fresh(kind), False] for kind in KINDS}
    for name, rules, again, _ in LOOKS:
        if not again:
            place = mount / client.sandbox(codebase, rules=rules, manual=True)
        before = requests(client)
        figures = look(command, place, pid)
        found.setdefault((name, "view"), []).append((*figures, requests(client) - before))
        for kind in KINDS:  # their first look, and their second
            if fresh[kind][1] == again:
                found.setdefault((again, kind), []).append(look(command, fresh[kind][0], pid)[0])
                fresh[kind][1] = True
    peers.drop()


def run(table, size="full"):
    """Both commands."""
    files, rounds = SIZES[size]
    table.title(f"First looks at {files:,} files, processor time, the least of {rounds} rounds")
    for name, command in COMMANDS:
        found = {}
        with temporary() as directory, running(directory / "daemon") as (daemon, client):
            tree = directory / "tree"
            (make_repository if name == "git status" else write_text_files)(tree, files)
            own(tree)
            peers = Peers(directory / "peers", tree)
            for _ in range(rounds):
                codebase = import_tree(client, tree)
                measure(command, client, daemon.process.pid, codebase, daemon.mount, peers, found)
        for which, _, again, bound in LOOKS:
            if not which:
                continue
            own_ms, daemon_ms_, sent = min(found[which, "view"], key=lambda f: f[0] + f[1])
            for kind in KINDS:
                peer = min(found[again, kind])
                aim = Aim(bound) if kind == NATIVE else None
                table.row(f"{name}, {which}", own_ms + daemon_ms_, "ms", kind, peer, aim)
            table.row(f"{name}, {which}: of it in the daemon", daemon_ms_, "ms")
            table.row(f"{name}, {which}: requests", sent, "")


if __name__ == "__main__":
    run(Table(), sys.argv[1][2:] if len(sys.argv) > 1 else "full")
