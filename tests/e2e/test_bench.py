"""The benchmark suite runs: every piece of it, with sizes too small for figures."""

import json
import os
import pathlib
import subprocess
import tempfile

import pytest

from harness import BIN, ROOT

PIECES = {
    "ops": {"stat, warm", "sequential write", "first append to a base file"},
    "work": {"git status, second", "make -j2 of a C project", "cold walk, second view", "rm -rf"},
    "exec": {"exec of true, shell", "create", "start from the pool"},
    "api": {"create a sandbox", "small reads", "memory of one of 50 idle sandboxes"},
    "imports": {"import, 50 small files, tmpfs", "import again, 1 x 1 MiB, tmpfs"},
    "fair": {"small read, 3 at work, p99", "small read, another creates by 2 threads, p99"},
    "cold": {"walk, fresh view", "git status, second view: requests"},
    "growth": {"cold look in a delta of so many, 50", "list and look up, a name, of so many, 100"},
}


@pytest.fixture(name="place")
def open_to_all():
    """A directory that the peers' user may walk through, as pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="bench-test-") as directory:
        os.chmod(directory, 0o755)
        yield pathlib.Path(directory)


@pytest.mark.parametrize("piece", PIECES)
def test_the_benchmark_piece_gives_its_figures_and_leaves_no_mount(piece, place):
    argv = ["/usr/bin/python3", ROOT / "bench/run.py", "--tiny", "--only", piece, "--out", place]
    env = os.environ | {"AGENTFENSE_BIN": str(BIN), "TMPDIR": str(place)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (place / "figures.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert PIECES[piece] <= {row["name"] for row in rows}
    keys = {"name", "value", "unit", "peer", "peer_value", "ratio"}
    assert all(keys <= row.keys() for row in rows)
    assert all(row["value"] >= 0 for row in rows)
    assert len(list(place.glob("*.svg"))) == (4 if piece == "growth" else 0)
    assert done.stdout.rstrip().splitlines()[-len(lines):] == lines, "the run ends with its lines"
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        assert str(place) not in mounts.read()
