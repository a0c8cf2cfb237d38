"""Commands against their peer: the daemon's start, exec and destroy beside a bare bubblewrap,
and the Docker runtime beside docker run and docker exec.

The client is bench/exec_load.c over the unix socket. Ours and the peer run in the same loop, one
after the other, so that a busy machine slows both; the ratio of the medians counts, and the
quartiles say how far to trust it. The reference is the system whose contract sandbox.v1 is: its
figures were taken once, on a machine with 2 cores. Read next: common.py, exec_load.c.
"""

import dataclasses
import os
import pathlib
import subprocess
import tempfile

from common import BIN, PROGRAMS, Aim, Daemon
from dockerd import IMAGE, Dockerd, missing
from harness import eventually

BARE = "bare bwrap"
REFERENCE_EXEC_RATE = 56  # commands a second, 8 clients
REFERENCE_DESTROY_S = 40  # of 400 sandboxes
SIZES = {  # rounds, of them side by side, sandboxes at once, rounds with Docker
    "full": (300, 9, (400, 1000), 13),
    "quick": (30, 3, (40,), 0),
    "tiny": (3, 1, (4,), 0),
}


@dataclasses.dataclass
class Figure:
    """A line of the load program."""

    value: float
    quartiles: tuple = None
    p99: float = None


def load(daemon, mode, number, *peer, env=None):
    """Runs the load program: {name: Figure}."""
    argv = [PROGRAMS / "exec_load", f"unix:{daemon.socket}", mode, str(number), *peer]
    out = subprocess.run(argv, check=True, stdout=subprocess.PIPE, env=env).stdout.decode()
    found = {}
    for line in out.splitlines():
        name, value, _unit, *spread = line.split()
        low, high, p99 = map(float, spread or (0, 0, 0))
        found[name] = Figure(float(value), (low, high), p99) if spread else Figure(float(value))
    return found


def with_daemon(args, work):
    """Runs work(daemon) on a daemon of its own."""
    with tempfile.TemporaryDirectory(prefix="agentfense-bench-") as directory:
        daemon = Daemon(directory, *args).start()
        try:
            return work(daemon)
        finally:
            daemon.cleanup()


def row(table, name, found, key, unit, peer, peer_key="peer", aim=None):
    """A figure of the load program beside the peer that ran between."""
    mine, other = found[key], found[peer_key]
    table.row(name, mine.value, unit, peer, other.value, aim, mine.p99 if unit == "ms" else None,
              (mine.quartiles, other.quartiles))


def note_failures(table, *runs):
    """The peer's runs that are in no figure."""
    failed = sum(found["peer_failures"].value for found in runs)
    if failed:
        table.note(f"{failed:g} runs of the peer failed and are not counted")


def is_guard(pid):
    """The process that aborts the mount when the daemon is killed (fs/guard.c)."""
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text() == "af-fs-guard\n"
    except OSError:  # has ended
        return False


def left_behind(daemon):
    """Processes, mounts and descriptors of the daemon and its sandboxes."""
    # Of this daemon: others of the machine come and go.
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().count(str(daemon.dir))
    tasks = pathlib.Path(f"/proc/{daemon.process.pid}/task").iterdir()
    children = [pid for task in tasks for pid in (task / "children").read_text().split()]
    count = sum(not is_guard(pid) for pid in children)
    fds = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
    return {"children": count, "mounts": mounts, "fds": fds}


def bwrap_figures(table, rounds, side_by_side):
    """One at a time, and 4 clients at once."""

    def pooled(daemon):
        serial, starts = load(daemon, "serial", rounds), load(daemon, "starts", rounds)
        return serial, starts, load(daemon, "parallel", side_by_side)

    serial, starts, parallel = with_daemon([], pooled)
    plain = with_daemon(["--exec-pool", "0"], lambda daemon: load(daemon, "starts", rounds))
    row(table, "exec of true, argv", serial, "exec_argv", "ms", BARE, aim=Aim(0.3))
    row(table, "exec of true, shell", serial, "exec_shell", "ms", BARE)
    row(table, "create", starts, "create", "ms", BARE)
    row(table, "start from the pool", starts, "start", "ms", BARE, aim=Aim(0.3))
    row(table, "start without a pool", plain, "start", "ms", BARE, aim=Aim(1.5))
    row(table, "destroy (running)", starts, "destroy", "ms", BARE, aim=Aim(0.5))
    rate = "rate_peer"
    row(table, "4 clients, argv", parallel, "rate_exec_argv", "/s", BARE, rate, Aim(4, least=True))
    row(table, "4 clients, shell", parallel, "rate_exec_shell", "/s", BARE, rate,
        Aim(2.5, least=True))
    note_failures(table, serial, starts, plain, parallel)


def mass_figures(table, sandboxes):
    """Many sandboxes started, one command each over 8 clients, all destroyed."""
    pool = 4

    def work(daemon):
        def settled():  # no sandbox but the pool
            return left_behind(daemon)["children"] == pool

        eventually(settled)
        before = left_behind(daemon)
        found = load(daemon, "mass", sandboxes)
        eventually(settled)
        return found, before, left_behind(daemon)

    found, before, after = with_daemon(["--exec-pool", str(pool)], work)
    name, peer = f"{sandboxes} sandboxes, 8 clients", "reference"

    def reference(what, key, unit, value=None, aim=None):
        figure = found[key]
        table.row(f"{name}: {what}", figure.value, unit, value and peer, value, aim,
                  spread=(figure.quartiles, None))

    reference("start", "mass_start", "/s")
    reference("exec", "mass_exec", "/s", REFERENCE_EXEC_RATE, Aim(10, least=True))
    reference("exec, argv", "mass_exec_argv", "/s", REFERENCE_EXEC_RATE)
    reference("destroy", "mass_destroy", "s", REFERENCE_DESTROY_S * sandboxes / 400, Aim(0.1))
    left = sum(max(after[k] - before[k], 0) for k in ("children", "mounts"))
    table.row(f"{name}: left behind", left, "", aim=Aim(0, of_value=True))


def docker_figures(table, rounds):
    """The same with containers."""
    if missing():
        table.note(f"Docker: not installed: {missing()}")
        return
    dockerd = Dockerd()
    try:
        dockerd.start().make_image()
        dockerd.docker("run", "-d", "--name", "peer", "--network", "none", IMAGE, "sleep", "9999")
        args = ["--exec-runtime", "docker", "--exec-docker-socket", str(dockerd.socket)]
        args += ["--exec-docker-image", IMAGE, "--exec-docker-pool", str(rounds + 2)]
        env = os.environ | {"DOCKER_HOST": f"unix://{dockerd.socket}", "HOME": str(dockerd.dir)}
        run = ("docker", "run", "--rm", "--network", "none", IMAGE, "true")

        def work(daemon):
            # What is measured is a start from the pool, not its refill.
            eventually(lambda: len(dockerd.containers()) >= rounds + 3, seconds=120)
            starts = load(daemon, "starts", rounds, *run, env=env)
            return starts, load(daemon, "serial", rounds, "docker", "exec", "peer", "true", env=env)

        starts, serial = with_daemon(args, work)
        row(table, "Docker: exec of true", serial, "exec_argv", "ms", "docker exec", aim=Aim(0.05))
        row(table, "Docker: start, pool", starts, "start", "ms", "docker run", aim=Aim(0.2))
        row(table, "Docker: destroy", starts, "destroy", "ms", "docker run")
        note_failures(table, starts, serial)
    finally:
        dockerd.cleanup()


def run(table, size):
    """Measures and prints."""
    rounds, side_by_side, masses, docker_rounds = SIZES[size]
    table.title(f"Commands, {rounds} rounds; medians, with quartiles")
    bwrap_figures(table, rounds, side_by_side)
    for sandboxes in masses:
        mass_figures(table, sandboxes)
    if docker_rounds:
        docker_figures(table, docker_rounds)
