"""Fixtures: one shared daemon a module, or a private one for tests that stop or kill it."""

import pytest

from dockerd import Dockerd
from harness import Daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A daemon shared by a module's tests."""
    made = Daemon(tmp_path_factory.mktemp("af"))
    made.start()
    yield made
    made.cleanup()


@pytest.fixture(scope="module")
def client(daemon):
    """A client of the module's daemon."""
    made = daemon.client()
    yield made
    made.close()


@pytest.fixture(scope="module")
def dockerd():
    """A dockerd of the module's own, with one image."""
    made = Dockerd()
    try:
        made.start().make_image()
        yield made
    finally:
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
