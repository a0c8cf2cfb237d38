"""What the benchmarks share: figures and their table, a tmpfs to work on, and the peers.

A place is a directory in which the same work is done: a view, a plain directory, an overlayfs, a
fuse-overlayfs. Every place of a round is measured before the next round begins, and medians over
rounds are compared, so that a busy machine slows all of them. Mounts are made below one temporary
directory and go with it. Read next: run.py.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/e2e"))

from harness import BIN, Daemon, filepb  # noqa: E402

PROGRAMS = BIN.parent / "bench"
PEER_UID = 65123  # owns what peers work on; any unprivileged one
NATIVE, OVERLAY, FUSE_OVERLAY = "native", "overlayfs", "fuse-overlayfs"
PASSTHROUGH = "passthrough_ll"  # libfuse's example, over io_uring where the kernel has it
PASSTHROUGH_LL = ROOT / "build/bench/passthrough_ll"
MOUNT_SECONDS = 10
FUSE_RING = "/sys/module/fuse/parameters/enable_uring"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@dataclasses.dataclass
class Aim:
    """A bound of the ratio to the peer, or of the value itself."""

    bound: float
    least: bool = False  # the figure must be at least the bound, not at most
    of_value: bool = False

    def met(self, value, ratio):
        figure = value if self.of_value else ratio
        return figure >= self.bound if self.least else figure <= self.bound

    def __str__(self):
        unit = "" if self.of_value else "x"
        return f"{'>=' if self.least else '<='} {self.bound:g}{unit}"


class Table:
    """Rows, printed as they come; lines() are the same as JSON."""

    def __init__(self, out=sys.stdout):
        self.out = out
        self.rows = []
        self.group = ""

    def title(self, text):
        self.group = f"{text} (load {os.getloadavg()[0]:.1f})"
        print(f"\n{self.group}", file=self.out)
        print(f"{'':44}{'value':>10}      {'peer':24}{'x peer':>8}  aim", file=self.out, flush=True)

    def row(self, name, value, unit, peer=None, peer_value=None, aim=None, p99=None,
            spread=(None, None)):
        """One figure beside one peer; the peer may be missing. The spread: quartiles of both."""
        ratio = value / peer_value if peer_value else None
        row = {"name": name, "value": sensible(value), "unit": unit, "peer": peer,
               "peer_value": sensible(peer_value), "ratio": sensible(ratio)}
        if p99 is not None:
            row["p99"] = sensible(p99)
        for key, quartiles in zip(("quartiles", "peer_quartiles"), spread):
            if quartiles:
                row[key] = [sensible(q) for q in quartiles]
        if aim:
            row |= {"aim": str(aim), "met": aim.met(value, ratio)}
        row |= {"load": round(os.getloadavg()[0], 2), "group": self.group}
        self.rows.append(row)
        beside = f"{peer} {sensible(peer_value):g}" if peer_value is not None else peer or ""
        times = f"{ratio:8.2f}" if ratio is not None else " " * 8
        verdict = f"{aim} {'met' if row['met'] else 'MISSED'}" if aim else ""
        tail = f" (p99 {sensible(p99):g})" if p99 is not None else ""
        tail += "".join(f" [{sensible(q[0]):g}..{sensible(q[1]):g}]" for q in spread if q)
        line = f"{name:44}{sensible(value):10g} {unit:4} {beside:24}{times}  {verdict}{tail}"
        print(line.rstrip(), file=self.out, flush=True)

    def note(self, text):
        print(text, file=self.out, flush=True)

    def compare(self, name, unit, samples, aims):
        """Rows of samples {place: [figures]}: "view" against every other."""
        mine = statistics.median(samples["view"])
        for peer in (p for p in samples if p != "view"):
            self.row(name, mine, unit, peer, statistics.median(samples[peer]), aims.get(peer))

    def lines(self):
        return "".join(json.dumps(row) + "\n" for row in self.rows)


def sensible(value):
    """A figure to four digits."""
    return None if value is None else float(f"{value:.4g}")


@contextlib.contextmanager
def temporary(on_disk=None):
    """A directory of our own: a tmpfs, or a folder below `on_disk`; removed with its mounts."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="agentfense-bench-", dir=on_disk))
    try:
        if on_disk is None:
            options = "mode=755,size=80%"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)
        path.chmod(0o755)
        yield path
    finally:
        for mount in reversed(mounts_below(path)):
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(path)


def mounts_below(path):
    """Mount points at and below a directory, outermost first."""
    points = (line.split()[4] for line in open("/proc/self/mountinfo", encoding="utf-8"))
    return sorted(p for p in points if pathlib.Path(p).is_relative_to(path))


@contextlib.contextmanager
def running(directory, *args, env=None):
    """A daemon with everything in `directory`, and a client of it."""
    directory.mkdir()
    daemon = Daemon(directory, *args, env=env).start()
    client = daemon.client()
    try:
        yield daemon, client
    finally:
        client.close()
        daemon.cleanup()


def import_tree(client, tree):
    """A codebase with the content of a directory of this machine; returns its id."""
    codebase = client.codebase(name="bench")
    with subprocess.Popen(["tar", "-C", tree, "-cf", "-", "."], stdout=subprocess.PIPE) as tar:

        def messages():
            target = filepb.ImportTarget(codebase_id=codebase)
            yield filepb.ImportArchiveRequest(target=target)
            while data := tar.stdout.read(1 << 18):
                yield filepb.ImportArchiveRequest(data=data)

        client.archives.ImportArchive(messages())
    return codebase


def own(tree):
    """Gives a tree to the peers' uid."""
    subprocess.run(["chown", "-R", f"{PEER_UID}:{PEER_UID}", tree], check=True)


def passthrough_can_serve(template):
    """Whether that peer is there, built if it can be, and may have a descriptor for each file of
    the tree, since it keeps one of whatever was looked at."""
    files = sum(1 + len(names) for _, _, names in os.walk(template))
    if files + 1000 > resource.getrlimit(resource.RLIMIT_NOFILE)[1]:
        return False
    script = ROOT / "tools/build/passthrough-peer.sh"
    return subprocess.run([script, PASSTHROUGH_LL], check=False, **QUIET).returncode == 0


class Peers:
    """Fresh places of each kind over one template tree, which belongs to PEER_UID."""

    def __init__(self, directory, template):
        self.directory = directory
        self.template = template
        self.count = 0
        self.made = []
        self.serving = []
        directory.mkdir()
        self.kinds = [NATIVE, OVERLAY]
        if shutil.which("fuse-overlayfs"):
            self.kinds.append(FUSE_OVERLAY)
        if passthrough_can_serve(template):
            self.kinds.append(PASSTHROUGH)

    def fresh(self, kind):
        """A place in which nothing was done yet."""
        self.count += 1
        place = self.directory / f"{kind}.{self.count}"
        place.mkdir()
        self.made.append(place)
        if kind == NATIVE:
            subprocess.run(["cp", "-a", f"{self.template}/.", place / "merged"], check=True)
            return place / "merged"
        if kind == PASSTHROUGH:
            return self.pass_through(place)
        for part in ("upper", "work", "merged"):
            (place / part).mkdir()
            os.chown(place / part, PEER_UID, PEER_UID)
        layers = f"lowerdir={self.template},upperdir={place}/upper,workdir={place}/work"
        mount = ["mount", "-t", "overlay", "-o", layers, "overlay"]
        if kind == FUSE_OVERLAY:
            mount = ["fuse-overlayfs", "-o", f"{layers},allow_other"]
        subprocess.run([*mount, place / "merged"], check=True, **QUIET)
        return place / "merged"

    def pass_through(self, place):
        """A copy, seen through libfuse's example."""
        (place / "merged").mkdir()
        subprocess.run(["cp", "-a", f"{self.template}/.", place / "source"], check=True)
        ring = ",io_uring" if pathlib.Path(FUSE_RING).exists() else ""
        options = f"source={place}/source,cache=always,allow_other{ring}"
        most = ["prlimit", f"--nofile={resource.getrlimit(resource.RLIMIT_NOFILE)[1]}"]
        argv = [*most, PASSTHROUGH_LL, "-f", "-o", options, place / "merged"]
        process = subprocess.Popen(argv, **QUIET)  # ends when it is unmounted
        deadline = time.monotonic() + MOUNT_SECONDS
        while not os.path.ismount(place / "merged"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"passthrough_ll does not mount: {process.poll()}")
            time.sleep(0.01)
        self.serving.append(process)
        return place / "merged"

    def drop(self):
        """Removes every place."""
        for place in self.made:
            if os.path.ismount(place / "merged"):
                subprocess.run(["umount", place / "merged"], check=True)
            shutil.rmtree(place)
        self.made.clear()
        for process in self.serving:
            process.wait()
        self.serving.clear()


def as_user(argv, place, uid, **kwargs):
    """A process of an unprivileged user whose working directory is the place."""
    return subprocess.Popen(
        argv, cwd=place, user=uid, group=uid, extra_groups=[],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "TMPDIR": "/tmp"}, **kwargs)


def rotated(items, number):
    """The items in another order each round, so that none is always the first."""
    at = number % len(items)
    return items[at:] + items[:at]
