"""When a sandbox's changes reach its codebase, and what asks for it."""

import asyncio

import agentfense as af
import pytest

FULL = [{"pattern": "**/*", "permission": "write"}]


@pytest.fixture
def sandbox(api, project, nothing_left):
    """A running sandbox that may write everywhere, with the default policy."""
    with api.sandbox("from_local", project, preset="full-access") as made:
        yield made


@pytest.fixture
def manual(client):
    """Makes running sandboxes with the manual policy on one codebase; returns their ids."""
    codebase = client.create_codebase("manual", "me")
    client.upload_file(codebase.id, "a", b"base")
    made = []

    def make(**options):
        spec = af.SandboxSpec(
            codebase.id, permissions=FULL, commit_policy="manual", start=True, **options
        )
        made.append(client.create_sandbox_from(spec))
        return made[-1].id

    make.codebase_id = codebase.id
    yield make
    client.destroy_sandboxes([m.id for m in made])


def test_files_follow_commands_and_commands_follow_files(sandbox):
    sandbox.run("echo hi > out.txt; rm README.md; mkdir new")
    assert sandbox.read_file("/workspace/out.txt") == "hi\n"
    assert sandbox.list_files() == ["new", "out.txt", "src"]
    sandbox.write_file("/workspace/a.py", "print(6 * 7)")
    assert sandbox.run("python3 a.py").stdout == "42\n"
    assert sandbox.diff() == []


def test_a_stream_and_a_session_commit_too(sandbox):
    list(sandbox.exec_stream("echo streamed > s"))
    assert sandbox.read_file("s") == "streamed\n"
    with sandbox.session() as session:
        session.exec("cd src; echo kept > t")
        assert sandbox.read_file("src/t") == "kept\n"
        sandbox.write_file("src/u", "written")
        assert session.exec("cat u").stdout == "written"


def test_two_sandboxes_on_one_codebase_see_each_others_results(api, sandbox):
    with api.sandbox("from_codebase", sandbox.codebase_id, preset="full-access") as other:
        sandbox.run("echo one > one")
        assert other.run("cat one && echo two > two").stdout == "one\n"
        assert sandbox.run("cat two").stdout == "two\n"


def test_manual_keeps_its_changes_until_asked(client, manual):
    one = manual()
    client.exec(one, "echo changed > a; echo new > b")
    assert client.download_file(manual.codebase_id, "a") == b"base"
    assert {e.path for e in client.diff(one)} == {"a", "b"}
    result = client.commit(one)
    assert (result.entries, result.conflicts, result.merged) == (2, 0, False)
    assert client.download_file(manual.codebase_id, "a") == b"changed\n"
    assert client.diff(one) == []


def test_rollback_drops_changes(client, manual):
    one = manual()
    client.exec(one, "echo changed > a; echo new > b")
    client.rollback(one)
    assert client.exec(one, "cat a; ls").stdout == "basea\n"
    assert client.diff(one) == []


def test_rebase_brings_in_what_others_did(client, manual):
    one = manual()
    client.exec(one, "echo mine > mine")
    client.upload_file(manual.codebase_id, "theirs", b"theirs")
    assert not client.exec(one, "cat theirs").success
    result = client.rebase(one)
    assert (result.moved, result.conflicts) == (True, 0)
    assert client.exec(one, "cat theirs mine").stdout == "theirsmine\n"
    assert client.rebase(one).moved is False


def test_a_conflict_is_refused_when_asked_to(client, manual):
    one = manual()
    client.exec(one, "echo mine > a")
    client.upload_file(manual.codebase_id, "a", b"theirs")
    with pytest.raises(af.ConflictError):
        client.commit(one, af.ConflictPolicy.REFUSE)
    assert client.download_file(manual.codebase_id, "a") == b"theirs"
    result = client.commit(one)
    assert result.conflicts == 1 and result.merged
    assert client.download_file(manual.codebase_id, "a") == b"mine\n"


def test_the_policy_can_change(client, manual):
    one = manual()
    view = client.set_commit_policy(one, af.CommitPolicy.ON_EXEC)
    assert view.commit_policy == af.CommitPolicy.ON_EXEC
    client.exec(one, "echo now > a")
    assert client.download_file(manual.codebase_id, "a") == b"now\n"


def test_the_methods_of_a_sandbox_object(api, client, manual):
    one = api.sandbox("connect", manual())
    one.run("echo x > x")
    assert [e.path for e in one.diff()] == ["x"]
    assert one.commit().entries == 1
    one.run("echo y > y")
    one.rollback()
    assert one.rebase().moved is False
    assert one.list_files() == ["a", "x"]


def test_commands_at_once_lose_nothing(endpoint, project, nothing_left):
    async def main():
        async with af.AsyncSandbox.from_local(
            project, preset="full-access", endpoint=endpoint
        ) as sandbox:
            await asyncio.gather(*[sandbox.run(f"echo {i} > f{i}") for i in range(20)])
            names = await sandbox.list_files()
            assert {f"f{i}" for i in range(20)} <= set(names)

    asyncio.run(main())
