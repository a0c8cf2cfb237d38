"""Open policies: what `kernel` saves, and the conditions that keep either safe, each attacked.

The attacker of these tests is stronger than any command: it runs on the host as the sandbox's uid,
without the seccomp filter, inside a user namespace of its own in which it is root.
"""

import json
import os
import subprocess

import pytest

from harness import FULL, OPENING, READ_ONLY, afpb, pb

CONTENT = "shared content " * 300


@pytest.fixture(scope="module")
def codebase(client):
    """A small codebase."""
    files = {"f": CONTENT, "big": CONTENT * 300, "d/g": "g", "run.sh": "#!/bin/sh\n"}
    return client.codebase(files)


@pytest.fixture
def make(client, codebase):
    """Makes started sandboxes and destroys them after the test."""
    made = []

    def start(rules):
        made.append(client.sandbox(codebase, rules, manual=True))
        return made[-1]

    yield start
    for sandbox in made:
        client.destroy(sandbox)


def counters(client):
    return {c.name: c.value for c in client.inspect.Stats(afpb.StatsRequest()).counters}


def requests(client):
    """FUSE requests so far, by operation; FORGETs come when the kernel likes."""
    return {
        name[5:-9]: value
        for name, value in counters(client).items()
        if name.startswith("fuse_") and name.endswith("_requests") and "slow" not in name
    }


def difference(before, after):
    return {
        op: after[op] - before.get(op, 0)
        for op in after
        if after[op] != before.get(op, 0) and op != "forget"
    }


# Holds a view's root open, as a command does, and runs a step each time it is told to.
IN_VIEW = """
import os, sys
os.chdir(sys.argv[1])
def read(name):  # open(name) asks whether it is a terminal, which is a request
    fd = os.open(name, os.O_RDONLY)
    os.read(fd, 10)
    os.close(fd)
steps = {
    "read": lambda: [read(n) for n in ("f", "d/g")],
    "stat": lambda: [os.stat(n) for n in ("f", "d", "d/g")],
    "negative": lambda: [os.path.exists(n) for n in ("nope", "d/nope")],
    "list": lambda: [os.listdir(n) for n in (".", "d")],
    "big": lambda: len(open("big", "rb").read()),
}
for line in sys.stdin:
    for _ in range(20):
        steps[line.strip()]()
    print("done", flush=True)
"""


def test_warm_open_stat_and_listing_cost_no_request(client, daemon, make):
    sandbox = make(READ_ONLY)
    argv = ["/usr/bin/python3", "-c", IN_VIEW, str(daemon.mount / sandbox)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:

        def step(name):
            peer.stdin.write(name + "\n")
            peer.stdin.flush()
            assert peer.stdout.readline() == "done\n"

        for name in ("read", "stat", "negative", "list"):
            step(name)
            step(name)  # the kernel asks for attributes once more after the first read (atime)
            before = requests(client)
            step(name)
            assert difference(before, requests(client)).keys() <= OPENING, name
        peer.stdin.close()


def test_a_second_view_reads_what_the_first_has_read_without_a_read(client, daemon, make):
    first, second = make(READ_ONLY), make(READ_ONLY)
    data = (daemon.mount / first / "big").read_bytes()
    before = requests(client)
    assert (daemon.mount / second / "big").read_bytes() == data == (CONTENT * 300).encode()
    assert "read" not in difference(before, requests(client))


# Runs as the sandbox's uid, then as root of a user namespace of its own, with a directory fd of the
# view; prints what each attempt gave.
ATTACK = r"""
import ctypes, fcntl, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
root, uid, nested = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "nested"
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: a changed uid takes /proc/self away
if nested:
    if libc.unshare(0x10000000) != 0:
        print(json.dumps({"unshare": "refused"})); sys.exit()
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write(f"0 {uid} 1")
    open("/proc/self/gid_map", "w").write(f"0 {uid} 1")
os.fchdir(root)
found = {}
def attempt(name, step):
    try:
        step(); found[name] = "done"
    except OSError as error:
        found[name] = error.errno
def write(path, flags):
    f = os.open(path, flags)
    os.write(f, b"EVIL")
attempt("wronly", lambda: write("f", os.O_WRONLY))
attempt("rdwr", lambda: write("f", os.O_RDWR))
attempt("append", lambda: write("f", os.O_WRONLY | os.O_APPEND))
attempt("trunc", lambda: os.open("f", os.O_RDONLY | os.O_TRUNC))
attempt("truncate", lambda: os.truncate("f", 0))
attempt("chmod", lambda: os.chmod("f", 0o777))
attempt("chown", lambda: os.chown("f", os.getuid(), os.getgid()))
attempt("utime", lambda: os.utime("f", (1, 1)))
attempt("unlink", lambda: os.unlink("f"))
attempt("rename", lambda: os.rename("f", "g"))
attempt("over", lambda: os.rename("run.sh", "f"))
attempt("link", lambda: os.link("f", "l"))
attempt("create", lambda: os.open("new", os.O_CREAT | os.O_WRONLY))
attempt("mkdir", lambda: os.mkdir("n"))
def reopen(flags):
    f = os.open("f", flags)
    write(f"/proc/self/fd/{f}", os.O_RDWR)
attempt("reopen", lambda: reopen(os.O_RDONLY))
attempt("reopen_path", lambda: reopen(os.O_PATH))
def map_shared():
    f = os.open("f", os.O_RDONLY)
    mmap.mmap(f, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
attempt("mmap", map_shared)
def by_handle():
    class Handle(ctypes.Structure):
        _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_char * 128)]
    handle, mount = Handle(bytes=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, b"f", ctypes.byref(handle), ctypes.byref(mount), 0) != 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    fd = libc.open_by_handle_at(root, ctypes.byref(handle), os.O_RDWR)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    os.write(fd, b"EVIL")
attempt("by_handle", by_handle)
attempt("xattr", lambda: os.setxattr("f", "user.x", b"y"))
attempt("parent", lambda: os.listdir(".."))
try:
    found["content"] = open("f").read()[:15]
except OSError as error:
    found["content"] = error.errno
print(json.dumps(found))
"""


def attack(daemon, client, sandbox, nested):
    uid = client.uid_of(sandbox)
    root = os.open(daemon.mount / sandbox, os.O_RDONLY | os.O_DIRECTORY)
    try:
        mode = "nested" if nested else "plain"
        done = subprocess.run(
            ["/usr/bin/python3", "-c", ATTACK, str(root), str(uid), mode],
            pass_fds=[root],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(root)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested-userns"])
def test_E6_read_level_holds_against_the_sandbox_uid(client, daemon, make, nested):
    sandbox, victim = make(READ_ONLY), make(READ_ONLY)
    mapped = (daemon.mount / victim / "f").read_bytes()
    found = attack(daemon, client, sandbox, nested)
    if found.get("unshare") == "refused":
        pytest.skip("this kernel lets no unprivileged process make a user namespace")
    assert found.pop("content") == CONTENT[:15]
    assert found and not [name for name, result in found.items() if result == "done"], found
    assert (daemon.mount / victim / "f").read_bytes() == mapped
    assert client.out(victim, "cat f") == CONTENT
    assert counters(client)["mux_shared_write_alarms"] == 0


@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested-userns"])
def test_view_level_gives_no_content_to_the_sandbox_uid(client, daemon, make, nested):
    found = attack(daemon, client, make([("**/*", "view", 0)]), nested)
    if found.get("unshare") == "refused":
        pytest.skip("this kernel lets no unprivileged process make a user namespace")
    assert found.pop("content") == 13
    assert not [name for name, result in found.items() if result == "done"], found


def test_write_level_files_are_the_views_own(client, daemon, make):
    first, second = make(FULL), make(READ_ONLY)
    shared = os.stat(daemon.mount / second / "f")
    mine = os.stat(daemon.mount / first / "f")
    assert shared.st_uid != mine.st_uid and not shared.st_mode & 0o222
    client.out(first, "echo changed > f; chmod 600 f")
    assert client.out(second, "cat f") == CONTENT
    assert counters(client)["mux_shared_write_alarms"] == 0


def test_a_reused_slot_shows_nothing_of_its_former_view(client, daemon, make):
    seen = set()
    for i in range(5):
        sandbox = client.sandbox(client.codebase({"f": f"round {i} "}), FULL)
        client.out(sandbox, f"echo {i} >> f; echo {i} > own")
        assert client.out(sandbox, "cat f own") == f"round {i} {i}\n{i}\n"
        seen.add(os.stat(daemon.mount / sandbox).st_uid)
        client.destroy(sandbox)
    assert seen


def test_stopping_a_sandbox_takes_its_directory_away(client, daemon, make):
    sandbox = make(FULL)
    assert (daemon.mount / sandbox / "f").exists()
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
    assert not (daemon.mount / sandbox).exists()
    assert sandbox not in os.listdir(daemon.mount)
