"""ProcessService.Run: stdin and terminals as streams, signals, and that nothing is left."""

import hashlib
import pathlib
import random
import signal
import threading
import time

import grpc
import pytest

from harness import FULL, eventually, expect, pb, procpb
from processes import Run, alive_with, in_foreground, kill, spec, start, unique

Code = grpc.StatusCode
MIB = 1 << 20


@pytest.fixture(scope="module")
def sandbox(client):
    """One started sandbox with full access."""
    made = client.sandbox(client.codebase({"hello.txt": "hello\n"}), FULL)
    yield made
    client.destroy(made)


# ---- Run ------------------------------------------------------------------------------------


def test_X5_streams_apart_and_the_exit_code_at_the_end(client, sandbox):
    run = Run(client, sandbox, "echo out; echo err >&2; exit 3")
    assert run.finish() == (3, 0)
    assert (run.out, run.err) == (b"out\n", b"err\n")
    assert run.started.id.startswith("proc_") and run.started.running
    assert run.started.command == b"echo out; echo err >&2; exit 3"
    assert run.exit.duration.ToNanoseconds() > 0 and not run.exit.timed_out


def test_X4_stdin_comes_while_the_command_runs(client, sandbox):
    run = Run(client, sandbox, ["sh", "-c", "while read x; do echo got $x; done; echo end"])
    run.send(stdin=b"one\n")
    run.expect(b"got one\n")
    run.send(stdin=b"two\n")
    run.expect(b"got two\n")
    run.send(eof=True)
    run.expect(b"end\n")
    assert run.finish() == (0, 0)


def test_X4_the_clients_half_close_ends_stdin(client, sandbox):
    run = Run(client, sandbox, "cat; echo end")
    run.send(stdin=b"x")
    run.close()
    assert run.finish() == (0, 0) and run.out == b"xend\n"


def test_X4_without_stdin_it_is_dev_null(client, sandbox):
    run = Run(client, sandbox, "cat; readlink /proc/self/fd/0", stdin=False)
    assert run.finish() == (0, 0) and run.out == b"/dev/null\n"


def test_X4_environment_and_workdir(client, sandbox):
    run = Run(client, sandbox, "echo $A $PWD", env={"A": "b c"}, workdir=b"/tmp")
    assert run.finish() == (0, 0) and run.out == b"b c /tmp\n"


def test_X6_64_mib_of_stdin_come_back_as_they_were(client, sandbox):
    data = random.Random(1).randbytes(64 * MIB)
    hashed = hashlib.sha256()
    messages = [procpb.ProcessInput(start=spec(sandbox, ["cat"], stdin=True))]
    messages += [procpb.ProcessInput(stdin=data[i : i + 65536]) for i in range(0, len(data), 65536)]
    messages.append(procpb.ProcessInput(eof=True))
    size, exit_ = 0, None
    for message in client.processes.Run(iter(messages), timeout=120):
        hashed.update(message.stdout)
        size += len(message.stdout)
        exit_ = message.exit if message.WhichOneof("output") == "exit" else exit_
    assert size == 64 * MIB and hashed.digest() == hashlib.sha256(data).digest()
    assert exit_.exit_code == 0


def test_X8_a_signal_is_told_apart_from_an_exit_code(client, sandbox):
    run = Run(client, sandbox, "echo up; exec sleep 1000")
    run.expect(b"up\n")
    run.send(signal=signal.SIGTERM)
    assert run.finish() == (143, 15)
    assert Run(client, sandbox, "exit 143").finish() == (143, 0)


def test_X8_a_program_that_cannot_run_has_no_exit_code(client, sandbox):
    run = Run(client, sandbox, ["/no/such/program"])
    assert "/no/such/program" in expect(Code.INVALID_ARGUMENT, run.finish)
    assert run.started is None


def test_X8_a_killed_supervisor_is_an_error(client, sandbox):
    run = Run(client, sandbox, "kill -9 $PPID; sleep 1000")
    expect(Code.ABORTED, run.finish)


def test_X6_a_timeout_kills_every_descendant(client, sandbox):
    marker = unique("31339.1")
    command = f"printf begun; (setsid sleep {marker} &); sleep {marker}"
    run = Run(client, sandbox, command, timeout=0.5)
    assert run.finish() == (-1, 0) and run.exit.timed_out and run.out == b"begun"
    assert not alive_with(marker)


@pytest.mark.parametrize("how", ["cancel", "disconnect", "deadline"])
@pytest.mark.parametrize("terminal", [None, (24, 80)])
def test_X7_an_abandoned_run_leaves_no_process(client, daemon, sandbox, how, terminal):
    marker = unique(f"31340.{20 + len(how) + (50 if terminal else 0)}")
    other = daemon.client()
    command = f"trap '' HUP; (setsid sleep {marker} &); echo up; sleep {marker}"
    run = Run(other, sandbox, command, 8 if how == "deadline" else None, terminal=terminal)
    run.expect(b"up")
    eventually(lambda: alive_with(marker), 6)
    if how == "cancel":
        run.call.cancel()
    elif how == "disconnect":
        other.close()
    eventually(lambda: not alive_with(marker))
    run.close()
    other.close()


def test_X5_a_client_that_does_not_read_slows_its_own_command_only(client, daemon, sandbox):
    other = daemon.client()
    slow = Run(other, sandbox, "head -c 20000000 /dev/zero; echo > /tmp/all")
    slow.expect(b"\0")
    fast = Run(client, sandbox, "head -c 20000000 /dev/zero")
    assert fast.finish() == (0, 0) and len(fast.out) == 20000000
    assert client.exec(sandbox, "test -e /tmp/all").exit_code == 1, "20 MB were buffered"
    assert slow.finish() == (0, 0) and len(slow.out) == 20000000
    other.close()


def test_X5_a_command_that_does_not_read_holds_its_client_in_bounded_memory(daemon, sandbox):
    other = daemon.client()

    def rss():
        status = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    sent = [0]
    go = threading.Event()

    def messages():
        yield procpb.ProcessInput(
            start=spec(sandbox, "mkfifo /tmp/hold; read x < /tmp/hold; wc -c", stdin=True)
        )
        while sent[0] < 256 * MIB and not go.is_set():
            sent[0] += MIB
            yield procpb.ProcessInput(stdin=bytes(MIB))
        yield procpb.ProcessInput(eof=True)

    before = rss()
    call = other.processes.Run(messages(), timeout=120)
    assert next(call).started.running
    quiet = [None]

    def settled():
        time.sleep(0.3)  # how long nothing was sent; a test of standing still has to look twice
        same = sent[0] == quiet[0]
        quiet[0] = sent[0]
        return same

    eventually(settled)
    assert sent[0] < 64 * MIB, "the client was not held"
    assert rss() - before < 32 * MIB
    # Its own connection goes on, and other commands do.
    assert other.exec(sandbox, "echo x").stdout == "x\n"
    go.set()
    other.exec(sandbox, "until [ -p /tmp/hold ]; do :; done; echo > /tmp/hold; rm /tmp/hold")
    out = b"".join(m.stdout for m in call)
    assert int(out) == sent[0]
    other.close()


def test_X5_stdin_that_waits_leaves_its_connection_to_others(client, sandbox):
    """Commands with much stdin, and writes that wait for a reader, hold nobody else's call."""
    large = "x" * (3 << 20)
    idle = "tail -f /dev/null"  # reads no stdin and never ends by itself
    request = pb.ExecRequest(sandbox_id=sandbox, command=idle, stdin=large)
    calls = [client.sandboxes.Exec.future(request) for _ in range(4)]
    process = start(client, sandbox, idle, stdin=True)
    data = procpb.WriteStdinRequest(process_id=process, data=b"x" * (1 << 20))
    calls += [client.processes.WriteStdin.future(data) for _ in range(4)]
    assert client.processes.Get(procpb.ProcessRequest(process_id=process), timeout=20).running
    request = pb.ExecRequest(sandbox_id=sandbox, command="wc -c", stdin=large)
    assert client.sandboxes.Exec(request, timeout=20).stdout == f"{3 << 20}\n"
    assert not any(call.done() for call in calls)
    kill(client, process, 9)
    for call in calls:
        call.cancel()


def test_stdin_that_nobody_reads_does_not_hold_the_end(client, sandbox):
    run = Run(client, sandbox, "exec <&-; echo closed; exit 4")
    for _ in range(8):
        run.send(stdin=bytes(MIB))
    assert run.finish() == (4, 0) and run.out == b"closed\n"


@pytest.mark.parametrize("fields", [{"stdin": b"x"}, {"eof": True}, {"signal": 9}, {"resize": {}}])
def test_the_first_message_must_be_start(client, fields):
    def call():
        list(client.processes.Run(iter([procpb.ProcessInput(**fields)])))

    assert "start" in expect(Code.INVALID_ARGUMENT, call)


def test_wrong_messages_end_the_call_and_the_process(client, sandbox):
    marker = unique("31339.3")
    for fields, extra in (
        ({"start": spec(sandbox, "true")}, {}),
        ({"signal": 1000}, {}),
        ({"signal": -1}, {}),
        ({"stdin": b"x"}, {"stdin": False}),
        ({"resize": procpb.Terminal(rows=70000)}, {}),
    ):
        run = Run(client, sandbox, f"sleep {marker}", **extra)
        run.send(**fields)
        expect(Code.INVALID_ARGUMENT, run.finish)
        run.close()
    run = Run(client, sandbox, f"sleep {marker}")
    run.send(eof=True)
    run.send(stdin=b"x")
    assert "eof" in expect(Code.INVALID_ARGUMENT, run.finish)
    eventually(lambda: not alive_with(marker))
    expect(Code.INVALID_ARGUMENT, lambda: list(client.processes.Run(iter([]))))


def test_refusals_of_a_start(client, sandbox):
    def refused(code, made):
        expect(code, client.processes.Start, procpb.StartProcessRequest(spec=made))
        run_call = [procpb.ProcessInput(start=made)]
        return expect(code, lambda: list(client.processes.Run(iter(run_call))))

    both = spec(sandbox, "true")
    both.argv.append(b"true")
    refused(Code.INVALID_ARGUMENT, both)
    refused(Code.INVALID_ARGUMENT, spec("sb_x", "true"))
    refused(Code.NOT_FOUND, spec("sb_" + "0" * 26, "true"))
    refused(Code.INVALID_ARGUMENT, spec(sandbox, "true", workdir=b"relative"))
    refused(Code.INVALID_ARGUMENT, spec(sandbox, "true", workdir=b"/no/such"))
    refused(Code.INVALID_ARGUMENT, spec(sandbox, "true", terminal=(70000, 1)))
    refused(Code.INVALID_ARGUMENT, spec(sandbox, "true", timeout=10**6))
    refused(Code.INVALID_ARGUMENT, spec(sandbox, ["a\0b"]))
    idle = client.sandbox(client.codebase(), FULL, start=False)
    assert "start" in refused(Code.FAILED_PRECONDITION, spec(idle, "true"))
    client.destroy(idle)
    expect(Code.INVALID_ARGUMENT, client.processes.Start, procpb.StartProcessRequest())


# ---- terminals ------------------------------------------------------------------------------


WAIT_FOR_RESIZE = b"""
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
print("ready", flush=True)
signal.sigwait([signal.SIGWINCH])
size = os.get_terminal_size()
print(size.lines, size.columns)
"""


def test_a_terminal_its_size_and_its_resize(client, sandbox):
    run = Run(client, sandbox, "", terminal=(30, 100), env={"PS1": "$ ", "TERM": "vt100"})
    run.expect(b"$ ")
    run.send(stdin=b"tty; stty size; echo $TERM; test -t 0 && test -t 1 && test -t 2; echo $?\n")
    run.expect(b"/dev/pts/")
    run.expect(b"30 100\r\nvt100\r\n0\r\n")
    # A shell may take the signal just before it begins to wait, and run its trap only afterwards.
    run.send(stdin=b"python3 -c '" + WAIT_FOR_RESIZE + b"'\n")
    run.expect(b"ready\r\n")
    run.send(resize=procpb.Terminal(rows=50, columns=132))
    run.expect(b"50 132\r\n")
    run.send(stdin=b"exit 7\n")
    assert run.finish() == (7, 0) and run.err == b""


def test_ctrl_c_and_ctrl_z_reach_the_foreground_job(client, sandbox):
    marker = unique("31339.4")
    run = Run(client, sandbox, ["bash", "--norc", "-i"], terminal=(24, 80), env={"PS1": "$ "})
    run.expect(b"$ ")
    run.send(stdin=f"sleep {marker}\n".encode())
    eventually(lambda: in_foreground(marker))
    run.send(stdin=b"\x1a")
    run.expect(b"Stopped")
    run.send(stdin=b"bg\n")
    run.expect(f"sleep {marker} &".encode())
    run.expect(b"$ ")
    run.send(stdin=b"fg\n")
    eventually(lambda: in_foreground(marker))
    run.send(stdin=b"\x03")
    run.expect(b"$ ")
    run.send(stdin=b"echo code $?\n")
    run.expect(b"code 130\r\n")
    run.expect(b"$ ")  # an end of input that comes before the prompt is none to readline
    run.send(stdin=b"\x04")
    assert run.finish() == (0, 0)


def test_full_screen_programs_run(client, sandbox):
    run = Run(client, sandbox, "seq 200 > /tmp/n; less /tmp/n; echo left", terminal=(10, 40))
    run.expect(b"\n9\r\n")
    run.send(stdin=b"G")
    run.expect(b"200")
    run.send(stdin=b"q")
    run.expect(b"left\r\n")
    assert run.finish() == (0, 0)
    run = Run(client, sandbox, "top -d 1; echo left", terminal=(20, 80))
    run.expect(b"load average")
    run.send(stdin=b"q")
    run.expect(b"left\r\n")
    assert run.finish() == (0, 0)


HOSTILE = r"""
import fcntl, os, pty, signal, sys, termios
for sig in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGTTOU):
    signal.signal(sig, signal.SIG_IGN)
for target in (0, os.open("/dev/tty", os.O_RDWR)):
    try:
        fcntl.ioctl(target, termios.TIOCSTI, b"x")
        print("forged")
    except OSError as error:
        print("refused", error.errno)
sys.stdout.write("\x1b]0;title\x07\x1b[2J\x1bc\x1bP+q\x1b\\\x9b6n")
sys.stdout.flush()
for _ in range(50):
    os.close(os.open("/dev/tty", os.O_RDWR))
path = os.ttyname(0)
for fd in range(3):
    os.close(fd)
again = os.open(path, os.O_RDWR)
os.dup2(again, 1)
os.write(1, b"back\n")
os.write(1, b"flood" * 200000)
os.write(1, b"done\n")
os.kill(os.getppid(), signal.SIGKILL)
signal.pause()
"""


def test_E6_a_hostile_process_in_a_terminal_harms_only_itself(client, sandbox):
    marker = unique("hostile")
    client.exec(sandbox, f"cat > /tmp/{marker}", stdin=HOSTILE)
    run = Run(client, sandbox, ["python3", f"/tmp/{marker}"], terminal=(24, 80))
    expect(Code.ABORTED, run.finish)
    run.close()
    assert b"forged" not in run.out and run.out.count(b"refused 1\r\n") == 2
    assert "\x1b]0;title\x07\x1b[2J\x1bc\x1bP+q\x1b\\\x9b6n".encode() in run.out
    assert b"back\r\n" in run.out and b"done\r\n" in run.out and run.out.count(b"flood") == 200000
    assert client.exec(sandbox, "echo fine").stdout == "fine\n"
    eventually(lambda: not alive_with(marker))


def test_a_closed_output_is_the_writers_to_hear_of_and_the_other_goes_on(client, sandbox):
    script = "trap '' PIPE; echo begun; read x; echo lost; echo $? >&2; echo end >&2; exit 3"
    run = Run(client, sandbox, script)
    run.expect(b"begun\n")
    client.processes.CloseOutput(
        procpb.CloseOutputRequest(process_id=run.started.id, stdout=True)
    )
    run.send(stdin=b"go\n")
    assert run.finish() == (3, 0)
    assert run.out == b"begun\n" and run.err.endswith(b"1\nend\n")


def test_a_terminals_output_is_not_closed(client, sandbox):
    run = Run(client, sandbox, "echo begun; read x", terminal=(24, 80))
    run.expect(b"begun")
    request = procpb.CloseOutputRequest(process_id=run.started.id, stdout=True)
    expect(grpc.StatusCode.FAILED_PRECONDITION, client.processes.CloseOutput, request)
    run.send(stdin=b"go\n")
    assert run.finish() == (0, 0)
