"""What a view holds open stays open, whatever it and three writers of its codebase do.

Random changes of names, contents and directories in four views, through the mount; commits, rebases
and rollbacks in between. A held file can be read, a held directory asked and listed, at any time,
and none changes its number.
"""

import errno
import os
import random
import threading
import time

import grpc
import pytest

from harness import FULL, OPEN_POLICY, sbpb

SECONDS = 4
WRITERS = 3
HELD_MAX = 60
DIRS = [f"d{i}" for i in range(3)] + [f"d{i}/s{j}" for i in range(3) for j in range(3)]
DIRS += ["n0", "n1", "d0/n2"]
NAMES = ["f0", "f1", "f2", "g0", "g1"]
BASE = {f"{name}/f{k}": b"x" * 10 ** (k + 2) for name in DIRS[3:12] for k in range(3)}
STEPS = ["Commit", "Rebase", "Rollback"]


def path(root, rng):
    return f"{root}/{rng.choice(DIRS)}/{rng.choice(NAMES)}"


def write(name, flags, rng):
    with open(name, flags) as file:
        file.write(os.urandom(rng.choice([5, 5000])))


def change(root, rng):
    """One change, which may well be impossible."""
    name, other = path(root, rng), path(root, rng)
    one, two = f"{root}/{rng.choice(DIRS)}", f"{root}/{rng.choice(DIRS)}"
    try:
        rng.choice(
            [
                lambda: os.unlink(name),
                lambda: write(name, "wb", rng),
                lambda: write(name, "ab", rng),
                lambda: os.rename(name, other),
                lambda: os.link(name, other),
                lambda: os.chmod(name, rng.choice([0o600, 0o755])),
                lambda: os.mkdir(one),
                lambda: os.rmdir(one),
                lambda: os.rename(one, two),
            ]
        )()
    except OSError as error:
        assert error.errno not in (errno.EIO, errno.EUCLEAN), error


def step(client, sandbox, rng, weights):
    name = rng.choices(STEPS, weights)[0]
    getattr(client.views, name)(getattr(sbpb, name + "Request")(sandbox_id=sandbox))


def write_on(daemon, sandbox, seed, stop, failed):
    rng, client = random.Random(seed), daemon.client()
    try:
        while not stop.is_set():
            for _ in range(rng.randrange(1, 6)):
                change(f"{daemon.mount}/{sandbox}", rng)
            step(client, sandbox, rng, [8, 1, 1])
    except (AssertionError, grpc.RpcError) as error:
        failed.append(error)
    client.close()


def hold(root, rng, held):
    for name in [path(root, rng) for _ in range(6)] + [f"{root}/{rng.choice(DIRS)}"]:
        try:
            fd = os.open(name, os.O_RDONLY)
        except OSError:
            continue
        held.append((fd, os.fstat(fd).st_ino))
    while len(held) > HELD_MAX:
        os.close(held.pop(rng.randrange(len(held)))[0])


def check(held):
    for fd, number in held:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        found = os.fstat(fd)
        assert found.st_ino == number
        if os.path.stat.S_ISDIR(found.st_mode):
            os.listdir(fd)
            continue
        try:
            os.pread(fd, 1 << 20, 0)
        except PermissionError:  # of what no path is known any more
            assert OPEN_POLICY == "server"


@pytest.mark.parametrize("rules", [FULL, [("**/*", "read", 0), ("/d0/**", "write", 1)]],
                         ids=["private", "shared"])
def test_what_is_held_stays_whatever_four_views_do(daemon, client, rules):
    codebase = client.codebase(BASE)
    view = client.sandbox(codebase, rules, manual=True)
    writers = [client.sandbox(codebase, FULL, manual=True) for _ in range(WRITERS)]
    stop, failed, held, rng = threading.Event(), [], [], random.Random(len(rules))
    threads = [
        threading.Thread(target=write_on, args=(daemon, writer, seed, stop, failed))
        for seed, writer in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    root, end = f"{daemon.mount}/{view}", time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            hold(root, rng, held)
            for _ in range(rng.randrange(6)):
                change(root, rng)
            hold(root, rng, held)
            step(client, view, rng, [1, 2, 4])
            check(held)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for fd, _ in held:
            os.close(fd)
    assert not failed, failed
    for sandbox in [view, *writers]:
        client.destroy(sandbox)
