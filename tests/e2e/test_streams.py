"""ExecStream: bytes as they come, at the reader's speed, with the exit code at the end."""

import hashlib
import threading

import grpc
import pytest

from harness import FULL, eventually, expect, pb
from processes import alive_with, unique


@pytest.fixture(scope="module")
def sandbox(client):
    """One started sandbox with full access."""
    made = client.sandbox(client.codebase({"hello.txt": "hello\n"}), FULL)
    yield made
    client.destroy(made)


def stream(client, sandbox, command, timeout=None, **fields):
    """Starts an ExecStream; returns the call, to be iterated."""
    request = pb.ExecRequest(sandbox_id=sandbox, command=command, **fields)
    if timeout is not None:
        request.timeout.FromNanoseconds(int(timeout * 1e9))
    return client.sandboxes.ExecStream(request)


def collect(call):
    """Reads a stream to its end: stdout, stderr, exit code, signal."""
    got = {pb.ExecOutput.OUTPUT_TYPE_STDOUT: b"", pb.ExecOutput.OUTPUT_TYPE_STDERR: b""}
    for message in call:
        got[message.type] += message.data
    trailers = dict(call.trailing_metadata())
    return (
        got[pb.ExecOutput.OUTPUT_TYPE_STDOUT],
        got[pb.ExecOutput.OUTPUT_TYPE_STDERR],
        int(trailers["agentfense-exit-code"]),
        int(trailers["agentfense-signal"]),
    )


def test_X5_stdout_and_stderr_apart_with_the_exit_code(client, sandbox):
    got = collect(stream(client, sandbox, "echo out; echo err >&2; printf more; exit 3"))
    assert got == (b"out\nmore", b"err\n", 3, 0)
    assert collect(stream(client, sandbox, "true")) == (b"", b"", 0, 0)


def test_X8_a_signal_is_told_apart_from_an_exit_code(client, sandbox):
    assert collect(stream(client, sandbox, "kill -9 $$"))[2:] == (137, 9)
    assert collect(stream(client, sandbox, "exit 137"))[2:] == (137, 0)


def test_X5_binary_bytes_arrive_as_they_are(client, sandbox):
    data = bytes(range(256)) * 3
    program = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 3)"
    assert collect(stream(client, sandbox, f"python3 -c '{program}'"))[0] == data


def test_X5_each_stream_keeps_its_order(client, sandbox):
    command = "for i in $(seq 2000); do echo o$i; echo e$i >&2; done"
    out, err, code, _ = collect(stream(client, sandbox, command))
    assert code == 0
    assert out.decode().split() == [f"o{i}" for i in range(1, 2001)]
    assert err.decode().split() == [f"e{i}" for i in range(1, 2001)]


def test_X2_output_comes_while_the_command_runs(client, sandbox):
    call = stream(client, sandbox, "mkfifo /tmp/go; printf first; read x < /tmp/go; printf $x")
    messages = iter(call)
    assert next(messages).data == b"first"
    client.out(sandbox, "echo second > /tmp/go; rm /tmp/go")
    assert b"".join(m.data for m in messages) == b"second"


def test_X5_a_slow_reader_slows_its_own_command_only(client, daemon, sandbox):
    size = 10 << 20
    program = (
        "import sys,hashlib\nb=b''.join(b'%07d\\n' % i for i in range(10 * 1024 * 128))\n"
        "sys.stdout.buffer.write(b); sys.stdout.flush(); open('/tmp/written','w').close()"
    )
    want = b"".join(b"%07d\n" % i for i in range(10 * 1024 * 128))
    assert len(want) == size
    other = daemon.client(("grpc.http2.bdp_probe", 0))  # else its own window may grow to 10 MiB
    slow = stream(other, sandbox, f'python3 -c "{program}"')
    messages = iter(slow)
    got = [next(messages).data]
    # It is not read now; another command moves as much as it likes meanwhile.
    out, _, code, _ = collect(stream(client, sandbox, "head -c 10485760 /dev/zero"))
    assert code == 0 and len(out) == size
    assert client.exec(sandbox, "test -e /tmp/written").exit_code == 1, "10 MiB were buffered"
    got += [m.data for m in messages]
    assert hashlib.sha256(b"".join(got)).digest() == hashlib.sha256(want).digest()
    assert dict(slow.trailing_metadata())["agentfense-exit-code"] == "0"
    other.close()


def test_X6_a_timeout_comes_after_everything_that_was_printed(client, sandbox):
    marker = unique("31337.91")
    call = stream(client, sandbox, f"printf begun; printf bad >&2; sleep {marker}", timeout=0.5)
    got = b""
    with pytest.raises(grpc.RpcError) as error:
        for message in call:
            got += message.data
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert got in (b"begunbad", b"badbegun")
    assert not alive_with(marker)


def test_X6_a_timeout_does_not_wait_for_a_slow_reader(client, daemon, sandbox):
    marker = unique("31337.92")
    other = daemon.client()
    call = stream(other, sandbox, f"sleep {marker} & yes", timeout=1)
    messages = iter(call)
    next(messages)
    eventually(lambda: not alive_with(marker))
    with pytest.raises(grpc.RpcError) as error:
        for _ in messages:
            pass
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    other.close()


@pytest.mark.parametrize("how", ["cancel", "disconnect", "deadline"])
def test_X7_an_abandoned_stream_leaves_no_process(client, daemon, sandbox, how):
    marker = unique(f"31337.{930 + len(how)}")
    other = daemon.client()
    request = pb.ExecRequest(
        sandbox_id=sandbox, command=f"(setsid sleep {marker} &); echo up; sleep {marker}"
    )
    call = other.sandboxes.ExecStream(request, timeout=8 if how == "deadline" else None)
    assert next(iter(call)).data == b"up\n"
    eventually(lambda: alive_with(marker), 6)
    if how == "cancel":
        call.cancel()
    elif how == "disconnect":
        other.close()
    eventually(lambda: not alive_with(marker))
    other.close()


def test_X7_a_stream_that_floods_can_be_cancelled(client, daemon, sandbox):
    marker = unique("31337.94")
    other = daemon.client()
    call = stream(other, sandbox, f"sleep {marker} & yes")
    next(iter(call))
    call.cancel()
    eventually(lambda: not alive_with(marker))
    other.close()


def test_X7_destroying_the_sandbox_ends_its_streams(client):
    marker = unique("31337.95")
    made = client.sandbox(client.codebase(), FULL)
    call = stream(client, made, f"yes & sleep {marker}")
    messages = iter(call)
    next(messages)
    ender = threading.Thread(target=client.destroy, args=(made,))
    ender.start()
    with pytest.raises(grpc.RpcError) as error:
        for _ in messages:
            pass
    ender.join()
    assert error.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    assert not alive_with(marker)


def test_bad_stream_requests_are_refused(client, sandbox):
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    expect(invalid, lambda: collect(stream(client, sandbox, "")))
    expect(invalid, lambda: collect(stream(client, "nope", "true")))
    expect(invalid, lambda: collect(stream(client, sandbox, "true", workdir="/nope")))
    expect(
        grpc.StatusCode.NOT_FOUND, lambda: collect(stream(client, "sb_" + "0" * 26, "true"))
    )
