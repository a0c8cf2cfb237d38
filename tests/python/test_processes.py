"""ProcessService from Python: a command to talk to, and commands in the background."""

import signal

import agentfense as af
import pytest


@pytest.fixture
def sandbox(api, project, nothing_left):
    """A running sandbox that may write everywhere."""
    with api.sandbox("from_local", project, preset="full-access") as made:
        yield made


def test_a_conversation(sandbox):
    with sandbox.process('while read line; do echo "<$line>"; done; echo end >&2') as process:
        process.write("one\n")
        assert next(process) == b"<one>\n"
        process.write(b"two\n")
        assert next(process) == b"<two>\n"
        process.close_stdin()
        rest = list(process)
    assert b"".join(rest) == b"end\n" and rest[0].stream == "stderr"
    assert process.exit.success and process.exit.duration is not None
    with pytest.raises(af.SandboxError, match="ended"):
        process.write("late")


def test_an_argument_vector_with_bytes(sandbox):
    process = sandbox.process(["printf", "%s|", "a b", b"\xff", "$HOME"], stdin=False)
    assert b"".join(process) == b"a b|\xff|$HOME|"
    assert process.wait().exit_code == 0


def test_communicate_and_exit_codes(sandbox):
    assert sandbox.process("sort").communicate("b\na\n") == b"a\nb\n"
    data = bytes(range(256)) * 8192  # 2 MiB, both ways
    assert sandbox.process(["cat"]).communicate(data) == data
    process = sandbox.process("exit 9", stdin=False)
    assert (process.wait().exit_code, process.exit.signal) == (9, 0)
    process = sandbox.process("kill -TERM $$", stdin=False)
    assert (process.wait().exit_code, process.exit.signal) == (128 + 15, 15)


def test_signals_environment_and_directory(sandbox):
    command = "trap 'echo got it; exit 3' INT; echo $A $PWD; while :; do sleep 0.05; done"
    process = sandbox.process(command, env={"A": "b"}, workdir="/workspace/src", stdin=False)
    assert next(process) == b"b /workspace/src\n"
    process.send_signal(signal.SIGINT)
    assert b"got it\n" in b"".join(process)
    assert process.exit.exit_code == 3


def test_a_terminal(sandbox):
    with sandbox.process("stty size; read x; stty size", terminal=True) as process:
        seen = next(process)
        while b"\n" not in seen:
            seen += next(process)
        assert b"24 80" in seen
        process.resize(50, 132)
        process.write("\n")
        assert b"50 132" in b"".join(process)
    size = af.TerminalSize(10, 20)
    assert b"10 20" in b"".join(sandbox.process("stty size", terminal=size))


def test_a_timeout_is_told(sandbox):
    process = sandbox.process("echo x; sleep 100", timeout=0.3, stdin=False)
    with pytest.raises(af.CommandTimeoutError):
        process.wait()


def test_leaving_early_kills(sandbox):
    with sandbox.process("echo $$; exec sleep 1000", stdin=False) as process:
        pid = next(process).decode().strip()
    gone = f"for i in $(seq 200); do [ -e /proc/{pid} ] || exit 0; sleep 0.05; done; exit 1"
    assert sandbox.run(gone).success


def test_the_background(client, sandbox):
    command = 'echo out; echo err >&2; read x; echo "<$x>"; exit 4'
    started = sandbox.start_process(command, stdin=True)
    assert started.running and started.id.startswith("proc_")
    assert [p.id for p in client.list_processes(sandbox.id)] == [started.id]
    assert client.get_process(started.id).command == command
    attached = client.attach_process(started.id)
    first = [next(attached), next(attached)]
    assert sorted((c, c.stream) for c in first) == [(b"err\n", "stderr"), (b"out\n", "stdout")]
    client.write_process(started.id, "hello\n", eof=True)
    assert b"".join(attached) == b"<hello>\n"
    assert attached.exit.exit_code == 4 and attached.skipped == 0
    ended = client.wait_process(started.id)
    assert not ended.running and ended.exit.exit_code == 4
    kept = client.attach_process(started.id, follow=False)
    assert b"<hello>\n" in b"".join(kept)


def test_the_background_takes_signals(client, sandbox):
    started = sandbox.start_process(["sleep", "1000"])
    client.signal_process(started.id, signal.SIGTERM, everything=True)
    assert client.wait_process(started.id).exit.signal == signal.SIGTERM


def test_what_is_not_there(client, sandbox):
    with pytest.raises(af.SandboxError):
        client.get_process("proc_00000000000000000000000000")
    with pytest.raises(af.SandboxNotFoundError):
        client.list_processes("sb_00000000000000000000000000")
    sandbox.stop()
    with pytest.raises(af.SandboxNotRunningError):
        list(sandbox.process("true"))
    with pytest.raises(af.SandboxNotRunningError):
        sandbox.start_process("true")
