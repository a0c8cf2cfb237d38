#!/usr/bin/python3
"""How costs grow: with the number of sandboxes, the size of a delta, layers, names of a directory.

Each size is measured in turn with the smallest, round by round, in one daemon; the ratio of the
medians says what the size costs. One process does the operations from outside of the sandboxes, as
root: Python's own microsecond is in every figure. Cold means a sandbox that was just started. Draws
an SVG of each curve. On a tmpfs.

  bench/growth.py [--quick | --tiny]
"""

import os
import statistics
import sys
import time

from common import ROOT, Aim, Table, import_tree, running, temporary
from harness import pb
from plot import draw

# Views, entries of a delta, layers, names of a directory; rounds.
SIZES = {
    "full": ((1, 10, 100, 1000), (100, 1000, 10000, 100000, 1000000), (1, 4, 16, 64),
             (1000, 10000, 100000), 7),
    "quick": ((1, 10, 100, 1000), (100, 1000, 10000, 50000), (1, 4, 16, 64), (1000, 20000), 3),
    "tiny": ((1, 3), (10, 50), (1, 3), (10, 100), 1),
}
PROBES = 100


def micros(fn, count):
    """Microseconds of one of fn(0) to fn(count - 1)."""
    began = time.perf_counter_ns()
    for i in range(count):
        fn(i)
    return (time.perf_counter_ns() - began) / count / 1000


def write_new(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, b"x" * 1024)
    os.close(fd)


def touch(place, tag):
    """A file looked for, made, and removed; the place is left as it was."""
    assert not os.path.lexists(place / f"probe{tag}")
    write_new(place / f"probe{tag}")
    os.unlink(place / f"probe{tag}")


def report(table, folder, name, file, x_title, found, aim):
    """A row of the largest beside the smallest, and the curve."""
    medians = [(size, statistics.median(samples)) for size, samples in sorted(found.items())]
    for size, value in medians[1:]:
        last = size == medians[-1][0]
        table.row(f"{name}, {size:,}", value, "us", f"{medians[0][0]:,}", medians[0][1],
                  aim if last else None)
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder / file, name, x_title, "microseconds", medians)


def stop_and_start(client, sandbox):
    """The kernel forgets the view: it comes back under another nodeid."""
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))


def views(table, directory, folder, sizes, rounds):
    """Changes that go round all of so many attached views."""
    args = ["--exec-pool", "0", "--exec-lazy"]
    with running(directory / "views", *args) as (daemon, client):
        codebase = client.codebase({"f": "x"})
        places, found = [], {}
        for size in sizes:
            while len(places) < size:
                places.append(daemon.mount / client.sandbox(codebase, manual=True))
            count = max(size, PROBES)
            touched = places[:size]
            for place in touched:
                touch(place, "first")
            for _ in range(rounds):
                for among in (touched, places[:1]):
                    took = micros(lambda i, at=among: touch(at[i % len(at)], i), count)
                    found.setdefault(len(among), []).append(took)
        report(table, folder, "look, create, unlink round so many views", "views.svg",
               "running sandboxes", found, Aim(1.2))


def delta(table, directory, folder, sizes, rounds):
    """A cold look at names of a delta of so many entries, 1,000 in a directory."""
    with running(directory / "delta", "--exec-pool", "0", "--exec-lazy") as (daemon, client):
        codebase = client.codebase({"f": "x"})
        made = {}
        for size in sizes:
            made[size] = client.sandbox(codebase, manual=True)
            for i in range(size):
                if i % 1000 == 0:
                    os.mkdir(daemon.mount / made[size] / f"d{i // 1000}")
                os.mknod(daemon.mount / made[size] / f"d{i // 1000}/f{i}", 0o644)
        found = {size: [] for size in sizes}
        for _ in range(rounds):
            for size, sandbox in made.items():
                stop_and_start(client, sandbox)
                step = max(size // PROBES, 1)
                top = daemon.mount / sandbox
                names = [top / f"d{i // 1000}/f{i}" for i in range(0, size, step)][:PROBES]
                found[size].append(micros(lambda i: os.lstat(names[i]), len(names)))
        report(table, folder, "cold look in a delta of so many", "delta.svg",
               "entries of the delta", found, Aim(1.5))


def walk(place):
    """Microseconds a name of looking at everything."""
    began, seen = time.perf_counter_ns(), 0
    for where, folders, files in os.walk(place):
        for name in folders + files:
            os.lstat(os.path.join(where, name))
            seen += 1
    return (time.perf_counter_ns() - began) / seen / 1000


def layers(table, directory, folder, sizes, rounds):
    """A cold walk over so many layers, of the same number of names."""
    with running(directory / "layers", "--exec-pool", "0", "--exec-lazy") as (daemon, client):
        files = {f"d{i % 20}/f{i}": b"content" for i in range(600)}
        codebases = {}
        for size in sizes:
            codebases[size] = client.codebase(files)
            for i in range(sizes[-1] * 5):
                client.upload(codebases[size], f"d{i % 20}/new{i}", b"content")
                if (i + 1) % (sizes[-1] * 5 // size) == 0:
                    client.sandbox(codebases[size], start=False)  # it holds the stack
        found = {size: [] for size in sizes}
        for _ in range(rounds):
            for size, codebase in codebases.items():
                sandbox = client.sandbox(codebase, manual=True)
                found[size].append(walk(daemon.mount / sandbox))
                client.destroy(sandbox)
        report(table, folder, "cold walk, a name, after so many layers", "layers.svg",
               "layers pushed", found, Aim(1.3))


def names(table, directory, folder, sizes, rounds):
    """A cold listing and a look at every name of a directory of so many, a name."""
    tree = directory / "names-tree"
    for size in sizes:
        (tree / f"n{size}").mkdir(parents=True)
        for i in range(size):
            (tree / f"n{size}/name{i}").touch()
    with running(directory / "names", "--exec-pool", "0", "--exec-lazy") as (daemon, client):
        codebase = import_tree(client, tree)
        found = {size: [] for size in sizes}
        for _ in range(rounds):
            sandbox = client.sandbox(codebase, manual=True)
            for size in sizes:
                found[size].append(walk(daemon.mount / sandbox / f"n{size}"))
            client.destroy(sandbox)
        report(table, folder, "list and look up, a name, of so many", "names.svg",
               "names of the directory", found, Aim(1.2))


def run(table, size="full", folder=ROOT / "build/bench"):
    """All curves."""
    view_counts, deltas, depths, name_counts, rounds = SIZES[size]
    table.title(f"Growth, {rounds} rounds")
    with temporary() as directory:
        views(table, directory, folder, view_counts, rounds)
        delta(table, directory, folder, deltas, rounds)
        layers(table, directory, folder, depths, rounds)
        names(table, directory, folder, name_counts, rounds)


if __name__ == "__main__":
    run(Table(), sys.argv[1][2:] if len(sys.argv) > 1 else "full")
