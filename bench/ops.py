#!/usr/bin/python3
"""Single file operations: a view beside a plain directory, overlayfs, fuse-overlayfs and libfuse's
example passthrough_ll over io_uring; first with the open policy kernel, then with server.

All storage is on one tmpfs, where no disk hides a cost. bench/ops_load.c works in each place as an
unprivileged user (the sandbox's own in the view), round by round in turn; of the rounds' averages
the medians count. The overlayfs figures are what the targets are set against.

  bench/ops.py [--quick | --tiny]
"""

import os
import shutil
import subprocess
import sys

import time

from common import (NATIVE, OVERLAY, PASSTHROUGH, PEER_UID, PROGRAMS, Aim, Peers, Table, as_user,
                    import_tree, own, rotated, running, temporary)
from harness import READ_ONLY

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


# In the open policy server: what differs, with its bounds against overlayfs.
SERVER_OPS = [
    ("open + read 1 KiB + close, warm", "open+read+close", "us", 4, False),
    ("pread 4 KiB, cached", "pread", "us", 1.2, False),
    ("readdir of 100 names, warm", "readdir-100", "us", None, False),
    ("create + 1 KiB + close", "create", "us", 4, False),
    ("sequential read, warm", "seq-read", "MB/s", 0.5, True),
]
# Operations that are requests, for which libfuse's example is a peer.
REQUESTS = {"create", "append", "first-append", "rename", "unlink", "mkdir+rmdir", "random-write"}
LARGE_READ = 0.9  # of native, a file that the page cache does not have


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


def in_turn(workers, rounds):
    """{place: [figures of a round]}."""
    found = {place: [] for place in workers}
    for number in range(rounds):
        for place in rotated(list(workers), number):
            found[place].append(workers[place].round(number))
    return found


def print_ops(table, found, ops, suffix=""):
    """The rows of some operations."""
    for name, op, unit, bound, least in ops:
        samples = {place: [r[op] for r in found[place]] for place in found}
        aims = {OVERLAY: Aim(bound, least)} if bound else {}
        if op in REQUESTS:
            aims[PASSTHROUGH] = Aim(1)
        table.compare(name + suffix, unit, samples, aims)


def run_policy(table, directory, size, policy, ops):
    """All operations in all places, with one open policy."""
    rounds, mib = SIZES[size]
    template = directory / "template"
    suffix = "" if policy == "kernel" else ", policy server"
    with running(directory / policy, "--open-policy", policy) as (daemon, client):
        program = shutil.copy(PROGRAMS / "ops_load", directory)
        view = daemon.mount / client.sandbox(import_tree(client, template))
        workers = {"view": Worker(program, view, os.stat(view).st_uid, mib)}
        peers = Peers(directory / f"peers-{policy}", template)
        try:
            for kind in peers.kinds:
                workers[kind] = Worker(program, peers.fresh(kind), PEER_UID, mib)
            found = in_turn(workers, rounds)
        finally:
            for worker in workers.values():
                worker.close()
        peers.drop()
        print_ops(table, found, ops, suffix)
        if policy == "server":
            large_reads(table, client, daemon, template, rounds)


def read_megabytes(path):
    """MB/s of reading a file once, in pieces of 1 MiB, its pages dropped before."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        size, began = 0, time.perf_counter()
        while data := os.read(file, 1 << 20):
            size += len(data)
        return size / (time.perf_counter() - began) / 1e6
    finally:
        os.close(file)


def large_reads(table, client, daemon, template, rounds):
    """The large file, by no page cache of the mount's: passed through, and by requests."""
    codebase = import_tree(client, template)
    places = {
        "view": daemon.mount / client.sandbox(codebase, READ_ONLY, manual=True),
        "by requests": daemon.mount / client.sandbox(codebase, manual=True),
        NATIVE: template,
    }
    samples = {place: [] for place in places}
    for number in range(rounds):
        for place in rotated(list(places), number):
            samples[place].append(read_megabytes(places[place] / "large"))
    name = "large file read once, passed through, policy server"
    table.compare(name, "MB/s", samples, {NATIVE: Aim(LARGE_READ, True)})


def run(table, size="full"):
    """Both policies, one after the other."""
    rounds, mib = SIZES[size]
    table.title(f"File operations, on tmpfs, {rounds} rounds")
    with temporary() as directory:
        make_template(directory / "template", rounds, mib)
        run_policy(table, directory, size, "kernel", OPS)
        run_policy(table, directory, size, "server", SERVER_OPS)


if __name__ == "__main__":
    run(Table(), sys.argv[1][2:] if len(sys.argv) > 1 else "full")
