"""The tools that show what happens now: agentfense watch, agentfense-fsctl trace, requests."""

import contextlib
import json
import os
import signal
import subprocess

import pytest

from harness import AGENT_SAFE, BIN, eventually, pb

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


# ---- handles, cache, top


def fsctl(daemon, *args):
    """The tool's output; it must succeed."""
    argv = [str(BIN / "agentfense-fsctl"), "--socket", str(daemon.socket), *args]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


HOLDER = """
import fcntl, mmap, os, sys, time
reader = open('a.txt'); reader.read(2)
os.lseek(reader.fileno(), 2, 0)
os.mkdir('output')
writer = open('output/w', 'r+b') if os.path.exists('output/w') else open('output/w', 'w+b')
writer.write(b'x' * 4096); writer.flush()
fcntl.lockf(writer, fcntl.LOCK_EX)
mapped = mmap.mmap(writer.fileno(), 4096)
gone = open('output/gone', 'w'); os.unlink('output/gone')
os.chdir('output')
print('holding', flush=True)
time.sleep(1000)
"""


def test_handles_shows_what_processes_have_open(daemon, client, sandbox):
    call = client.sandboxes.ExecStream(
        pb.ExecRequest(sandbox_id=sandbox, command="exec python3 -", stdin=HOLDER)
    )
    assert "holding" in next(chunk for chunk in call if chunk.data).data.decode()
    found = json.loads(fsctl(daemon, "handles", "--json", sandbox))
    mine = [h for h in found["handles"] if h["command"] == "python3"]
    fds = {h["path"]: h for h in mine if h["kind"] == "fd" and not h["unlinked"]}
    assert fds["a.txt"]["reads"] and not fds["a.txt"]["writes"] and fds["a.txt"]["offset"] == 2
    written = fds["output/w"]
    assert written["reads"] and written["writes"] and written["locks"] == 1
    assert [h["fd"] for h in mine if h["kind"] == "fd" and h["unlinked"]]
    assert [h["path"] for h in mine if h["kind"] == "cwd"] == ["output"]
    assert [(h["path"], h["writes"]) for h in mine if h["kind"] == "map"] == [("output/w", True)]
    assert found["unlinked_open"] == 1 and found["kernel_references"] >= 2
    assert found["nodes_cached"] >= 2
    text = fsctl(daemon, "handles", sandbox)
    assert "/output/w" in text and "(no name any more)" in text
    call.cancel()


def test_handles_of_a_sandbox_that_does_not_run_are_refused(daemon, client):
    made = client.sandbox(client.codebase({"a": "1"}), start=False, manual=True)
    argv = [str(BIN / "agentfense-fsctl"), "--socket", str(daemon.socket), "handles", made]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 1 and "not running" in done.stderr


def test_the_kernels_references_go_when_it_forgets(daemon, client):
    made = client.sandbox(client.codebase({"a": "1"}), manual=True)

    def references():
        return json.loads(fsctl(daemon, "handles", "--json", made))["kernel_references"]

    client.out(made, "mkdir d; for i in $(seq 200); do : > d/f$i; done")
    assert references() >= 200
    client.out(made, "rm -r d")
    eventually(lambda: references() < 100)
    client.destroy(made)


def test_cache_tells_hits_and_misses(daemon, client, sandbox):
    before = json.loads(fsctl(daemon, "cache", "--json"))
    fsctl(daemon, "drop-caches")
    client.out(sandbox, "ls -la; cat a.txt")
    after = json.loads(fsctl(daemon, "cache", "--json"))
    for which in ("nodes", "blob_files"):
        assert 0 <= after[which]["hit_rate"] <= 1 and after[which]["max"] > 0
    assert after["nodes"]["misses"] > before["nodes"]["misses"]
    assert after["nodes"]["hits"] > before["nodes"]["hits"]
    assert 0 < after["nodes"]["used"] <= after["nodes"]["max"]
    assert "HIT %" in fsctl(daemon, "cache")


def test_top_for_programs(tool, client, sandbox):
    top = tool("agentfense-fsctl", "top", "--json", "--interval", "0.2", "--count", "500")
    top.line()
    client.out(sandbox, "for i in $(seq 20); do mkdir -p output/d$i; done")
    while True:
        mine = [s for s in json.loads(top.line())["sandboxes"] if s["sandbox_id"] == sandbox]
        if mine and mine[0]["names_per_second"] > 0:
            break
    assert mine[0]["requests_per_second"] >= mine[0]["names_per_second"]
    assert mine[0]["mean_us"] > 0 and mine[0]["busy"] > 0


def test_top_without_a_terminal_says_what_to_do(tool):
    top = tool("agentfense-fsctl", "top")
    _, err = top.rest()
    assert top.process.returncode == 1 and "--json" in err


class Screen:
    """agentfense-fsctl top in a tmux of its own."""

    def __init__(self, daemon, directory, *args, columns=80, rows=24):
        self.env = dict(os.environ, TMUX_TMPDIR=str(directory), LC_ALL="C.UTF-8", TERM="xterm")
        self.env.pop("TMUX", None)
        command = [str(BIN / "agentfense-fsctl"), "--socket", str(daemon.socket), "top", *args]
        line = " ".join(command) + "; echo ended with $?; sleep 1000"
        self.call("new-session", "-d", "-x", str(columns), "-y", str(rows), line)

    def call(self, *args):
        return subprocess.run(
            ["tmux", "-f", "/dev/null", *args], env=self.env, check=True,
            capture_output=True, text=True, timeout=60,
        ).stdout

    def shown(self):
        return self.call("capture-pane", "-p").split("\n")

    def expect(self, condition):
        """Waits until the shown lines fulfil the condition, and returns them."""
        last = []

        def fulfilled():
            last[:] = self.shown()
            return condition(last)

        eventually(fulfilled)
        return last


@pytest.fixture
def screen(daemon, tmp_path):
    made = []

    def start(*args, **kwargs):
        made.append(Screen(daemon, tmp_path, *args, **kwargs))
        return made[-1]

    yield start
    for one in made:
        one.call("kill-server")


def row_of(lines, sandbox):
    """The number of the sandbox's line, and its words; None when it is not shown."""
    for number, line in enumerate(lines):
        if line.startswith(sandbox[:12]):
            return number, line.split()
    return None


def test_top_in_a_terminal_of_80_by_24(screen, client, sandbox):
    quiet = client.sandbox(client.codebase({"a": "1"}), manual=True)
    top = screen("--interval", "0.3")
    top.expect(lambda lines: row_of(lines, sandbox) and row_of(lines, quiet))
    with busy(client, sandbox):
        lines = top.expect(
            lambda lines: (row_of(lines, sandbox) or (9, [0] * 10))[0] == 3
            and float(row_of(lines, sandbox)[1][2]) > 0
        )
    assert lines[2].split()[:3] == ["SANDBOX", "CMDS", "REQ/s"]
    assert all(len(line) <= 79 for line in lines)
    top.call("send-keys", "d")
    top.expect(lambda lines: lines[1].startswith("by delta"))
    top.call("send-keys", "i")
    top.expect(lambda lines: "least first" in lines[1])
    top.call("send-keys", "h")
    top.expect(lambda lines: any("sort by requests" in line for line in lines))
    top.call("send-keys", "h")
    top.call("resize-window", "-x", "120", "-y", "10")
    top.expect(lambda lines: any(line.startswith(sandbox) for line in lines))  # whole ids
    top.call("send-keys", "q")
    top.expect(lambda lines: any("ended with 0" in line for line in lines))
    client.destroy(quiet)


def test_top_scrolls_when_there_are_more_sandboxes_than_lines(screen, client):
    base = client.codebase({"a": "1"})
    made = [client.sandbox(base, manual=True) for _ in range(6)]
    top = screen("--interval", "0.3", rows=6)  # three of them have room
    shown = lambda lines: {s for s in made if row_of(lines, s)}  # noqa: E731
    first = shown(top.expect(lambda lines: len(shown(lines)) == 3))
    top.call("send-keys", "NPage")
    top.expect(lambda lines: shown(lines) and shown(lines).isdisjoint(first))
    top.call("send-keys", "Home")
    top.expect(lambda lines: shown(lines) == first)
    top.call("send-keys", "q")
    for one in made:
        client.destroy(one)


def test_top_gives_the_terminal_back_when_the_daemon_ends(screen, new_daemon, tmp_path):
    daemon = new_daemon().start()
    top = Screen(daemon, tmp_path, "--interval", "0.2")
    top.expect(lambda lines: lines[2].startswith("SANDBOX"))
    assert daemon.stop() == 0
    top.expect(lambda lines: any("ended with 1" in line for line in lines))
    top.call("kill-server")


@contextlib.contextmanager
def busy(client, sandbox):
    """The sandbox makes requests meanwhile."""
    script = "while :; do mkdir -p output/x; rmdir output/x; done"
    call = client.sandboxes.Exec.future(pb.ExecRequest(sandbox_id=sandbox, command=script))
    yield
    call.cancel()
