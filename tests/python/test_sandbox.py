"""Sandbox and AsyncSandbox: every method against the real daemon."""

import datetime
import os

import agentfense as af
import pytest


@pytest.fixture
def sandbox(api, project, nothing_left):
    """A running sandbox that may write everywhere, made from the project."""
    with api.sandbox("from_local", project, preset="full-access") as made:
        yield made


def test_from_local_makes_a_running_agent_safe_sandbox(api, project, nothing_left):
    (project / "secrets").mkdir()
    (project / "secrets/db.json").write_text("{}")
    with api.sandbox("from_local", str(project), codebase_name="named", owner_id="me") as made:
        assert made.status == af.SandboxStatus.RUNNING and made.id.startswith("sb_")
        assert (made.codebase.name, made.codebase.owner_id) == ("named", "me")
        assert made.codebase_id == made.codebase.id and made.codebase.file_count == 3
        assert made.runtime == af.RuntimeType.BWRAP and made.info.permissions
        assert made.run("cat src/app.py").stdout == "print('app')\n"
        assert made.run("ls").stdout == "README.md\nsrc\n"
        assert not made.run("echo x > README.md").success
        assert made.run("mkdir output && echo x > output/report && cat output/report").success


def test_options_reach_the_sandbox(api, project, nothing_left):
    made = api.sandbox(
        "from_local",
        project,
        preset=None,
        permissions=[{"pattern": "**/*", "permission": "view"}],
        labels={"a": "b"},
        auto_start=False,
        runtime="bwrap",
    )
    try:
        assert made.status == af.SandboxStatus.PENDING
        assert made.info.labels == {"a": "b"}
        assert [r.permission for r in made.info.permissions] == [af.Permission.VIEW]
        assert made.codebase.name == "project" and made.codebase.owner_id
        made.start()
        assert not made.run("cat README.md").success
    finally:
        made.destroy()


def test_own_rules_come_after_the_preset(api, project, nothing_left):
    rules = [{"pattern": "**/*", "permission": "write"}]
    with api.sandbox("from_local", project, permissions=rules) as made:
        assert made.run("echo more >> README.md").success


def test_from_codebase_leaves_the_codebase(api, client, project):
    codebase = client.create_codebase("kept", "me")
    client.upload_file(codebase.id, "a", b"1")
    with api.sandbox("from_codebase", codebase.id) as made:
        assert made.run("cat a").stdout == "1"
    assert client.get_codebase(codebase.id).id == codebase.id
    made = api.sandbox("from_codebase", codebase.id, auto_start=False)
    made.destroy(delete_codebase=True)
    with pytest.raises(af.CodebaseNotFoundError):
        client.get_codebase(codebase.id)


def test_connect_finds_a_sandbox_again(api, sandbox):
    other = api.sandbox("connect", sandbox.id)
    assert other.codebase.id == sandbox.codebase_id
    assert other.run("echo hi").stdout == "hi\n"
    with pytest.raises(af.SandboxNotFoundError):
        api.sandbox("connect", "sb_00000000000000000000000000")


def test_stop_start_and_refresh(api, sandbox):
    other = api.sandbox("connect", sandbox.id)
    assert sandbox.stop().status == af.SandboxStatus.STOPPED
    assert other.status == af.SandboxStatus.RUNNING
    assert other.refresh().status == af.SandboxStatus.STOPPED
    assert other.start().status == af.SandboxStatus.RUNNING


def test_run_and_exec(sandbox):
    assert sandbox.run("echo $A; pwd", env={"A": "b"}, workdir="/workspace/src").stdout == (
        "b\n/workspace/src\n"
    )
    with pytest.raises(af.CommandExecutionError) as caught:
        sandbox.run("echo no >&2; exit 7", raise_on_error=True)
    assert (caught.value.exit_code, caught.value.stderr) == (7, "no\n")
    result = sandbox.exec("cat; exit 3", stdin="in\0put", timeout=datetime.timedelta(seconds=20))
    assert (result.stdout, result.exit_code) == ("in\0put", 3)
    assert b"".join(sandbox.exec_stream("cat", stdin="x" * 100_000)) == b"x" * 100_000


def test_sessions(sandbox):
    with sandbox.session() as session:
        session.exec("cd src", timeout=10)
        assert session.exec("pwd").stdout == "/workspace/src\n"
    with sandbox.session(shell="/bin/sh", env={"A": "1"}) as session:
        assert session.exec("echo $A").stdout == "1\n"


def test_files_of_the_codebase_by_either_kind_of_path(sandbox):
    sandbox.write_file("/workspace/new/a.txt", "text \N{SNOWMAN}")
    sandbox.write_file("/new/b.bin", b"\xff\x00")
    sandbox.write_file("new/empty", "")
    assert sandbox.read_file("new/a.txt") == "text \N{SNOWMAN}"
    assert sandbox.read_file_bytes("/workspace/new/b.bin") == b"\xff\x00"
    with pytest.raises(UnicodeDecodeError):
        sandbox.read_file("new/b.bin")
    assert sandbox.list_files("/workspace/new") == ["new/a.txt", "new/b.bin", "new/empty"]
    assert sandbox.list_files("/") == sandbox.list_files() == ["README.md", "new", "src"]
    assert "src/app.py" in sandbox.list_files("", recursive=True)


def test_a_name_that_only_begins_like_the_workspace_is_another(sandbox):
    sandbox.write_file("/workspace2/a", "x")
    assert sandbox.list_files("/") == ["README.md", "src", "workspace2"]


def test_diff_shows_what_is_not_committed_yet(client, sandbox):
    client.set_commit_policy(sandbox.id, af.CommitPolicy.MANUAL)
    assert sandbox.run("echo x > added; rm README.md; chmod 700 src").success
    changes = {(entry.change, entry.path) for entry in sandbox.diff()}
    assert (af.Change.ADDED, "added") in changes and (af.Change.DELETED, "README.md") in changes


def test_destroy_twice_and_use_afterwards(api, project, nothing_left):
    made = api.sandbox("from_local", project)
    made.destroy()
    made.destroy()
    with pytest.raises(af.SandboxNotFoundError, match="destroyed by this program"):
        made.run("true")
    assert "destroyed" in repr(made._target if api.is_async else made)


def test_a_block_ends_well_when_somebody_else_destroyed_it(api, client, project, nothing_left):
    with api.sandbox("from_local", project) as made:
        client.destroy_sandbox(made.id)
    with pytest.raises(af.SandboxNotFoundError):
        client.get_sandbox(made.id)


def test_an_exception_in_the_block_destroys_all_the_same(api, project, nothing_left):
    with pytest.raises(KeyError), api.sandbox("from_local", project):
        raise KeyError("mine")


def test_the_endpoint_comes_from_the_environment(api, project, monkeypatch, nothing_left):
    monkeypatch.setenv("AGENTFENSE_ENDPOINT", api.endpoint)
    with api.sandbox("from_local", project, endpoint=None) as made:
        assert made.run("true").success


def test_default_endpoint_order(monkeypatch, tmp_path):
    import socket

    from agentfense import _endpoint

    monkeypatch.delenv("AGENTFENSE_ENDPOINT", raising=False)
    monkeypatch.setattr(_endpoint, "LOCAL_SOCKET", str(tmp_path / "sock"))
    assert af.default_endpoint() == "localhost:9000"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        assert af.default_endpoint() == f"unix:{tmp_path}/sock"
        monkeypatch.setenv("AGENTFENSE_ENDPOINT", "unix:/elsewhere")
        assert af.default_endpoint() == "unix:/elsewhere"
    assert _endpoint.resolve("/a/b").target == "unix:/a/b"


def test_the_local_socket_is_the_daemons_default():
    import pathlib

    from agentfense import _endpoint

    root = pathlib.Path(__file__).resolve().parents[2]
    assert f'"{_endpoint.LOCAL_SOCKET}"' in (root / "mux/base/places.h").read_text()


def test_one_client_may_serve_many_sandboxes(api, client, project, nothing_left):
    shared = client._target if api.is_async else client
    for _ in range(2):
        with api.sandbox("from_local", project, client=shared, endpoint=None) as made:
            assert made.run("true").success
    assert client.list_sandboxes() == []


def test_paths_of_any_kind_name_the_directory(api, project, nothing_left):
    for path in (str(project), project, os.fsencode(project), f"{project}/../project/"):
        with api.sandbox("from_local", path) as made:
            assert made.list_files() == ["README.md", "src"]
