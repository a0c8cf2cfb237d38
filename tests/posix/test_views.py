"""What one directory alone cannot show: two views, restarts of the daemon, large directories."""

import fcntl
import os
import subprocess

import pytest

from harness import FULL, OPEN_POLICY, eventually, pb
from suite.base import EXCHANGE, NOREPLACE, error_of, fails, opened, rename2

BASE = {
    "file": "content\n",
    "dir/a": "alpha\n",
    "dir/sub/b": "beta\n" * 1000,
    "closed/f": "fixed\n",
    "large": b"0123456789abcdef" * 65536,
}
HALF = [("**/*", "write", 0), ("/closed/**", "read", 5)]


@pytest.fixture
def pair(daemon, client):
    """The directories of two views of one codebase, as the host's root sees them."""
    codebase = client.codebase(BASE)
    made = [client.sandbox(codebase, HALF) for _ in range(2)]
    yield [daemon.mount / sandbox for sandbox in made]
    for sandbox in made:
        client.destroy(sandbox)


def test_B2_views_are_file_systems_of_their_own(pair):
    one, two = pair
    for name in ("file", "dir"):
        fails("EXDEV", os.rename, one / name, two / "new")
        fails("EXDEV", os.rename, one / name, two / name)
        fails("EXDEV", rename2, one / name, two / "new", NOREPLACE)
        fails("EXDEV", rename2, one / name, two / name, EXCHANGE)
    fails("EXDEV", os.link, one / "file", two / "new")
    assert (two / "file").read_text() == "content\n" and not (two / "new").exists()


def test_B2_a_copy_between_views_is_a_copy(pair):
    one, two = pair
    with opened(one / "large") as source, opened(two / "copy", os.O_CREAT | os.O_RDWR) as target:
        at = 0
        while count := os.copy_file_range(source, target, 1 << 20, at, at):
            at += count
    assert (two / "copy").read_bytes() == BASE["large"] and not (one / "copy").exists()
    with opened(two / "copy", os.O_WRONLY) as fd:
        os.pwrite(fd, b"XX", 5)
    assert (one / "large").read_bytes() == BASE["large"]


def test_S1_flock_meets_across_views_only_on_shared_files(pair):
    one, two = pair
    exclusive = fcntl.LOCK_EX | fcntl.LOCK_NB
    with opened(one / "file") as mine, opened(two / "file") as theirs:
        assert os.stat(one / "file").st_ino == os.stat(two / "file").st_ino
        fcntl.flock(mine, exclusive)
        fcntl.flock(theirs, exclusive)
    with opened(one / "closed/f") as mine, opened(two / "closed/f") as theirs:
        fcntl.flock(mine, exclusive)
        if OPEN_POLICY == "kernel":
            fails("EAGAIN", fcntl.flock, theirs, exclusive)
        else:  # server: no file is shared
            fcntl.flock(theirs, exclusive)


def tree(top):
    """{path: (inode number, mode, size, mtime, content)} of a directory."""
    found = {}
    for at, dirs, files in os.walk(top):
        for name in dirs + files:
            path = os.path.join(at, name)
            status = os.lstat(path)
            content = None
            if name in files and not os.path.islink(path):
                with open(path, "rb") as file:
                    content = file.read()
            found[os.path.relpath(path, top)] = (status.st_ino, status.st_mode, status.st_size,
                                                 status.st_mtime_ns, content)
    return found


def test_D8_B9_inode_numbers_stay_over_copy_up_rename_and_restarts(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase(BASE), FULL)
    top = daemon.mount / sandbox
    before = tree(top)
    with opened(top / "large", os.O_RDWR) as fd:
        os.pwrite(fd, b"X", 500000)
    os.rename(top / "dir", top / "moved")
    os.link(top / "file", top / "moved/second")
    os.unlink(top / "file")
    (top / "new").write_text("new\n")
    for old, new in (("large", "large"), ("dir", "moved"), ("dir/a", "moved/a"),
                     ("dir/sub/b", "moved/sub/b"), ("file", "moved/second")):
        assert os.stat(top / new).st_ino == before[old][0], old
    after = tree(top)
    for end in (daemon.stop, daemon.kill):
        end()
        daemon.start()
        client = daemon.client()
        client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
        assert tree(top) == after
        (top / "new").write_text("new\n")
        after = tree(top)


def test_S2_a_directory_of_100000_names_lists_and_changes(daemon, client):
    sandbox = client.sandbox(client.codebase({"many/first": "1\n"}), FULL)
    many = daemon.mount / sandbox / "many"
    os.mkdir(many / "d")
    for number in range(100_000):
        os.symlink("t", many / f"d/{number:06d}")
    names = os.listdir(many / "d")
    assert len(names) == len(set(names)) == 100_000
    assert os.readlink(many / "d/099999") == "t" and not os.path.lexists(many / "d/100000")
    for number in range(0, 100_000, 1000):
        os.unlink(many / f"d/{number:06d}")
    assert len(os.listdir(many / "d")) == 99_900
    os.rename(many / "d", many.parent / "moved")
    assert sum(1 for _ in os.scandir(many.parent / "moved")) == 99_900
    client.destroy(sandbox)


def test_E5_no_path_of_the_state_directory_is_resolved_again(new_daemon, tmp_path):
    daemon = new_daemon().start()
    client = daemon.client()
    codebase = client.codebase(BASE)
    sandbox = client.sandbox(codebase, FULL)
    top = daemon.mount / sandbox
    os.rename(daemon.state, tmp_path / "moved")
    decoy = tmp_path / "decoy"
    os.mkdir(decoy)
    os.symlink(decoy, daemon.state)
    try:
        assert (top / "large").read_bytes() == BASE["large"]
        with opened(top / "large", os.O_RDWR) as fd:
            os.pwrite(fd, b"X" * 300_000, 100)
            os.fsync(fd)
        (top / "new").write_bytes(b"n" * 1_000_000)
        os.unlink(top / "dir/a")
        client.upload(codebase, "uploaded", b"u" * 200_000)
        second = client.sandbox(codebase, FULL, start=False)
        client.destroy(second)
        client.destroy(sandbox)
        assert os.listdir(decoy) == []
    finally:
        os.unlink(daemon.state)
        os.rename(tmp_path / "moved", daemon.state)
    daemon.kill()
    daemon.start()
    assert daemon.client().download(codebase, "uploaded") == b"u" * 200_000


def full(call):
    """Repeats a call until it fails; returns the errno's name. It must not go on for ever."""
    for number in range(200_000):
        error = error_of(call, number)
        if error != "ok":
            return error
    raise AssertionError("the disk never got full")


def test_D6_a_full_disk_is_ENOSPC_and_takes_no_more_than_the_change(new_daemon, tmp_path):
    os.mkdir(tmp_path / "state")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=0700", "tmpfs",
                    tmp_path / "state"], check=True)
    try:
        daemon = new_daemon().start()
        client = daemon.client()
        top = daemon.mount / client.sandbox(client.codebase(BASE), FULL)
        with opened(top / "filler", os.O_CREAT | os.O_WRONLY) as fd:
            assert full(lambda n: os.pwrite(fd, b"f" * 65536, n * 65536)) == "ENOSPC"
            size = os.fstat(fd).st_size
        for what, call in (("dir", os.mkdir), ("node", os.mknod), ("fifo", os.mkfifo),
                           ("new", lambda path: os.close(os.open(path, os.O_CREAT))),
                           ("link", lambda path: os.symlink("t" * 2000, path))):
            assert full(lambda n: call(top / f"{what}{n}")) == "ENOSPC", what
        with opened(top / "large", os.O_RDWR) as fd:
            fails("ENOSPC", os.pwrite, fd, b"X", 500_000)  # a copy-up that has no room
        assert (top / "large").read_bytes() == BASE["large"]
        assert os.stat(top / "filler").st_size == size
        # Of the base: to be absent takes a record, which may find pages that were freed.
        gone = error_of(os.unlink, top / "dir/a")
        assert gone == "ENOSPC" and (top / "dir/a").exists() or gone == "ok", gone
        os.unlink(top / "filler")
        eventually(lambda: error_of(os.mkdir, top / "again") in ("ok", "EEXIST"))
        assert gone == "ok" or error_of(os.unlink, top / "dir/a") == "ok"
        with opened(top / "large", os.O_RDWR) as fd:
            eventually(lambda: error_of(os.pwrite, fd, b"X", 500_000) == "ok")
        assert (top / "large").read_bytes()[499_999:500_002] == BASE["large"][499_999:500_000] \
            + b"X" + BASE["large"][500_001:500_002]
        client.close()
        assert daemon.stop() == 0
    finally:
        subprocess.run(["umount", "-l", tmp_path / "state"], check=True)
