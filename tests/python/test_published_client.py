"""The reference system's published client, unchanged, against this daemon.

It has our package's name, so it lives in a virtual environment of its own. Where no package index
answers these tests are skipped; tests/e2e, which drives the same contract with stubs made from
proto/sandbox.proto alone, then stands in for them.
"""

import os
import pathlib
import socket
import subprocess

import pytest
from harness import Daemon
from test_package import python, venv

PROGRAM = pathlib.Path(__file__).with_name("published_client.py")
VERSION = "0.2.1"
CASES = ["client_calls", "sandbox_object", "files_follow_commands", "async_objects"]


@pytest.fixture(scope="module")
def published():
    """A Python with the published client."""
    return venv("published", f"agentfense=={VERSION}")


@pytest.fixture(scope="module")
def tcp_daemon(tmp_path_factory):
    """A daemon at the clients' default endpoint, or None when somebody else has that port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 9000))
        except OSError:
            pytest.skip("port 9000, the client's default, is in use on this machine")
    made = Daemon(tmp_path_factory.mktemp("tcp"), "--listen", "localhost:9000")
    made.start()
    yield made
    made.cleanup()


def test_it_is_the_published_one(published):
    program = "import agentfense, importlib.metadata as m; print(m.version('agentfense'))"
    assert python(published, "-c", program).strip() == VERSION


@pytest.mark.parametrize("case", CASES)
def test_over_a_unix_socket(published, endpoint, case):
    assert f"ok {case}" in python(published, str(PROGRAM), endpoint, case)


def test_over_a_unix_socket_with_three_slashes(published, daemon):
    assert "ok client_calls" in python(
        published, str(PROGRAM), f"unix://{daemon.socket}", "client_calls"
    )


@pytest.mark.parametrize("case", CASES)
def test_at_its_default_endpoint(published, tcp_daemon, case):
    assert f"ok {case}" in python(published, str(PROGRAM), "localhost:9000", case)


def test_without_naming_an_endpoint_at_all(published, tcp_daemon):
    program = "from agentfense import SandboxClient as C; print(C().list_codebases())"
    env = {k: v for k, v in os.environ.items() if k != "AGENTFENSE_ENDPOINT"}
    done = subprocess.run(
        [published, "-c", program], capture_output=True, text=True, env=env, timeout=60
    )
    assert done.stdout.startswith("["), done.stderr
