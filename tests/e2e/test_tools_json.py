"""--json: every command of both tools that prints anything of its own prints JSON when asked to."""

import json
import re
import subprocess

import pytest

from harness import BIN, FULL

# What the other commands print is what runs in the sandbox has printed, or nothing at all.
FOREIGN = {"run", "exec", "shell", "logs", "attach"}
SILENT = {"start", "stop", "cp", "kill", "wait", "rollback", "rm", "set"}
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


@pytest.mark.parametrize("command", sorted(set(commands_of("agentfense")) - FOREIGN - SILENT))
def test_the_user_tool_prints_json(daemon, client, sandbox, tmp_path, command):
    (tmp_path / "a").write_text("a")
    places = {"VIEW": sandbox, "DIR": str(tmp_path)}
    args = [places.get(arg, arg) for arg in CLI.get(command, [])]
    found = run_json(daemon, client, "agentfense", command, args)
    if command == "create":
        client.destroy(found[0]["sandbox_id"])


@pytest.mark.parametrize("command", sorted(FOREIGN | SILENT))
def test_commands_without_json_say_so(daemon, command):
    assert command in commands_of("agentfense")
    argv = [str(BIN / "agentfense"), "--socket", str(daemon.socket), "--json", command, "x"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "--json" in done.stderr


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
