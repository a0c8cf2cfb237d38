#!/usr/bin/python3
"""Single file operations: a view beside a plain directory, a kernel overlayfs and fuse-overlayfs.

All storage is on one tmpfs, where no disk hides a cost. bench/ops_load.c works in each place as an
unprivileged user (the sandbox's own in the view), round by round in turn; of the rounds' averages
the medians count. The overlayfs figures are what issue 7 sets its targets against.

  bench/ops.py [--quick | --tiny]
"""

import os
import shutil
import subprocess
import sys

from common import (OVERLAY, PEER_UID, PROGRAMS, Aim, Peers, Table, as_user,
                    import_tree, own, rotated, running, temporary)

SIZES = {"full": (15, 1024), "quick": (5, 64), "tiny": (1, 1)}  # rounds, MiB of the large file
# Name here, in ops_load, unit, bound against overlayfs, whether it is a lower one.
OPS = [
    ("stat, warm", "stat", "us", 1.2, False),
    ("stat of an absent name, warm", "negative-stat", "us", 1.2, False),
    ("open + read 1 KiB + close, warm", "open+read+close", "us", 1.2, False),
    ("pread 4 KiB, cached", "pread", "us", 1.2, False),
    ("readdir of 100 names, warm", "readdir-100", "us", 0.6, False),
    ("readdir of 1,000 names, warm", "readdir-1000", "us", 0.6, False),
    ("create + 1 KiB + close", "create", "us", 4, False),
    ("append 1 KiB to an own file", "append", "us", 4, False),
    ("first append to a base file", "first-append", "us", 2.5, False),
    ("rename", "rename", "us", 5, False),
    ("unlink", "unlink", "us", 5, False),
    ("mkdir + rmdir", "mkdir+rmdir", "us", 5, False),
    ("random 4 KiB write", "random-write", "us", 12, False),
    ("sequential read, warm", "seq-read", "MB/s", 0.5, True),
    ("sequential write", "seq-write", "MB/s", 0.5, True),
]


def make_template(tree, rounds, mib):
    """The files that ops_load expects."""
    for name in ("small", "base", "d100", "d1000"):
        (tree / name).mkdir(parents=True)
    for i in range(100):
        (tree / f"small/{i}").write_bytes(b"s" * 1024)
    for i in range(rounds * 20):
        (tree / f"base/{i // 20}.{i % 20}").write_bytes(b"b" * 4096)
    for count in (100, 1000):
        for i in range(count):
            (tree / f"d{count}/file-number-{i}").touch()
    with open(tree / "large", "wb") as large:
        for _ in range(mib):
            large.write(b"l" * (1 << 20))
    own(tree)


class Worker:
    """ops_load in a place."""

    def __init__(self, program, place, uid, mib):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = as_user([program, str(mib)], place, uid, **pipes)

    def round(self, number):
        """{operation: figure}."""
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        words = self.process.stdout.readline().split()
        if not words:
            raise RuntimeError(f"ops_load ended with {self.process.wait()}")
        return {name: float(value) for name, value in zip(words[::2], words[1::2])}

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def run(table, size="full"):
    """All operations in all places."""
    rounds, mib = SIZES[size]
    table.title(f"File operations, on tmpfs, {rounds} rounds")
    with temporary() as directory, running(directory / "daemon") as (daemon, client):
        template = directory / "template"
        make_template(template, rounds, mib)
        program = shutil.copy(PROGRAMS / "ops_load", directory)
        view = daemon.mount / client.sandbox(import_tree(client, template))
        workers = {"view": Worker(program, view, os.stat(view).st_uid, mib)}
        peers = Peers(directory / "peers", template)
        try:
            for kind in peers.kinds:
                workers[kind] = Worker(program, peers.fresh(kind), PEER_UID, mib)
            found = {place: [] for place in workers}
            for number in range(rounds):
                for place in rotated(list(workers), number):
                    found[place].append(workers[place].round(number))
        finally:
            for worker in workers.values():
                worker.close()
        for name, op, unit, bound, least in OPS:
            samples = {place: [r[op] for r in found[place]] for place in found}
            table.compare(name, unit, samples, {OVERLAY: Aim(bound, least)})


if __name__ == "__main__":
    run(Table(), sys.argv[1][2:] if len(sys.argv) > 1 else "full")
