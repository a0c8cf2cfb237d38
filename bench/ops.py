#!/usr/bin/python3
"""Changes to files against their peer: a view beside a kernel overlayfs, everything on one tmpfs.

One process does an operation a number of times in the view, then in the peer, round by round, so
that a busy machine slows both; of the rounds' averages the median counts. It works as the sandbox's
own uid from within the directory, without a command around it. Python's own microsecond or two a
call is in both figures, so true ratios are a little higher. Then depth: a cold walk of a fresh
sandbox at one layer and after 64 layers were pushed. Prints a table; with --json one line a figure:
{name, value, unit, peer, peer_value, ratio}. Needs root.

  bench/ops.py [--json] [--rounds N] [--only NAME]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/e2e"))

from harness import Daemon  # noqa: E402

NUMBER = 200  # operations of one round
KIB = b"x" * 1024
PAGE = b"p" * 4096
BIG_PAGES = 1024
AIMS = {
    "create+1KiB+close": 4,
    "append 1KiB": 4,
    "rename": 5,
    "unlink": 5,
    "mkdir+rmdir": 5,
    "random 4KiB write": 12,
    "first append to a base file": 2.5,
}


def write_file(path, data, flags):
    fd = os.open(path, os.O_WRONLY | flags, 0o644)
    os.write(fd, data)
    os.close(fd)


def timed(fn, names):
    """Microseconds of fn(name), on average."""
    began = time.perf_counter_ns()
    for name in names:
        fn(name)
    return (time.perf_counter_ns() - began) / len(names) / 1000


def one_round(number):
    """Every operation once, in the working directory: {name: microseconds}."""
    found = {}
    names = [f"n{number}.{i}" for i in range(NUMBER)]
    found["create+1KiB+close"] = timed(lambda n: write_file(n, KIB, os.O_CREAT), names)
    write_file("log", KIB, os.O_CREAT)
    found["append 1KiB"] = timed(lambda n: write_file("log", KIB, os.O_APPEND), names)
    found["rename"] = timed(lambda n: os.rename(n, n + "r"), names)
    found["unlink"] = timed(lambda n: os.unlink(n + "r"), names)

    def make_and_remove(name):
        os.mkdir(name)
        os.rmdir(name)

    found["mkdir+rmdir"] = timed(make_and_remove, names)
    fd = os.open("big", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, PAGE, (BIG_PAGES - 1) * 4096)
    places = [(i * 7919 + number) % BIG_PAGES * 4096 for i in range(NUMBER)]
    found["random 4KiB write"] = timed(lambda at: os.pwrite(fd, PAGE, at), places)
    os.close(fd)
    base = [f"base/{number}.{i}" for i in range(20)]
    found["first append to a base file"] = timed(lambda n: write_file(n, KIB, os.O_APPEND), base)
    return found


def worker(directory, uid, rounds):
    """A child in `directory` that does a round for each byte it is sent."""
    ask_r, ask_w = os.pipe()
    answer_r, answer_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ask_w)
        os.chdir(directory)
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        for number in range(rounds):
            if os.read(ask_r, 1) != b"g":
                break
            os.write(answer_w, json.dumps(one_round(number)).encode() + b"\n")
        os._exit(0)
    os.close(ask_r)
    os.close(answer_w)
    return pid, ask_w, os.fdopen(answer_r, "rb")


def ask(work):
    os.write(work[1], b"g")
    line = work[2].readline()
    if not line:
        raise RuntimeError("a worker failed")
    return json.loads(line)


class Table:
    """Rows, printed as they come."""

    def __init__(self, as_json):
        self.as_json = as_json
        if not as_json:
            print(f"{'':34}{'us':>9}  {'peer':24}{'us':>9}{'ratio':>8}  aim")

    def row(self, name, value, peer, peer_value, aim):
        ratio = value / peer_value
        if self.as_json:
            print(json.dumps({"name": name, "value": round(value, 2), "unit": "us", "peer": peer,
                              "peer_value": round(peer_value, 2), "ratio": round(ratio, 2)}))
        else:
            print(f"{name:34}{value:9.1f}  {peer:24}{peer_value:9.1f}{ratio:8.2f}  <= {aim}")


def make_overlay(directory):
    parts = {name: directory / name for name in ("lower", "upper", "work", "merged")}
    for path in parts.values():
        path.mkdir()
    (parts["lower"] / "base").mkdir()
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    return parts, options


def bench_ops(directory, table, rounds, only):
    base = {f"base/{r}.{i}": b"b" * 4096 for r in range(rounds) for i in range(20)}
    daemon = Daemon(directory / "daemon")
    daemon.dir.mkdir()
    daemon.start()
    client = daemon.client()
    parts, options = make_overlay(directory)
    try:
        sandbox = client.sandbox(client.codebase(base))
        view = daemon.mount / sandbox
        uid = os.stat(view).st_uid
        for path, data in base.items():
            (parts["lower"] / path).write_bytes(data)
            os.chown(parts["lower"] / path, uid, uid)
        for path in (parts["lower"], parts["lower"] / "base", parts["upper"]):
            os.chown(path, uid, uid)
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", parts["merged"]],
                       check=True)
        ours, peer = worker(view, uid, rounds), worker(parts["merged"], uid, rounds)
        found = [(ask(ours), ask(peer)) for _ in range(rounds)]
        for work in (ours, peer):
            os.waitpid(work[0], 0)
        for name, aim in AIMS.items():
            if only and only not in name:
                continue
            mine = statistics.median(a[name] for a, _ in found)
            theirs = statistics.median(b[name] for _, b in found)
            table.row(name, mine, "overlayfs", theirs, aim)
    finally:
        subprocess.run(["umount", "-l", parts["merged"]], check=False,
                       stderr=subprocess.DEVNULL)
        client.close()
        daemon.cleanup()


def cold_walk(client, daemon, codebase):
    """Microseconds a file of looking at everything in a fresh view."""
    sandbox = client.sandbox(codebase)
    began = time.perf_counter_ns()
    seen = 0
    for where, _, files in os.walk(daemon.mount / sandbox):
        for name in files:
            os.lstat(os.path.join(where, name))
            seen += 1
    took = (time.perf_counter_ns() - began) / seen / 1000
    client.destroy(sandbox)
    return took


def bench_depth(directory, table):
    daemon = Daemon(directory / "deep")
    daemon.dir.mkdir()
    daemon.start()
    client = daemon.client()
    try:
        files = {f"d{i % 40}/f{i}": b"content" for i in range(2000)}
        flat, deep = client.codebase(files), client.codebase(files)
        for i in range(64):
            for j in range(5):
                client.upload(deep, f"d{i % 40}/new{i}.{j}", b"content")
            client.sandbox(deep, start=False)  # it holds the stack: the layer stays one
        for i in range(320):
            client.upload(flat, f"d{i % 40}/more{i}", b"content")
        pairs = [(cold_walk(client, daemon, deep), cold_walk(client, daemon, flat))
                 for _ in range(5)]
        table.row("cold walk, 64 layers pushed", statistics.median(a for a, _ in pairs),
                  "1 layer", statistics.median(b for _, b in pairs), 1.3)
    finally:
        client.close()
        daemon.cleanup()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", help="figures whose name contains this")
    args = parser.parse_args()
    table = Table(args.json)
    with tempfile.TemporaryDirectory(prefix="agentfense-ops-") as directory:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory], check=True)
        try:
            path = pathlib.Path(directory)
            bench_ops(path, table, args.rounds, args.only)
            if not args.only or args.only in "cold walk, 64 layers pushed":
                bench_depth(path, table)
        finally:
            subprocess.run(["umount", "-l", directory], check=True)


if __name__ == "__main__":
    main()
