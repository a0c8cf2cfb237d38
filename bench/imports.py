"""ImportDirectory beside `cp -a`: the same directory into a new codebase, and into a new directory.

On a tmpfs, on the disk below the temporary directory, and, where mkfs.xfs is installed, on an image
of XFS, whose files can be shared by reflink. The two take turns; medians are compared. The second
import goes into the codebase of the first; its peer is `cp -au`, which copies what is newer.
Neither waits for the disk. Read next: common.py.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time

from common import Aim, running, temporary
from harness import filepb, pb

COPY, AGAIN = "cp -a", "cp -au"
# (rounds, small files, large files, MiB of a large one)
SIZES = {"full": (7, 20000, 8, 64), "quick": (5, 5000, 4, 16), "tiny": (1, 50, 1, 1)}
XFS_BYTES = 3 << 30


def small_files(root, count):
    """A tree as sources are: a few hundred bytes to some KiB each, twenty in a directory."""
    for i in range(count):
        directory = root / f"d{i // 400}" / f"e{i // 20}"
        directory.mkdir(parents=True, exist_ok=True)
        size = 200 + i * 7919 % 9000
        (directory / f"f{i}.c").write_bytes((b"%08d " % i) * (size // 9))


def large_files(root, count, mib):
    """Files whose bytes are what the copy costs."""
    root.mkdir()
    for i in range(count):
        (root / f"large{i}").write_bytes(os.urandom(1 << 20) * mib)


@contextlib.contextmanager
def xfs():
    """A directory on a loop-mounted XFS."""
    with temporary() as image_dir, temporary(os.environ.get("TMPDIR", "/tmp")) as where:
        image = image_dir / "image"
        with open(image, "wb") as file:
            file.truncate(XFS_BYTES)
        subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
        place = where / "xfs"
        place.mkdir()
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
        yield place


def timed(call):
    """Milliseconds of a call."""
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def import_directory(client, codebase, tree):
    """The totals of one import."""
    request = filepb.ImportDirectoryRequest(codebase_id=codebase, path=os.fsencode(tree))
    return client.archives.ImportDirectory(request, timeout=300)


def one_round(client, tree, copy, samples):
    """Each once, into a codebase and a directory that are new."""
    codebase = client.codebase(name="bench")
    turns = [
        ("first", COPY, lambda: subprocess.run([*COPY.split(), tree, copy], check=True)),
        ("first", "view", lambda: import_directory(client, codebase, tree)),
        ("again", AGAIN, lambda: subprocess.run([*AGAIN.split(), f"{tree}/.", copy], check=True)),
        ("again", "view", lambda: import_directory(client, codebase, tree)),
    ]
    for step, who, call in turns:
        samples[step][who].append(timed(call))
    client.codebases.DeleteCodebase(pb.DeleteCodebaseRequest(codebase_id=codebase))
    shutil.rmtree(copy)


def run_in(table, place, name, size):
    """Both trees on one file system."""
    rounds, count, large, mib = SIZES[size]
    small_files(place / "small", count)
    large_files(place / "large", large, mib)
    time.sleep(2.5)  # a file as young as that is read again
    with running(place / "daemon") as (_daemon, client):
        for tree in ("small", "large"):
            samples = {"first": {"view": [], COPY: []}, "again": {"view": [], AGAIN: []}}
            for _ in range(rounds):
                one_round(client, place / tree, place / "copy", samples)
            what = f"{count} small files" if tree == "small" else f"{large} x {mib} MiB"
            table.compare(f"import, {what}, {name}", "ms", samples["first"], {COPY: Aim(1.0)})
            table.compare(f"import again, {what}, {name}", "ms", samples["again"], {})


def run(table, size):
    """The piece of run.py."""
    table.title(f"Directories of the host into codebases, {SIZES[size][0]} rounds")
    with temporary() as place:
        run_in(table, place, "tmpfs", size)
    if size == "tiny":
        return
    with temporary(os.environ.get("TMPDIR", "/tmp")) as place:
        run_in(table, place, "disk", size)
    if not shutil.which("mkfs.xfs"):
        table.note("mkfs.xfs is not installed: imports by reflink are left out")
        return
    with xfs() as place:
        run_in(table, place, "XFS", size)
