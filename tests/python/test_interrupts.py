"""Ctrl-C and cancellations at the worst moment: while a call makes what nobody knows of yet."""

import asyncio
import os
import signal
import subprocess
import sys

import agentfense as af
import pytest
from agentfense import _interrupts
from agentfense._interrupts import uninterrupted

MAKERS = ["create_codebase", "create_sandbox"]


@pytest.fixture
def used(endpoint, project, nothing_left):
    """Arguments of from_local."""
    return {"path": project, "endpoint": endpoint}


@pytest.fixture
def ctrl_c():
    """Presses it; what pytest or a shell have set up is put aside."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("maker", MAKERS)
def test_an_interrupt_while_something_is_made_leaves_nothing(used, monkeypatch, ctrl_c, maker):
    original = getattr(af.SandboxClient, maker)

    def interrupted(self, *args):
        made = original(self, *args)
        ctrl_c()
        return made

    monkeypatch.setattr(af.SandboxClient, maker, interrupted)
    with pytest.raises(KeyboardInterrupt):
        af.Sandbox.from_local(**used)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("maker", MAKERS)
def test_a_cancellation_while_something_is_made_leaves_nothing(used, monkeypatch, maker):
    original = getattr(af.AsyncSandboxClient, maker)

    async def main():
        at_work, go_on = asyncio.Event(), asyncio.Event()

        async def slow(self, *args):
            made = await original(self, *args)
            at_work.set()
            await go_on.wait()
            return made

        async def begin():
            return await af.AsyncSandbox.from_local(**used)

        monkeypatch.setattr(af.AsyncSandboxClient, maker, slow)
        task = asyncio.ensure_future(begin())
        await at_work.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # once more changes nothing
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_cancelled_call_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(_interrupts, "GRACE_S", 0.05)
    kept = []

    async def main():
        task = asyncio.ensure_future(_interrupts.made(asyncio.Event().wait(), kept.append))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(main(), 60))
    assert kept == []


def test_a_call_that_fails_after_its_cancellation_keeps_nothing():
    kept = []

    async def main():
        fail = asyncio.Event()

        async def work():
            await fail.wait()
            raise ValueError

        task = asyncio.ensure_future(_interrupts.made(work(), kept.append))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        fail.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert kept == []


def test_a_second_interrupt_is_raised_at_once(ctrl_c):
    reached = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        ctrl_c()
        reached.append(1)
        ctrl_c()
        reached.append(2)
    assert reached == [1]


def test_a_block_without_end_is_left_after_the_grace(ctrl_c, monkeypatch):
    monkeypatch.setattr(_interrupts, "GRACE_S", 0.05)
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        ctrl_c()
        while True:
            pass


def test_a_programs_own_handler_is_left_alone(ctrl_c):
    seen = []
    signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    with uninterrupted():
        ctrl_c()
    assert seen == [1]


def test_an_interrupt_while_grpc_sets_up_a_call_does_not_hang(endpoint, tmp_path):
    # gRPC's channel waits in close() for a call that an exception left half set up.
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from agentfense import SandboxClient\n"
        "import threading\n"
        "client = SandboxClient(sys.argv[1])\n"
        "client.list_codebases()\n"
        "leave = type(threading.Condition()).__exit__\n"
        "def interrupted(self, *exc):\n"
        "    leave(self, *exc)\n"
        "    if sys._getframe(1).f_code.co_name == 'create': signal.raise_signal(signal.SIGINT)\n"
        "threading.Condition.__exit__ = interrupted\n"
        "try:\n"
        "    client.upload_directory('cb_' + 'a' * 26, sys.argv[2])\n"
        "except KeyboardInterrupt:\n"
        "    client.close()\n"
        "    print('interrupted')\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, endpoint, str(tmp_path)],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "interrupted\n", done.stderr
