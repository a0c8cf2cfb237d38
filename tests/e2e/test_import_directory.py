"""A directory of the host into a codebase: what arrives, whose rights count, what is left out."""

import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

import grpc
import pytest

from harness import FULL, Daemon, expect, filepb
from test_archives import fetch, listing, opened


def send(client, codebase, path, **fields):
    request = filepb.ImportDirectoryRequest(
        codebase_id=codebase, path=os.fsencode(path), **fields
    )
    return client.archives.ImportDirectory(request, timeout=120)


@pytest.fixture
def public():
    """A directory that others may enter; pytest's are for root alone."""
    made = tempfile.mkdtemp(dir="/tmp")
    os.chmod(made, 0o755)
    yield pathlib.Path(made)
    shutil.rmtree(made)


def test_kinds_modes_times_links_and_holes_arrive(client, tmp_path):
    root = tmp_path / "src"
    (root / "d/empty").mkdir(parents=True)
    (root / "d/f").write_bytes(os.urandom(3_000_000))
    (root / "d/f").chmod(0o751)
    os.link(root / "d/f", root / "g")
    (root / "l").symlink_to("/etc/passwd")
    os.mkfifo(root / "p")
    with open(root / "sparse", "wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"middle")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "sock"))
    os.utime(root / "d/f", ns=(1, 1_700_000_000_123_456_789))
    os.utime(root / "d", ns=(1, 1_600_000_000_000_000_001))
    codebase = client.codebase({"old": "x"})
    begin = time.monotonic()
    totals = send(client, codebase, root)
    assert time.monotonic() - begin < 30, "holes are read"
    assert (totals.files, totals.hard_links, totals.symlinks) == (2, 1, 1)
    assert listing(client, codebase) == ["d", "d/empty", "d/f", "g", "l", "p", "sparse"]
    sandbox = client.sandbox(codebase, FULL)
    out = client.out(sandbox, "stat -c '%a %Y' d/f d; [ d/f -ef g ] && readlink l; du -k sparse")
    assert out.startswith("751 1700000000\n755 1600000000\n/etc/passwd\n")
    assert client.out(sandbox, "tail -c +536870913 sparse | head -c 6") == "middle"
    client.destroy(sandbox)
    with opened(fetch(client, codebase_id=codebase, path=b"d")) as archive:
        assert archive.extractfile("f").read() == (root / "d/f").read_bytes()


def test_a_second_import_replaces_and_a_merging_one_keeps(client, tmp_path):
    codebase = client.codebase()
    (tmp_path / "a").write_text("1")
    send(client, codebase, tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    send(client, codebase, tmp_path, merge=True)
    assert listing(client, codebase) == ["a", "b"]
    send(client, codebase, tmp_path)
    assert listing(client, codebase) == ["b"]


def test_ignore_files_and_patterns(client, tmp_path):
    files = [".gitignore", "keep.log", "x.log", "build/out", "src/a.c", "src/a.o", "src/keep.o",
             "src/.gitignore", "sub/build", "{odd}", "node_modules/m/index.js"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text(
        "# comment\n*.log\n!keep.log\n/build\n*.o\n\n{odd}\nnothing/\n"
    )
    (tmp_path / "src/.gitignore").write_text("!keep.o\n")
    codebase = client.codebase()
    send(client, codebase, tmp_path, honour_ignore_files=True, exclude=[b"node_modules/"])
    assert [p for p in listing(client, codebase) if not (tmp_path / p).is_dir()] == [
        ".gitignore", "keep.log", "src/.gitignore", "src/a.c", "src/keep.o", "sub/build"
    ]
    send(client, codebase, tmp_path)
    assert [p for p in listing(client, codebase) if not (tmp_path / p).is_dir()] == sorted(files)


def test_ignore_files_mean_what_git_takes_them_for(client, tmp_path):
    lines = ["*.tmp", "/top", "a/b", "dir/", "**/deep", "mid/**/x", "te?t", "[ab].c", "!a.c",
             "trail/**", "sp\\ ce", "\\#hash", "\\!bang", "*/one"]
    names = ["a.tmp", "d/b.tmp", "top", "d/top", "a/b", "d/a/b", "dir/f", "d/dir/g", "deep",
             "p/q/deep", "mid/x", "mid/k/x", "test", "teest", "a.c", "b.c", "trail/f", "sp ce",
             "#hash", "!bang", "one", "k/one", "k/l/one", "plain"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if not (tmp_path / name).exists():
            (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text("\n".join(lines) + "\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    kept = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=tmp_path, check=True,
        stdout=subprocess.PIPE, text=True,
    ).stdout.split("\0")
    shutil.rmtree(tmp_path / ".git")
    codebase = client.codebase()
    send(client, codebase, tmp_path, honour_ignore_files=True)
    found = [p for p in listing(client, codebase) if not (tmp_path / p).is_dir()]
    assert sorted(found) == sorted(k for k in kept if k)


CALLER = """
import os, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
import grpc
channel = grpc.insecure_channel("unix:" + sys.argv[3])
call = channel.unary_unary("/agentfense.v1.ArchiveService/ImportDirectory",
                           lambda m: m, lambda b: b)
codebase, path = sys.argv[4].encode(), sys.argv[5].encode()
try:
    call(b"\\x0a" + bytes([len(codebase)]) + codebase + b"\\x12" + bytes([len(path)]) + path)
    print("OK")
except grpc.RpcError as error:
    print(error.code().name, error.details())
"""


def test_only_what_the_caller_may_read_is_read(public):
    group = 54321
    daemon = Daemon(public, "--group", str(group))
    (public / "open").mkdir()
    (public / "open/f").write_text("x")
    (public / "closed").mkdir()
    (public / "closed/secret").write_text("of root")
    (public / "closed/secret").chmod(0o600)
    (public / "mine").mkdir(mode=0o700)
    (public / "mine/f").write_text("x")
    os.chown(public / "mine", 54000, group)
    daemon.start()
    try:
        client = daemon.client()
        codebase = client.codebase()

        def call(path, uid=54000):
            argv = ["/usr/bin/python3", "-c", CALLER, str(uid), str(group), str(daemon.socket)]
            return subprocess.run(
                argv + [codebase, str(path)], stdout=subprocess.PIPE, text=True, check=True
            ).stdout.strip()

        assert call(public / "open") == "OK"
        assert call(public / "mine") == "OK"
        assert call(public / "closed").startswith("PERMISSION_DENIED")
        assert call(public / "mine", uid=54001).startswith("PERMISSION_DENIED")
        assert call("/root").startswith("PERMISSION_DENIED")
        assert listing(client, codebase) == ["f"]
        client.close()
    finally:
        daemon.cleanup()


def test_B1_the_daemons_own_mount_is_refused(client, daemon):
    codebase = client.codebase({"f": "x"})
    sandbox = client.sandbox(codebase, FULL)
    for path in (daemon.mount, daemon.mount / sandbox):
        says = expect(grpc.StatusCode.INVALID_ARGUMENT, send, client, codebase, path)
        assert "own mount" in says
    client.destroy(sandbox)


def test_what_is_no_directory_is_refused_and_changes_nothing(client, tmp_path):
    codebase = client.codebase({"kept": "x"})
    (tmp_path / "f").write_text("x")
    expect(grpc.StatusCode.NOT_FOUND, send, client, codebase, tmp_path / "nothing")
    for path in (tmp_path / "f", "relative", ""):
        expect(grpc.StatusCode.INVALID_ARGUMENT, send, client, codebase, path)
    assert listing(client, codebase) == ["kept"]
