"""Processes: what runs on this machine, and ProcessService as tests drive it."""

import itertools
import os
import pathlib
import queue

from harness import eventually, procpb


_ranges = itertools.count()


def unique(name):
    """A name, or a number with a fraction, that no other run of the tests on this machine has."""
    return f"{name}{os.getpid():07d}"


def own_uids():
    """Host uids that no other run's daemons give out: the first, their end, a daemon's options."""
    first = 1_000_000_000 + (os.getpid() % 100_000 * 16 + next(_ranges) % 16) * 2000
    return first, first + 2000, ["--uid-base", str(first), "--uid-count", "1990"]


def alive_with(marker):
    """Processes whose arguments hold a marker, one of `unique`."""
    found = []
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (proc / "cmdline").read_bytes():
                found.append(proc.name)
        except OSError:
            continue
    return found


def children(pid):
    """How many child processes it has, those included that it has not waited for."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(len((task / "children").read_text().split()) for task in tasks)


def processes_with_uid(low, high):
    """Pids of processes whose uid lies in a range, those that have ended left out."""
    found = []
    for pid in os.listdir("/proc"):
        try:
            if pid.isdigit() and low <= os.stat(f"/proc/{pid}").st_uid < high:
                found.append(int(pid))
        except FileNotFoundError:
            pass
    return found


def in_foreground(marker):
    """Whether the one such process runs as the foreground job of its terminal."""
    for pid in alive_with(marker):
        try:
            stat = (pathlib.Path("/proc") / pid / "stat").read_text()
        except OSError:
            continue
        state, _, group, _, _, foreground = stat.rpartition(") ")[2].split()[:6]
        if state != "T" and group == foreground:
            return True
    return False


def spec(sandbox, command, **fields):
    """A ProcessSpec; command is a shell line or an argument list."""
    terminal = fields.pop("terminal", None)
    timeout = fields.pop("timeout", None)
    made = procpb.ProcessSpec(sandbox_id=sandbox, **fields)
    if isinstance(command, str):
        made.command = command.encode()
    else:
        made.argv.extend(c.encode() for c in command)
    if terminal:
        made.terminal.rows, made.terminal.columns = terminal
    if timeout is not None:
        made.timeout.FromNanoseconds(int(timeout * 1e9))
    return made


class Run:
    """A Run call whose messages a test sends one by one."""

    END = object()

    def __init__(self, client, sandbox, command, timeout_s=None, **fields):
        fields.setdefault("stdin", True)
        self.inputs = queue.Queue()
        self.send(start=spec(sandbox, command, **fields))
        self.call = client.processes.Run(iter(self.inputs.get, self.END), timeout=timeout_s)
        self.out, self.err = b"", b""
        self.seen = 0
        self.started = self.exit = None

    def send(self, **fields):
        self.inputs.put(procpb.ProcessInput(**fields))

    def close(self):
        """Half-closes."""
        self.inputs.put(self.END)

    def step(self):
        """Takes one message; False at the end."""
        message = next(self.call, None)
        if message is None:
            return False
        kind = message.WhichOneof("output")
        if kind == "stdout":
            self.out += message.stdout
        elif kind == "stderr":
            self.err += message.stderr
        elif kind == "started":
            assert not self.out and not self.err and not self.started
            self.started = message.started
        else:
            self.exit = message.exit
        return True

    def expect(self, words):
        """Reads until the words come on stdout after those waited for before."""
        while self.out.find(words, self.seen) < 0:
            assert self.step(), (words, self.out, self.err)
        self.seen = self.out.find(words, self.seen) + len(words)

    def finish(self):
        """Reads to the end; the exit code and signal."""
        while self.step():
            pass
        self.close()
        assert self.exit is not None
        return self.exit.exit_code, self.exit.signal


def start(client, sandbox, command, **fields):
    """Starts a background process; returns its id."""
    request = procpb.StartProcessRequest(spec=spec(sandbox, command, **fields))
    return client.processes.Start(request).id


def get(client, process):
    return client.processes.Get(procpb.ProcessRequest(process_id=process))


def wait(client, process):
    return client.processes.Wait(procpb.ProcessRequest(process_id=process), timeout=60)


def attach(client, process, follow=True):
    """Reads kept output to the end: stdout, stderr, skipped, exit."""
    out, err, skipped, exit_ = b"", b"", 0, None
    request = procpb.AttachProcessRequest(process_id=process, follow=follow)
    for message in client.processes.Attach(request, timeout=60):
        out += message.stdout
        err += message.stderr
        skipped += message.skipped
        if message.WhichOneof("output") == "exit":
            exit_ = message.exit
    return out, err, skipped, exit_


def write(client, process, data=b"", eof=False):
    request = procpb.WriteStdinRequest(process_id=process, data=data, eof=eof)
    return client.processes.WriteStdin(request, timeout=60)


class Served:
    """A background process that answers the lines of its stdin, each answer ending with `end`."""

    def __init__(self, client, sandbox, command, end="\n"):
        self.client, self.end, self.answers = client, end, 0
        self.process = start(client, sandbox, command, stdin=True)

    def ask(self, line):
        """Its answer to a line, without what ends it."""
        write(self.client, self.process, f"{line}\n".encode())
        self.answers += 1
        out = b""

        def answered():
            nonlocal out
            out, err, _, exit_ = attach(self.client, self.process, follow=False)
            assert exit_ is None, (out, err, exit_)
            return out.count(self.end.encode()) == self.answers

        eventually(answered)
        return out.decode().split(self.end)[self.answers - 1]

    def close(self):
        write(self.client, self.process, eof=True)
        assert wait(self.client, self.process).exit.exit_code == 0


def kill(client, process, number, everything=False):
    request = procpb.SignalProcessRequest(process_id=process, signal=number, all=everything)
    return client.processes.Signal(request)
