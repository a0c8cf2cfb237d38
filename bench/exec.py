#!/usr/bin/python3
"""Commands against their peer: the daemon's start, exec and destroy beside a bare bubblewrap,
and the Docker runtime beside docker run and docker exec.

The client is bench/exec_load.c over the unix socket. Ours and the peer run in the same loop, one
after the other, so that a busy machine slows both; the ratio counts. Prints a table with the aim of
each figure; with --json one line a figure: {name, value, unit, peer, peer_value, ratio, aim}.
Run it with `make bench-exec`; needs root.
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

from dockerd import IMAGE, Dockerd, missing  # noqa: E402
from harness import BIN, Daemon, eventually  # noqa: E402

LOAD = BIN.parent / "bench/exec_load"
BARE = "bare bwrap"
# Of the reference implementation, on a 2-core machine.
REFERENCE_EXEC_RATE = 56
REFERENCE_DESTROY_S = 40


def load(daemon, mode, number):
    """Runs the load program: {figure: (value, 99th percentile or None)}."""
    out = subprocess.run(
        [LOAD, f"unix:{daemon.socket}", mode, str(number)], check=True, stdout=subprocess.PIPE
    ).stdout.decode()
    found = {}
    for line in out.splitlines():
        name, value, _unit, *worst = line.split()
        found[name] = (float(value), float(worst[0]) if worst else None)
    return found


def with_daemon(args, work):
    """Runs work(daemon) on a daemon of its own."""
    with tempfile.TemporaryDirectory(prefix="agentfense-bench-") as directory:
        daemon = Daemon(directory, *args).start()
        try:
            return work(daemon)
        finally:
            daemon.cleanup()


class Table:
    """Rows, printed as they come."""

    def __init__(self, as_json):
        self.as_json = as_json
        if not as_json:
            print(f"{'':34}{'value':>10}{'p99':>9}  {'peer':24}{'x peer':>8}  aim")

    def row(self, name, figure, unit, peer, peer_value, aim):
        value, worst = figure
        ratio = value / peer_value
        if self.as_json:
            fields = {"name": name, "value": value, "unit": unit, "peer": peer}
            print(json.dumps(fields | {"peer_value": peer_value, "ratio": ratio, "aim": aim}))
            return
        tail = f"{worst:9.2f}" if worst is not None else " " * 9
        beside = f"{peer} {peer_value:.1f} {unit}"
        print(f"{name:30}{value:10.2f} {unit:3}{tail}  {beside:24}{ratio:8.2f}  {aim}", flush=True)


def left_behind(daemon):
    """Processes and mounts of the daemon's sandboxes."""
    # Of this daemon: others of the machine come and go.
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().count(str(daemon.dir))
    children = pathlib.Path(f"/proc/{daemon.process.pid}/task")
    count = sum(len((t / "children").read_text().split()) for t in children.iterdir())
    return {"children": count, "mounts": mounts, "fds": fds_of(daemon)}


def fds_of(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def bwrap_figures(table, rounds):
    def pooled(daemon):
        serial, starts = load(daemon, "serial", rounds), load(daemon, "starts", rounds)
        return serial, starts, load(daemon, "parallel", max(rounds // 50, 2))

    serial, starts, parallel = with_daemon([], pooled)
    plain = with_daemon(["--exec-pool", "0"], lambda daemon: load(daemon, "starts", rounds))
    peer = serial["bare_bwrap"][0]
    table.row("exec of true, argv", serial["exec_argv"], "ms", BARE, peer, "<= 0.3")
    table.row("exec of true, shell", serial["exec_shell"], "ms", BARE, peer, "")
    peer = starts["bare_bwrap"][0]
    table.row("create", starts["create"], "ms", BARE, peer, "")
    table.row("start from the pool", starts["start"], "ms", BARE, peer, "<= 0.3")
    table.row("destroy (running)", starts["destroy"], "ms", BARE, peer, "<= 0.5")
    peer = plain["bare_bwrap"][0]
    table.row("start without a pool", plain["start"], "ms", BARE, peer, "<= 1.5")
    peer = parallel["rate_bare_bwrap"][0]
    table.row("4 clients, argv", parallel["rate_exec_argv"], "/s", BARE, peer, ">= 4")
    table.row("4 clients, shell", parallel["rate_exec_shell"], "/s", BARE, peer, ">= 2.5")


def mass_figures(table, sandboxes):
    def work(daemon):
        def settled():  # no sandbox but the pool
            return left_behind(daemon)["children"] == 4

        eventually(settled)
        before = left_behind(daemon)
        found = load(daemon, "mass", sandboxes)
        eventually(settled)
        return found, before, left_behind(daemon)

    found, before, after = with_daemon(["--exec-pool", "4"], work)
    name = f"{sandboxes} sandboxes, 8 clients"
    reference = "reference"
    table.row(f"{name}: exec", found["mass_exec"], "/s", reference, REFERENCE_EXEC_RATE, ">= 10")
    wanted = REFERENCE_DESTROY_S * sandboxes / 400
    table.row(f"{name}: destroy", found["mass_destroy"], "s", reference, wanted, "<= 0.1")
    left = {k: after[k] - before[k] for k in before}
    if not table.as_json:
        print(f"{name}: {found['mass_start'][0]:.0f} starts/s; left behind: {left}")


def timed_docker(dockerd, rounds, *args):
    """Median of the milliseconds that a docker command takes."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        dockerd.docker(*args)
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def docker_figures(table, rounds):
    if missing():
        print(f"Docker: not installed: {missing()}")
        return
    dockerd = Dockerd()
    try:
        dockerd.start().make_image()
        dockerd.docker("run", "-d", "--name", "peer", "--network", "none", IMAGE, "sleep", "9999")
        run = timed_docker(dockerd, rounds, "run", "--rm", "--network", "none", IMAGE, "true")
        execs = timed_docker(dockerd, rounds, "exec", "peer", "true")
        args = ["--exec-runtime", "docker", "--exec-docker-socket", str(dockerd.socket)]
        args += ["--exec-docker-image", IMAGE, "--exec-docker-pool", str(rounds + 2)]

        def work(daemon):
            # What is measured is a start from the pool, not its refill.
            eventually(lambda: len(dockerd.containers()) >= rounds + 3, seconds=120)
            starts = load(daemon, "starts", rounds)
            return starts, load(daemon, "serial", rounds * 5)

        starts, serial = with_daemon(args, work)
        exec_argv = serial["exec_argv"]
        table.row("Docker: exec of true", exec_argv, "ms", "docker exec", execs, "<= 0.05")
        table.row("Docker: start, pool", starts["start"], "ms", "docker run", run, "<= 0.2")
        table.row("Docker: destroy", starts["destroy"], "ms", "docker run", run, "")
    finally:
        dockerd.cleanup()


def main():
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=200)
    options.add_argument("--sandboxes", type=int, default=400)
    options.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    given = options.parse_args()
    table = Table(given.json)
    bwrap_figures(table, given.rounds)
    mass_figures(table, given.sandboxes)
    docker_figures(table, max(given.rounds // 15, 5))


if __name__ == "__main__":
    main()
