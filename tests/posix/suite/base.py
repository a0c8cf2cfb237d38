"""What cases are made of: the registry, places, deviations, exact errors, other users, times.

A case is a function of a Place. It runs in a fresh directory that is its working directory, and
fails by raising. It asserts what POSIX and Linux promise; where a view differs on purpose it says
`place.differs("id", standard, here)`, and docs/POSIX.md has a row with that id.
"""

import contextlib
import ctypes
import errno
import os
import pickle
import socket
import stat
import time

libc = ctypes.CDLL(None, use_errno=True)

REGULAR, DIR, FIFO, SOCKET, SYMLINK = "regular", "dir", "fifo", "socket", "symlink"
TYPES = (REGULAR, DIR, FIFO, SOCKET, SYMLINK)
NOT_DIR = (REGULAR, FIFO, SOCKET, SYMLINK)
NOT_LINK = (REGULAR, DIR, FIFO, SOCKET)
CLOCK_REALTIME_COARSE = 5  # linux/time.h; Python does not name it
OTHER = 65534  # a user and group that owns nothing

CASES = {}  # name -> Case


class Case:
    """A case: who says as whom it runs: "any" as whoever runs the suite, "user" never as root,
    "root" only as root."""

    def __init__(self, name, function, who, arguments):
        self.name, self.function, self.who, self.arguments = name, function, who, arguments

    def run(self, place):
        self.function(place, *self.arguments)


def add(name, function, who="any", arguments=()):
    """Registers one case."""
    assert name not in CASES, name
    CASES[name] = Case(name, function, who, arguments)


def case(who="any", each=None):
    """Decorator: a case, or with `each` one for every value of it."""

    def register(function):
        module = function.__module__.rsplit(".", 1)[-1]
        for value in each or [None]:
            text = "" if value is None else f"[{value if isinstance(value, str) else value[0]}]"
            values = () if value is None else (value,) if isinstance(value, str) else value
            add(f"{module}.{function.__name__}{text}", function, who, values)
        return function

    return register


class Place:
    """Where cases run: a directory of a view or of an ordinary file system."""

    def __init__(self, directory, is_view, uid, gid, other_fs):
        self.directory, self.is_view, self.uid, self.gid = directory, is_view, uid, gid
        self.other_fs = other_fs  # a directory on another file system
        self.is_root = os.geteuid() == 0
        self.deviations = set()  # ids of those that the running case met

    def differs(self, deviation, standard, here):
        """What is expected: `standard`, but `here` in a view, as docs/POSIX.md's row says."""
        self.deviations.add(deviation)
        return here if self.is_view else standard


def error_of(call, *args, **kwargs):
    """The name of the errno that a call fails with; "ok" when it does not."""
    try:
        call(*args, **kwargs)
    except OSError as error:
        name = errno.errorcode[error.errno]
        return "EOPNOTSUPP" if name == "ENOTSUP" else name  # one number
    return "ok"


def fails(name, call, *args, **kwargs):
    """The call must fail with this errno, or with one of these."""
    got = error_of(call, *args, **kwargs)
    assert got in ((name,) if isinstance(name, str) else name), f"{got}, not {name}"


def check(rc):
    """The result of a libc call, or an OSError."""
    if rc < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return rc


def rename2(source, target, flags):
    """renameat2(2): NOREPLACE 1, EXCHANGE 2, WHITEOUT 4."""
    check(libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags))


NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def fallocate(fd, mode, offset, length):
    """fallocate(2)."""
    check(libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32


def make(kind, name, mode=0o644):
    """An object of a kind; the umask does not matter."""
    if kind == REGULAR:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    elif kind == DIR:
        os.mkdir(name)
    elif kind == FIFO:
        os.mkfifo(name)
    elif kind == SOCKET:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(name)
    elif kind == SYMLINK:
        os.symlink("nowhere", name)
        return
    os.chmod(name, mode | 0o111 if kind == DIR and mode == 0o644 else mode)


def remove(name):
    """Removes an object of any kind."""
    (os.rmdir if stat.S_ISDIR(os.lstat(name).st_mode) else os.unlink)(name)


def write_file(name, data=b"data", mode=0o644):
    """A file with content."""
    fd = os.open(name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
    os.write(fd, data)
    os.close(fd)
    os.chmod(name, mode)


def read_file(name):
    """A file's content."""
    with open(name, "rb") as file:
        return file.read()


def mode_of(name):
    """Permission bits, links not followed; of a descriptor too."""
    return (os.fstat(name) if isinstance(name, int) else os.lstat(name)).st_mode & 0o7777


@contextlib.contextmanager
def opened(name, flags=os.O_RDONLY, mode=0o644):
    """A descriptor for the length of a block."""
    fd = os.open(name, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def umask(mask):
    """A umask for the length of a block."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def child(call):
    """Runs call in a forked process; returns what it returns, raises what it raises."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            result = (True, call())
        except BaseException as error:  # pylint: disable=broad-except
            result = (False, error)
        try:
            data = pickle.dumps(result)
        except Exception:  # pylint: disable=broad-except
            data = pickle.dumps((False, AssertionError(repr(result[1]))))
        os.write(writing, data)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        data = file.read()
    status = os.waitpid(pid, 0)[1]
    assert data, f"the child ended with wait status {status}"
    good, value = pickle.loads(data)
    if not good:
        raise value
    return value


def as_user(uid, gid, call, groups=()):
    """Runs call as somebody else, as child() does. Only root can."""

    def run():
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        return call()

    return child(run)


def as_owner(place, call):
    """Runs call as the owner of what is in the place."""
    return as_user(place.uid, place.gid, call) if place.is_root else call()


def as_other(call):
    """Runs call as a user who owns nothing."""
    return as_user(OTHER, OTHER, call)


def tick():
    """Waits until the clock that file systems look at has passed every time given out so far."""
    now = time.time_ns()
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= now:
        pass


def times_of(name):
    """(mtime, ctime) of a path or descriptor, None when it is not there."""
    try:
        status = os.fstat(name) if isinstance(name, int) else os.lstat(name)
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns


def moved(call, *names):
    """Which times a call changes: {"f:c"} when it is f's ctime, m for mtime. All move forward."""
    before = {name: times_of(name) for name in names}
    tick()
    call()
    result = set()
    for name in names:
        after = times_of(name)
        if before[name] is None or after is None:
            continue
        for letter, old, new in zip("mc", before[name], after):
            assert new >= old, f"a time of {name} went back"
            if new > old:
                result.add(f"{name}:{letter}")
    return result
