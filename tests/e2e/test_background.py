"""ProcessService in the background: processes that outlive their call, and what is kept of them."""

import os
import signal
import threading

import grpc
import pytest

from harness import FULL, eventually, expect, pb, procpb
from processes import Run, alive_with, attach, get, kill, spec, start, unique, wait, write

Code = grpc.StatusCode
MIB = 1 << 20


@pytest.fixture(scope="module")
def sandbox(client):
    """One started sandbox with full access."""
    made = client.sandbox(client.codebase({"hello.txt": "hello\n"}), FULL)
    yield made
    client.destroy(made)


def test_a_background_process_outlives_its_call_and_connection(client, daemon, sandbox):
    other = daemon.client()
    process = start(other, sandbox, "echo early; read x; echo $x; exit 5", stdin=True)
    other.close()
    assert get(client, process).running and get(client, process).background
    eventually(lambda: attach(client, process, follow=False)[0] == b"early\n")
    write(client, process, b"late\n")
    ended = wait(client, process)
    assert (ended.running, ended.exit.exit_code, ended.exit.signal) == (False, 5, 0)
    assert ended.ended_at.ToNanoseconds() >= ended.started_at.ToNanoseconds()
    for follow in (True, False):  # also after the end, from the beginning
        out, err, skipped, exit_ = attach(client, process, follow)
        assert (out, err, skipped, exit_.exit_code) == (b"early\nlate\n", b"", 0, 5)


def test_several_readers_follow_one_process(client, sandbox):
    process = start(client, sandbox, "while read x; do echo $x; echo e$x >&2; done", stdin=True)
    results = [None] * 5

    def follow(i):
        results[i] = attach(client, process)

    readers = [threading.Thread(target=follow, args=(i,)) for i in range(5)]
    for reader in readers:
        reader.start()
    for i in range(100):
        write(client, process, f"{i}\n".encode())
    write(client, process, eof=True)
    for reader in readers:
        reader.join()
    want = "".join(f"{i}\n" for i in range(100)).encode()
    errs = "".join(f"e{i}\n" for i in range(100)).encode()
    for out, err, skipped, exit_ in results:
        assert (out, err, skipped, exit_.exit_code) == (want, errs, 0, 0)


def test_X6_kept_output_is_bounded_and_says_what_is_gone(client, sandbox):
    program = "import sys; [print('%07d' % i) for i in range(1 << 17)]"
    process = start(client, sandbox, ["python3", "-c", program])
    wait(client, process)
    out, _, skipped, exit_ = attach(client, process)
    assert len(out) == 256 << 10 and skipped + len(out) == MIB and exit_.exit_code == 0
    assert out.endswith(b"0131071\n")


def test_X5_a_reader_that_does_not_read_slows_nobody(client, daemon, sandbox):
    other = daemon.client()
    process = start(client, sandbox, "read x; head -c 50000000 /dev/zero; echo end", stdin=True)
    slow = other.processes.Attach(procpb.AttachProcessRequest(process_id=process, follow=True))
    write(client, process, b"\n")
    assert wait(client, process).exit.exit_code == 0
    got = list(slow)
    taken = sum(len(m.stdout) for m in got) + sum(m.skipped for m in got)
    assert taken == 50000004 and got[-1].exit.exit_code == 0
    assert got[-2].stdout.endswith(b"end\n")
    other.close()


def test_write_stdin_answers_when_the_bytes_are_taken(client, sandbox):
    process = start(client, sandbox, "mkfifo /tmp/w; read x < /tmp/w; wc -c", stdin=True)
    blocked = client.processes.WriteStdin.future(
        procpb.WriteStdinRequest(process_id=process, data=bytes(MIB), eof=True)
    )
    assert client.exec(sandbox, "true").exit_code == 0
    assert not blocked.done()
    client.exec(sandbox, "until [ -p /tmp/w ]; do :; done; echo > /tmp/w; rm /tmp/w")
    blocked.result(timeout=60)
    assert wait(client, process).exit.exit_code == 0
    assert attach(client, process)[0] == b"1048576\n"


def test_refusals_of_write_resize_and_signal(client, sandbox):
    closed = start(client, sandbox, "sleep 1000")  # runs until it is ended here
    expect(Code.FAILED_PRECONDITION, write, client, closed, b"x")
    resize = procpb.ResizeProcessRequest(process_id=closed)
    expect(Code.FAILED_PRECONDITION, client.processes.Resize, resize)
    expect(Code.INVALID_ARGUMENT, kill, client, closed, 0)
    expect(Code.INVALID_ARGUMENT, kill, client, closed, 65)
    kill(client, closed, signal.SIGKILL)
    assert wait(client, closed).exit.signal == 9
    expect(Code.FAILED_PRECONDITION, kill, client, closed, 15)
    expect(Code.FAILED_PRECONDITION, write, client, closed, b"x")
    for bad in ("", "proc_x", "sb_" + "0" * 26):
        expect(Code.INVALID_ARGUMENT, get, client, bad)
    expect(Code.NOT_FOUND, get, client, "proc_" + "0" * 26)
    run = Run(client, sandbox, "cat")
    assert run.step()
    expect(Code.FAILED_PRECONDITION, write, client, run.started.id, b"x")
    run.close()
    assert run.finish() == (0, 0)
    expect(Code.NOT_FOUND, get, client, run.started.id)


def test_signals_reach_the_leader_or_the_whole_tree(client, sandbox):
    marker = unique("31339.6")
    command = f"(setsid sleep {marker} &); trap 'echo leader' USR1; echo up; "
    command += "while :; do sleep .02; done"
    process = start(client, sandbox, command)
    eventually(lambda: alive_with(marker) and attach(client, process, False)[0] == b"up\n")
    kill(client, process, signal.SIGUSR1)
    eventually(lambda: b"leader" in attach(client, process, False)[0])
    assert alive_with(marker)
    kill(client, process, signal.SIGTERM, everything=True)
    assert wait(client, process).exit.signal == 15
    assert not alive_with(marker)


def test_a_background_process_may_have_a_terminal(client, sandbox):
    process = start(client, sandbox, "stty size; read x; stty size", terminal=(30, 90), stdin=True)
    eventually(lambda: b"30 90\r\n" in attach(client, process, False)[0])
    size = procpb.Terminal(rows=40, columns=120)
    client.processes.Resize(procpb.ResizeProcessRequest(process_id=process, size=size))
    write(client, process, b"\n")
    assert get(client, process).terminal
    assert wait(client, process).exit.exit_code == 0
    assert attach(client, process)[0].endswith(b"40 120\r\n")


def test_a_signal_reaches_a_run_whose_stdin_is_held(client, sandbox):
    run = Run(client, sandbox, "echo up; exec sleep 1000")
    run.expect(b"up\n")
    for _ in range(4):
        run.send(stdin=bytes(MIB))
    kill(client, run.started.id, signal.SIGTERM)
    assert run.finish() == (143, 15)


def test_list_get_and_what_is_forgotten(client, daemon, sandbox):
    own = client.sandbox(client.codebase(), FULL)
    assert not client.processes.List(procpb.ListProcessesRequest(sandbox_id=own)).processes
    ids = [start(client, own, ["echo", str(i)]) for i in range(40)]
    for process in ids:
        try:
            wait(client, process)
        except grpc.RpcError as error:  # older than the newest 32 that have ended
            assert error.code() == Code.NOT_FOUND
    listed = client.processes.List(procpb.ListProcessesRequest(sandbox_id=own)).processes
    assert [p.id for p in listed] == ids[-32:]
    assert [list(p.argv) for p in listed] == [[b"echo", str(i).encode()] for i in range(8, 40)]
    everything = client.processes.List(procpb.ListProcessesRequest()).processes
    assert set(ids[-32:]) <= {p.id for p in everything}
    client.destroy(own)
    expect(Code.NOT_FOUND, get, client, ids[-1])
    expect(Code.NOT_FOUND, client.processes.List, procpb.ListProcessesRequest(sandbox_id=own))


def test_long_commands_are_listed_by_their_beginning_and_told_whole(client):
    own = client.sandbox(client.codebase(), FULL)
    argv = ["true", *["y" * 120000] * 7]
    ids = [start(client, own, argv) for _ in range(8)]
    ids.append(start(client, own, "true " + "x" * 5000))
    ids.append(start(client, own, ["true", *[""] * 8000]))  # each counts one
    for process in ids:
        wait(client, process)
    listed = client.processes.List(procpb.ListProcessesRequest(sandbox_id=own)).processes
    assert [p.id for p in listed] == ids
    assert list(listed[0].argv) == [b"true", b"y" * 4091]
    assert listed[-2].command == b"true " + b"x" * 4091
    assert list(listed[-1].argv) == [b"true", *[b""] * 4091]
    assert list(get(client, ids[0]).argv) == [a.encode() for a in argv]
    client.destroy(own)


def test_running_processes_of_a_sandbox_are_bounded(client):
    marker = unique("31339.7")
    own = client.sandbox(client.codebase(), FULL)
    for _ in range(64):
        start(client, own, f"sleep {marker}")
    request = procpb.StartProcessRequest(spec=spec(own, "true"))
    expect(Code.RESOURCE_EXHAUSTED, client.processes.Start, request)
    client.destroy(own)
    assert not alive_with(marker)


def test_X7_processes_end_with_their_sandbox_and_stay_readable_until_it_is_destroyed(client):
    marker = unique("31339.8")
    own = client.sandbox(client.codebase(), FULL)
    process = start(client, own, f"echo said; setsid sleep {marker} & sleep {marker}")
    eventually(lambda: attach(client, process, False)[0] == b"said\n")
    waiting = client.processes.Wait.future(procpb.ProcessRequest(process_id=process))
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=own))
    assert not alive_with(marker)
    ended = waiting.result(timeout=60)
    assert ended.exit.exit_code == -1 and ended.exit.error and not ended.running
    out, _, _, exit_ = attach(client, process)
    assert out == b"said\n" and exit_.exit_code == -1
    client.destroy(own)
    expect(Code.NOT_FOUND, attach, client, process)


def test_waiting_calls_that_are_given_up_leave_the_process_alone(client, sandbox):
    process = start(client, sandbox, "read x; exit 6", stdin=True)
    for _ in range(50):
        request = procpb.ProcessRequest(process_id=process)
        waiting = client.processes.Wait.future(request)
        follow = client.processes.Attach(
            procpb.AttachProcessRequest(process_id=process, follow=True)
        )
        waiting.cancel()
        follow.cancel()
    write(client, process, b"\n")
    assert wait(client, process).exit.exit_code == 6


def test_X6_a_background_process_has_a_timeout_of_its_own(client, sandbox):
    marker = unique("31339.9")
    command = f"echo x; (setsid sleep {marker} &) ; sleep {marker}"
    process = start(client, sandbox, command, timeout=0.5)
    ended = wait(client, process)
    assert ended.exit.timed_out and ended.exit.exit_code == -1 and not alive_with(marker)
    assert attach(client, process)[0] == b"x\n"


def test_X7_a_thousand_background_starts_leave_nothing(new_daemon):
    daemon = new_daemon("--exec-pool", "0").start()  # whose members would be counted
    client = daemon.client()
    own = client.sandbox(client.codebase(), FULL)

    def descriptors():
        return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

    def inside():
        return len(client.out(own, "echo /proc/[0-9]*").split())

    for terminal in (None, (24, 80)):
        start(client, own, "true", terminal=terminal)
    eventually(lambda: inside() <= 5)
    fds, processes = descriptors(), inside()
    for i in range(0, 1000, 20):
        started = [
            start(client, own, ["true"], terminal=(24, 80) if k % 2 else None, stdin=k % 3 == 0)
            for k in range(i, i + 20)
        ]
        for process in started:
            wait(client, process)
    eventually(lambda: inside() <= processes)
    eventually(lambda: descriptors() <= fds)
    client.close()


def test_a_crashed_daemon_leaves_no_background_process(new_daemon):
    marker = unique("31341.95")
    daemon = new_daemon().start()
    client = daemon.client()
    own = client.sandbox(client.codebase(), FULL)
    process = start(client, own, f"(setsid sleep {marker} &); sleep {marker}", terminal=(24, 80))
    eventually(lambda: alive_with(marker))
    daemon.kill()
    eventually(lambda: not alive_with(marker))
    client.close()
    daemon.start()
    client = daemon.client()
    expect(Code.NOT_FOUND, get, client, process)
    client.close()
