"""Directories on their way in: what is kept, what is left out, how it is told, how it fails."""

import builtins
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time

import agentfense as af
import pytest
from agentfense import _tree
from agentfense._ignore import Ignore
from agentfense._upload import Upload

SHOW = "find . -mindepth 1 -printf '%P %y %m %s %l %T@\\n' | sort"


@pytest.fixture
def codebase(client):
    """An empty codebase."""
    return client.create_codebase("upload", "tester")


def view_of(client, codebase_id, command):
    """What a command prints that sees everything of the codebase."""
    made = client.create_sandbox(codebase_id, [{"pattern": "**/*", "permission": "write"}])
    client.start_sandbox(made.id)
    try:
        result = client.exec(made.id, command)
        assert result.success, result
        return result.stdout
    finally:
        client.destroy_sandbox(made.id)


def test_modes_links_times_and_empty_directories_are_kept(client, codebase, tmp_path):
    root = tmp_path / "tree"
    (root / "deep/empty").mkdir(parents=True)
    (root / "deep/script").write_text("#!/bin/sh\n")
    (root / "deep/script").chmod(0o751)
    (root / "private").write_text("x")
    (root / "private").chmod(0o600)
    (root / "link").symlink_to("deep/script")
    (root / "dangling").symlink_to("/no/such/place")
    for path in (root / "deep/script", root / "private"):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    result = client.upload_directory(codebase.id, root)
    assert (result.files, result.directories, result.symlinks) == (2, 2, 2)
    assert result.bytes == 11 and result.codebase_id == codebase.id
    shown = view_of(client, codebase.id, SHOW)
    local = subprocess.run(
        ["sh", "-c", SHOW], cwd=root, capture_output=True, text=True, check=True
    ).stdout

    def without_directory_sizes(text):
        rows = [line.split(" ") for line in text.splitlines()]
        return [row[:3] + row[4:5] + (row[5:] if row[1] == "f" else []) for row in rows]

    assert without_directory_sizes(shown) == without_directory_sizes(local)


LINKS = "find . -type f -links +1 -printf '%i %p\\n'"


def linked(listing):
    """The groups of names in LINKS's output."""
    groups = {}
    for line in listing.splitlines():
        inode, path = line.split(" ", 1)
        groups.setdefault(inode, set()).add(path)
    return sorted(map(sorted, groups.values()))


def test_hard_links_stay_names_of_one_file(client, codebase, tmp_path):
    root = tmp_path / "tree"
    (root / "a/b").mkdir(parents=True)
    (root / "a/one").write_text("content")
    os.link(root / "a/one", root / "a/b/two")
    os.link(root / "a/one", root / "three")
    (root / "other").write_text("content")
    result = client.upload_directory(codebase.id, root)
    assert (result.files, result.hard_links, result.bytes) == (2, 2, 14)
    assert linked(view_of(client, codebase.id, LINKS)) == [["./a/b/two", "./a/one", "./three"]]
    assert client.get_codebase(codebase.id).size == 14


def test_a_hard_link_whose_first_name_vanished_is_a_file(client, codebase, tmp_path, monkeypatch):
    root = tmp_path / "tree"
    root.mkdir()
    (root / "a").write_text("content")
    os.link(root / "a", root / "b")
    take = Upload.scan

    def scan_and_lose(upload):
        take(upload)
        (root / "a").unlink()

    monkeypatch.setattr(Upload, "scan", scan_and_lose)
    client.upload_directory(codebase.id, root)
    assert [file.path for file in client.list_files(codebase.id)] == ["b"]
    assert client.download_file(codebase.id, "b") == b"content"


def test_names_are_bytes(client, codebase, tmp_path):
    root = os.fsencode(tmp_path / "tree")
    os.mkdir(root)
    names = [b"new\nline", b"\xff\xfe", b"tab\tname", b"x" * 255, b"-rf", b"back\\slash", b"[a]*"]
    for name in names:
        with open(os.path.join(root, name), "wb") as file:
            file.write(name)
    client.upload_directory(codebase.id, root)
    check = 'for f in *; do printf %s "$f" | cmp - "$f"; done; ls | wc -l'
    shown = view_of(client, codebase.id, check)
    assert int(shown) == len(names) + 1, "one name has a newline"


def test_big_and_sparse_files(client, codebase, tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    data = random.Random(1).randbytes(9_000_001)
    (root / "big").write_bytes(data)
    with open(root / "sparse", "wb") as file:
        file.seek(3 << 30)
        file.write(b"end")
        file.truncate(5 << 30)
    begin = time.monotonic()
    client.upload_directory(codebase.id, root)
    assert time.monotonic() - begin < 30, "holes are not sent"
    assert client.download_file(codebase.id, "big") == data
    look = "stat -c %s sparse; tail -c +3221225473 sparse | head -c 3"
    shown = view_of(client, codebase.id, look)
    assert shown == f"{5 << 30}\nend"


def test_special_files_are_left_out(client, codebase, tmp_path):
    import socket

    root = tmp_path / "tree"
    root.mkdir()
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (root / "file").write_text("x")
    client.upload_directory(codebase.id, root)
    assert [f.path for f in client.list_files(codebase.id)] == ["file"]


def test_ignore_files_and_patterns(client, codebase, tmp_path):
    root = tmp_path / "tree"
    for path in (
        "a.log",
        "keep.log",
        "src/a.log",
        "src/b.tmp",
        "src/deep/c.tmp",
        "build/out",
        ".git/HEAD",
        ".env",
        "lib/__pycache__/x.pyc",
        "only/me",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    (root / ".gitignore").write_text("*.log\n!keep.log\n/build/\n")
    (root / ".sandboxignore").write_text("only\n# comment\n")
    (root / "src/.gitignore").write_text("*.tmp\n")
    (root / "src/deep/.sandboxignore").write_text("!c.tmp\n")
    client.upload_directory(codebase.id, root, ignore_patterns=["lib/"])
    files = [f.path for f in client.list_files(codebase.id, recursive=True) if not f.is_dir]
    assert files == [
        ".gitignore",
        ".sandboxignore",
        "keep.log",
        "src/.gitignore",
        "src/deep/.sandboxignore",
        "src/deep/c.tmp",
    ]
    other = client.create_codebase("all", "tester")
    client.upload_directory(other.id, root, ignore_patterns=["!.git", "!a.log"])
    files = [f.path for f in client.list_files(other.id, recursive=True)]
    assert ".git/HEAD" in files and "a.log" in files and ".env" not in files
    third = client.create_codebase("all", "tester")
    client.upload_directory(third.id, root, default_ignores=False)
    files = [f.path for f in client.list_files(third.id, recursive=True)]
    assert ".env" in files and "lib/__pycache__/x.pyc" in files


PARTS = ["a", "b", "c", "foo", "*", "**", "/", "/", "?", "[ab]", "[!a]", "[a-c]", "\\a", "\\*", "."]
PARTS += ["!", "#", " ", "\\ ", "]", "[", "[[:alpha:]]", "[]a]", "x", "**/", "/**", "A", "[^b]"]
PARTS += ["\\", "[!]a]", "[a\\]]", "[b-a]", "\N{LATIN SMALL LETTER E WITH ACUTE}"]
NAMES = ["a", "b", "ab", "a.c", "b c", "foo", ".x", "a]", "[a]", "A", "#x", "!y", "a\\", "x*", "-"]
NAMES += ["\N{LATIN SMALL LETTER E WITH ACUTE}"]


@pytest.mark.parametrize("seed", range(40 if not os.environ.get("AGENTFENSE_LONG") else 600))
def test_ignore_patterns_mean_what_git_says_they_mean(seed, tmp_path):
    choose = random.Random(seed)
    root = tmp_path / "tree"
    subprocess.run(["git", "init", "-q", root], check=True)
    for _ in range(25):
        path = root.joinpath(*[choose.choice(NAMES) for _ in range(choose.randint(1, 4))])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if choose.random() < 0.2 else path.touch()
        except OSError:  # a name is a file already
            continue
    folders = [p for p in root.rglob("*") if p.is_dir() and ".git" not in p.parts]
    for folder in [root, *choose.sample(folders, min(3, len(folders)))]:
        lines = [
            "".join(choose.choice(PARTS) for _ in range(choose.randint(1, 5)))
            for _ in range(choose.randint(1, 6))
        ]
        (folder / ".gitignore").write_text("\n".join(lines) + "\n")
    rules = Ignore(["/.git"], defaults=False)
    ours = {e.path for e in _tree.scan(os.fsencode(root), rules) if not e.is_directory}
    command = ["git", "-C", root, "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, check=True).stdout
    assert ours == {path for path in listed.split(b"\0") if path}


def test_progress_is_told_to_the_end_in_the_callers_thread(api, client, codebase, tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    for i in range(20):
        (root / f"{i}").write_bytes(b"x" * 500_000)
    seen, threads = [], set()

    def progress(now):
        seen.append(now)
        threads.add(threading.get_ident())

    client.upload_directory(codebase.id, root, progress=progress)
    assert (seen[-1].files_done, seen[-1].files_total) == (20, 20)
    assert seen[-1].bytes_done == seen[-1].bytes_total == 10_000_000
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)
    expected = api.loop.thread.ident if api.is_async else threading.get_ident()
    assert threads == {expected}


def test_a_callback_that_raises_ends_the_upload(api, project, nothing_left):
    def progress(now):
        raise KeyError("stop")

    with pytest.raises(KeyError):
        api.sandbox("from_local", project, progress=progress)


def test_a_bar_is_shown_on_a_terminal_only(endpoint, project, tmp_path):
    program = (
        "import sys; from agentfense import Sandbox\n"
        "Sandbox.from_local(sys.argv[1], progress=True).destroy()"
    )
    env = {
        **os.environ,
        "AGENTFENSE_ENDPOINT": endpoint,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", program, str(project)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "upload" not in done.stderr, done.stderr
    leader, follower = os.openpty()
    done = subprocess.run(command, env=env, stderr=follower, timeout=60)
    os.close(follower)
    shown = os.read(leader, 65536)
    os.close(leader)
    assert done.returncode == 0 and b"100 % (2/2 files)" in shown


def unreadable(monkeypatch, name):
    """Opening this file fails: the tests run as root, who may read everything."""
    original = os.open

    def fake(path, *args, **kwargs):
        if os.fsencode(path).endswith(name):
            raise PermissionError(13, "Permission denied")
        return original(path, *args, **kwargs)

    monkeypatch.setattr(_tree.os, "open", fake)


def test_a_file_that_cannot_be_read_is_named_and_nothing_is_kept(
    api, project, nothing_left, monkeypatch
):
    (project / "zzz").write_text("last")
    unreadable(monkeypatch, b"zzz")
    with pytest.raises(af.UploadError, match=r"zzz.*Permission denied.*ignore pattern"):
        api.sandbox("from_local", project)


def test_a_file_that_vanishes_or_changes_its_kind_is_left_out(client, codebase, project):
    from agentfense._upload import Upload

    (project / "gone").write_text("x")
    (project / "turned").write_text("x")
    upload = Upload(project)
    upload.scan()
    os.unlink(project / "gone")
    os.unlink(project / "turned")
    os.symlink("/etc/passwd", project / "turned")
    sent = [m.entry.path for m in upload.messages(codebase.id) if m.HasField("entry")]
    assert b"gone" not in sent and b"turned" not in sent and b"README.md" in sent
    assert upload.progress.files_done == upload.progress.files_total
    assert upload.progress.bytes_done == upload.progress.bytes_total


def test_a_file_that_grows_or_shrinks_is_sent_as_it_is_found(client, codebase, project):
    from agentfense._upload import Upload

    (project / "grows").write_text("x")
    (project / "shrinks").write_text("x" * 100)
    upload = Upload(project)
    upload.scan()
    (project / "grows").write_text("x" * 100)
    (project / "shrinks").write_text("x")
    assert list(upload.messages(codebase.id))
    assert upload.progress.bytes_done == upload.progress.bytes_total


def test_interrupted_from_local_leaves_nothing(endpoint, tmp_path, nothing_left):
    root = tmp_path / "tree"
    root.mkdir()
    for i in range(40):
        (root / f"{i}").write_bytes(bytes([i]) * 4_000_000)
    program = (
        "import sys, signal; from agentfense import Sandbox\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def show(p):\n"
        "    if 0 < p.bytes_done < p.bytes_total: print('half way', flush=True)\n"
        "try:\n"
        "    Sandbox.from_local(sys.argv[1], progress=show)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    env = {
        **os.environ,
        "AGENTFENSE_ENDPOINT": endpoint,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", program, str(root)], env=env, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "half way\n"
        running.send_signal(signal.SIGINT)
        assert "interrupted" in running.communicate(timeout=60)[0]


def test_a_file_error_is_an_upload_error_even_late(client, codebase, project, monkeypatch):
    def broken(fd, path):
        yield b"beginning"
        raise _tree._failed(path, OSError(5, "Input/output error"))

    monkeypatch.setattr(_tree, "pieces", broken)
    with pytest.raises(af.UploadError, match="Input/output error"):
        client.upload_directory(codebase.id, project)
    assert client.list_files(codebase.id) == []


def test_a_codebase_that_goes_during_the_upload(client, project):
    with pytest.raises(af.CodebaseNotFoundError):
        client.upload_directory("cb_00000000000000000000000000", project)
    with pytest.raises(builtins.TypeError):
        client.upload_directory("cb_00000000000000000000000000", None)
