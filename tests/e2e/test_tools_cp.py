"""agentfense cp: files and trees between this machine and a sandbox or a codebase."""

import json
import os
import stat
import subprocess

import pytest

from harness import AGENT_SAFE, BIN, FULL


@pytest.fixture
def cp(daemon):
    """Runs agentfense cp; returns (exit code, stderr)."""

    def call(source, target, **kwargs):
        done = subprocess.run(
            [str(BIN / "agentfense"), "--socket", str(daemon.socket), "cp", str(source),
             str(target)],
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False,
            **kwargs)
        assert done.stdout == ""
        return done.returncode, done.stderr

    return call


@pytest.fixture
def tree(tmp_path):
    made = tmp_path / "tree"
    (made / "sub/empty").mkdir(parents=True)
    (made / "a").write_text("a\n")
    (made / "sub/run").write_text("#!/bin/sh\n")
    (made / "sub/run").chmod(0o755)
    os.utime(made / "a", (1_700_000_000, 1_700_000_000))
    (made / "big").write_bytes(os.urandom(3_000_000))
    (made / "link").symlink_to("a")
    return made


def test_a_tree_goes_into_a_codebase_and_comes_back_the_same(cp, client, tree, tmp_path):
    codebase = client.codebase({"old": "old"})
    assert cp(tree, codebase + ":") == (0, "")
    assert client.download(codebase, "old") == b"old"  # what was there stays
    out = tmp_path / "out"
    assert cp(codebase + ":", out) == (0, "")
    assert (out / "old").read_text() == "old"
    assert (out / "a").stat().st_mtime == 1_700_000_000
    assert (out / "sub/run").stat().st_mode & 0o777 == 0o755
    assert (out / "sub/empty").is_dir() and os.readlink(out / "link") == "a"
    assert (out / "big").read_bytes() == (tree / "big").read_bytes()
    # Below a directory, and a directory of it alone.
    assert cp(tree, codebase + ":/deep/er/") == (0, "")
    assert cp(codebase + ":deep/er/sub", tmp_path / "sub") == (0, "")
    assert sorted(p.name for p in (tmp_path / "sub").iterdir()) == ["empty", "run"]


def test_files_keep_or_change_their_name_as_the_target_says(cp, client, tree, tmp_path):
    codebase = client.codebase({"x": "x"})
    assert cp(tree / "a", codebase + ":b/c") == (0, "")
    assert cp(tree / "a", codebase + ":b/") == (0, "")
    assert client.download(codebase, "b/c") == client.download(codebase, "b/a") == b"a\n"
    assert cp(codebase + ":b/c", tmp_path) == (0, "")
    assert (tmp_path / "c").read_text() == "a\n"
    assert cp(codebase + ":b/c", tmp_path / "named") == (0, "")
    assert (tmp_path / "named").read_text() == "a\n"
    code, err = cp(codebase + ":nothing", tmp_path)
    assert code == 1 and "nothing" in err


def test_a_sandbox_is_written_and_read_as_its_agent_would(cp, client, tree, tmp_path):
    box = client.sandbox(client.codebase({".env": "SECRET", "src/a": "a"}), AGENT_SAFE)
    os.mkfifo(tree / "pipe")
    code, err = cp(tree, box + ":output/tree")
    assert code == 1 and "left out: output/tree/pipe" in err and "1 left out" in err
    (tree / "pipe").unlink()
    assert client.out(box, "cat output/tree/a; test -x output/tree/sub/run && echo x") == "a\nx\n"
    code, err = cp(tree / "a", box + ":src/a")
    assert code == 1 and client.out(box, "cat src/a") == "a"
    # What the rules hide does not come out, neither in a tree nor by name.
    assert cp(box + ":", tmp_path / "out") == (0, "")
    assert not (tmp_path / "out/.env").exists() and (tmp_path / "out/src/a").read_text() == "a"
    assert (tmp_path / "out/output/tree/big").read_bytes() == (tree / "big").read_bytes()
    code, err = cp(box + ":.env", tmp_path / "env")
    assert code == 1 and list(tmp_path.glob("env*")) == []
    assert cp(box[:8] + ":output/tree/big", tmp_path / "big") == (0, "")
    assert (tmp_path / "big").read_bytes() == (tree / "big").read_bytes()


def test_links_go_both_ways_and_replace_what_was_there(cp, client, tree, tmp_path):
    os.link(tree / "a", tree / "sub/again")
    (tree / "dangling").symlink_to("../no/such")
    codebase = client.codebase()
    assert cp(tree, codebase + ":") == (0, "")
    box = client.sandbox(client.codebase({"link": "a file", "dangling": "too"}), FULL)
    for _ in range(2):  # the second time everything is there
        assert cp(tree, box + ":") == (0, "")
    for place in (codebase + ":", box + ":"):
        out = tmp_path / place[:5].replace(":", "")
        assert cp(place, out) == (0, "")
        assert os.readlink(out / "link") == "a" and os.readlink(out / "dangling") == "../no/such"
        assert (out / "a").samefile(out / "sub/again")
    # A directory with something in it is not replaced by a link.
    full = client.sandbox(client.codebase({"link/kept": "x"}), FULL)
    code, err = cp(tree, full + ":")
    assert code == 1 and "link" in err
    assert client.out(full, "cat link/kept") == "x"


def test_an_agents_links_and_bits_do_nothing_on_the_host(cp, client, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    box = client.sandbox(client.codebase({"a": "a"}), FULL)
    client.out(box, f"mkdir d && echo evil > d/file && cp /bin/true s && chmod 6755 s && "
               f"ln -s {outside} l")
    out = tmp_path / "out"
    out.mkdir()
    (out / "d").symlink_to(outside)  # the host's own link in the way
    cp(box + ":", out)
    assert list(outside.iterdir()) == []
    assert cp(box + ":", tmp_path / "fresh") == (0, "")
    assert os.readlink(tmp_path / "fresh/l") == str(outside)
    assert not (tmp_path / "fresh/s").stat().st_mode & (stat.S_ISUID | stat.S_ISGID)


@pytest.mark.parametrize("source, target", [
    ("a", "b"), ("cb_x:", "sb_y:"), ("./a:b", "c"), ("/nothing", "cb_x:"), ("cb_!:", "/tmp/x"),
])
def test_places_that_make_no_sense_are_refused(cp, source, target, tmp_path):
    code, err = cp(source, target, cwd=tmp_path)
    assert code == 1 and err.startswith("agentfense: ") and list(tmp_path.iterdir()) == []


def test_what_is_copied_is_counted_by_its_content(daemon, client, tree, tmp_path):
    codebase = client.codebase({})
    sandbox = client.sandbox(codebase, FULL)
    size = sum(p.stat().st_size for p in tree.rglob("*") if p.is_file() and not p.is_symlink())
    for source, target in (
        (tree, f"{codebase}:"), (f"{codebase}:", tmp_path / "out"),
        (tree, f"{sandbox}:t/"), (f"{sandbox}:t", tmp_path / "out2"),
    ):
        done = subprocess.run(
            [BIN / "agentfense", "--socket", daemon.socket, "--json", "cp", source, target],
            capture_output=True, text=True, timeout=120, check=True)
        assert json.loads(done.stdout)["bytes"] == size
