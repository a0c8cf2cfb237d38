"""A directory of the host into a codebase: what arrives, whose rights count, what is left out."""

import os
import pathlib
import random
import shutil
import socket
import stat
import subprocess
import tempfile
import time

import grpc
import pytest

from harness import FULL, Daemon, eventually, expect, filepb, pb
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


def shown(tree):
    """What an import takes of a directory: (path, mode, content or link target, mtime)."""
    found = {}
    for path in sorted(tree.rglob("*")):
        st = path.lstat()
        what = None
        if stat.S_ISLNK(st.st_mode):
            what = os.readlink(path)
        elif stat.S_ISREG(st.st_mode):
            what = path.read_bytes()
        found[str(path.relative_to(tree))] = (oct(st.st_mode), what, st.st_mtime_ns)
    return found


def held(client, codebase, place):
    """The same of a codebase, by way of an archive."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    unpack = ["tar", "-xpf", "-", "-C", place]
    subprocess.run(unpack, input=fetch(client, codebase_id=codebase), check=True)
    return shown(place)


def settle(client, codebase, tree):
    """Imports until every file is old enough to be kept: a change of the next tick must show."""
    files = sum(1 for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    eventually(lambda: send(client, codebase, tree).reused_files == files)


def version(client, codebase):
    made = client.codebases.GetCodebase(pb.GetCodebaseRequest(codebase_id=codebase))
    return made.updated_at.ToNanoseconds()


def test_a_second_import_takes_what_changed_and_keeps_the_rest(client, tmp_path):
    tree = tmp_path / "tree"
    for i in range(200):
        (tree / f"d{i % 7}").mkdir(parents=True, exist_ok=True)
        (tree / f"d{i % 7}/f{i}").write_bytes(b"%d" % i * (1 + i * 97 % 3000))
    (tree / "link").symlink_to("d0")
    codebase = client.codebase()
    assert send(client, codebase, tree).reused_files == 0
    settle(client, codebase, tree)
    before = version(client, codebase)
    totals = send(client, codebase, tree)
    assert (totals.files, totals.reused_files, totals.symlinks) == (200, 200, 1)
    assert version(client, codebase) == before, "an import of the same makes a new version"
    # Same size, and the time of the last change set back: only the ctime tells.
    times = (tree / "d0/f0").stat()
    (tree / "d0/f0").write_bytes(b"X" * times.st_size)
    os.utime(tree / "d0/f0", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tree / "d1/f1").unlink()
    (tree / "d2/new").write_text("new")
    (tree / "d3/f3").chmod(0o600)
    (tree / "d4/f4").rename(tree / "moved")
    totals = send(client, codebase, tree)
    assert (totals.files, totals.reused_files) == (200, 200 - 4)
    assert held(client, codebase, tmp_path / "out") == shown(tree)


def test_what_an_agent_changed_is_undone_by_a_second_import(client, tmp_path):
    tree = tmp_path / "tree"
    for name in ("a", "b", "c", "sub/d", "sub/e"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name * 5000)
    codebase = client.codebase()
    send(client, codebase, tree)
    settle(client, codebase, tree)
    sandbox = client.sandbox(codebase, FULL)
    client.out(sandbox, "t=$(stat -c @%Y a); printf X | dd of=a conv=notrunc 2>&1; touch -d $t a;"
                        "rm b; chmod 600 c; mv sub/d sub/e; mkdir more; ln sub/e more/e")
    client.destroy(sandbox)
    assert held(client, codebase, tmp_path / "out") != shown(tree)
    send(client, codebase, tree)
    assert held(client, codebase, tmp_path / "out") == shown(tree)


@pytest.mark.parametrize("seed", range(2))
def test_repeated_imports_of_a_changing_tree_leave_the_tree(client, tmp_path, seed):
    prng = random.Random(seed)
    tree, out = tmp_path / "tree", tmp_path / "out"
    tree.mkdir()
    codebase = client.codebase()

    def change(root, number):
        """One random change below a directory of this host."""
        here = [p for p in root.rglob("*")]
        target = prng.choice([*here, root / f"n{number}"]) if here else root / f"n{number}"
        what = prng.choice("write mkdir remove move chmod link symlink".split())
        if what == "mkdir":
            (root / f"dir{number}").mkdir()
        elif what == "remove" and target.exists() and not target.is_symlink():
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        elif what == "move" and target.exists():
            target.rename(root / f"moved{number}")
        elif what == "chmod" and target.exists() and not target.is_symlink():
            target.chmod(prng.choice([0o755, 0o700, 0o644] if target.is_file() else [0o755, 0o711]))
        elif what == "link" and target.is_file() and not target.is_symlink():
            os.link(target, root / f"hard{number}")
        elif what == "symlink":
            (root / f"soft{number}").symlink_to(f"n{prng.randrange(9)}")
        elif not target.is_dir() and not target.is_symlink():
            target.write_bytes(prng.randbytes(prng.choice([0, 10, 2048, 2049, 70_000, 200_000])))

    number = 0
    for _ in range(12):
        for _ in range(prng.randrange(1, 12)):
            number += 1
            change(tree, number)
        if prng.random() < 0.5:
            sandbox = client.sandbox(codebase, FULL)
            client.exec(sandbox, f"echo agent > n{prng.randrange(number)}; rm -rf dir*; ls | "
                                 "head -2 | xargs -r chmod 700; mv moved* gone")
            client.destroy(sandbox)
        send(client, codebase, tree)
        assert held(client, codebase, out) == shown(tree)


def test_a_large_file_is_shared_where_the_file_system_can(tmp_path):
    if not shutil.which("mkfs.xfs"):
        pytest.skip("mkfs.xfs, of the package xfsprogs, is not installed")
    image, place = tmp_path / "image", tmp_path / "xfs"
    with open(image, "wb") as file:
        file.truncate(1 << 30)
    place.mkdir()
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    mount = ["mount", "-o", "loop", image, place]
    mounted = subprocess.run(mount, stderr=subprocess.PIPE, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no XFS can be mounted here: {mounted.stderr.strip()}")
    try:
        daemon = Daemon(place)
        (place / "tree").mkdir()
        data = os.urandom(8 << 20)
        for name in ("large", "larger"):
            (place / "tree" / name).write_bytes(data)
        (place / "tree/small").write_text("small" * 1000)
        os.sync()
        daemon.start()
        try:
            client = daemon.client()
            codebase = client.codebase()
            free = os.statvfs(place).f_bavail
            assert send(client, codebase, place / "tree").reused_files == 2
            used = (free - os.statvfs(place).f_bavail) * os.statvfs(place).f_frsize
            assert used < 8 << 20, "the content takes its space once more"
            # It is the codebase's own from then on.
            with open(place / "tree/large", "r+b") as file:
                file.write(b"changed")
            assert client.download(codebase, "large") == data
            client.close()
        finally:
            daemon.cleanup()
    finally:
        subprocess.run(["umount", place], check=True)


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
