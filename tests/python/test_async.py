"""What only the asynchronous classes do: commands that run by themselves, cancellation, loops."""

import asyncio
import time

import agentfense as af
import pytest
from agentfense.aio._commands import Commands


@pytest.fixture
def used(endpoint, project, nothing_left):
    """Arguments of from_local."""
    return {"path": project, "endpoint": endpoint, "preset": "full-access"}


def test_run_begins_before_it_is_awaited_and_side_by_side(used):
    async def main():
        async with AsyncSandbox.from_local(**used) as sandbox:
            # Each waits for the other's sign: one after the other they would never end.
            one = sandbox.run("touch /tmp/1; until [ -e /tmp/2 ]; do sleep 0.01; done; echo one")
            two = sandbox.exec("touch /tmp/2; until [ -e /tmp/1 ]; do sleep 0.01; done; echo two")
            results = await asyncio.gather(one, two)
            assert [r.stdout for r in results] == ["one\n", "two\n"]
            assert (await one).stdout == "one\n", "a result can be had again"

    AsyncSandbox = af.AsyncSandbox
    asyncio.run(main())


def test_leaving_the_block_waits_for_commands_and_keeps_their_results(used):
    async def main():
        tasks = []
        async with await af.AsyncSandbox.from_local(**used) as sandbox:
            tasks.append(sandbox.run("sleep 0.5; echo late"))
            tasks.append(sandbox.exec("sleep 0.2; exit 3"))
            tasks.append(sandbox.run("sleep 100", timeout=0.3))
            tasks.append(sandbox.run("false", raise_on_error=True))
        late, code, timeout, failed = await asyncio.gather(*tasks, return_exceptions=True)
        assert late.stdout == "late\n" and code.exit_code == 3
        assert isinstance(timeout, af.CommandTimeoutError)
        assert isinstance(failed, af.CommandExecutionError)

    asyncio.run(main())


def test_a_session_waits_for_its_commands_too(used):
    async def main():
        async with await af.AsyncSandbox.from_local(**used) as sandbox:
            async with sandbox.session() as session:
                first = session.exec("sleep 0.3; echo first")
                second = session.exec("echo second")
            assert (first.done(), second.done()) == (True, True)
            assert [(await t).stdout for t in (first, second)] == ["first\n", "second\n"]
            async with await sandbox.session() as session:
                assert (await session.exec("echo x")).success

    asyncio.run(main())


def test_an_exception_in_the_block_cancels_commands_instead_of_waiting(used):
    async def main():
        begin = time.monotonic()
        with pytest.raises(KeyError):
            async with await af.AsyncSandbox.from_local(**used) as sandbox:
                task = sandbox.run("sleep 50")
                raise KeyError("mine")
        assert task.cancelled() and time.monotonic() - begin < 30

    asyncio.run(main())


def test_a_cancelled_command_is_killed(used):
    async def main():
        async with await af.AsyncSandbox.from_local(**used) as sandbox:
            command = sandbox.run("touch begun; exec sleep 1000", timeout=2000)
            await sandbox.run("until [ -e begun ]; do sleep 0.01; done")
            command.cancel()
            with pytest.raises(asyncio.CancelledError):
                await command
            gone = await sandbox.run(
                "for i in $(seq 300); do grep -l sleep /proc/[0-9]*/comm 2>/dev/null |"
                " grep -v self >/dev/null || exit 0; read -t 0.05 x < <(:); done; exit 1"
            )
            assert gone.success

    asyncio.run(main())


def test_a_cancelled_block_still_destroys(used):
    async def main():
        started = asyncio.Event()

        async def work():
            async with await af.AsyncSandbox.from_local(**used) as sandbox:
                started.set()
                await sandbox.run("sleep 1000", timeout=2000)

        task = asyncio.ensure_future(work())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())  # nothing_left looks


def test_a_block_cancelled_while_it_waits_for_commands_still_destroys(used, monkeypatch):
    waits = asyncio.Event()
    finish = Commands.finish

    async def watched(self, cancel):
        waits.set()
        await finish(self, cancel)

    monkeypatch.setattr(Commands, "finish", watched)

    async def main():
        async def work():
            async with await af.AsyncSandbox.from_local(**used) as sandbox:
                sandbox.run("sleep 1000", timeout=2000)

        task = asyncio.ensure_future(work())
        await waits.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_cancelled_from_local_leaves_nothing(used, project):
    with open(project / "big", "wb") as file:
        for i in range(64):
            file.write(bytes([i]) * (1 << 20))
    seen = asyncio.Event()

    def progress(now):
        if 0 < now.bytes_done < now.bytes_total:
            seen.set()

    async def main():
        task = asyncio.ensure_future(
            asyncio.wait_for(af.AsyncSandbox.from_local(**used, progress=progress), 1000)
        )
        waiting = asyncio.ensure_future(seen.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        assert not task.done(), "the upload was over before it could be cancelled"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_hundred_commands_at_once(used):
    async def main():
        async with await af.AsyncSandbox.from_local(**used) as sandbox:
            results = await asyncio.gather(*[sandbox.run(f"echo {i}") for i in range(100)])
            assert [r.stdout for r in results] == [f"{i}\n" for i in range(100)]

    asyncio.run(main())


def test_run_without_a_loop_says_so_and_warns_of_nothing(endpoint, recwarn):
    from agentfense import types

    info = types.Sandbox("sb_x", "cb_x", af.SandboxStatus.RUNNING)
    sandbox = af.AsyncSandbox(af.AsyncSandboxClient(endpoint), info)
    with pytest.raises(RuntimeError, match="event loop"):
        sandbox.run("true")
    assert not [w for w in recwarn if "never awaited" in str(w.message)]


def test_a_client_closed_under_a_command_is_a_connection_error(endpoint, used):
    async def main():
        async with await af.AsyncSandbox.from_local(**used) as sandbox:
            async with af.AsyncSandboxClient(endpoint) as client:
                command = asyncio.ensure_future(client.exec(sandbox.id, "touch on; sleep 100"))
                await sandbox.run("until [ -e on ]; do sleep 0.01; done")
                await client.close()
                with pytest.raises(af.ConnectionError):
                    await command

    asyncio.run(main())
