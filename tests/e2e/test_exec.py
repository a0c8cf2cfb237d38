"""Exec: what a command gets, what comes back, and what is left behind (nothing)."""

import concurrent.futures
import os

import grpc
import pytest

from harness import AGENT_SAFE, FULL, afpb, eventually, expect, pb
from processes import alive_with, unique


@pytest.fixture(scope="module")
def sandbox(client):
    """One started sandbox with full access."""
    made = client.sandbox(client.codebase({"hello.txt": "hello\n"}), FULL)
    yield made
    client.destroy(made)


def test_stdout_stderr_and_exit_code_apart(client, sandbox):
    result = client.exec(sandbox, "echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert result.duration.ToNanoseconds() > 0


def test_X2_output_without_newline(client, sandbox):
    assert client.out(sandbox, "printf no-newline") == "no-newline"


def test_X4_stdin_workdir_and_env(client, sandbox):
    assert client.out(sandbox, "cat", stdin="line 1\nline 2") == "line 1\nline 2"
    assert client.out(sandbox, "cat") == ""
    assert client.out(sandbox, "pwd") == "/workspace\n"
    assert client.out(sandbox, "pwd", workdir="/tmp") == "/tmp\n"
    got = client.out(sandbox, 'echo "$GREETING"', env={"GREETING": "hi there; $x"})
    assert got == "hi there; $x\n"


def test_large_stdin_reaches_the_command(client, sandbox):
    data = "x" * 2_000_000
    assert client.out(sandbox, "wc -c", stdin=data).strip() == "2000000"
    assert client.out(sandbox, "head -c 1", stdin=data) == "x"


def test_the_shell_is_bash_where_there_is_one(client, sandbox):
    if os.path.exists("/bin/bash"):
        assert client.out(sandbox, "echo {1,2} $((BASH_VERSINFO > 0))") == "1 2 1\n"


def test_a_signal_gives_128_plus_its_number(client, sandbox):
    assert client.exec(sandbox, "kill -9 $$").exit_code == 137


def test_X6_output_is_bounded_and_says_so(client, sandbox):
    result = client.exec(sandbox, "yes | head -c 20000000; yes e | head -c 20000000 >&2")
    assert result.exit_code == 0
    assert len(result.stdout) + len(result.stderr) < 4 << 20
    assert "truncated" in result.stdout[-200:] and "truncated" in result.stderr[-200:]


def test_X6_binary_output_is_replaced_here_and_raw_in_the_extension(client, sandbox):
    result = client.exec(sandbox, r"printf '\377\000a\303\251'")
    assert result.stdout.endswith("aé") and "\ufffd" in result.stdout
    raw = client.execs.Run(afpb.RunRequest(sandbox_id=sandbox, argv=[b"printf", rb"\377\000a"]))
    assert raw.stdout == b"\xff\x00a" and raw.exit_code == 0


def test_X6_a_timeout_kills_every_descendant_and_keeps_the_output(client, sandbox):
    marker = unique("31337.4242")
    command = (
        f"echo before; (setsid sleep {marker} &) ; "
        f"setsid sh -c 'sleep {marker} & sleep {marker}' & sleep {marker}"
    )
    details = expect(grpc.StatusCode.DEADLINE_EXCEEDED, client.exec, sandbox, command, timeout=0.5)
    assert "before" in details
    assert not alive_with(marker)


def test_what_a_command_leaves_running_is_ended(client, sandbox):
    marker = unique("31337.5151")
    client.out(sandbox, f"setsid sleep {marker} >/dev/null 2>&1 & echo started")
    assert not alive_with(marker)


def test_X7_a_cancelled_call_kills_its_command(client, sandbox):
    marker = unique("31337.6161")
    request = pb.ExecRequest(sandbox_id=sandbox, command=f"touch running; sleep {marker}")
    call = client.sandboxes.Exec.future(request)
    client.out(sandbox, "until test -e running; do :; done; rm running")
    call.cancel()
    eventually(lambda: not alive_with(marker))


def test_eight_commands_at_once_do_not_mix(client, sandbox):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outs = list(
            pool.map(lambda i: client.out(sandbox, f"echo {i}; cat", stdin=str(i)), range(40))
        )
    assert outs == [f"{i}\n{i}" for i in range(40)]


def test_E6_the_command_is_unprivileged(client, sandbox):
    status = client.out(sandbox, "cat /proc/self/status")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert fields["Uid"].split()[0] != "0"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    assert fields["NoNewPrivs"].strip() == "1" and fields["Seccomp"].strip() == "2"
    assert client.exec(sandbox, "mount -o remount,rw / || mount -t tmpfs t /tmp").exit_code != 0
    assert client.exec(sandbox, "unshare -Ur true").exit_code != 0
    assert client.exec(sandbox, "touch /x /usr/x /etc/x").exit_code != 0


def test_E7_the_environment_is_the_sandboxs_own(client, sandbox):
    env = dict(l.split("=", 1) for l in client.out(sandbox, "env").splitlines() if "=" in l)
    allowed = {
        "HOME",
        "PATH",
        "LANG",
        "TERM",
        "USER",
        "LOGNAME",
        "SHELL",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
    }
    assert set(env) <= allowed
    assert not env["HOME"].startswith("/workspace")


def test_no_network(client, sandbox):
    assert client.out(
        sandbox, "ls /sys/class/net 2>/dev/null; tail -n +3 /proc/net/dev | wc -l"
    ).strip() in ("1", "lo\n1")


def test_what_a_debian_root_has(client, sandbox):
    client.out(
        sandbox, "echo a b | awk '{print $2}'; test -c /dev/null -a -c /dev/urandom -a -c /dev/full"
    )
    client.out(sandbox, "cd ~ && touch x && cd /tmp && touch y && ls /dev/shm /dev/pts && id -un")


def test_what_agent_safe_lets_a_program_do(client):
    made = client.sandbox(client.codebase({"main.py": "print(6*7)"}), AGENT_SAFE)
    assert client.out(made, "python3 main.py") == "42\n"
    client.destroy(made)


def test_exec_needs_a_running_sandbox(client):
    made = client.sandbox(client.codebase(), start=False)
    expect(grpc.StatusCode.FAILED_PRECONDITION, client.exec, made, "true")
    client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=made))
    client.out(made, "true")
    client.sandboxes.StopSandbox(pb.StopSandboxRequest(sandbox_id=made))
    expect(grpc.StatusCode.FAILED_PRECONDITION, client.exec, made, "true")
    client.destroy(made)


def test_bad_commands_are_refused(client, sandbox):
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    expect(invalid, client.exec, sandbox, "")
    expect(invalid, client.exec, sandbox, "cat ok\0; rm x")
    expect(invalid, client.exec, sandbox, "true", env={"A=B": "c"})
    expect(invalid, client.exec, sandbox, "true", env={"": "c"})
    expect(invalid, client.exec, sandbox, "true", workdir="relative")
    expect(invalid, client.exec, sandbox, "true", workdir="/nope")
    expect(invalid, client.exec, sandbox, "true", timeout=-1)
    expect(invalid, client.exec, sandbox, "x" * 200_000)
    expect(invalid, client.execs.Run, afpb.RunRequest(sandbox_id=sandbox))
    both = afpb.RunRequest(sandbox_id=sandbox, argv=[b"true"], command=b"true")
    expect(invalid, client.execs.Run, both)


def test_an_argument_may_be_as_long_as_the_kernel_takes_it(client, sandbox):
    longest = 131_071  # MAX_ARG_STRLEN has the NUL

    def run(argument, env=""):
        argv = [b"sh", b"-c", b"echo ${#1} ${#X}", b"sh", argument.encode()]
        request = afpb.RunRequest(sandbox_id=sandbox, argv=argv, env={"X": env})
        return client.execs.Run(request).stdout

    assert run("x" * longest, "x" * (longest - 2)) == b"131071 131069\n"
    line = "echo ${#X} #"
    assert client.out(sandbox, line.ljust(longest, "x"), env={"X": "a"}) == "1\n"
    session = client.session(sandbox)
    assert client.turn(session, line.ljust(longest, "x")) == "0\n"
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert "131071" in expect(invalid, run, "x" * (longest + 1))
    assert "131071" in expect(invalid, run, "", "x" * (longest - 1))
    assert "131071" in expect(invalid, client.exec, sandbox, line.ljust(longest + 1, "x"))
    assert "131071" in expect(invalid, client.turn, session, line.ljust(longest + 1, "x"))
