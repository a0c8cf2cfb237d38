"""What POSIX and Linux programs may ask of a file system, over the real mount: S1, D8."""

import pytest

from harness import FULL, afpb, pb

BASE = {
    "dir/a": "alpha\n",
    "dir/b": "beta\n",
    "big": bytes(range(256)) * 4096,
    "ro/f": "fixed\n",
}


@pytest.fixture(scope="module")
def codebase(client):
    """A codebase with a small tree."""
    return client.codebase(BASE)


@pytest.fixture
def make(client, codebase):
    """Makes started sandboxes and destroys them after the test."""
    made = []

    def start(rules=FULL):
        made.append(client.sandbox(codebase, rules))
        return made[-1]

    yield start
    for sandbox in made:
        client.destroy(sandbox)


def python(client, sandbox, script, **fields):
    """Runs a Python script in the sandbox; it must print ok."""
    script = "import errno, os, stat\n" + REFUSED + script + "\nprint('ok')\n"
    assert client.out(sandbox, "python3 -", stdin=script, **fields) == "ok\n"


REFUSED = """
def refused(number, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except OSError as error:
        assert error.errno == number, (error, errno.errorcode[number])
        return
    raise AssertionError(f"{call} went through, not {errno.errorcode[number]}")
"""


def changes(client, sandbox):
    """{path: change name} of a view."""
    entries = client.inspect.Diff(afpb.DiffRequest(sandbox_id=sandbox))
    name = afpb.DiffEntry.Change.Name
    return {e.path.decode(errors="surrogateescape"): name(e.change)[7:] for e in entries}


LINKS = r"""
ino = os.stat("big").st_ino
os.link("big", "dir/big2")
os.link("dir/big2", "big3")
assert {os.stat(p).st_ino for p in ("big", "dir/big2", "big3")} == {ino}
assert {os.stat(p).st_nlink for p in ("big", "dir/big2", "big3")} == {3}
with open("big3", "r+b") as f:
    f.seek(5000); f.write(b"XX")
for p in ("big", "dir/big2", "big3"):
    with open(p, "rb") as f:
        assert f.read()[5000:5002] == b"XX", p
    assert os.stat(p).st_ino == ino
os.unlink("big")
assert os.stat("big3").st_nlink == 2 and not os.path.exists("big")
os.rename("big3", "dir/big2")  # one inode: nothing happens
assert os.path.exists("big3") and os.stat("dir/big2").st_nlink == 2
os.rename("dir/big2", "moved"); os.unlink("big3")
s = os.stat("moved"); assert (s.st_ino, s.st_nlink, s.st_size) == (ino, 1, 1 << 20)
os.symlink("dir/a", "l"); os.link("l", "l2", follow_symlinks=False)
assert os.readlink("l2") == "dir/a"
refused(errno.EPERM, os.link, "dir", "d2")
refused(errno.EEXIST, os.link, "dir/a", "dir/b")
fd = os.open("open", os.O_CREAT | os.O_RDWR); os.link("open", "open2"); os.unlink("open")
os.unlink("open2"); assert os.fstat(fd).st_nlink == 0; os.write(fd, b"x"); os.close(fd)
"""


def test_D8_S1_hard_links_are_one_file(client, make):
    sandbox = make()
    python(client, sandbox, LINKS)
    # Renamed, and told again as modified: the later entry stays in the dictionary.
    assert changes(client, sandbox) == {"l": "ADDED", "l2": "ADDED", "moved": "MODIFIED"}


def test_D8_hard_links_survive_a_kill(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase(BASE))
    script = "mkdir d2; ln dir/a d2/x; ln dir/a d2/y; rm -r dir; echo more >> d2/y"
    before = client.out(sandbox, script + "; stat -c %i d2/y")
    daemon.kill()
    daemon.start()
    client = daemon.client()
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    after = client.out(sandbox, "stat -c '%i %h' d2/x d2/y; cat d2/x; rm d2/x; cat d2/y")
    ino = before.strip()
    assert after == f"{ino} 2\n{ino} 2\nalpha\nmore\nalpha\nmore\n"


def test_P8_a_link_is_no_way_around_a_rule(client, make):
    sandbox = make([("**/*", "write", 0), ("/ro/**", "read", 5), ("/hid/**", "none", 9)])
    python(
        client,
        sandbox,
        """
refused(errno.EPERM, os.link, "ro/f", "mine")  # the kernel, fs.protected_hardlinks: another's file
refused(errno.EACCES, os.link, "dir/a", "ro/new")
refused(errno.EACCES, os.link, "dir/a", "ro/f2")
assert not os.path.exists("mine")
""",
    )
