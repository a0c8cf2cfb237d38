"""Sessions: shells that stay, one command at a time, and nothing left when they go."""

import concurrent.futures
import os

import grpc
import pytest

from harness import FULL, eventually, expect, pb
from processes import alive_with, unique

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
ACTIVE, CLOSED = pb.SESSION_STATUS_ACTIVE, pb.SESSION_STATUS_CLOSED


@pytest.fixture(scope="module")
def sandbox(client):
    """One started sandbox with full access."""
    made = client.sandbox(client.codebase({"d/hello.txt": "hello\n"}), FULL)
    yield made
    client.destroy(made)


def create(client, sandbox, **fields):
    return client.sandboxes.CreateSession(pb.CreateSessionRequest(sandbox_id=sandbox, **fields))


def get(client, session):
    return client.sandboxes.GetSession(pb.GetSessionRequest(session_id=session))


def close(client, session):
    client.sandboxes.DestroySession(pb.DestroySessionRequest(session_id=session))


def request_of(session, command, timeout=None):
    request = pb.SessionExecRequest(session_id=session, command=command)
    if timeout is not None:
        request.timeout.FromNanoseconds(int(timeout * 1e9))
    return request


def run(client, session, command, timeout=None):
    """The ExecResult of a command in a session."""
    return client.sandboxes.SessionExec(request_of(session, command, timeout))


def out(client, session, command):
    """The stdout of a command that must succeed."""
    result = run(client, session, command)
    assert result.exit_code == 0, (command, result)
    return result.stdout


@pytest.fixture(params=["", "/bin/sh"], ids=["default", "sh"])
def session(client, sandbox, request):
    """A session of the root's bash, and one of its sh."""
    made = create(client, sandbox, shell=request.param)
    yield made.id
    close(client, made.id)


def test_X1_a_session_tells_what_it_is(client, sandbox):
    made = create(client, sandbox)
    assert made.id.startswith("sess_") and len(made.id) == 5 + 26
    assert made.sandbox_id == sandbox and made.status == ACTIVE
    assert made.shell == ("/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh")
    assert made.created_at.seconds > 0 and not made.HasField("closed_at")
    assert get(client, made.id) == made
    close(client, made.id)
    after = get(client, made.id)
    assert after.status == CLOSED and after.closed_at.seconds >= made.created_at.seconds


def test_X1_state_stays_between_commands(client, session):
    assert out(client, session, "pwd") == "/workspace\n"
    out(client, session, "cd d; X='a  b'; export Y=2; f() { echo \"f $1 $X\"; }")
    assert out(client, session, "pwd; f 1; sh -c 'echo $Y'") == "/workspace/d\nf 1 a  b\n2\n"
    out(client, session, "umask 077; exec 3>/tmp/three")
    assert out(client, session, "umask; echo x >&3; cat /tmp/three") == "0077\nx\n"
    assert run(client, session, "false").exit_code == 1
    assert out(client, session, "echo $?") == "1\n"


def test_X1_background_jobs_live_on(client, session):
    marker = unique("31337.71")
    assert out(client, session, f"sleep {marker} & echo $!; X=$!").strip().isdigit()
    assert out(client, session, "kill -0 $X && echo there") == "there\n"
    eventually(lambda: alive_with(marker))
    out(client, session, "kill $X; wait $X 2>/dev/null; true")
    assert not alive_with(marker)


def test_X1_environment_of_a_session(client, sandbox):
    made = create(client, sandbox, env={"GREETING": "hi there; $x", "TERM": "xterm"}).id
    assert out(client, made, 'echo "$GREETING $TERM $HOME"') == "hi there; $x xterm /home/agent\n"
    close(client, made)


def test_X2_output_without_newline_returns_at_once(client, session):
    result = run(client, session, "printf no-newline; printf e >&2")
    assert (result.stdout, result.stderr) == ("no-newline", "e")
    assert out(client, session, "printf '  x\\n\\n'") == "  x\n\n"
    assert out(client, session, ":") == ""


@pytest.mark.parametrize(
    "command",
    [
        "echo 'unbalanced",
        'echo "unbalanced',
        "cat <<EOF\nno end",
        "if true",
        "(",
        "}",
        "for",
        "break",
        "export 1a=2",
        "echo a\\",
        ". /nonexistent",
        "# only a comment",
        "set -u",
        "\n\n",
    ],
)
def test_X2_no_command_breaks_the_framing(client, session, command):
    run(client, session, command)
    assert get(client, session).status == ACTIVE
    assert out(client, session, "echo 'it'\\''s' fine") == "it's fine\n"


def test_X2_here_documents_and_many_lines(client, session):
    assert out(client, session, "cat <<'EOF'\na $x\nit's\nEOF\necho end") == "a $x\nit's\nend\n"
    long = "x" * 100_000
    assert out(client, session, f"echo '{long}' | wc -c").strip() == "100001"
    quotes = "'" * 30_000
    assert out(client, session, f'X="{quotes}"; echo ${{#X}}') == "30000\n"


def test_X3_commands_of_one_session_take_turns(client, session):
    def one(i):
        command = f"echo start{i}; for j in 1 2 3; do echo {i}; done; echo end{i}"
        return out(client, session, command)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outs = list(pool.map(one, range(16)))
    assert outs == [f"start{i}\n{i}\n{i}\n{i}\nend{i}\n" for i in range(16)]


def test_X3_too_many_waiting_commands_are_refused(client, sandbox):
    marker = unique("31337.72")
    made = create(client, sandbox).id
    calls = [client.sandboxes.SessionExec.future(request_of(made, f"sleep {marker}"))]
    eventually(lambda: alive_with(marker))
    calls += [client.sandboxes.SessionExec.future(request_of(made, "true")) for _ in range(40)]
    eventually(lambda: any(c.done() for c in calls))
    close(client, made)
    codes = [c.code() for c in calls]
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes and PRECONDITION in codes
    assert not alive_with(marker)


def test_X8_exit_codes_are_the_commands(client, session):
    assert run(client, session, "(exit 7)").exit_code == 7
    assert run(client, session, "nosuchcommand").exit_code == 127
    assert run(client, session, "sh -c 'kill -9 $$'").exit_code == 137
    assert get(client, session).status == ACTIVE


@pytest.mark.parametrize("command,code", [("exit 5", 5), ("exec sh -c 'exit 6'", 6)])
def test_X1_exit_closes_the_session(client, sandbox, command, code):
    made = create(client, sandbox).id
    result = run(client, made, f"echo bye; {command}")
    assert (result.stdout, result.exit_code) == ("bye\n", code)
    assert get(client, made).status == CLOSED
    expect(PRECONDITION, run, client, made, "true")
    close(client, made)


def test_X8_a_shell_that_its_command_kills(client, sandbox):
    made = create(client, sandbox).id
    assert run(client, made, "kill -9 $$").exit_code == 137
    assert get(client, made).status == CLOSED
    expect(PRECONDITION, run, client, made, "true")


def test_X6_a_timeout_kills_everything_and_says_what_became_of_the_session(client, sandbox):
    marker = unique("31337.73")
    made = create(client, sandbox).id
    details = expect(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        run,
        client,
        made,
        f"echo before; (setsid sleep {marker} &); sleep {marker}; echo never",
        timeout=0.5,
    )
    assert "before" in details and "session is closed" in details
    assert get(client, made).status == CLOSED
    assert not alive_with(marker)
    expect(PRECONDITION, run, client, made, "true")


def test_X1_a_session_may_have_an_echo_of_its_own(client, session):
    out(client, session, "echo() { printf 'mine: %s\\n' \"$*\"; }")
    assert out(client, session, "echo a") == "mine: a\n"
    out(client, session, "unset -f echo")
    assert out(client, session, "echo a") == "a\n"


def test_X7_closing_a_session_leaves_no_process(client, sandbox):
    marker = unique("31337.74")
    made = create(client, sandbox).id
    out(client, made, f"(setsid sleep {marker} &); sleep {marker} & true")
    call = client.sandboxes.SessionExec.future(request_of(made, f"echo x; sleep {marker}"))
    eventually(lambda: len(alive_with(marker)) >= 3)
    close(client, made)
    assert not alive_with(marker)
    assert call.code() == grpc.StatusCode.CANCELLED
    close(client, made)  # again: it is closed


@pytest.mark.parametrize("how", ["cancel", "disconnect"])
def test_X7_an_abandoned_command_leaves_no_process(client, daemon, sandbox, how):
    made = create(client, sandbox).id
    marker = unique(f"31337.75{len(how)}")
    other = daemon.client()
    call = other.sandboxes.SessionExec.future(request_of(made, f"sleep {marker}"))
    eventually(lambda: alive_with(marker))
    if how == "cancel":
        call.cancel()
    other.close()
    eventually(lambda: not alive_with(marker))
    eventually(lambda: get(client, made).status == CLOSED)


def test_X5_session_streams(client, session):
    call = client.sandboxes.SessionExecStream(request_of(session, "echo o; printf e >&2; (exit 4)"))
    got = {1: b"", 2: b""}
    for message in call:
        got[message.type] += message.data
    assert got == {1: b"o\n", 2: b"e"}
    assert dict(call.trailing_metadata())["agentfense-exit-code"] == "4"
    call = client.sandboxes.SessionExecStream(
        request_of(session, "head -c 10000000 /dev/zero; printf '\\377'")
    )
    first = next(iter(call)).data
    data = first + b"".join(m.data for m in call)
    assert len(data) == 10_000_001 and data[-1] == 0xFF
    assert out(client, session, "echo next") == "next\n"


def test_a_forged_report_hurts_its_own_session_only(client, sandbox):
    made, other = create(client, sandbox).id, create(client, sandbox).id
    forge = "for f in /proc/$$/fd/*; do [ -p $f ] && printf 'x y\\n%099d\\n' 7 > $f; done; sleep 9"
    expect(grpc.StatusCode.ABORTED, run, client, made, forge.replace("[ -p $f ]", "true"))
    assert get(client, made).status == CLOSED
    assert out(client, other, "echo well") == "well\n"
    close(client, other)


def test_a_session_whose_descriptors_are_closed_ends_by_its_timeout(client, sandbox):
    made = create(client, sandbox).id
    closing = "for i in $(seq 0 300); do eval \"exec $i>&-\"; done"
    try:
        run(client, made, closing, timeout=2)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED)
    close(client, made)


def test_X7_fifty_sessions(client):
    marker = unique("31337.76")
    made = client.sandbox(client.codebase(), FULL)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda i: create(client, made).id, range(50)))
        list(pool.map(lambda i: out(client, ids[i], f"X={i}; sleep {marker} &"), range(50)))
        values = list(pool.map(lambda i: out(client, ids[i], "echo $X"), range(50)))
    assert values == [f"{i}\n" for i in range(50)]
    listed = client.sandboxes.ListSessions(pb.ListSessionsRequest(sandbox_id=made)).sessions
    assert sorted(s.id for s in listed) == sorted(ids)
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=made))
    assert not alive_with(marker)
    assert all(get(client, i).status == CLOSED for i in ids)
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=made))
    expect(PRECONDITION, run, client, ids[0], "true")
    client.destroy(made)
    expect(NOT_FOUND, get, client, ids[0])
    request = pb.ListSessionsRequest(sandbox_id=made)
    expect(NOT_FOUND, client.sandboxes.ListSessions, request)


def test_open_sessions_are_bounded(client):
    made = client.sandbox(client.codebase(), FULL)
    ids = [create(client, made, shell="/bin/sh").id for _ in range(64)]
    expect(grpc.StatusCode.RESOURCE_EXHAUSTED, create, client, made)
    close(client, ids[0])
    create(client, made)
    client.destroy(made)


def test_what_cannot_be_a_session_is_refused(client, sandbox):
    assert "nosuch" in expect(INVALID, create, client, sandbox, shell="/bin/nosuch")
    expect(INVALID, create, client, sandbox, shell="false")
    expect(INVALID, create, client, sandbox, shell="-c")
    expect(INVALID, create, client, sandbox, env={"A=B": "c"})
    expect(INVALID, create, client, "nope")
    expect(NOT_FOUND, create, client, "sb_" + "0" * 26)
    idle = client.sandbox(client.codebase(), start=False)
    expect(PRECONDITION, create, client, idle)
    client.destroy(idle)
    assert not [
        s
        for s in client.sandboxes.ListSessions(pb.ListSessionsRequest(sandbox_id=sandbox)).sessions
        if s.status == ACTIVE
    ]


def test_bad_session_calls_are_refused(client, sandbox):
    made = create(client, sandbox).id
    for bad in ("", "x", "sess_", "sb_" + "0" * 26, "sess_" + "../" * 9):
        expect(INVALID, get, client, bad)
        expect(INVALID, close, client, bad)
        expect(INVALID, run, client, bad, "true")
    unknown = "sess_" + "0" * 26
    expect(NOT_FOUND, get, client, unknown)
    expect(NOT_FOUND, close, client, unknown)
    expect(NOT_FOUND, run, client, unknown, "true")
    expect(INVALID, run, client, made, "")
    expect(INVALID, run, client, made, "x" * 200_000)
    expect(INVALID, run, client, made, "true", timeout=-1)
    close(client, made)


def test_sessions_do_not_survive_the_daemon(new_daemon):
    marker = unique("31337.77")
    daemon = new_daemon().start()
    client = daemon.client()
    made = client.sandbox(client.codebase(), FULL)
    session = create(client, made).id
    out(client, session, f"sleep {marker} & true")
    client.close()
    daemon.kill()
    eventually(lambda: not alive_with(marker))
    client = daemon.start().client()
    expect(NOT_FOUND, get, client, session)
    client.close()


def test_X3_cancelling_a_waiting_command_leaves_the_session_alone(client, sandbox):
    made = create(client, sandbox).id
    first = client.sandboxes.SessionExec.future(
        request_of(made, "mkfifo /tmp/turn; read x < /tmp/turn; echo $x")
    )
    eventually(lambda: client.exec(sandbox, "test -p /tmp/turn").exit_code == 0)
    waiting = client.sandboxes.SessionExec.future(request_of(made, "touch /tmp/never"))
    last = client.sandboxes.SessionExec.future(request_of(made, "echo last"))
    waiting.cancel()
    client.out(sandbox, "echo go > /tmp/turn")
    assert first.result().stdout == "go\n"
    assert last.result().stdout == "last\n"
    client.out(sandbox, "test ! -e /tmp/never")
    close(client, made)


def test_X7_sessions_leave_no_descriptor_behind(client, daemon, sandbox):
    def descriptors():
        return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

    def cycle():
        made = create(client, sandbox).id
        out(client, made, "echo x")
        list(client.sandboxes.SessionExecStream(request_of(made, "head -c 300000 /dev/zero")))
        close(client, made)

    cycle()
    before = descriptors()
    for _ in range(30):
        cycle()
    eventually(lambda: descriptors() <= before)
