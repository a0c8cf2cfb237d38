"""Each documented exception, raised by what the documentation says raises it."""

import builtins
import pickle

import agentfense as af
import grpc
import pytest
from agentfense import _errors
from agentfense._rpc import About

CB = "cb_00000000000000000000000000"
SB = "sb_00000000000000000000000000"
SESS = "sess_00000000000000000000000000"


@pytest.fixture
def sandbox(api, project, nothing_left):
    """A running sandbox."""
    with api.sandbox("from_local", project) as made:
        yield made


def test_what_is_not_there(client, sandbox):
    for call in (client.get_codebase, client.delete_codebase, client.list_files):
        with pytest.raises(af.CodebaseNotFoundError):
            call(CB)
    with pytest.raises(af.CodebaseNotFoundError):
        client.create_sandbox(CB)
    with pytest.raises(af.CodebaseNotFoundError):
        client.download_file(CB, "x")
    with pytest.raises(af.CodebaseNotFoundError):
        client.upload_file(CB, "x", b"")
    for call in (
        client.get_sandbox,
        client.start_sandbox,
        client.stop_sandbox,
        client.destroy_sandbox,
        client.list_sessions,
        client.create_session,
        client.diff,
    ):
        with pytest.raises(af.SandboxNotFoundError) as caught:
            call(SB)
        assert caught.value.sandbox_id == SB and caught.value.details
        assert caught.value.grpc_code == grpc.StatusCode.NOT_FOUND
    with pytest.raises(af.SandboxNotFoundError):
        client.exec(SB, "true")
    with pytest.raises(af.SandboxNotFoundError):
        list(client.exec_stream(SB, "true"))
    for call in (client.get_session, client.destroy_session):
        with pytest.raises(af.SessionNotFoundError):
            call(SESS)
    with pytest.raises(af.SessionNotFoundError):
        client.session_exec(SESS, "true")


def test_a_missing_file_is_not_a_missing_codebase(client, sandbox):
    for call in (
        lambda: client.download_file(sandbox.codebase_id, "no/such"),
        lambda: client.list_files(sandbox.codebase_id, "no/such"),
        lambda: sandbox.read_file("no/such"),
    ):
        with pytest.raises(af.FileNotFoundError) as caught:
            call()
        assert caught.value.file_path == "no/such"
        assert caught.value.codebase_id == sandbox.codebase_id
    with pytest.raises(builtins.FileNotFoundError):
        sandbox.read_file("no/such")
    with pytest.raises(af.CodebaseError):
        client.list_files(sandbox.codebase_id, "README.md")


def test_a_stopped_sandbox_is_not_running(sandbox):
    sandbox.stop()
    for call in (
        lambda: sandbox.run("true"),
        lambda: list(sandbox.exec_stream("true")),
        sandbox.session,
        sandbox.stop,
    ):
        with pytest.raises(af.SandboxNotRunningError) as caught:
            call()
        assert caught.value.sandbox_id == sandbox.id
        assert caught.value.current_status == "stopped"
    sandbox.start()
    with pytest.raises(af.SandboxError) as caught:
        sandbox.start()
    assert type(caught.value) is af.SandboxError


def test_timeouts(sandbox):
    for call in (
        lambda: sandbox.run("echo before; sleep 100", timeout=0.3),
        lambda: sandbox.exec("sleep 100", timeout=0.3),
        lambda: list(sandbox.exec_stream("sleep 100", timeout=0.3)),
    ):
        with pytest.raises(af.CommandTimeoutError) as caught:
            call()
        assert caught.value.timeout_seconds == pytest.approx(0.3)
        assert "sleep 100" in caught.value.command
    with sandbox.session() as session, pytest.raises(builtins.TimeoutError):
        session.exec("sleep 100", timeout=0.3)


def test_a_closed_session(sandbox):
    session = sandbox.session()
    session.close()
    session.close()
    with pytest.raises(af.SessionClosedError) as caught:
        session.exec("true")
    assert caught.value.session_id == session.id and isinstance(caught.value, af.SessionError)


def test_bad_configuration(api, client, sandbox, project):
    bad_rules = [
        [{"pattern": "[", "permission": "read"}],
        [{"pattern": "x", "permission": "everything"}],
        [{"pattern": "x", "permision": "read"}],
        [{"permission": "read"}],
        [{"pattern": "x", "priority": "high"}],
        [{"pattern": "x", "priority": 2**40}],
        ["**/*"],
        "**/*",
        3,
    ]
    for rules in bad_rules:
        with pytest.raises(af.InvalidConfigurationError):
            client.create_sandbox(sandbox.codebase_id, rules)
    for options in (
        {"preset": "no-such"},
        {"runtime": "vmware"},
        {"resources": {"memory": 5}},
        {"resources": {"memory_bytes": -1}},
    ):
        with pytest.raises(af.InvalidConfigurationError):
            api.sandbox("from_local", project, **options)
    for path in (project / "missing", project / "README.md", "with\0nul"):
        with pytest.raises(af.InvalidConfigurationError):
            api.sandbox("from_local", path)
    no_url = ("http://localhost:9000", "grpc://x")
    no_port = ("localhost:99999", "localhost:0", "[::1]:70000", "localhost:" + "9" * 6000)
    for endpoint in ("", " unix:/x", "a\0b", *no_url, *no_port):
        with pytest.raises(af.InvalidConfigurationError):
            api.client(endpoint)
    for endpoint in ("far.example:1", "localhost.far.example:1", "127.far.example:1", "::1:9000"):
        with pytest.raises(af.InvalidConfigurationError, match="clear text"):
            api.client(endpoint, token="t")
    for endpoint in ("localhost:1", "127.0.0.9:1", "[::1]:1", "::1", "unix:/x", "/x", "unix:99999"):
        api.client(endpoint, token="t").close()
    api.client("dns:///localhost:1").close()
    with pytest.raises(af.InvalidConfigurationError):
        sandbox.run("true", workdir="relative")
    with pytest.raises(af.InvalidConfigurationError):
        sandbox.run("true", timeout=-1)
    with pytest.raises(af.InvalidConfigurationError):
        sandbox.run("true", timeout=float("nan"))
    with pytest.raises(af.InvalidConfigurationError, match="UTF-8"):
        sandbox.run("echo \udcff")


def test_wrong_types_are_type_errors_before_anything_is_sent(api, client, sandbox, project):
    for call in (
        lambda: sandbox.run(5),
        lambda: sandbox.run(None),
        lambda: sandbox.run(b"true"),
        lambda: sandbox.run("true", timeout="60"),
        lambda: sandbox.run("true", timeout=True),
        lambda: sandbox.run("true", env=["A=1"]),
        lambda: sandbox.run("true", env={"A": 1}),
        lambda: sandbox.exec("cat", stdin=b"x"),
        lambda: sandbox.write_file("x", 5),
        lambda: sandbox.write_file(5, "x"),
        lambda: sandbox.read_file(None),
        lambda: client.get_sandbox(None),
        lambda: client.create_codebase("x", 5),
        lambda: client.create_sandbox(sandbox.codebase_id, resources=5),
        lambda: client.create_sandbox(sandbox.codebase_id, labels={"a": 1}),
        lambda: api.sandbox("from_local", 5),
        lambda: api.sandbox("from_local", project, ignore_patterns="*.log"),
        lambda: api.sandbox("from_local", project, progress="bar"),
    ):
        with pytest.raises(TypeError):
            call()


def test_uploads_that_cannot_be(client, sandbox):
    for path in ("../out", "a/../../b", "", "x" * 300, "/"):
        with pytest.raises(af.UploadError) as caught:
            client.upload_file(sandbox.codebase_id, path, b"x")
        assert caught.value.codebase_id == sandbox.codebase_id
    sandbox.write_file("file", b"")
    with pytest.raises(af.UploadError):
        sandbox.write_file("file/below", b"")


def test_limits(sandbox):
    with pytest.raises(af.SandboxError) as caught:
        sandbox.exec("cat", stdin="x" * (5 << 20))  # over the 4 MiB of a message
    assert caught.value.details


def test_a_daemon_that_is_not_there(api, tmp_path, project):
    with pytest.raises(af.ConnectionError) as caught:
        api.client(f"unix:{tmp_path}/nobody").list_codebases()
    assert caught.value.endpoint == f"unix:{tmp_path}/nobody"
    with pytest.raises(builtins.ConnectionError):
        api.sandbox("from_local", project, endpoint=f"unix:{tmp_path}/nobody")


def test_a_codebase_in_use(client, sandbox):
    try:
        client.delete_codebase(sandbox.codebase_id)
    except af.CodebaseError as error:
        assert not isinstance(error, af.CodebaseNotFoundError)


@pytest.mark.parametrize(
    ("code", "about", "kind"),
    [
        ("PERMISSION_DENIED", About("exec", "command"), af.PermissionDeniedError),
        ("UNAUTHENTICATED", About("exec", "command"), af.PermissionDeniedError),
        ("RESOURCE_EXHAUSTED", About("upload", "file"), af.ResourceLimitExceededError),
        ("UNAVAILABLE", About("exec", "command"), af.ConnectionError),
        ("ABORTED", About("commit", "sandbox"), af.ConflictError),
        ("INTERNAL", About("upload", "file", is_upload=True), af.UploadError),
        ("INTERNAL", About("exec", "command"), af.SandboxError),
        ("UNIMPLEMENTED", About("commit", "sandbox"), af.SandboxError),
        ("DEADLINE_EXCEEDED", About("get sandbox", "sandbox"), af.SandboxError),
        ("FAILED_PRECONDITION", About("create sandbox", "codebase"), af.InvalidConfigurationError),
    ],
)
def test_statuses_that_are_hard_to_provoke(code, about, kind):
    code = grpc.StatusCode[code]
    error = _errors.to_error(code, "why", about, "unix:/x")
    assert type(error) is kind and error.grpc_code == code and "why" in str(error)


def test_exceptions_survive_pickling():
    originals = [
        af.SandboxError("m", "d"),
        af.SandboxNotFoundError(SB, "d"),
        af.SandboxNotRunningError(SB, "stopped"),
        af.CodebaseNotFoundError(CB),
        af.FileNotFoundError(CB, "x"),
        af.CommandTimeoutError("sleep", 3.0),
        af.CommandExecutionError("false", 1, "o", "e"),
        af.PermissionDeniedError("exec", "/x"),
        af.SessionNotFoundError(SESS),
        af.SessionClosedError(SESS),
        af.ResourceLimitExceededError("disk", "4"),
        af.InvalidConfigurationError("m"),
        af.UploadError("f", CB, "d"),
        af.ConnectionError("unix:/x", "d"),
        af.ConflictError("m"),
    ]
    for error in originals:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error) and str(copy) == str(error)
        assert vars(copy) == vars(error)
        assert isinstance(copy, af.SandboxError)
