"""Rules and access of a running sandbox change: what holds at once, seen from inside.

A process with the sandbox's uid stands in the view with files open, maps made and names cached, and
does one step each time it is told to. docs/SECURITY.md lists what is promised, with these tests.
"""

import json
import os
import subprocess

import grpc
import pytest

from harness import FULL, OPEN_POLICY, READ_ONLY, eventually, expect, pb, rule, sbpb

BIG = "big content " * 100000
FILES = {
    "f": "read me\n",
    "secret": "secret words\n",
    "d/g": "g\n",
    "d/deep/h": "h\n",
    "d/deep/secret": "deep secret\n",
    "big": BIG,
    "src/a.py": "a\n",
}


@pytest.fixture
def codebase(client):
    """A small codebase of the test's own: commands commit what they change."""
    return client.codebase(FILES)


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


def set_access(client, sandbox, access):
    return client.views.SetAccess(sbpb.SetAccessRequest(sandbox_id=sandbox, access=access))


# One step per line of stdin; one line of JSON back. Runs as the sandbox's uid, in its view, without
# the seccomp filter: stronger than any command.
PEER = r"""
import ctypes, errno, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
uid = int(sys.argv[2])
os.chdir(sys.argv[1])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
fds, maps = {}, {}
def read(name):
    with open(name, "rb", buffering=0) as f:
        return f.read(20).decode()
def write(name, text="new"):
    f = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)
    try: os.write(f, text.encode())
    finally: os.close(f)
def hold(name, flags=os.O_RDONLY): fds[name] = os.open(name, flags)
def reread(name): return os.pread(fds[name], 20, 0).decode()
def middle(name): return os.pread(fds[name], 11, 40960 - 40960 % 12).decode()
def rewrite(name): os.pwrite(fds[name], b"again", 0)
def reopen(name, flags=os.O_RDONLY):
    f = os.open(f"/proc/self/fd/{fds[name]}", flags)
    return os.pread(f, 20, 0).decode()
def map_it(name, write=False):
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    maps[name] = mmap.mmap(os.open(name, os.O_RDWR if write else os.O_RDONLY), 0, prot=prot)
    return maps[name][:4].decode()
def peek(name):
    # A map whose pages cannot be had is SIGBUS: let a child touch it.
    child = os.fork()
    if child == 0:
        os._exit(0 if maps[name][0] else 1)
    return os.waitpid(child, 0)[1]
def store(name):
    dirty(name)
    maps[name].flush()
def dirty(name): maps[name][0:4] = b"EVIL"
def handle(name):
    class Handle(ctypes.Structure):
        _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_char * 128)]
    h, mount = Handle(bytes=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, name.encode(), ctypes.byref(h), ctypes.byref(mount), 0) != 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
def at(name, child): return os.read(os.open(child, os.O_RDONLY, dir_fd=fds[name]), 20).decode()
def ls(name="."): return sorted(os.listdir(name))
def relist(name): return sorted(os.listdir(fds[name]))
def mode(name): return oct(os.stat(name).st_mode & 0o7777)
steps = {
    "read": read, "write": write, "hold": hold, "reread": reread, "rewrite": rewrite,
    "middle": middle,
    "reopen": reopen, "map": map_it, "peek": peek, "store": store, "handle": handle, "at": at,
    "dirty": dirty, "flush": lambda n: maps[n].flush(), "mapped": lambda n: maps[n][:4].decode(),
    "ls": ls, "relist": relist, "mode": mode, "chdir": os.chdir, "unlink": os.unlink,
    "mkdir": os.mkdir, "rename": os.rename, "link": os.link, "chmod": os.chmod,
    "truncate": os.truncate, "symlink": os.symlink, "rmdir": os.rmdir,
    "setxattr": lambda n: os.setxattr(n, "user.a", b"b"), "utime": lambda n: os.utime(n, (1, 1)),
    "exists": os.path.lexists, "ftruncate": lambda n: os.ftruncate(fds[n], 1),
    "fallocate": lambda n: os.posix_fallocate(fds[n], 0, 100),
    "fsync": lambda n: os.fsync(fds[n]), "size": lambda n: os.fstat(fds[n]).st_size,
}
for line in sys.stdin:
    step, *args = json.loads(line)
    try: result = steps[step](*args)
    except OSError as error: result = errno.errorcode[error.errno]
    print(json.dumps(result), flush=True)
"""


class Peer:
    """A process with a sandbox's uid that stands in its view."""

    def __init__(self, daemon, client, sandbox):
        self.sandbox = sandbox
        argv = ["/usr/bin/python3", "-c", PEER, str(daemon.mount / sandbox)]
        argv.append(str(client.uid_of(sandbox)))
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, *step):
        self.process.stdin.write(json.dumps(step) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def enter(daemon, client):
    """Enters a sandbox."""
    peers = []

    def inside(sandbox):
        peers.append(Peer(daemon, client, sandbox))
        return peers[-1]

    yield inside
    for peer in peers:
        peer.close()


HIDE = [("secret", "none", 100), ("d/deep/secret", "none", 100)]


# ---- P7: rules


def test_P7_a_cached_name_is_hidden_at_once_and_comes_back(client, make, enter):
    peer = enter(make(READ_ONLY))
    for _ in range(2):
        assert peer("read", "secret") == "secret words\n"
        assert peer("read", "d/deep/secret") == "deep secret\n"
        assert "secret" in peer("ls") and peer("ls", "d/deep") == ["h", "secret"]
        client.set_rules(peer.sandbox, READ_ONLY + HIDE)
        for name in ("secret", "d/deep/secret"):
            assert peer("read", name) == "ENOENT" and peer("mode", name) == "ENOENT"
            assert peer("exists", name) is False
            assert peer("handle", name) == "ENOENT"
            assert peer("write", name) == "EACCES"
        assert "secret" not in peer("ls") and peer("ls", "d/deep") == ["h"]
        client.set_rules(peer.sandbox, READ_ONLY)


def test_P7_a_hidden_tree_is_closed_to_who_stands_in_it(client, make, enter):
    peer = enter(make(FULL))
    peer("hold", "d/deep")
    peer("chdir", "d/deep")
    assert peer("ls") == ["h", "secret"] and peer("read", "h") == "h\n"
    client.set_rules(peer.sandbox, FULL + [("/d/**", "none", 100)])
    for step in (("read", "h"), ("ls",), ("write", "new"), ("unlink", "h")):
        assert peer(*step) in ("ENOENT", "EACCES"), step
    assert peer("at", "d/deep", "h") in ("ENOENT", "EACCES")
    assert peer("relist", "d/deep") in ("ENOENT", "EACCES")
    client.set_rules(peer.sandbox, FULL)
    assert peer("ls") == ["h", "secret"] and peer("read", "h") == "h\n"


CHANGES = [("write", "read"), ("write", "view"), ("read", "view"), ("write", "none")]


@pytest.mark.parametrize("own", [False, True], ids=["base-file", "own-file"])
@pytest.mark.parametrize(("high", "low"), CHANGES)
def test_P7_a_level_falls_and_rises_for_cached_names(client, make, enter, high, low, own):
    above, below = [("**/*", high, 0)], [("**/*", high, 0), ("f", low, 10)]
    peer = enter(make(FULL))
    if own:
        assert peer("write", "f", "read me\n") is None
    client.set_rules(peer.sandbox, above)
    for _ in range(2):
        assert peer("read", "f").startswith("read me")
        if high == "write":
            assert peer("write", "f", "read me") is None
        client.set_rules(peer.sandbox, below)
        assert peer("write", "f") == "EACCES"
        assert peer("chmod", "f", 0o666) in ("EPERM", "EACCES", "ENOENT")
        assert peer("truncate", "f", 0) in ("EACCES", "ENOENT")
        expected = {"read": "read me", "view": "EACCES", "none": "ENOENT"}[low]
        assert peer("read", "f")[: len(expected)] == expected
        assert peer("mode", "f") == {"read": "0o444", "view": "0o0", "none": "ENOENT"}[low]
        client.set_rules(peer.sandbox, above)


def test_P7_an_open_private_file_is_revoked_at_once(client, make, enter):
    peer = enter(make(FULL))
    for name in ("f", "secret"):
        peer("hold", name, os.O_RDWR)
        peer("map", name, True)
    assert peer("reread", "secret") == "secret words\n" and peer("peek", "secret") == 0
    client.set_rules(peer.sandbox, FULL + HIDE + [("f", "read", 100)])
    assert peer("reread", "secret") in ("EACCES", "ENOENT", "EIO")
    assert peer("rewrite", "secret") in ("EACCES", "ENOENT")
    assert peer("ftruncate", "secret") in ("EACCES", "ENOENT")
    assert peer("reopen", "secret") in ("EACCES", "ENOENT")
    assert peer("peek", "secret") != 0  # SIGBUS
    assert peer("reread", "f") == "read me\n"
    assert peer("rewrite", "f") == "EACCES"
    assert peer("store", "f") in ("EACCES", "EIO", "EPERM", None)
    assert client.out(peer.sandbox, "cat f") == "read me\n"
    client.set_rules(peer.sandbox, FULL)
    assert peer("reread", "secret") == "secret words\n" and peer("reread", "f") == "read me\n"


def test_P7_cached_pages_of_an_open_file_are_taken_back(client, make, enter):
    peer = enter(make(FULL))
    peer("hold", "big")
    peer("map", "big")
    assert peer("middle", "big") == "big content" and peer("peek", "big") == 0
    client.set_rules(peer.sandbox, FULL + [("big", "view", 10)])
    assert peer("peek", "big") != 0  # SIGBUS: asked first, nothing else has touched the file
    assert peer("middle", "big") == "EACCES"
    client.set_rules(peer.sandbox, FULL)
    assert peer("middle", "big") == "big content" and peer("peek", "big") == 0


def test_P7_a_listing_shows_what_was_never_looked_up(client, make, enter):
    peer = enter(make(FULL + HIDE))
    for _ in range(2):  # from the server, then from the kernel's cache
        assert "secret" not in peer("ls") and peer("ls", "d/deep") == ["h"]
    client.set_rules(peer.sandbox, FULL)
    assert "secret" in peer("ls") and peer("ls", "d/deep") == ["h", "secret"]


def test_P7_an_open_shared_file_stays_readable_but_not_for_new_opens(client, make, enter):
    peer = enter(make(READ_ONLY))
    peer("hold", "secret")
    client.set_rules(peer.sandbox, READ_ONLY + HIDE)
    assert peer("read", "secret") == "ENOENT"
    # Written in docs/SECURITY.md: the pages are those of all views. end_holders is for this.
    # In the open policy server they are the view's own.
    assert peer("reread", "secret") == ("secret words\n" if OPEN_POLICY == "kernel" else "EACCES")


def test_P7_more_is_permitted_at_once_too(client, make, enter):
    peer = enter(make([("/d/**", "read", 0)]))
    assert peer("read", "f") == "ENOENT" and peer("ls") == ["d"]
    assert peer("write", "d/new") == "EACCES"
    client.set_rules(peer.sandbox, FULL)
    assert peer("read", "f") == "read me\n" and "big" in peer("ls")
    assert peer("write", "d/new") is None and peer("write", "d/g") is None
    assert peer("ls", "d") == ["deep", "g", "new"]


def test_P7_a_file_with_two_names_follows_the_more_restricted_one(client, make, enter):
    peer = enter(make(FULL))
    peer("mkdir", "l")
    peer("link", "f", "l/f2")
    assert peer("write", "f", "linked\n") is None and peer("read", "l/f2") == "linked\n\n"[:8]
    peer("hold", "f", os.O_RDWR)
    client.set_rules(peer.sandbox, FULL + [("/l/f2", "view", 10)])
    assert peer("write", "f") == "EACCES" and peer("rewrite", "f") == "EACCES"
    assert peer("read", "f") == "EACCES" and peer("reread", "f") in ("EACCES", "EIO")
    client.set_rules(peer.sandbox, FULL)
    assert peer("write", "f", "again") is None


def test_P5_malformed_rules_are_refused_and_nothing_changes(client, make, enter):
    peer = enter(make(FULL))
    before = client.views.Get(sbpb.GetRequest(sandbox_id=peer.sandbox))
    for bad in ([("[a", "none", 0)], FULL + [("a/../b", "read", 0)], [("**/*", 9, 0)]):
        expect(grpc.StatusCode.INVALID_ARGUMENT, client.set_rules, peer.sandbox, bad)
    expect(grpc.StatusCode.NOT_FOUND, client.set_rules, "sb_" + "a" * 26, FULL)
    assert client.views.Get(sbpb.GetRequest(sandbox_id=peer.sandbox)) == before
    assert peer("write", "f") is None


def test_P7_changed_rules_are_in_the_record_and_survive_a_restart(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase(FILES), FULL, manual=True)
    changed = client.set_rules(sandbox, READ_ONLY + HIDE).sandbox.sandbox
    assert [p.pattern for p in changed.permissions] == ["**/*", "secret", "d/deep/secret"]
    daemon.kill()
    daemon.start()
    client = daemon.client()
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    assert client.exec(sandbox, "cat secret").exit_code != 0
    assert client.out(sandbox, "cat f") == "read me\n"


def test_P7_rules_of_a_sandbox_that_does_not_run_change_too(client, codebase):
    sandbox = client.sandbox(codebase, FULL, start=False)
    client.set_rules(sandbox, READ_ONLY + HIDE, end_holders=True)
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=sandbox))
    assert client.exec(sandbox, "cat secret").exit_code != 0
    client.destroy(sandbox)


# ---- access


MUTATIONS = [
    ("write", "f"),
    ("write", "brand-new"),
    ("mkdir", "m"),
    ("unlink", "secret"),
    ("rmdir", "empty"),
    ("rename", "secret", "s2"),
    ("link", "secret", "s2"),
    ("symlink", "x", "y"),
    ("chmod", "f", 0o600),
    ("truncate", "f", 0),
    ("setxattr", "f"),
    ("utime", "f"),
    ("rewrite", "f"),
    ("ftruncate", "f"),
    ("fallocate", "f"),
    ("store", "f"),
]


def test_a_frozen_view_refuses_every_change_with_EROFS_and_can_be_given_back(client, make, enter):
    peer = enter(make(FULL))
    peer("mkdir", "empty")
    peer("hold", "f", os.O_RDWR)
    peer("map", "f", True)
    info = set_access(client, peer.sandbox, sbpb.ACCESS_READ_ONLY)
    assert info.access == sbpb.ACCESS_READ_ONLY
    for step in MUTATIONS:
        assert peer(*step) == "EROFS", step
    # The kernel is told at once that the page of the refused store is not the file's.
    eventually(lambda: peer("read", "f") == "read me\n")
    assert peer("reread", "f") == "read me\n" and "empty" in peer("ls")
    assert client.out(peer.sandbox, "cat f") == "read me\n"
    assert peer("peek", "f") == 0
    set_access(client, peer.sandbox, sbpb.ACCESS_NORMAL)
    for step in MUTATIONS:
        if step[1] != "secret":
            assert peer(*step) is None, step


def test_a_cut_off_view_refuses_everything_and_can_be_given_back(client, make, enter):
    peer = enter(make(FULL))
    peer("hold", "f", os.O_RDWR)
    peer("hold", "d/deep")
    peer("map", "f")
    assert peer("write", "d/own") is None and peer("read", "d/own") == "new"
    peer("hold", "d/own", os.O_RDWR)
    peer("unlink", "d/own")
    peer("ls", "d/deep")
    set_access(client, peer.sandbox, sbpb.ACCESS_CUT_OFF)
    looks = [("read", "f"), ("ls",), ("read", "d/deep/h"), ("mode", "d"), ("relist", "d/deep")]
    looks += [("at", "d/deep", "h"), ("reread", "f"), ("reread", "d/own"), ("reopen", "f")]
    for step in looks + MUTATIONS[:-1] + [("rewrite", "d/own")]:
        assert peer(*step) in ("EACCES", "EIO"), step
    assert peer("peek", "f") != 0
    set_access(client, peer.sandbox, sbpb.ACCESS_NORMAL)
    assert peer("read", "f") == "read me\n" and peer("reread", "f") == "read me\n"
    assert peer("relist", "d/deep") == ["h", "secret"] and peer("reread", "d/own") == "new"
    assert client.out(peer.sandbox, "cat d/deep/h") == "h\n"


@pytest.mark.parametrize("access", [sbpb.ACCESS_READ_ONLY, sbpb.ACCESS_CUT_OFF])
def test_what_a_map_was_dirtied_with_before_a_freeze_reaches_nothing_afterwards(
    client, codebase, make, enter, access
):
    peer = enter(make(FULL))
    peer("hold", "f", os.O_RDWR)
    peer("map", "f", True)
    assert peer("dirty", "f") is None and peer("mapped", "f") == "EVIL"
    set_access(client, peer.sandbox, access)
    # The kernel may have written it back on its own, with nobody to tell: the next sync tells.
    assert peer("flush", "f") in ("EROFS", "EACCES", "EIO")
    assert client.views.Commit(sbpb.CommitRequest(sandbox_id=peer.sandbox)).entries == 0
    set_access(client, peer.sandbox, sbpb.ACCESS_NORMAL)
    # Nothing is left of it in pages either, for it is nowhere else.
    eventually(lambda: peer("mapped", "f") == "read")
    assert peer("read", "f") == peer("reread", "f") == "read me\n"
    assert client.out(peer.sandbox, "cat f") == "read me\n"
    client.views.Commit(sbpb.CommitRequest(sandbox_id=peer.sandbox))
    assert client.download(codebase, "f") == b"read me\n"
    assert peer("store", "f") is None and client.out(peer.sandbox, "cat f") == "EVIL me\n"


def test_a_cut_off_closes_deep_directories_too(client, make, enter):
    peer = enter(make(FULL))
    peer("chdir", "d/deep")
    assert peer("read", "h") == "h\n"
    set_access(client, peer.sandbox, sbpb.ACCESS_CUT_OFF)
    for step in (("read", "h"), ("ls",), ("write", "x"), ("read", "../g"), ("mode", ".")):
        assert peer(*step) == "EACCES", step


@pytest.mark.parametrize("access", [sbpb.ACCESS_READ_ONLY, sbpb.ACCESS_CUT_OFF])
def test_access_survives_a_crash_of_the_daemon(new_daemon, access):
    daemon = new_daemon().start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase(FILES), FULL, manual=True)
    set_access(client, sandbox, access)
    daemon.kill()
    daemon.start()
    client = daemon.client()
    assert client.views.Get(sbpb.GetRequest(sandbox_id=sandbox)).access == access
    start = pb.StartSandboxRequest(sandbox_id=sandbox)
    if access == sbpb.ACCESS_CUT_OFF:
        sentence = expect(
            grpc.StatusCode.FAILED_PRECONDITION, client.sandboxes.StartSandbox, start
        )
        assert "cut off" in sentence
        set_access(client, sandbox, sbpb.ACCESS_NORMAL)
        client.sandboxes.StartSandbox(start)
        client.out(sandbox, "echo x > f")
    else:
        client.sandboxes.StartSandbox(start)
        assert "Read-only" in client.exec(sandbox, "echo x > f").stderr


# ---- the size of it


def test_a_view_of_100_000_cached_names_changes_and_does_not_stall_others(
    client, daemon, make, enter
):
    sandbox, other = make(FULL), make(FULL)
    script = (
        "import os\n"
        "for d in range(100):\n"
        "    os.mkdir(f'm{d}')\n"
        "    for i in range(1000): os.mknod(f'm{d}/{i}')\n"
    )
    client.out(sandbox, f'python3 -c "{script}"', timeout=300)
    peer, neighbour = enter(sandbox), enter(other)
    client.out(sandbox, "find . -size -1 > /dev/null", timeout=300)
    done = []
    call = client.views.UpdatePermissions.future(
        sbpb.UpdatePermissionsRequest(
            sandbox_id=sandbox, permissions=[rule("**/*", "read"), rule("/m7/**", "none", 9)]
        )
    )
    call.add_done_callback(done.append)
    during = 0
    while not done:
        assert client.set_rules(other, READ_ONLY if during % 2 else FULL)
        assert neighbour("read", "f") == "read me\n"
        during += 1
    call.result()
    assert during >= 3, "the others waited for the large view"
    assert peer("exists", "m7") is False and peer("write", "m8/9") == "EACCES"
    assert peer("mode", "m99/999") == "0o444"
