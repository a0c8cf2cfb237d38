"""UpdatePermissions with end_holders: whoever still holds a file that became forbidden is ended.

The holders are real processes of real sandboxes, each with another way to keep a file, some of them
trying to get away meanwhile. What holds nothing forbidden, and every other sandbox, goes on.
"""

import pytest

from harness import READ_ONLY, eventually, pb

FILES = {"secret": "secret words\n" * 100, "f": "read me\n", "d/g": "g\n", "d/tool": "#!/bin/sh\n"}
HIDDEN = READ_ONLY + [("secret", "none", 100), ("/d/**", "none", 100)]


@pytest.fixture
def codebase(client):
    """A small codebase of the test's own: commands commit what they change."""
    return client.codebase(FILES)


@pytest.fixture
def make(client, codebase):
    """Makes started sandboxes and destroys them after the test."""
    made = []

    def start(rules=READ_ONLY):
        made.append(client.sandbox(codebase, rules))
        return made[-1]

    yield start
    for sandbox in made:
        client.destroy(sandbox)


class Session:
    """A shell in a sandbox."""

    def __init__(self, client, sandbox):
        self.client = client
        self.id = client.sandboxes.CreateSession(pb.CreateSessionRequest(sandbox_id=sandbox)).id

    def __call__(self, command):
        done = self.client.sandboxes.SessionExec(
            pb.SessionExecRequest(session_id=self.id, command=command)
        )
        assert done.exit_code == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def is_open(self):
        got = self.client.sandboxes.GetSession(pb.GetSessionRequest(session_id=self.id))
        return got.status == pb.SESSION_STATUS_ACTIVE

    def background(self, script, name):
        """Runs Python in the background until it has said ready; it is known by its name."""
        self(f"cat > /tmp/{name}.py <<'END'\n{script}\nEND")
        self(f"python3 /tmp/{name}.py > /tmp/{name}.out 2>&1 &")
        self(f"until grep -q ready /tmp/{name}.out; do sleep 0.01; done")

    def lives(self, name):
        """Whether a process of that name still runs (a zombie does not)."""
        test = f"for p in /proc/[0-9]*; do grep -qs {name}.py $p/cmdline && echo $p; done; true"
        return self(test).split() != []


def end_holders(client, sandbox, rules=HIDDEN):
    return client.set_rules(sandbox, rules, end_holders=True).processes_ended


HOLD = "import os, time\n{}\nprint('ready', flush=True)\ntime.sleep(1000)\n"
HOLDERS = {
    "descriptor": HOLD.format("f = open('secret')"),
    "path": HOLD.format("f = os.open('secret', os.O_PATH)"),
    "map": HOLD.format(
        "import mmap\nf = os.open('secret', os.O_RDONLY)\n"
        "m = mmap.mmap(f, 0, prot=mmap.PROT_READ)\nos.close(f)"
    ),
    "directory": HOLD.format("os.chdir('d')"),
    "directory-descriptor": HOLD.format("f = os.open('d', os.O_RDONLY)"),
    "in-flight": HOLD.format(
        "import socket\na, b = socket.socketpair()\nf = os.open('secret', os.O_RDONLY)\n"
        "socket.send_fds(a, [b'x'], [f])\nos.close(f)"
    ),
    "in-the-queue-of-a-listener": HOLD.format(
        "import socket\nl = socket.socket(socket.AF_UNIX)\nl.bind('\\0hide')\nl.listen()\n"
        "c = socket.socket(socket.AF_UNIX)\nc.connect('\\0hide')\n"
        "f = os.open('secret', os.O_RDONLY)\nsocket.send_fds(c, [b'x'], [f])\nos.close(f)\n"
        "c.close()"
    ),
    "thread-whose-leader-has-ended": (
        "import ctypes, threading, time\nf = open('secret')\n"
        "def run():\n    print('ready', flush=True)\n    time.sleep(1000)\n"
        "threading.Thread(target=run).start()\nctypes.CDLL(None).syscall(60, 0)\n"
    ),
    "runaway": (
        "import os\nf = open('secret')\nprint('ready', flush=True)\n"
        "while True:\n    if os.fork(): os._exit(0)\n"
    ),
    "relay": (
        "import os, socket\na, b = socket.socketpair()\nf = os.open('secret', os.O_RDONLY)\n"
        "child = os.fork()\nmine, his = (b, a) if child == 0 else (a, b)\nhis.close()\n"
        "print('ready', flush=True)\n"
        "if child: socket.send_fds(mine, [b'x'], [f])\n"
        "os.close(f)\n"
        "while True:\n    _, fds, _, _ = socket.recv_fds(mine, 1, 1)\n"
        "    socket.send_fds(mine, [b'x'], fds)\n    os.close(fds[0])\n"
    ),
}


@pytest.mark.parametrize("how", HOLDERS)
def test_P7_a_holder_is_ended_and_nobody_else(client, make, how):
    sandbox, other = make(), make()
    inside, neighbour = Session(client, sandbox), Session(client, other)
    inside.background(HOLDERS[how], "holder")
    inside.background(HOLD.format("f = open('f'); g = os.open('f', os.O_PATH)"), "innocent")
    neighbour.background(HOLDERS["descriptor"], "neighbour")
    assert end_holders(client, sandbox) >= 1
    if how == "relay":  # the one of the two that holds nothing ends by itself, without its peer
        eventually(lambda: not inside.lives("holder"))
    assert not inside.lives("holder")
    assert inside.lives("innocent") and neighbour.lives("neighbour")
    states = inside("for p in /proc/[0-9]*; do grep -s '^State' $p/status; done")
    assert "stopped" not in states, states
    assert neighbour("cat secret") == FILES["secret"]
    assert inside("cat f") == "read me\n"
    assert end_holders(client, sandbox) == 0


def test_P7_a_session_that_holds_a_forbidden_file_is_closed(client, make):
    sandbox = make()
    holder, inside = Session(client, sandbox), Session(client, sandbox)
    holder("exec 7< secret")
    assert end_holders(client, sandbox) == 1
    eventually(lambda: not holder.is_open())
    assert inside.is_open() and inside("cat f") == "read me\n"


def test_nobody_is_ended_when_the_new_rules_forbid_nothing_that_is_held(client, make):
    sandbox = make()
    inside = Session(client, sandbox)
    inside.background(HOLDERS["descriptor"], "holder")
    more = READ_ONLY + [("f", "none", 100)]
    assert end_holders(client, sandbox, more) == 0 and inside.lives("holder")


def test_who_was_stopped_before_stays_stopped(client, make):
    sandbox = make()
    inside = Session(client, sandbox)
    inside.background(HOLD.format("pid = os.getpid()"), "sleeper")
    found = "for p in /proc/[0-9]*; do grep -qs sleeper.py $p/cmdline && echo ${p#/proc/}; done"
    pid = inside(found)
    pid = pid.strip()
    inside(f"kill -STOP {pid}; until grep -q stopped /proc/{pid}/status; do :; done")
    assert end_holders(client, sandbox) == 0
    assert "stopped" in inside(f"grep ^State /proc/{pid}/status")


def test_end_holders_while_commands_come_and_go(client, make):
    sandbox = make()
    calls = [
        client.sandboxes.Exec.future(
            pb.ExecRequest(sandbox_id=sandbox, command="for i in $(seq 50); do cat f; done")
        )
        for _ in range(4)
    ]
    while not all(c.done() for c in calls):
        assert end_holders(client, sandbox) == 0
    assert all(c.result().stdout == "read me\n" * 50 for c in calls)
