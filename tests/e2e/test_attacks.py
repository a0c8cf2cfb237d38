"""Attacks on the `kernel` open policy: probing what is hidden, racing rules, looking into others.

The attacker runs on the host as the sandbox's uid, without the seccomp filter, and once more as
root of a user namespace of its own: stronger than any command.
"""

import fcntl
import json
import os
import subprocess

import pytest

from harness import FULL, READ_ONLY, afpb, pb

CONTENT = "nobody changes this " * 1000
FILES = {"f": CONTENT, "secret": "s", "d/secret": "s", "d/g": "g\n", "mine": "m"}
HIDING = FULL + [("**/secret*", "none", 100)]


@pytest.fixture
def codebase(client):
    """A small codebase of the test's own: commands commit what they change."""
    return client.codebase(FILES)


@pytest.fixture
def make(client, codebase):
    """Makes started sandboxes and destroys them after the test."""
    made = []

    def start(rules):
        made.append(client.sandbox(codebase, rules))
        return made[-1]

    yield start
    for sandbox in made:
        client.destroy(sandbox)


PRELUDE = r"""
import ctypes, errno, json, os, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
uid, nested = int(sys.argv[2]), sys.argv[3] == "nested"
os.chdir(sys.argv[1])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: a changed uid takes /proc/self away
if nested:
    if libc.unshare(0x10000000) != 0:
        print(json.dumps("refused")); sys.exit()
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write(f"0 {uid} 1")
    open("/proc/self/gid_map", "w").write(f"0 {uid} 1")
def attempt(step, *args):
    try:
        step(*args)
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
def renameat2(a, b, flags):
    if libc.syscall(316, -100, a.encode(), -100, b.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), a)
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_char * 128)]
def to_handle(name):
    handle, mount = Handle(bytes=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, name.encode(), ctypes.byref(handle), ctypes.byref(mount), 0):
        raise OSError(ctypes.get_errno(), name)
def watch(name):
    if libc.inotify_add_watch(libc.inotify_init1(0o4000), name.encode(), 0xfff) < 0:
        raise OSError(ctypes.get_errno(), name)
"""


def attacker(daemon, client, sandbox, script, nested):
    argv = ["/usr/bin/python3", "-c", PRELUDE + script, str(daemon.mount / sandbox)]
    argv += [str(client.uid_of(sandbox)), "nested" if nested else "plain"]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def result(process):
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    found = json.loads(out.splitlines()[-1])
    if found == "refused":
        pytest.skip("this kernel lets no unprivileged process make a user namespace")
    return found


def alarms(client):
    counters = client.inspect.Stats(afpb.StatsRequest()).counters
    return [c.value for c in counters if c.name == "mux_shared_write_alarms"][0]


NESTED = pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested-userns"])

PROBE = r"""
def probe(name):
    open("x", "w").close()
    return {
        "open": attempt(os.open, name, os.O_RDONLY),
        "path": attempt(os.open, name, os.O_PATH),
        "stat": attempt(os.stat, name),
        "access": attempt(lambda: os.access(name, os.F_OK) and None or os.stat(name)),
        "readlink": attempt(os.readlink, name),
        "create": attempt(os.open, name, os.O_CREAT | os.O_WRONLY),
        "exclusive": attempt(os.open, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        "mkdir": attempt(os.mkdir, name),
        "mkfifo": attempt(os.mkfifo, name),
        "symlink": attempt(os.symlink, "x", name),
        "link-to": attempt(os.link, "x", name),
        "link-from": attempt(os.link, name, "y"),
        "rename-to": attempt(os.rename, "x", name),
        "noreplace": attempt(renameat2, "x", name, 1),
        "exchange": attempt(renameat2, "x", name, 2),
        "exchange-back": attempt(renameat2, name, "x", 2),
        "rename-from": attempt(os.rename, name, "y"),
        "unlink": attempt(os.unlink, name),
        "rmdir": attempt(os.rmdir, name),
        "chmod": attempt(os.chmod, name, 0o777),
        "truncate": attempt(os.truncate, name, 0),
        "utime": attempt(os.utime, name),
        "setxattr": attempt(lambda: os.setxattr(name, "user.a", b"b")),
        "getxattr": attempt(lambda: os.getxattr(name, "user.a")),
        "handle": attempt(to_handle, name),
        "watch": attempt(watch, name),
        "statvfs": attempt(os.statvfs, name),
        "below": attempt(os.stat, name + "/below"),
        "dotdot": attempt(os.stat, name + "/.."),
        "chdir": attempt(os.chdir, name),
    }
print(json.dumps([[probe("secret"), probe("secret-absent")],
                  [probe("d/secret"), probe("d/secret-absent")]]))
"""


@NESTED
def test_P8_a_hidden_name_and_an_absent_one_answer_alike_to_every_call(
    client, daemon, make, nested
):
    sandbox = make(HIDING)
    for there, absent in result(attacker(daemon, client, sandbox, PROBE, nested)):
        assert there == absent
        assert "done" not in there.values(), there
        assert set(there.values()) <= {"ENOENT", "EACCES"}, there
    assert client.out(sandbox, "cat mine") == "m"
    diff = client.inspect.Diff(afpb.DiffRequest(sandbox_id=sandbox))
    assert not [d.path for d in diff if b"secret" in d.path]


RACE = r"""
stop, wrote = threading.Event(), [0]
def writer(step):
    while not stop.is_set():
        try: step()
        except OSError: continue
        wrote[0] += 1
def by(flags):
    def step():
        f = os.open("f", flags)
        try: os.pwrite(f, b"EVIL", 0)
        finally: os.close(f)
    return step
def reopen():
    f = os.open("f", os.O_RDONLY)
    try:
        g = os.open(f"/proc/self/fd/{f}", os.O_RDWR)
        try: os.pwrite(g, b"EVIL", 0)
        finally: os.close(g)
    finally: os.close(f)
def mapped():
    import mmap
    f = os.open("f", os.O_RDWR)
    try:
        with mmap.mmap(f, 4096) as m:
            m[0:4] = b"EVIL"
            m.flush()
    finally: os.close(f)
held = []
def keep():
    if not held: held.append(os.open("f", os.O_RDWR))
    os.pwrite(held[0], b"EVIL", 0)
steps = [by(os.O_WRONLY), by(os.O_RDWR | os.O_APPEND), reopen, mapped, keep,
         lambda: os.truncate("f", 5), lambda: os.chmod("f", 0o666)]
threads = [threading.Thread(target=writer, args=(s,)) for s in steps]
for t in threads: t.start()
print("racing", flush=True)
sys.stdin.readline()
stop.set()
for t in threads: t.join()
after = [attempt(s) for s in steps]
print(json.dumps({"wrote": wrote[0], "after": after}))
"""


@NESTED
def test_P7_E6_threads_that_race_a_change_of_rules_reach_no_shared_page(
    client, daemon, make, nested
):
    sandbox, victim = make(READ_ONLY), make(READ_ONLY)
    shared = daemon.mount / victim / "f"
    assert shared.read_text() == CONTENT
    process = attacker(daemon, client, sandbox, RACE, nested)
    first = process.stdout.readline()
    if "refused" in first:
        process.communicate()
        pytest.skip("this kernel lets no unprivileged process make a user namespace")
    assert first == "racing\n"
    for i in range(41):
        client.set_rules(sandbox, READ_ONLY if i % 2 == 0 else FULL)
        assert shared.read_text() == CONTENT
        assert client.out(victim, "cat f") == CONTENT
    process.stdin.write("\n")
    process.stdin.flush()
    found = result(process)
    assert found["wrote"] > 0, "the race was none: nothing was ever written"
    assert "done" not in found["after"], found
    assert shared.read_text() == CONTENT
    assert client.download(
        client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=victim)).codebase_id, "f"
    ) == CONTENT.encode()
    assert alarms(client) == 0


def test_P8_events_and_locks_of_one_view_do_not_show_in_another(client, daemon, make):
    watched, other = make(FULL), make(FULL)
    script = (
        "import fcntl\n"
        "fd = libc.inotify_init1(0o4000)\n"
        "for n in ('f', '.', 'd'): assert libc.inotify_add_watch(fd, n.encode(), 0xfff) > 0\n"
        "print('watching', flush=True); sys.stdin.readline()\n"
        "try: events = len(os.read(fd, 65536))\n"
        "except BlockingIOError: events = 0\n"
        "f = open('f', 'r+'); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "print(json.dumps(events))\n"
    )
    process = attacker(daemon, client, watched, script, False)
    assert process.stdout.readline() == "watching\n"
    client.out(other, "echo x > f; touch new; mkdir d/n; rm mine; mv d e; ls -R; cat f")
    lock = os.open(daemon.mount / other / "f", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    process.stdin.write("\n")
    process.stdin.flush()
    assert result(process) == 0
    os.close(lock)
