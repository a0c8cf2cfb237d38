"""Fixtures of the Python package's tests: the real daemon, the package from its source folder.

The package runs with the system's grpcio and protobuf, the oldest that it supports; test_package.py
installs it with the newest. `api` runs a test twice: with the blocking classes, and with the
asynchronous ones behind `Blocking`, which waits for whatever their methods return.
"""

import asyncio
import collections.abc
import fcntl
import inspect
import os
import pathlib
import subprocess
import sys
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = pathlib.Path(os.environ.get("AGENTFENSE_PYTHON", ROOT / "api/python/src"))
sys.path.insert(0, str(ROOT / "tests/e2e"))
sys.path.insert(0, str(PACKAGE))


def _generate():
    """Makes the message modules in the source folder when the .proto files are newer."""
    made = ROOT / "api/python/src/agentfense/_proto/descriptors.binpb"
    sources = [*(ROOT / "proto").glob("*.proto"), ROOT / "api/python/generate.py"]
    (ROOT / "build").mkdir(exist_ok=True)
    with open(ROOT / "build/python-generate.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        newest = max(path.stat().st_mtime for path in sources)
        if not made.exists() or made.stat().st_mtime < newest:
            subprocess.run(
                ["/usr/bin/python3", ROOT / "api/python/generate.py", made.parent], check=True
            )


if "AGENTFENSE_PYTHON" not in os.environ:
    _generate()

import agentfense  # noqa: E402
from harness import Daemon  # noqa: E402


class Loop:
    """An event loop in a thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, coroutine, timeout=120):
        """Runs a coroutine there and waits for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def close(self):
        """Ends the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)
        self.loop.close()


class Blocking:
    """An asynchronous object whose methods wait."""

    def __init__(self, target, loop):
        self._target, self._loop = target, loop

    def __getattr__(self, name):
        value = getattr(self._target, name)
        if not callable(value):
            return self._wrap(value)

        def call(*args, **kwargs):
            async def inside():
                made = value(*args, **kwargs)
                return await made if inspect.isawaitable(made) else made

            return self._wrap(self._loop.run(inside()))

        return call

    def _wrap(self, value):
        has_methods = type(value).__module__.startswith("agentfense.aio")
        return Blocking(value, self._loop) if has_methods else value

    def __iter__(self):
        return self

    def __next__(self):
        async def step():
            try:
                return True, await self._target.__anext__()
            except StopAsyncIteration:
                return False, None

        more, value = self._loop.run(step())
        if not more:
            raise StopIteration
        return value

    def __enter__(self):
        async def enter():
            return await self._target.__aenter__()

        return self._wrap(self._loop.run(enter()))

    def __exit__(self, *exc):
        async def leave():
            return await self._target.__aexit__(*exc)

        return self._loop.run(leave())


class Api:
    """The package's classes, blocking in both flavours."""

    def __init__(self, flavour, endpoint, loop):
        self.flavour, self.endpoint, self.loop = flavour, endpoint, loop
        self.is_async = flavour == "async"

    def client(self, endpoint=None, **options):
        """A SandboxClient, or an AsyncSandboxClient behind Blocking."""
        endpoint = self.endpoint if endpoint is None else endpoint
        if self.is_async:
            return Blocking(agentfense.AsyncSandboxClient(endpoint, **options), self.loop)
        return agentfense.SandboxClient(endpoint, **options)

    def sandbox(self, how, *args, **options):
        """Sandbox.<how>(...) on the test's daemon."""
        options.setdefault("endpoint", self.endpoint)
        if not self.is_async:
            return getattr(agentfense.Sandbox, how)(*args, **options)

        async def make():
            return await getattr(agentfense.AsyncSandbox, how)(*args, **options)

        return Blocking(self.loop.run(make()), self.loop)


assert isinstance(Blocking(None, None), collections.abc.Iterable)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A daemon shared by a module's tests."""
    made = Daemon(tmp_path_factory.mktemp("af"))
    made.start()
    yield made
    made.cleanup()


@pytest.fixture
def new_daemon(tmp_path):
    """Makes daemons that the test may stop, kill and start again, on one directory."""
    made = []

    def make(*args, **kwargs):
        daemon = Daemon(tmp_path, *args, **kwargs)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.cleanup()


@pytest.fixture(scope="module")
def endpoint(daemon):
    """The module's daemon as an endpoint."""
    return f"unix:{daemon.socket}"


@pytest.fixture(scope="session")
def loop():
    """The event loop that the asynchronous flavour lives in."""
    made = Loop()
    yield made
    made.close()


@pytest.fixture(params=["sync", "async"])
def api(request, endpoint, loop):
    """The package in one of its flavours."""
    return Api(request.param, endpoint, loop)


@pytest.fixture
def client(api):
    """A client of the module's daemon."""
    made = api.client()
    yield made
    made.close()


@pytest.fixture
def project(tmp_path):
    """A small project directory."""
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "src/app.py").write_text("print('app')\n")
    (root / "README.md").write_text("# project\n")
    return root


@pytest.fixture
def nothing_left(daemon):
    """Fails a test that leaves sandboxes or codebases behind."""
    with agentfense.SandboxClient(f"unix:{daemon.socket}") as client:
        before = {c.id for c in client.list_codebases()}, {s.id for s in client.list_sandboxes()}
        yield
        assert {c.id for c in client.list_codebases()} == before[0]
        assert {s.id for s in client.list_sandboxes()} == before[1]
