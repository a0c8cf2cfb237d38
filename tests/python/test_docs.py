"""The Python code in README.md, docs/PYTHON.md and the package's README runs as it stands there."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/PYTHON.md", "api/python/README.md"]
SNIPPETS = [
    (f"{page}:{number}", code)
    for page in PAGES
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S), 1
    )
]


@pytest.mark.parametrize(("name", "code"), SNIPPETS, ids=[name for name, _ in SNIPPETS])
def test_it_runs(name, code, endpoint, tmp_path, nothing_left):
    shutil.copytree(ROOT / "examples/hello", tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "AGENTFENSE_ENDPOINT": endpoint,
            "PYTHONPATH": str(ROOT / "api/python/src"),
        },
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_every_page_has_one():
    assert {name.split(":")[0] for name, _ in SNIPPETS} == set(PAGES)
