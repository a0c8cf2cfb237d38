"""The tools that show what happens now: agentfense watch, agentfense-fsctl trace, requests."""

import json
import signal
import subprocess

import pytest

from harness import AGENT_SAFE, BIN

RUN_SECONDS = 120


@pytest.fixture
def sandbox(client):
    """An agent-safe sandbox, started."""
    made = client.sandbox(
        client.codebase({"a.txt": "one\n", ".env": "S"}), AGENT_SAFE, manual=True
    )
    yield made
    client.destroy(made)


class Tool:
    """A tool that goes on, its lines read as they come."""

    def __init__(self, daemon, program, *args):
        self.process = subprocess.Popen(
            [str(BIN / program), "--socket", str(daemon.socket), *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def line(self):
        found = self.process.stdout.readline()
        assert found, self.process.stderr.read()
        return found.rstrip("\n")

    def rest(self):
        out, err = self.process.communicate(timeout=RUN_SECONDS)
        return out.splitlines(), err


@pytest.fixture
def tool(daemon):
    """Starts tools and leaves none behind."""
    made = []

    def start(*args):
        made.append(Tool(daemon, *args))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.communicate()


def test_watch_shows_changes_and_denied_accesses(tool, client, sandbox):
    watch = tool("agentfense", "watch", "--denied", "--json", "--count", "6", sandbox)
    assert json.loads(watch.line())["event"] == "ready"
    script = "cat .env; mkdir output; echo x > output/f; mv output/f output/g; rm output/g"
    client.exec(sandbox, script)
    lines, err = watch.rest()
    events = [json.loads(line) for line in lines]
    assert [(e["event"], e["path"], e["operation"]) for e in events] == [
        ("denied", ".env", "lookup"),
        ("created", "output", ""),
        ("created", "output/f", ""),
        ("modified", "output/f", ""),
        ("renamed", "output/g", ""),
        ("deleted", "output/g", ""),
    ]
    assert events[1]["kind"] == "directory" and events[4]["old_path"] == "output/f"
    assert watch.process.returncode == 0 and not err


def test_watch_is_for_people_too_and_escapes_names(tool, client, sandbox):
    client.out(sandbox, "mkdir output")
    ready = tool("agentfense", "watch", "--json", sandbox)
    watch = tool("agentfense", "watch", "--count", "2", sandbox, "output")
    assert json.loads(ready.line())["event"] == "ready"
    # The second tool's readiness shows in what it prints: it is given changes until it has two.
    while watch.process.poll() is None:
        client.out(sandbox, r"d=$(printf 'output/a\033b'); mkdir $d; rmdir $d")
    lines, _ = watch.rest()
    assert len(lines) == 2 and all(r"output/a\x1bb" in line for line in lines)
    assert {line.split()[1] for line in lines} == {"created", "deleted"}


def test_watch_ends_when_interrupted_and_with_the_sandbox(tool, client):
    made = client.sandbox(client.codebase({"a": "1"}), manual=True)
    interrupted = tool("agentfense", "watch", "--json", made)
    interrupted.line()
    interrupted.process.send_signal(signal.SIGINT)
    interrupted.rest()
    assert interrupted.process.returncode == 128 + signal.SIGINT
    with_it = tool("agentfense", "watch", "--json", made)
    with_it.line()
    client.destroy(made)
    assert with_it.rest() == ([], "") and with_it.process.returncode == 0


def test_trace_shows_verdicts_and_rules(tool, client, sandbox):
    trace = tool("agentfense-fsctl", "trace", "--json", sandbox)
    assert json.loads(trace.line())["ready"]
    client.exec(sandbox, "cat .env; mkdir output")
    hidden = made = None
    while not hidden or not made:
        event = json.loads(trace.line())
        if event["path"] == ".env":
            hidden = event
        if event["operation"] == "mkdir":
            made = event
    assert hidden["hidden"] and hidden["level"] == "none" and hidden["pattern"] == "**/.env*"
    assert made["error"] == "ok" and made["level"] in ("read", "write") and made["took_ns"] > 0


def test_trace_of_denied_accesses_for_people(tool, client, sandbox):
    trace = tool("agentfense-fsctl", "trace", "--denied", "--count", "1", sandbox)
    assert trace.line().split()[:2] == ["TIME", "PID"]
    client.exec(sandbox, "cat a.txt; cat .env")
    lines, _ = trace.rest()
    assert len(lines) == 1
    assert "hidden" in lines[0] and "/.env  (rule 3: **/.env*)" in lines[0]


def test_requests_by_interval_are_those_of_the_interval(tool, client, sandbox):
    client.out(sandbox, "for i in $(seq 50); do mkdir -p output/d$i; done")
    requests = tool(
        "agentfense-fsctl", "requests", "--interval", "0.2", "--count", "200", "--json", sandbox
    )
    first = json.loads(requests.line())  # what came before the tool is not in it
    assert sum(op["requests"] for op in first["operations"] if op["operation"] == "mkdir") == 0
    client.out(sandbox, "mkdir output/one output/two")
    made = 0
    while made < 2:
        found = json.loads(requests.line())
        assert found["interval_ns"] >= 0.2e9
        made += sum(op["requests"] for op in found["operations"] if op["operation"] == "mkdir")
    assert made == 2


def test_requests_by_interval_for_people(tool, sandbox):
    requests = tool("agentfense-fsctl", "requests", "--interval", "0.1", "--count", "2", sandbox)
    lines, _ = requests.rest()
    assert sum("requests" in line for line in lines) == 2
    assert sum(line.startswith("OPERATION") for line in lines) == 2


@pytest.mark.parametrize(
    "args",
    [
        ("agentfense", "ls", "--denied"),
        ("agentfense", "watch", "--count", "0", "sb_x"),
        ("agentfense-fsctl", "views", "--interval", "1"),
        ("agentfense-fsctl", "requests", "--interval", "nan", "sb_x"),
        ("agentfense-fsctl", "requests", "--interval", "0", "sb_x"),
        ("agentfense-fsctl", "trace", "--count", "-1", "sb_x"),
        ("agentfense-fsctl", "tree", "--denied", "sb_x"),
    ],
)
def test_wrong_usage_is_told(tool, args):
    bad = tool(*args)
    _, err = bad.rest()
    assert bad.process.returncode == 2 and err
