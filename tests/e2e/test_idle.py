"""Sandboxes in which nothing runs: their processes end, and come back with the next command."""

import threading

import pytest

from harness import FULL, eventually, pb
from processes import own_uids, processes_with_uid, start, wait, write


@pytest.fixture
def idle(new_daemon):
    """A daemon that ends what is idle for a moment; its client, and who runs in sandboxes."""
    low, high, options = own_uids()
    daemon = new_daemon("--exec-idle-end", "200ms", "--exec-pool", "0", *options).start()
    return daemon.client(), lambda: processes_with_uid(low, high)


def status(client, sandbox):
    return client.sandboxes.GetSandbox(pb.GetSandboxRequest(sandbox_id=sandbox)).status


def test_an_idle_sandbox_has_no_process_and_keeps_its_files_and_status(idle):
    client, running = idle
    sandbox = client.sandbox(client.codebase({"f": "x"}), FULL)
    for i in range(3):
        # The sleep is what the command leaves behind: it keeps no sandbox.
        client.out(sandbox, f"echo {i} >> log; echo > /tmp/{i}; cd /tmp; (sleep 1000 &)")
        eventually(lambda: not running())
        assert status(client, sandbox) == pb.SANDBOX_STATUS_RUNNING
    assert client.out(sandbox, "cat f log; stat -c %u log; ls /tmp") == "x0\n1\n2\n1000\n"
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
    assert running() == [] and status(client, sandbox) == pb.SANDBOX_STATUS_STOPPED


def test_a_sandbox_that_never_had_a_command_is_idle(idle):
    client, running = idle
    sandbox = client.sandbox(client.codebase({"f": "x"}), FULL)
    eventually(lambda: not running())
    assert client.out(sandbox, "cat f") == "x"
    client.destroy(sandbox)
    assert running() == []


def test_a_command_a_session_and_a_background_process_keep_their_sandbox(idle):
    client, running = idle
    codebase = client.codebase({"f": "x"})
    commanded, attached, kept = (client.sandbox(codebase, FULL) for _ in range(3))
    session = client.sandboxes.CreateSession(pb.CreateSessionRequest(sandbox_id=attached)).id
    process = start(client, kept, "echo > /tmp/mine; read x; cat /tmp/mine; exit 7", stdin=True)

    def turn(line):
        request = pb.SessionExecRequest(session_id=session, command=line)
        return client.sandboxes.SessionExec(request).stdout

    turn("v=kept; echo > /tmp/session")
    # A command of five times the idle time; what it tests is that time, so it has to pass.
    assert client.out(commanded, "echo > /tmp/mine; sleep 1; ls /tmp") == "mine\n"
    assert turn("echo $v; ls /tmp") == "kept\nsession\n"
    write(client, process, b"\n")
    assert wait(client, process).exit.exit_code == 7
    client.sandboxes.DestroySession(pb.DestroySessionRequest(session_id=session))
    eventually(lambda: not running())
    for sandbox in (commanded, attached, kept):
        assert client.out(sandbox, "ls /tmp; cat f") == "x"


def test_commands_that_come_at_the_moment_of_an_idle_end_all_run(new_daemon):
    low, high, options = own_uids()
    daemon = new_daemon("--exec-idle-end", "1ms", *options).start()
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    made = [client.sandbox(codebase, FULL) for _ in range(4)]
    failed = []

    def work(sandbox):
        own = daemon.client()
        try:
            for i in range(60):
                if own.out(sandbox, f"echo {i} > last; cat f") != "x":
                    failed.append(i)
        except Exception as error:  # noqa: BLE001: told by the main thread
            failed.append(error)
            raise
        finally:
            own.close()

    threads = [threading.Thread(target=work, args=(s,)) for s in made for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    eventually(lambda: len(processes_with_uid(low, high)) <= 2 * 4)  # the pool's
    for sandbox in made:
        client.destroy(sandbox)


def test_stops_and_destroys_in_an_idle_end_leave_nothing(new_daemon):
    low, high, options = own_uids()
    daemon = new_daemon("--exec-idle-end", "1ms", "--exec-pool", "0", *options).start()
    client = daemon.client()
    codebase = client.codebase({"f": "x"})
    for i in range(60):
        sandbox = client.sandbox(codebase, FULL)
        if i % 3:
            client.out(sandbox, "true")
        if i % 2:
            client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=sandbox))
        client.destroy(sandbox)
    eventually(lambda: not processes_with_uid(low, high))
