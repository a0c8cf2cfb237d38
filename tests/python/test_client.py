"""SandboxClient and AsyncSandboxClient: every method against the real daemon."""

import datetime
import hashlib

import agentfense as af
import pytest
from agentfense import _rpc
from agentfense._proto._load import POOL

FULL = [{"pattern": "**/*", "permission": "write"}]


@pytest.fixture
def codebase(client):
    """A codebase with one file."""
    made = client.create_codebase("demo", "tester")
    client.upload_file(made.id, "src/a.txt", b"hello")
    return made


@pytest.fixture
def running(client, codebase):
    """A running sandbox that may write everywhere."""
    made = client.create_sandbox(codebase.id, FULL)
    client.start_sandbox(made.id)
    yield made
    client.destroy_sandbox(made.id)


def test_codebases_are_made_listed_and_deleted(client):
    made = client.create_codebase("one", "owner-of-one")
    assert made.id.startswith("cb_") and made.name == "one" and made.owner_id == "owner-of-one"
    assert made.created_at.tzinfo is not None
    assert client.get_codebase(made.id) == made
    assert [c.id for c in client.list_codebases("owner-of-one")] == [made.id]
    assert made.id in [c.id for c in client.list_codebases()]
    client.delete_codebase(made.id)
    with pytest.raises(af.CodebaseNotFoundError) as caught:
        client.get_codebase(made.id)
    assert caught.value.codebase_id == made.id


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
def test_files_go_in_and_come_out_whole(client, codebase, size):
    data = bytes(i * 31 % 251 for i in range(size))
    result = client.upload_file(codebase.id, "deep/er/file.bin", data)
    assert (result.size, result.file_path) == (size, "deep/er/file.bin")
    assert result.checksum == hashlib.md5(data).hexdigest()
    assert client.download_file(codebase.id, "deep/er/file.bin") == data


def test_many_files_at_once_over_one_connection(client, codebase, tmp_path):
    (tmp_path / "local").write_bytes(b"from disk")
    files = {f"many/{i}.txt": f"number {i}".encode() for i in range(60)}
    results = client.upload_files(codebase.id, {**files, "many/local": tmp_path / "local"})
    assert [r.file_path for r in results] == [*files, "many/local"]
    assert client.download_file(codebase.id, "many/41.txt") == b"number 41"
    assert client.download_file(codebase.id, "many/local") == b"from disk"
    with pytest.raises(af.UploadError):
        client.upload_files(codebase.id, {"ok": b"", "../no": b"", **files})


def test_listings_are_flat_or_recursive(client, codebase):
    client.upload_file(codebase.id, "src/deep/b.txt", b"x")
    assert [(f.path, f.is_dir) for f in client.list_files(codebase.id, "src")] == [
        ("src/a.txt", False),
        ("src/deep", True),
    ]
    everything = client.list_files(codebase.id, recursive=True)
    assert [f.path for f in everything] == ["src", "src/a.txt", "src/deep", "src/deep/b.txt"]
    assert everything[1].size == 5 and everything[1].name == "a.txt"
    assert abs(everything[1].modified_at - datetime.datetime.now(datetime.timezone.utc)) < (
        datetime.timedelta(minutes=5)
    )


def test_a_sandbox_has_what_it_was_made_with(client, codebase):
    rules = [
        af.PermissionRule("/src/**", af.Permission.WRITE, af.PatternType.GLOB, 3),
        {"pattern": "src", "type": "directory", "permission": "view", "priority": "-1"},
    ]
    made = client.create_sandbox(
        codebase.id,
        rules,
        labels={"purpose": "test"},
        expires_in=datetime.timedelta(hours=1),
        runtime=af.RuntimeType.BWRAP,
    )
    assert made.status == af.SandboxStatus.PENDING and made.runtime == af.RuntimeType.BWRAP
    assert made.permissions == [rules[0], af.PermissionRule.from_dict(rules[1])]
    assert made.labels == {"purpose": "test"}
    lifetime = made.expires_at - made.created_at  # two looks at the clock
    assert abs(lifetime - datetime.timedelta(hours=1)) < datetime.timedelta(minutes=1)
    assert client.get_sandbox(made.id) == made
    assert [s.id for s in client.list_sandboxes(codebase.id)] == [made.id]
    client.destroy_sandbox(made.id)


def test_without_rules_a_sandbox_is_agent_safe(client, codebase):
    made = client.create_sandbox(codebase.id)
    assert made.permissions == af.get_preset("agent-safe")
    client.destroy_sandbox(made.id)
    made = client.create_sandbox(codebase.id, [])
    assert made.permissions == []
    client.destroy_sandbox(made.id)


def test_a_sandbox_starts_stops_and_starts_again(client, codebase):
    made = client.create_sandbox(codebase.id, FULL)
    assert client.start_sandbox(made.id).status == af.SandboxStatus.RUNNING
    assert client.stop_sandbox(made.id).status == af.SandboxStatus.STOPPED
    again = client.start_sandbox(made.id)
    assert again.status == af.SandboxStatus.RUNNING and again.started_at is not None
    client.destroy_sandbox(made.id)


def test_exec_has_stdin_environment_directory_and_exit_code(client, running):
    result = client.exec(
        running.id,
        'cat; echo "$NAME in $PWD"; echo bad >&2; exit 4',
        stdin="typed\n",
        env={"NAME": "value with 'quotes'"},
        workdir="/workspace/src",
        timeout=20,
    )
    assert result.stdout == "typed\nvalue with 'quotes' in /workspace/src\n"
    assert (result.stderr, result.exit_code, result.success) == ("bad\n", 4, False)
    assert result.output == result.stdout + "bad\n" and result.command.startswith("cat;")
    assert datetime.timedelta(0) < result.duration < datetime.timedelta(seconds=20)
    with pytest.raises(af.CommandExecutionError) as caught:
        result.raise_on_error()
    assert (caught.value.exit_code, caught.value.stderr) == (4, "bad\n")


def test_a_stream_tells_stdout_from_stderr_and_how_it_ended(client, running):
    stream = client.exec_stream(running.id, r"printf 'a\377'; printf e >&2; kill -9 $$")
    chunks = list(stream)
    assert b"".join(c for c in chunks if not c.is_stderr) == b"a\xff"
    assert b"".join(c for c in chunks if c.stream == "stderr") == b"e"
    assert all(isinstance(c, bytes) for c in chunks)
    assert (stream.exit_code, stream.signal) == (137, 9)


def test_a_closed_stream_ends_its_command(client, running):
    stream = client.exec_stream(running.id, "echo $$; exec sleep 1000")
    assert next(stream).strip().isdigit()
    stream.close()
    assert list(stream) == []
    gone = "! pgrep -x sleep >/dev/null"
    result = client.exec(running.id, f"for i in $(seq 100); do {gone} && exit 0; sleep 0.1; done")
    assert result.success or "pgrep" in result.stderr


def test_a_session_keeps_its_state(client, running):
    session = client.create_session(running.id, env={"A": "1"})
    assert session.id.startswith("sess_") and session.sandbox_id == running.id
    assert session.status == af.SessionStatus.ACTIVE and session.shell
    session.exec("cd src; export A=$A$A")
    assert client.session_exec(session.id, "echo $PWD $A").stdout == "/workspace/src 11\n"
    assert b"".join(client.session_exec_stream(session.id, "echo streamed")) == b"streamed\n"
    assert b"".join(session.exec_stream("pwd")) == b"/workspace/src\n"
    assert client.get_session(session.id).status == af.SessionStatus.ACTIVE
    assert [s.id for s in client.list_sessions(running.id)] == [session.id]
    client.destroy_session(session.id)
    assert session.refresh().status == af.SessionStatus.CLOSED
    with client.session(running.id) as other:
        assert other.exec("echo hi", timeout=5).stdout == "hi\n"
    assert client.get_session(other.id).status == af.SessionStatus.CLOSED


def test_a_client_closes_and_says_so(api):
    with api.client() as client:
        client.list_codebases()
    client.close()
    with pytest.raises(af.ConnectionError, match="closed"):
        client.list_codebases()


def test_the_table_of_methods_is_the_contract():
    known = {m.path: m for m in vars(_rpc).values() if isinstance(m, _rpc.Method)}
    for name in ("sandbox.v1.CodebaseService", "sandbox.v1.SandboxService"):
        service = POOL.FindServiceByName(name)
        for method in service.methods:
            assert f"/{name}/{method.name}" in known
    for path, method in known.items():
        service, name = path[1:].split("/")
        found = POOL.FindServiceByName(service).methods_by_name[name]
        assert method.request.DESCRIPTOR.full_name == found.input_type.full_name
        assert method.response.DESCRIPTOR.full_name == found.output_type.full_name
        if hasattr(found, "client_streaming"):  # protobuf >= 4.22
            assert method.shape == "us"[found.client_streaming] + "us"[found.server_streaming]
