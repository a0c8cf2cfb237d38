#!/usr/bin/python3
"""First looks in processor time: a walk and a git status that nobody has done before, and again.

Times of commands mean little on a machine that others use as well; the processor time that one
takes, ours and the daemon's together, holds. Each command runs twice in views that nobody has
looked into, and in fresh peers beside; the least of a few rounds counts, for others only add. (What
a peer's own daemon takes is not in it.) Besides, the requests that reached our daemon. All of it
as root, who may walk through the mount's top directory.

  bench/cold.py [--quick | --tiny]
"""

import os
import resource
import subprocess
import sys

from common import NATIVE, OVERLAY, Peers, Table, import_tree, own, running, temporary
from harness import afpb
from work import WALK, make_repository, write_text_files

SIZES = {"full": (20000, 10), "quick": (5000, 5), "tiny": (60, 1)}  # files, rounds
KINDS, TURNS = (NATIVE, OVERLAY), ("first", "second")
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


def run(table, size="full"):
    """Both commands."""
    files, rounds = SIZES[size]
    table.title(f"First looks at {files:,} files, processor time, the least of {rounds} rounds")
    for name, command in COMMANDS:
        with temporary() as directory, running(directory / "daemon") as (daemon, client):
            tree = directory / "tree"
            (make_repository if name == "git status" else write_text_files)(tree, files)
            own(tree)
            codebase = import_tree(client, tree)
            peers = Peers(directory / "peers", tree)
            found = {(place, turn): [] for place in ("view", *KINDS) for turn in TURNS}
            sent = {}
            for _ in range(rounds):
                places = {kind: peers.fresh(kind) for kind in KINDS}
                places["view"] = daemon.mount / client.sandbox(codebase, manual=True)
                for turn in TURNS:
                    before = requests(client)
                    for place, path in places.items():
                        found[place, turn].append(look(command, path, daemon.process.pid))
                    sent[turn] = requests(client) - before
            peers.drop()
        for turn in TURNS:
            both, in_daemon = min((sum(pair), pair[1]) for pair in found["view", turn])
            for kind in KINDS:
                peer = min(pair[0] for pair in found[kind, turn])
                table.row(f"{name}, {turn}", both, "ms", kind, peer)
            table.row(f"{name}, {turn}: of it in the daemon", in_daemon, "ms")
            table.row(f"{name}, {turn}: requests", sent[turn], "")


if __name__ == "__main__":
    run(Table(), sys.argv[1][2:] if len(sys.argv) > 1 else "full")
