"""What POSIX and Linux programs may ask of a file system, over the real mount: S1, D8."""

import pytest

from harness import FULL, OPENING, afpb, pb

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
        made.append(client.sandbox(codebase, rules, manual=True))
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


SPACE = r"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
KEEP, PUNCH, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) < 0:
        number = ctypes.get_errno(); raise OSError(number, os.strerror(number))
fd = os.open("big", os.O_RDWR)
before = os.pread(fd, 1 << 20, 0)
fallocate(fd, KEEP, 0, 4 << 20); assert os.fstat(fd).st_size == 1 << 20
fallocate(fd, PUNCH | KEEP, 4096, 300000)
want = before[:4096] + bytes(300000) + before[304096:]
assert os.pread(fd, 1 << 20, 0) == want
fallocate(fd, ZERO, (1 << 20) - 10, 110); assert os.fstat(fd).st_size == (1 << 20) + 100
assert os.pread(fd, 200, (1 << 20) - 20) == want[-20:-10] + bytes(110)
fallocate(fd, 0, 0, 2 << 20); assert os.fstat(fd).st_size == 2 << 20
refused(errno.EOPNOTSUPP, fallocate, fd, COLLAPSE, 0, 4096)
refused(errno.EOPNOTSUPP, fallocate, fd, INSERT, 0, 4096)
os.posix_fallocate(fd, 0, 3 << 20); assert os.fstat(fd).st_size == 3 << 20
assert os.lseek(fd, 0, os.SEEK_DATA) == 0
hole = os.lseek(fd, 0, os.SEEK_HOLE); assert 0 < hole <= 3 << 20
refused(errno.ENXIO, os.lseek, fd, 3 << 20, os.SEEK_DATA)
os.close(fd)
fd = os.open("sparse", os.O_CREAT | os.O_RDWR)
os.pwrite(fd, b"data", 1 << 30); os.ftruncate(fd, 2 << 30)
assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 30 and os.lseek(fd, 5, os.SEEK_HOLE) == 5
os.close(fd)
"""


def test_S1_fallocate_and_holes(client, make):
    python(client, make(), SPACE)


COPIES = r"""
src, dst = os.open("big", os.O_RDONLY), os.open("copy", os.O_CREAT | os.O_RDWR)
at = 0
while n := os.copy_file_range(src, dst, 300000, at, at):
    at += n
assert at == 1 << 20 and os.pread(dst, 1 << 20, 0) == os.pread(src, 1 << 20, 0)
small = os.open("dir/a", os.O_RDONLY)
assert os.copy_file_range(small, dst, 100, 0, 1) == 6
assert os.pread(dst, 8, 0) == b"\x00alpha\n\x07"
refused(errno.EBADF, os.copy_file_range, dst, src, 10, 0, 0)
"""


def test_S1_copy_file_range(client, make):
    sandbox = make()
    python(client, sandbox, COPIES)
    assert changes(client, sandbox) == {"copy": "ADDED"}


TMPFILE = r"""
fd = os.open("dir", os.O_TMPFILE | os.O_RDWR, 0o640)
s = os.fstat(fd); assert (s.st_nlink, s.st_mode & 0o7777) == (0, 0o640)
os.write(fd, b"hello"); assert sorted(os.listdir("dir")) == ["a", "b"]
here = os.open(".", os.O_RDONLY)  # given, it has Python call linkat(AT_SYMLINK_FOLLOW)
os.link(f"/proc/self/fd/{fd}", "dir/named", dst_dir_fd=here)
assert os.fstat(fd).st_nlink == 1 and os.stat("dir/named").st_ino == s.st_ino
os.write(fd, b" you"); os.close(fd); assert open("dir/named").read() == "hello you"
fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
refused(errno.ENOENT, os.link, f"/proc/self/fd/{fd}", "no", dst_dir_fd=here)
os.write(fd, b"x" * 100000); os.close(fd)
import tempfile
with tempfile.TemporaryFile(dir=".") as f:
    f.write(b"y"); f.seek(0); assert f.read() == b"y"
assert sorted(os.listdir(".")) == ["big", "dir", "ro"], os.listdir(".")
"""


def test_S1_files_without_a_name(client, daemon, make):
    if daemon.libfuse() < (3, 18):
        pytest.skip("built against this libfuse, O_TMPFILE is not passed on (fs/compat.h)")
    sandbox = make()
    python(client, sandbox, TMPFILE)
    assert changes(client, sandbox) == {"dir/named": "ADDED"}


NODES = r"""
import fcntl, socket, termios
os.mkfifo("fifo", 0o600); assert stat.S_ISFIFO(os.stat("fifo").st_mode)
if os.fork() == 0:
    with open("fifo", "w") as f: f.write("through")
    os._exit(0)
with open("fifo") as f: assert f.read() == "through"
os.wait()
s = socket.socket(socket.AF_UNIX); s.bind("sock"); s.listen()
assert stat.S_ISSOCK(os.stat("sock").st_mode)
c = socket.socket(socket.AF_UNIX); c.connect("sock"); c.send(b"hi")
assert s.accept()[0].recv(9) == b"hi"
refused(errno.EPERM, os.mknod, "dev", stat.S_IFCHR | 0o666, os.makedev(1, 3))
fd = os.open("dir/a", os.O_RDWR)
try: termios.tcgetattr(fd); assert False
except termios.error as error: assert error.args[0] == errno.ENOTTY, error
try: fcntl.ioctl(fd, 0x1234, 0); assert False
except OSError as error: assert error.errno == errno.ENOTTY, error
assert os.access("dir/a", os.R_OK | os.W_OK) and not os.access("dir/a", os.X_OK)
"""


def test_S1_fifos_sockets_devices_and_ioctl(client, make):
    python(client, make(), NODES)


LOCKS = r"""
import fcntl, struct
a, b = os.open("dir/a", os.O_RDWR), os.open("dir/a", os.O_RDWR)
fcntl.flock(a, fcntl.LOCK_EX)
refused(errno.EAGAIN, fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB)
fcntl.flock(a, fcntl.LOCK_UN); fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)
lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
F_OFD_SETLK = 37
fcntl.fcntl(a, F_OFD_SETLK, lock)
refused(errno.EAGAIN, fcntl.fcntl, b, F_OFD_SETLK, lock)
os.close(a); fcntl.fcntl(b, F_OFD_SETLK, lock)
p = os.open("dir/b", os.O_RDWR); fcntl.lockf(p, fcntl.LOCK_EX)
if os.fork() == 0:
    q = os.open("dir/b", os.O_RDWR)
    refused(errno.EAGAIN, fcntl.lockf, q, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
fcntl.flock(p, fcntl.LOCK_EX)
if HOLD: open("holding", "w").close(); import time; time.sleep(1000)
"""


def test_S1_locks_exclude_within_a_view_and_not_across(client, make):
    first, second = make(), make()
    script = REFUSED + "import errno, os\nHOLD = True\n" + LOCKS
    call = client.sandboxes.Exec.future(
        pb.ExecRequest(sandbox_id=first, command="python3 -", stdin=script)
    )
    client.out(first, "until test -e holding; do :; done", timeout=20)
    python(client, second, "HOLD = False\n" + LOCKS)
    call.cancel()


XATTRS = r"""
os.setxattr("dir/a", "user.one", b"1"); os.setxattr("dir/a", "user.two", b"\x00" * 1000)
assert sorted(os.listxattr("dir/a")) == ["user.one", "user.two"]
assert os.getxattr("dir/a", "user.two") == bytes(1000)
refused(errno.EEXIST, os.setxattr, "dir/a", "user.one", b"x", os.XATTR_CREATE)
refused(errno.ENODATA, os.setxattr, "dir/a", "user.no", b"x", os.XATTR_REPLACE)
refused(errno.ENODATA, os.getxattr, "dir/b", "user.no")
os.setxattr("dir", "user.d", b"x" * 65536); assert len(os.getxattr("dir", "user.d")) == 65536
refused(errno.E2BIG, os.setxattr, "dir", "user.d", b"x" * 65537)
refused(errno.ERANGE, os.setxattr, "dir", "user." + "n" * 251, b"")
refused(errno.ENOSPC, os.setxattr, "dir", "user.e", b"x" * 65536)
os.rename("dir/a", "a"); assert os.getxattr("a", "user.one") == b"1"
with open("a", "a") as f: f.write("more")
assert os.getxattr("a", "user.one") == b"1"
os.removexattr("a", "user.one"); assert os.listxattr("a") == ["user.two"]
os.symlink("a", "l"); refused(errno.EPERM, os.setxattr, "l", "user.x", b"", follow_symlinks=False)
for name in ("security.capability", "security.x", "trusted.x", "system.posix_acl_access"):
    try: os.setxattr("a", name, b"x")
    except OSError as error:
        assert error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL), (name, error)
    else: raise AssertionError(name)
assert os.listxattr("big") == []
"""


def test_S1_extended_attributes(client, make):
    sandbox = make()
    python(client, sandbox, XATTRS)
    assert changes(client, sandbox)["dir"] == "METADATA"
    other = make([("**/*", "read", 0)])
    python(client, other, 'refused(errno.EACCES, os.setxattr, "dir/a", "user.x", b"x")')


WRITE_ONLY = r"""
import mmap, threading
PAGE = mmap.PAGESIZE
made = os.open("w", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
assert os.pwrite(made, b"a" * (2 * PAGE + 100), 0) == 2 * PAGE + 100
other = os.open("w", os.O_RDWR)
shown = mmap.mmap(other, 2 * PAGE, prot=mmap.PROT_READ)
stored = mmap.mmap(other, 2 * PAGE)
assert os.pread(other, 3 * PAGE, 0) == b"a" * (2 * PAGE + 100) and shown[PAGE : PAGE + 2] == b"aa"

# What is written is in maps and caches at once, and takes nothing of what a map has stored.
stored[0] = ord("s")
os.pwrite(made, b"wwww", 4)
assert shown[:10] == b"saaawwwwaa" and os.pread(other, 10, 0) == b"saaawwwwaa"
os.pwrite(made, b"over", PAGE - 2)
assert shown[PAGE - 4 : PAGE + 4] == b"aaoveraa" and stored[PAGE] == ord("e")
stored.flush()
assert open("w", "rb").read(10) == b"saaawwwwaa"

# Its ends: holes, truncation by another, appending beside others, pages that are given away.
os.ftruncate(other, 5)
os.pwrite(made, b"z", 9)
assert open("w", "rb").read() == b"saaaw\0\0\0\0z" and os.fstat(made).st_size == 10
ends = [os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(2)]
def append(fd, byte):
    for _ in range(200):
        assert os.write(fd, byte * 70) == 70
threads = [threading.Thread(target=append, args=(fd, b)) for fd, b in zip(ends, (b"x", b"y"))]
[t.start() for t in threads], [t.join() for t in threads]
log = open("log", "rb").read()
assert len(log) == 28000 and all(len({*log[i : i + 70]}) == 1 for i in range(0, 28000, 70))
big = os.open("copy", os.O_WRONLY | os.O_CREAT)
assert os.sendfile(big, os.open("big", os.O_RDONLY), 0, 1 << 20) == 1 << 20
source = mmap.mmap(os.open("big", os.O_RDONLY), 1 << 20, prot=mmap.PROT_READ)
assert os.write(big, source) == 1 << 20
assert open("copy", "rb").read() == 2 * open("big", "rb").read()
refused(errno.EBADF, os.read, big, 1)
assert os.read(os.open(f"/proc/self/fd/{big}", os.O_RDONLY), 4) == open("big", "rb").read(4)

# Whoever writes takes set-user-id bits away, as through any other descriptor.
os.chmod("w", 0o6755)
os.write(made, b"!")
assert stat.S_IMODE(os.stat("w").st_mode) == 0o755, oct(os.stat("w").st_mode)
"""


def test_S1_what_only_writes_is_seen_by_maps_and_readers(client, make):
    """A file that is made to be written only is written past the page cache."""
    python(client, make(), WRITE_ONLY)


def requests(client):
    """FUSE requests so far, by operation."""
    counters = client.inspect.Stats(afpb.StatsRequest()).counters
    return {
        c.name[5:-9]: c.value
        for c in counters
        if c.name.startswith("fuse_") and c.name.endswith("_requests") and "slow" not in c.name
    }


@pytest.mark.parametrize(
    "what,step,most",
    [
        ("writes to an open file", 'os.write(fd, b"x")', {"write": 100}),
        (
            "appends",
            'f = os.open("w", os.O_WRONLY | os.O_APPEND); os.write(f, b"x"); os.close(f)',
            {"write": 100},
        ),
        (
            "appends to a file looked at in between",
            'f = os.open("w", os.O_WRONLY | os.O_APPEND); os.write(f, b"x"); os.fstat(f)',
            {"write": 100, "getattr": 101, "getxattr": 101},
        ),
        (
            "new files",
            'f = os.open(f"n{i}", os.O_WRONLY | os.O_CREAT); os.write(f, b"x"); os.close(f)',
            {"lookup": 101, "create": 101, "write": 100, "getattr": 101},
        ),
    ],
)
def test_requests_per_write(client, daemon, make, what, step, most):
    if daemon.libfuse() < (3, 18):
        pytest.skip("without HANDLE_KILLPRIV_V2 the kernel asks for capabilities at every write")
    sandbox = make()
    run = "python3 -I -S -"
    script = f'import os\nfd = os.open("w", os.O_WRONLY | os.O_CREAT)\nos.write(fd, b"x")\n'
    client.out(sandbox, run, stdin=script)  # what it takes to start a command, and the file
    before = requests(client)
    client.out(sandbox, run, stdin=script + f"for i in range(100):\n    {step}\n")
    after = requests(client)
    asked = {"write", "getxattr", "getattr", "lookup", "create", "setattr", "open"}
    for op in asked - OPENING:
        n = after.get(op, 0) - before.get(op, 0)
        assert n <= most.get(op, 0) + 4, (what, op, n)
