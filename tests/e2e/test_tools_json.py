"""--json: every command of both tools that prints anything of its own prints JSON when asked to."""

import json
import re
import subprocess

import pytest

from harness import BIN, FULL

# A shell is a terminal: what it shows is not this tool's.
REFUSES = {"shell"}
# For people they print nothing, or what a process has printed: tests of their own.
PROCESSES = {"logs", "attach", "kill", "wait"}
SILENT = {"start", "stop", "cp", "rollback", "rm", "set"}
# Arguments with which a command prints something and ends. VIEW and DIR are replaced.
FSCTL = {
    "tree": ["VIEW"], "stat": ["VIEW", "a.txt"], "explain": ["VIEW", "a.txt"], "diff": ["VIEW"],
    "rules": ["VIEW"], "quota": ["VIEW", "1G"], "access": ["VIEW", "normal"],
    "requests": ["VIEW"], "trace": ["--count", "3", "VIEW"], "handles": ["VIEW"],
    "top": ["--count", "1", "--interval", "0.1"],
}
CLI = {
    "create": ["DIR"], "diff": ["VIEW"], "rules": ["VIEW"], "commit": ["VIEW"],
    "rebase": ["VIEW"], "watch": ["--count", "2", "VIEW"],
    "exec": ["VIEW", "--", "true"], "run": ["DIR", "--", "true"],
}
ENDLESS = {"trace", "watch"}


def commands_of(program):
    done = subprocess.run([BIN / program, "--help"], capture_output=True, text=True, check=True)
    part = re.search(r"^Commands:\n(.*?)\n\n", done.stdout, re.S | re.M)
    return re.findall(r"^  ([a-z][a-z-]*)", part[1], re.M)


@pytest.fixture(scope="module")
def sandbox(client):
    made = client.sandbox(client.codebase({"a.txt": "one\n"}), FULL, manual=True)
    client.out(made, "echo two > b.txt")
    yield made
    client.destroy(made)


def values(text):
    """One JSON value, or one a line."""
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


def run_json(daemon, client, program, command, args):
    argv = [str(BIN / program), "--socket", str(daemon.socket), "--json", command, *args]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = ""
    if command in ENDLESS:  # it says that it is ready; then something happens
        first = process.stdout.readline()
        client.out(args[-1], "mkdir -p for-json && rmdir for-json")
    rest, err = process.communicate(timeout=120)
    assert process.returncode == 0, (argv, err)
    assert first + rest, argv
    return values(first + rest)


@pytest.mark.parametrize("command", commands_of("agentfense-fsctl"))
def test_fsctl_prints_json(daemon, client, sandbox, command):
    args = [sandbox if arg == "VIEW" else arg for arg in FSCTL.get(command, [])]
    assert run_json(daemon, client, "agentfense-fsctl", command, args)


ELSEWHERE = REFUSES | PROCESSES | SILENT


@pytest.mark.parametrize("command", sorted(set(commands_of("agentfense")) - ELSEWHERE))
def test_the_user_tool_prints_json(daemon, client, sandbox, tmp_path, command):
    (tmp_path / "a").write_text("a")
    places = {"VIEW": sandbox, "DIR": str(tmp_path)}
    args = [places.get(arg, arg) for arg in CLI.get(command, [])]
    found = run_json(daemon, client, "agentfense", command, args)
    if command == "create":
        client.destroy(found[0]["sandbox_id"])


@pytest.fixture
def cli(daemon):
    """The user's tool with --json: its exit code and the values that it printed."""

    def run(*args, stdin=None):
        argv = [BIN / "agentfense", "--socket", daemon.socket, "--json", *args]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=120,
                              check=False)
        return done.returncode, values(done.stdout)

    return run


def test_a_shell_has_no_json_and_says_so(daemon, sandbox):
    for args in (["shell", sandbox], ["exec", "-t", sandbox, "--", "true"]):
        argv = [BIN / "agentfense", "--socket", daemon.socket, "--json", *args]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and "--json" in done.stderr, done.stderr


def test_silent_commands_report_in_json(client, cli, tmp_path):
    codebase = client.codebase({"a": "1"})
    made = client.sandbox(codebase, FULL, manual=True)
    (tmp_path / "f").write_text("four")
    assert cli("stop", made) == (0, [[{"sandbox_id": made, "status": "stopped"}]])
    code, ((missing, started),) = cli("start", "sb_nobody", made)
    assert code == 1 and started == {"sandbox_id": made, "status": "running"}
    assert missing["name"] == "sb_nobody" and "sb_nobody" in missing["error"]
    copied = {"entries": 1, "bytes": 4, "left_out": 0}
    assert cli("cp", tmp_path / "f", f"{made}:f") == (0, [copied])
    assert cli("cp", f"{made}:f", tmp_path / "g") == (0, [copied])
    code, (info,) = cli("set", made, "--quota", "1M", "--commit-policy", "on-destroy")
    assert (code, info["sandbox_id"], info["quota_bytes"]) == (0, made, 1 << 20)
    assert (info["commit_policy"], info["status"]) == ("on-destroy", "running")
    assert info["delta_bytes"] == 4
    code, (info,) = cli("rollback", made)
    assert (code, info["delta_bytes"]) == (0, 0)
    code, ((missing, gone),) = cli("rm", "sb_nobody", made)
    assert code == 1 and gone == {"sandbox_id": made, "status": "destroyed"}
    assert "sb_nobody" in missing["error"]
    assert cli("set", made)[0] == 2  # nothing to change: --json is not something


def test_a_command_is_told_in_json_as_it_runs(cli, sandbox):
    program = "echo out; printf '\\377' >&2; exit 3"
    code, lines = cli("exec", sandbox, "--", "sh", "-c", program)
    *output, end = lines
    assert code == end["exit_code"] == 3 and not end["timed_out"]
    assert {"stream": "stdout", "data": "out\n"} in output
    assert {"stream": "stderr", "data": "\ufffd", "data_hex": "ff"} in output
    code, (*_, end) = cli("exec", "--timeout", "0.2", sandbox, "--", "sleep", "60")
    assert code == 124 and end["timed_out"]


def test_a_run_ends_with_its_changes_in_json(cli, tmp_path):
    (tmp_path / "a").write_text("a")
    run = ["run", "--preset", "full-access", tmp_path, "--", "sh", "-c", "echo hi; echo b > b"]
    code, lines = cli(*run)
    assert code == 0 and {"stream": "stdout", "data": "hi\n"} in lines
    assert lines[-2]["exit_code"] == 0 and lines[-1]["applied"] is False
    assert [(c["path"], c["change"]) for c in lines[-1]["changes"]] == [("b", "added")]
    assert not (tmp_path / "b").exists()
    assert cli(run[0], "--apply", *run[1:])[1][-1]["applied"] is True
    assert (tmp_path / "b").read_text() == "b\n"


def test_background_processes_in_json(cli, sandbox):
    # Runs until it is ended here: 143 below, not 0.
    code, (process,) = cli("exec", "-d", sandbox, "--", "sh", "-c", "echo hi; exec sleep 1000")
    assert code == 0 and process["running"]
    name = process["id"]
    code, ((signalled,),) = cli("kill", name)
    assert code == 0 and signalled["id"] == name
    code, ((ended,),) = cli("wait", name)
    assert code == 143 and ended["exit"]["signal"] == 15
    for command in ("logs", "attach"):
        code, lines = cli(command, name)
        assert lines[0] == {"stream": "stdout", "data": "hi\n"}, command
        assert lines[-1]["signal"] == 15
    code, ((missing,),) = cli("wait", "proc_nobody")
    assert code == 125 and "proc_nobody" in missing["error"]


def test_silent_commands_print_nothing(daemon, client, tmp_path):
    made = client.sandbox(client.codebase({"a": "1"}), FULL, manual=True)
    (tmp_path / "f").write_text("f")
    for args in (["stop", made], ["start", made], ["cp", tmp_path / "f", f"{made}:f"],
                 ["rollback", made], ["rm", made]):
        argv = [BIN / "agentfense", "--socket", daemon.socket, *args]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, ""), (args, done.stdout, done.stderr)


@pytest.mark.parametrize("program", ["agentfense", "agentfense-fsctl"])
def test_help_has_no_trailing_space(program):
    for words in [(), *((c,) for c in commands_of(program))]:
        argv = [BIN / program, *words, "--help"]
        text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        assert not re.search(r" $", text, re.M), words
