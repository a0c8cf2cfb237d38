"""Fixtures of tests/e2e (a daemon, a client), and an ordinary file system to compare with."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e")]

_spec = importlib.util.spec_from_file_location("e2e_fixtures", HERE.parent / "e2e/conftest.py")
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
daemon, client, new_daemon = _fixtures.daemon, _fixtures.client, _fixtures.new_daemon


@pytest.fixture(scope="module")
def tmpfs(tmp_path_factory):
    """An empty tmpfs that does not record reads, as views do not."""
    at = tmp_path_factory.mktemp("tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noatime,mode=0755", "tmpfs", at], check=True)
    yield at
    subprocess.run(["umount", "-l", at], check=True)
