"""Incremental uploads: only changes go, and the codebase is always exactly the directory."""

import os
import random
import shutil
import threading

import agentfense as af
import pytest
from agentfense import _manifest, _sync


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("AGENTFENSE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Times count as settled at once, so that tests see files skipped by stat alone. The test of
    racy times sets it back."""
    monkeypatch.setattr(_manifest, "RACY_NS", -(10**15))


@pytest.fixture
def tree(tmp_path):
    """A directory with a bit of everything."""
    root = tmp_path / "tree"
    (root / "src/deep").mkdir(parents=True)
    for i in range(10):
        (root / f"src/f{i}").write_text(f"file {i}")
    (root / "src/deep/x").write_text("x")
    (root / "link").symlink_to("src/f1")
    return root


@pytest.fixture
def codebase(client):
    """An empty codebase."""
    return client.create_codebase("sync", "tester")


def held(client, codebase_id):
    """Path -> content of every file, None for a directory; symbolic links left out."""
    found = {}
    for file in client.list_files(codebase_id, recursive=True):
        found[file.path] = None
        if not file.is_dir:
            try:
                found[file.path] = client.download_file(codebase_id, file.path)
            except af.SandboxError:  # a symbolic link: files are not read through it
                del found[file.path]
    return found


def on_disk(root):
    """The same of a directory."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in root.rglob("*")
        if not path.is_symlink()
    }


def assert_same(client, codebase_id, root):
    """The codebase is the directory's image."""
    assert held(client, codebase_id) == on_disk(root)


def test_the_second_time_nothing_is_sent(client, codebase, tree):
    first = client.sync_directory(codebase.id, tree)
    assert (first.files, first.symlinks, first.unchanged) == (11, 1, 0)
    before = client.get_codebase(codebase.id)
    second = client.sync_directory(codebase.id, tree)
    assert (second.files, second.unchanged, second.removed) == (0, 11, 0)
    assert client.get_codebase(codebase.id) == before, "the codebase did not change"
    assert_same(client, codebase.id, tree)


def test_only_what_changed_is_sent(client, codebase, tree):
    client.sync_directory(codebase.id, tree)
    (tree / "src/f3").write_text("changed")
    (tree / "src/new").write_text("new")
    (tree / "src/f4").unlink()
    (tree / "src/f5").chmod(0o755)
    os.utime(tree / "src/f6")  # another mtime, the same content
    result = client.sync_directory(codebase.id, tree)
    assert (result.files, result.removed, result.unchanged) == (3, 1, 8)
    assert_same(client, codebase.id, tree)
    os.rename(tree / "src/f7", tree / "src/f8")  # the same inode under another name
    shutil.rmtree(tree / "src/deep")
    (tree / "link").unlink()
    (tree / "link").symlink_to("src/f2")
    result = client.sync_directory(codebase.id, tree)
    assert (result.files, result.symlinks, result.removed) == (1, 1, 2)
    assert_same(client, codebase.id, tree)


def test_files_become_directories_and_the_other_way_round(client, codebase, tree):
    client.sync_directory(codebase.id, tree)
    (tree / "src/f1").unlink()
    (tree / "src/f1/below").mkdir(parents=True)
    (tree / "src/f1/below/y").write_text("y")
    shutil.rmtree(tree / "src/deep")
    (tree / "src/deep").write_text("now a file")
    (tree / "src/f2").unlink()
    (tree / "src/f2").symlink_to("f3")
    client.sync_directory(codebase.id, tree)
    assert_same(client, codebase.id, tree)


def linked(paths):
    """Groups of names of one file, from (inode, path)."""
    groups = {}
    for inode, path in paths:
        groups.setdefault(inode, set()).add(path)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def assert_same_links(client, codebase_id, root):
    """The same names lead to the same files there and here."""
    here = [(p.lstat().st_ino, str(p.relative_to(root))) for p in root.rglob("*")
            if p.is_file() and not p.is_symlink()]
    rules = [{"pattern": "**/*", "permission": "read"}]
    sandbox = client.create_sandbox(codebase_id, rules)
    client.start_sandbox(sandbox.id)
    listing = client.exec(sandbox.id, "find . -type f -printf '%i %P\\n'").stdout
    client.destroy_sandbox(sandbox.id)
    assert linked(line.split(" ", 1) for line in listing.splitlines()) == linked(here)


def test_hard_links_that_come_and_go(client, codebase, tree):
    os.link(tree / "src/f1", tree / "src/a")  # first in order, with a file that is there already
    client.sync_directory(codebase.id, tree)
    steps = [
        lambda: os.link(tree / "src/f1", tree / "z"),
        lambda: (tree / "src/a").unlink(),
        lambda: os.link(tree / "src/f1", tree / "aa"),
        lambda: (tree / "z").write_text("all of them"),
        lambda: os.replace(tree / "src/f2", tree / "aa"),
        lambda: ((tree / "z").unlink(), (tree / "z").write_text("on its own")),
        lambda: None,
    ]
    for step in steps:
        step()
        client.sync_directory(codebase.id, tree)
        assert_same(client, codebase.id, tree)
        assert_same_links(client, codebase.id, tree)
    assert client.sync_directory(codebase.id, tree).unchanged == 12


@pytest.mark.parametrize("seed", range(6 if not os.environ.get("AGENTFENSE_LONG") else 60))
def test_random_histories_end_as_the_directory(client, codebase, tree, seed):
    choose = random.Random(seed)
    for _ in range(8):
        for _ in range(choose.randint(0, 5)):
            path = tree.joinpath(*choose.choices("abc", k=choose.randint(1, 3)))
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.exists() or path.is_symlink():
                path.unlink()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if choose.random() < 0.3:
                    os.link(tree / f"src/f{choose.randrange(10)}", path)
                    continue
                path.mkdir() if choose.random() < 0.3 else path.write_text(str(choose.random()))
            except OSError:  # a parent is a file
                continue
        if choose.random() < 0.3:  # somebody else meddles
            client.upload_file(codebase.id, choose.choice(["src/f0", "meddled", "z/z"]), b"other")
        if choose.random() < 0.1:
            shutil.rmtree(os.environ["AGENTFENSE_CACHE_DIR"], ignore_errors=True)
        client.sync_directory(codebase.id, tree)
        assert_same(client, codebase.id, tree)
    assert_same_links(client, codebase.id, tree)


def test_somebody_elses_change_is_undone_by_sending_everything(client, codebase, tree):
    client.sync_directory(codebase.id, tree)
    client.upload_file(codebase.id, "src/f1", b"file 1")  # same size, same content even
    result = client.sync_directory(codebase.id, tree)
    assert result.files == 11
    client.upload_file(codebase.id, "planted", b"!")
    client.sync_directory(codebase.id, tree)
    assert_same(client, codebase.id, tree)


def test_a_write_that_keeps_size_and_mtime_is_seen(client, codebase, tree):
    client.sync_directory(codebase.id, tree)
    times = os.stat(tree / "src/f1")
    (tree / "src/f1").write_text("FILE 1")
    os.utime(tree / "src/f1", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert client.sync_directory(codebase.id, tree).files == 1
    assert_same(client, codebase.id, tree)


def test_a_write_within_the_clocks_tick_is_seen(client, codebase, tree, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("AGENTFENSE_CACHE_DIR", str(tree.parent / "cache"))
    client.sync_directory(codebase.id, tree)
    found = _manifest.Manifest.load(codebase.id, os.fsencode(tree))
    (tree / "src/f1").write_text("FILE 1")
    now = os.stat(tree / "src/f1")
    mode, size, _, _, _, content = found.seen["src/f1"]
    # As if the clock had not moved between the sending and the write.
    stamp = (now.st_mtime_ns, now.st_ctime_ns, now.st_ino)
    found.seen["src/f1"] = (mode, size, *stamp, content)
    found.scanned_ns = now.st_mtime_ns
    found.save()
    assert client.sync_directory(codebase.id, tree).files == 1
    assert_same(client, codebase.id, tree)


def test_a_damaged_or_foreign_memory_costs_time_only(client, codebase, tree, cache):
    client.sync_directory(codebase.id, tree)
    (manifest,) = cache.glob("sent-*.json")
    assert manifest.stat().st_mode & 0o077 == 0 and cache.stat().st_mode & 0o077 == 0
    good = manifest.read_text()
    for bad in ("", "{", "[]", '{"format":1}', good.replace('"seen"', '"sean"'), "\0" * 50):
        manifest.write_text(bad)
        assert client.sync_directory(codebase.id, tree).files == 11
    shutil.rmtree(cache)
    cache.write_text("no directory")
    assert client.sync_directory(codebase.id, tree).files == 11
    assert client.sync_directory(codebase.id, tree).files == 11, "nothing could be remembered"


def test_two_at_once_end_as_one_of_the_directories(api, client, codebase, tree, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "o").write_text("o")
    failures = []

    def work(root):
        try:
            with api.client() as mine:
                for _ in range(5):
                    mine.sync_directory(codebase.id, root)
        except af.ConflictError:
            pass  # told, after several tries: nothing was half done
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(root,)) for root in (tree, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    names = {f.path for f in client.list_files(codebase.id)}
    assert names in ({"link", "src"}, {"o"})
    client.sync_directory(codebase.id, tree)
    assert_same(client, codebase.id, tree)


def test_a_file_that_vanishes_during_the_sync_is_not_left_in(client, codebase, tree, monkeypatch):
    client.sync_directory(codebase.id, tree)
    (tree / "src/f1").write_text("longer than before")
    prepare = _sync.Sync.prepare

    def prepared(self, full):
        prepare(self, full)
        (tree / "src/f1").unlink()

    monkeypatch.setattr(_sync.Sync, "prepare", prepared)
    client.sync_directory(codebase.id, tree)
    monkeypatch.setattr(_sync.Sync, "prepare", prepare)
    assert_same(client, codebase.id, tree)
    client.sync_directory(codebase.id, tree)
    assert_same(client, codebase.id, tree)


def test_from_local_with_reuse_keeps_the_codebase_and_sends_changes(api, client, tree):
    sent = []

    def progress(now):
        sent.append(now.files_total)

    with api.sandbox("from_local", tree, reuse=True, codebase_name="again") as sandbox:
        first = sandbox.codebase_id
        assert sandbox.run("cat src/f1").stdout == "file 1"
    (tree / "src/f1").write_text("second")
    with api.sandbox(
        "from_local", tree, reuse=True, codebase_name="again", progress=progress
    ) as sandbox:
        assert sandbox.codebase_id == first and sandbox.run("cat src/f1").stdout == "second"
    assert sent[-1] == 1
    client.delete_codebase(first)
    with api.sandbox("from_local", tree, reuse=True, codebase_name="again") as sandbox:
        assert sandbox.codebase_id != first and sandbox.run("cat src/f1").stdout == "second"
    client.delete_codebase(sandbox.codebase_id)


def test_a_failed_first_reuse_leaves_nothing(api, tree, nothing_left, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_sync.Sync, "prepare", fail)
    with pytest.raises(OSError):
        api.sandbox("from_local", tree, reuse=True)
