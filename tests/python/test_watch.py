"""watch and trace, blocking and asynchronous."""

import asyncio
import threading

import agentfense as af
import pytest

SB = "sb_00000000000000000000000000"
Kind = af.WatchKind


@pytest.fixture
def client(endpoint):
    """A blocking client: the asynchronous one has a test of its own."""
    with af.SandboxClient(endpoint) as made:
        yield made


@pytest.fixture
def sandbox(client, nothing_left):
    """A sandbox that may write below output, started."""
    codebase = client.create_codebase("watched", "owner-of-watched")
    client.upload_file(codebase.id, "a.txt", b"hello")
    client.upload_file(codebase.id, ".env", b"SECRET=1")
    client.upload_file(codebase.id, "b.key", b"SECRET")
    made = client.create_sandboxes(
        [af.SandboxSpec(codebase.id, preset="agent-safe", commit_policy="manual", start=True)]
    )[0].unwrap()
    yield made.id
    client.destroy_sandboxes([made.id])
    client.delete_codebase(codebase.id)


def kinds(events):
    return [(event.kind, event.path) for event in events]


SCRIPT = "cat .env; mkdir output; echo x > output/f; mv output/f output/g; rm output/g"
DONE = [
    (Kind.DENIED, ".env"),
    (Kind.CREATED, "output"),
    (Kind.CREATED, "output/f"),
    (Kind.MODIFIED, "output/f"),
    (Kind.RENAMED, "output/g"),
    (Kind.DELETED, "output/g"),
]


def test_watch_yields_what_changes_and_what_is_denied(client, sandbox):
    with client.watch(sandbox, denied=True) as events:
        client.exec(sandbox, SCRIPT)
        found = [next(events) for _ in DONE]
    assert kinds(found) == DONE
    assert found[0].operation == "lookup" and found[1].file_kind == af.FileKind.DIRECTORY
    assert found[4].old_path == "output/f" and found[1].at is not None and found[1].pid
    assert list(events) == []


def test_watch_of_a_path_and_names_that_are_not_utf8(client, sandbox):
    client.exec(sandbox, "mkdir output")
    events = client.watch(sandbox, path="/workspace/output")
    client.exec(sandbox, r"touch output/$(printf 'x\377')")
    assert next(events).path == "output/x\udcff"
    events.close()


def test_trace_tells_verdicts_and_rules(client, sandbox):
    with client.trace(sandbox) as events:
        client.exec(sandbox, "cat .env; mkdir output")
        seen = {}
        while ("mkdir", "output") not in seen:
            event = next(events)
            seen[event.operation, event.path] = event
    hidden = seen["lookup", ".env"]
    assert hidden.hidden and hidden.level == af.Permission.NONE
    assert (hidden.rule, hidden.pattern, hidden.error) == (3, "**/.env*", None)
    made = seen["mkdir", "output"]
    assert made.error is None and made.took.total_seconds() > 0


def test_a_watch_that_waits_ends_when_another_thread_closes_it(client, sandbox):
    events = client.watch(sandbox)
    found = []
    reader = threading.Thread(target=lambda: found.extend(events))
    reader.start()
    client.exec(sandbox, "mkdir output")
    events.close()
    reader.join(60)
    assert not reader.is_alive() and kinds(found) in ([], [(Kind.CREATED, "output")])


def test_a_watch_ends_with_its_sandbox(client, sandbox):
    events = client.watch(sandbox)
    client.exec(sandbox, "mkdir output")
    client.destroy_sandboxes([sandbox])
    assert kinds(events) == [(Kind.CREATED, "output")]


def test_a_codebase_is_watched(client, sandbox):
    codebase = client.get_sandbox(sandbox).codebase_id
    with client.watch_codebase(codebase) as events:
        client.upload_file(codebase, "new/f", b"1")
        client.exec(sandbox, "mkdir output; echo x > output/f")
        client.commit(sandbox)
        found = [next(events) for _ in range(4)]
    assert kinds(found) == [
        (Kind.CREATED, "new"),
        (Kind.CREATED, "new/f"),
        (Kind.CREATED, "output"),
        (Kind.CREATED, "output/f"),
    ]
    assert [event.sandbox_id for event in found] == [None, None, sandbox, sandbox]
    below = client.watch_codebase(client.get_codebase(codebase), path="output")
    client.upload_file(codebase, "elsewhere", b"1")
    client.upload_file(codebase, "output/f", b"2")
    assert kinds([next(below)]) == [(Kind.MODIFIED, "output/f")]
    below.close()


def test_watching_what_is_not_there(client):
    with pytest.raises(af.SandboxNotFoundError):
        client.watch(SB)
    with pytest.raises(af.CodebaseNotFoundError):
        client.watch_codebase("cb_00000000000000000000000000")
    with pytest.raises(af.SandboxError):
        client.watch_codebase(SB)
    with pytest.raises(af.SandboxError):
        client.trace(SB, path="../x")


def test_a_sandbox_watches_itself(client, sandbox):
    made = af.Sandbox(client, client.get_sandbox(sandbox))
    with made.watch() as changes, made.trace(denied=True) as denied:
        made.run("cat .env; mkdir output")
        assert (next(changes).path, next(denied).path) == ("output", ".env")


def test_the_asynchronous_twin(endpoint, sandbox):
    async def use():
        async with af.AsyncSandboxClient(endpoint) as other:
            async with other.watch(sandbox, denied=True) as events:
                await other.exec(sandbox, SCRIPT)
                found = [await events.__anext__() for _ in DONE]
            assert kinds(found) == DONE
            assert [event async for event in events] == []
            async with other.trace(sandbox, denied=True) as events:
                await other.exec(sandbox, "rmdir output; cat b.key")
                assert (await events.__anext__()).path == "b.key"
            codebase = (await other.get_sandbox(sandbox)).codebase_id
            async with other.watch_codebase(codebase) as events:
                await other.upload_file(codebase, "a.txt", b"other")
                event = await events.__anext__()
                assert (event.kind, event.path) == (Kind.MODIFIED, "a.txt")
            watched = other.watch(sandbox)
            await watched.ready()
            waiting = asyncio.ensure_future(watched.__anext__())
            await asyncio.sleep(0)
            await watched.close()
            with pytest.raises(StopAsyncIteration):
                await waiting
            with pytest.raises(af.SandboxNotFoundError):
                async with other.watch(SB):
                    pass

    asyncio.run(use())
