"""agentfense shell, exec -it, ps, logs, attach, kill, wait, in real terminals: a pty, and tmux."""

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from harness import BIN, FULL, eventually
from processes import alive_with, in_foreground, unique

TOOL = str(BIN / "agentfense")


@pytest.fixture(scope="module")
def sandbox(client):
    """One started sandbox with full access."""
    made = client.sandbox(client.codebase({"hello.txt": "hello\n"}), FULL)
    yield made
    client.destroy(made)


def tool(daemon, *args, **kwargs):
    """Runs the tool to its end, output as bytes."""
    if "input" not in kwargs:
        kwargs.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        [TOOL, "--socket", str(daemon.socket), *args], capture_output=True, timeout=120,
        check=False, **kwargs
    )


class Terminal:
    """The tool in a terminal of its own."""

    def __init__(self, daemon, *args, rows=30, columns=100):
        self.master, self.slave = os.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [TOOL, "--socket", str(daemon.socket), *args], stdin=self.slave, stdout=self.slave,
            stderr=self.slave, start_new_session=True, env=dict(os.environ, TERM="xterm"),
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.shown = b""
        self.seen = 0

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys):
        os.write(self.master, keys)

    def read(self, seconds=60):
        """Takes what is shown next; b"" when nothing is within the time."""
        ready, _, _ = select.select([self.master], [], [], seconds)
        chunk = os.read(self.master, 65536) if ready else b""
        self.shown += chunk
        return chunk

    def expect(self, words):
        """Reads until the words are shown after those waited for before."""
        while self.shown.find(words, self.seen) < 0:
            assert self.read(), (words, self.shown)
        self.seen = self.shown.find(words, self.seen) + len(words)

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def is_as_before(self):
        return termios.tcgetattr(self.slave) == self.before

    def wait(self):
        """The exit code; the terminal must be as it was."""
        while self.process.poll() is None:
            self.read(0.05)
        while self.read(0.05):
            pass
        assert self.is_as_before()
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(daemon):
    """Makes terminals."""
    made = []

    def make(*args, **kwargs):
        made.append(Terminal(daemon, *args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_shell_has_the_users_terminal_its_size_and_its_exit_code(terminal, sandbox):
    shell = terminal("shell", sandbox[:14])
    shell.expect(b"$ ")
    assert shell.is_raw()
    shell.type(b"stty size; echo $TERM; pwd\n")
    shell.expect(b"30 100\r\nxterm\r\n/workspace\r\n")
    shell.resize(41, 123)
    shell.type(b"until [ \"$(stty size)\" = '41 123' ]; do :; done; echo resized-$((1+1))\n")
    shell.expect(b"resized-2\r\n")
    shell.type(b"exit 9\n")
    assert shell.wait() == 9


def test_keys_are_for_the_program_and_not_for_the_tool(terminal, sandbox):
    marker = unique("31342.1")
    shell = terminal("shell", sandbox, "--", "bash", "--norc", "-i")
    shell.expect(b"$ ")
    shell.type(f"sleep {marker}\n".encode())
    eventually(lambda: in_foreground(marker))
    shell.type(b"\x1a")
    shell.expect(b"Stopped")
    shell.expect(b"$ ")
    shell.type(b"fg\n")
    eventually(lambda: in_foreground(marker))
    shell.type(b"\x03")
    shell.expect(b"$ ")
    shell.type(b"echo code $?\n")
    shell.expect(b"code 130\r\n")
    shell.expect(b"$ ")
    shell.type(b"\x04")
    assert shell.wait() == 0
    assert not alive_with(marker)


@pytest.mark.parametrize("argv, keys, shown", [
    (["bash", "--norc", "-i"], b"", b""),
    (["bash", "--norc", "-i"], b"echo $((6*7))\ncat\ncat\n", b"42\r\n"),
    (["sh", "-i"], b"cat\n", b""),
    (["python3"], b"print(6*7)\n", b"42\r\n"),
    (["cat"], b"line\n", b"line\r\n"),
])
def test_stdin_that_ends_ends_what_reads_it_in_a_terminal(daemon, sandbox, argv, keys, shown):
    """Whatever reads it, and however its terminal is set by then."""
    done = tool(daemon, "exec", "-it", sandbox, "--", *argv, input=keys)
    assert done.returncode == 0 and shown in done.stdout, done


@pytest.mark.parametrize("commands, code, shown", [
    (b"", 0, b""),
    (b"echo $((6*7)); exit 3", 3, b"42\n"),
    (b"cat\nfor the cat\n", 0, b"for the cat\n"),
    (b"test -t 0 || echo no terminal\n", 0, b"no terminal\n"),
])
def test_a_shell_reads_its_commands_from_what_is_no_terminal(
        daemon, sandbox, commands, code, shown):
    done = tool(daemon, "shell", sandbox, input=commands)
    assert (done.returncode, done.stdout) == (code, shown), done


@pytest.mark.parametrize("how", ["TERM", "HUP", "INT", "ABRT", "SEGV", "QUIT"])
def test_every_end_of_the_tool_gives_the_terminal_back(terminal, sandbox, how):
    marker = unique(f"31342.2{len(how)}{ord(how[0])}")
    shell = terminal("exec", "-it", sandbox, "--", "sh", "-c", f"echo up; sleep {marker}")
    shell.expect(b"up\r\n")
    assert shell.is_raw() and alive_with(marker)
    number = getattr(signal, "SIG" + how)
    os.kill(shell.process.pid, number)
    code = shell.wait()
    assert code == (128 + number if how in ("TERM", "HUP", "INT") else -number)
    eventually(lambda: not alive_with(marker))


def test_the_end_of_the_daemon_or_the_sandbox_gives_the_terminal_back(new_daemon):
    daemon = new_daemon().start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase(), FULL)
    shells = [Terminal(daemon, "shell", sandbox) for _ in range(2)]
    for shell in shells:
        shell.expect(b"$ ")
    client.destroy(sandbox)
    for shell in shells:
        assert shell.wait() == 125 and b"agentfense: " in shell.shown
        shell.close()
    sandbox = client.sandbox(client.codebase(), FULL)
    shell = Terminal(daemon, "shell", sandbox)
    shell.expect(b"$ ")
    daemon.kill()
    assert shell.wait() == 125
    shell.close()
    client.close()


def test_a_stopped_tool_gives_the_terminal_back_and_takes_it_again(terminal, sandbox):
    shell = terminal("shell", sandbox)
    shell.expect(b"$ ")
    os.kill(shell.process.pid, signal.SIGTSTP)
    _, status = os.waitpid(shell.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status) and shell.is_as_before()
    os.kill(shell.process.pid, signal.SIGCONT)
    eventually(shell.is_raw)
    shell.type(b"exit 3\n")
    assert shell.wait() == 3


def test_a_terminal_may_be_asked_for_without_having_one(daemon, sandbox):
    done = tool(daemon, "exec", "-t", sandbox, "--", "sh", "-c", "stty size; test -t 0 && echo tty")
    assert done.stdout == b"24 80\r\ntty\r\n" and done.returncode == 0
    done = tool(daemon, "exec", "-i", sandbox, "--", "cat", input=b"bytes\0\xff")
    assert done.stdout == b"bytes\0\xff" and done.returncode == 0


def test_stdin_of_a_terminal_is_passed_when_asked_for_only(terminal, sandbox):
    without = terminal("exec", sandbox, "--", "readlink", "/proc/self/fd/0")
    without.expect(b"/dev/null")
    assert without.wait() == 0
    given = terminal("exec", "-i", sandbox, "--", "sh", "-c", "echo up; read x; echo got $x")
    given.expect(b"up\r\n")
    assert not given.is_raw()
    given.type(b"typed\n")
    given.expect(b"got typed\r\n")
    assert given.wait() == 0


# ---- the background ---------------------------------------------------------------------------


def ps(daemon, *args):
    return json.loads(tool(daemon, "ps", "--json", *args).stdout)


def test_a_background_process_from_its_start_to_its_end(daemon, sandbox):
    started = tool(daemon, "exec", "-d", "-i", sandbox, "--", "sh", "-c",
                   "echo begun; echo bad >&2; read x; echo $x; exit 7")
    process = started.stdout.decode().strip()
    assert started.returncode == 0 and process.startswith("proc_")
    row = next(p for p in ps(daemon, sandbox) if p["id"] == process)
    assert row["running"] and row["background"] and row["stdin"] and row["argv"][0] == "sh"
    eventually(lambda: tool(daemon, "logs", process).stdout == b"begun\n")
    assert tool(daemon, "logs", process[:16]).stderr == b"bad\n"
    attached = tool(daemon, "attach", process, input=b"late\n")
    assert attached.stdout == b"begun\nlate\n" and attached.returncode == 7
    assert tool(daemon, "wait", process).returncode == 7
    assert tool(daemon, "logs", "-f", process).returncode == 7
    row = next(p for p in ps(daemon) if p["id"] == process)
    assert not row["running"] and row["exit"]["exit_code"] == 7
    table = tool(daemon, "ps", sandbox).stdout.decode()
    assert table.startswith("PROCESS") and process in table and "exit 7" in table


def test_kill_sends_the_signal_that_was_named(daemon, sandbox):
    marker = unique("31342.3")

    def started(command):
        done = tool(daemon, "exec", "-d", sandbox, "--", "sh", "-c", command)
        return done.stdout.decode().strip()

    process = started("trap 'echo usr1' USR1; echo up; while :; do sleep 0.02; done")
    eventually(lambda: tool(daemon, "logs", process).stdout == b"up\n")
    assert tool(daemon, "kill", "-s", "USR1", process).returncode == 0
    eventually(lambda: b"usr1" in tool(daemon, "logs", process).stdout)
    assert tool(daemon, "kill", "--signal", "SIGKILL", process).returncode == 0
    assert tool(daemon, "wait", process).returncode == 137
    assert tool(daemon, "kill", process).returncode == 1  # it has ended
    process = started(f"setsid sleep {marker} & sleep {marker}")
    eventually(lambda: len(alive_with(marker)) >= 2)
    assert tool(daemon, "kill", "--all", process).returncode == 0
    assert tool(daemon, "wait", process).returncode == 143
    assert not alive_with(marker)
    process = tool(daemon, "exec", "-d", "--timeout", "0.2", sandbox, "--", "sleep", "1000")
    done = tool(daemon, "wait", process.stdout.decode().strip())
    assert done.returncode == 124 and b"killed after" in done.stderr


@pytest.mark.parametrize("command", ["logs", "attach", "kill", "wait"])
def test_processes_that_are_not_there_are_named(daemon, command):
    done = tool(daemon, command, "proc_none")
    assert done.returncode in (1, 125) and done.stderr.count(b"\n") == 1
    assert b"proc_none" in done.stderr
    assert tool(daemon, command).returncode == 2


def test_wrong_usage_of_the_new_options(daemon, sandbox):
    for args in (("kill", "-s", "NONE", "proc_x"), ("ps", "-i"), ("run", "-t", ".", "--", "true"),
                 ("shell", "--json", sandbox), ("shell",), ("exec", sandbox),
                 ("exec", "-it", sandbox), ("ls", "--all"), ("wait", "-f", "x"),
                 ("shell", sandbox, "--")):
        assert tool(daemon, *args).returncode == 2, args
    for command in ("shell", "exec", "ps", "logs", "attach", "kill", "wait"):
        assert b"Usage: agentfense" in tool(daemon, command, "--help").stdout


def test_attach_to_a_terminal_and_leave_it_running(daemon, terminal, sandbox):
    process = tool(daemon, "exec", "-d", "-i", "-t", sandbox, "--", "sh", "-c",
                   "echo up; while read x; do echo got $x; stty size; done; exit 5")
    process = process.stdout.decode().strip()
    first = terminal("attach", process)
    first.expect(b"up\r\n")
    assert first.is_raw()
    first.type(b"one\r")
    first.expect(b"got one\r\n30 100\r\n")
    first.type(b"\x10")
    first.type(b"\x11")  # Ctrl-P Ctrl-Q
    assert first.wait() == 0 and b"left running" in first.shown
    assert next(p for p in ps(daemon) if p["id"] == process)["running"]
    second = terminal("attach", process, rows=20, columns=70)
    second.expect(b"got one\r\n")
    second.type(b"\x10two\r")  # Ctrl-P alone is for the program
    second.expect(b"two\r\n20 70\r\n")
    second.resize(22, 77)
    eventually(lambda: second.read(0.1) is not None)
    second.type(b"\x04")
    assert second.wait() == 5


def test_a_hostile_command_line_is_listed_harmlessly(daemon, sandbox):
    process = tool(daemon, "exec", "-d", sandbox, "--", "sh", "-c", "exit 0 # \x1b[2J\n\u202e")
    tool(daemon, "wait", process.stdout.decode().strip())
    table = tool(daemon, "ps", sandbox).stdout
    assert b"\x1b" not in table and rb"\x1b[2J\n" in table
    assert any("\x1b[2J" in p["argv"][2] for p in ps(daemon, sandbox) if len(p["argv"]) == 3)


# ---- tmux -------------------------------------------------------------------------------------


class Tmux:
    """A tmux server of its own with one pane."""

    def __init__(self, directory, *argv):
        self.env = dict(os.environ, TMUX_TMPDIR=str(directory))
        self.env.pop("TMUX", None)
        self.call("new-session", "-d", "-x", "90", "-y", "28", *argv)
        self.call("set-option", "remain-on-exit", "on")

    def call(self, *args):
        return subprocess.run(["tmux", "-f", "/dev/null", *args], env=self.env, check=True,
                              capture_output=True, timeout=60).stdout.decode()

    def type(self, *keys):
        self.call("send-keys", *keys)

    def expect(self, words):
        eventually(lambda: words in self.call("capture-pane", "-p"), 60)

    def close(self):
        self.call("kill-server")


@pytest.fixture
def tmux(daemon, sandbox, tmp_path):
    # The code is told in the pane: tmux loses it when a program ends just as it notes the logout
    # (libutempter waits with SIGCHLD at its default).
    command = f"'{TOOL}' --socket '{daemon.socket}' shell {sandbox}; echo ended-$?; read end"
    made = Tmux(tmp_path, "sh", "-c", command)
    yield made
    made.close()


def test_full_screen_programs_in_tmux(tmux, client, sandbox):
    marker = unique("31342.4")
    tmux.expect("$")
    tmux.type("stty size", "Enter")
    tmux.expect("28 90")
    tmux.call("resize-window", "-x", "70", "-y", "20")
    tmux.type("until [ \"$(stty size)\" = '20 70' ]; do :; done; echo resized-$((1+1))", "Enter")
    tmux.expect("resized-2")
    tmux.type("vi note.txt", "Enter")
    tmux.expect("~")
    tmux.type("i", "written in vi", "Escape", ":wq", "Enter")
    eventually(lambda: client.exec(sandbox, "cat note.txt").stdout == "written in vi\n", 60)
    tmux.type("clear; seq 300 | less", "Enter")
    tmux.expect("19")
    tmux.type("G")
    tmux.expect("300")
    tmux.type("q")
    tmux.expect("$")
    tmux.type("clear; top -d 1", "Enter")
    tmux.expect("load average")
    tmux.type("q")
    tmux.expect("$")
    tmux.type(f"clear; sleep {marker}", "Enter")
    eventually(lambda: alive_with(marker))
    tmux.type("C-c")
    eventually(lambda: not alive_with(marker))
    tmux.type("exit 4", "Enter")
    tmux.expect("ended-4")


def test_the_terminal_of_tmux_is_whole_after_the_shell(daemon, sandbox, tmp_path):
    command = f"'{TOOL}' --socket '{daemon.socket}' shell {sandbox}; echo back-$?; stty -a"
    tmux = Tmux(tmp_path, "sh", "-c", command)
    try:
        tmux.expect("$")
        tmux.type("stty raw; exit 6", "Enter")
        tmux.expect("back-6")
        tmux.expect(" icanon")
    finally:
        tmux.close()


@pytest.mark.parametrize("line, code", [
    ("{exec} -n {sandbox} -- yes | head -1", 141),
    ("{exec} -n {sandbox} -- sh -c 'yes 1>&2' 2>&1 | head -1", 141),
    ("yes | {exec} {sandbox} -- yes | head -1", 141),
    ("{exec} -n {sandbox} -- sh -c 'trap \"\" PIPE; while echo y; do :; done 2>/dev/null'"
     " | head -1", 0),
])
def test_a_lost_reader_is_heard_of_through_the_pipe(daemon, sandbox, line, code):
    command = line.format(exec=f"{TOOL} --socket {daemon.socket} exec", sandbox=sandbox)
    done = subprocess.run(["bash", "-c", f"{command}; echo ${{PIPESTATUS[-2]}} >&2"],
                          capture_output=True, timeout=60, check=False)
    assert done.stdout == b"y\n" and done.stderr == b"%d\n" % code


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_output_that_cannot_be_written_is_said(daemon, sandbox, flag):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [TOOL, "--socket", str(daemon.socket), "exec", "-n", *flag, sandbox, "--", "echo", "x"],
            stdout=full, stderr=subprocess.PIPE, timeout=60, check=False,
        )
    assert done.returncode == 125
    assert done.stderr == b"agentfense: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("line, code", [
    ("exec -n {sandbox} -- echo x", 125), ("exec -n --json {sandbox} -- echo x", 125),
    ("exec -d -n {sandbox} -- true", 125), ("ls", 1), ("--version", 1),
])
def test_a_closed_stdout_is_output_that_cannot_be_written(daemon, sandbox, line, code):
    command = f"{TOOL} --socket {daemon.socket} {line.format(sandbox=sandbox)}"
    done = subprocess.run(["bash", "-c", f"{command} >&-"], capture_output=True, timeout=60,
                          check=False)
    assert done.stderr == b"agentfense: cannot write the output: Bad file descriptor\n"
    assert (done.returncode, done.stdout) == (code, b"")


def test_a_closed_stderr_takes_nothing_from_stdout_or_the_exit_code(daemon, sandbox):
    words = f"exec {sandbox} -- sh -c 'echo x >&2; echo y; exit 3' <&- 2>&-"
    command = f"{TOOL} --socket {daemon.socket} {words}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60,
                          check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"y\n", b"")


def test_lines_of_json_are_whole_on_a_pipe_that_does_not_block(daemon, sandbox):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen(
        [TOOL, "--socket", str(daemon.socket), "exec", "-n", "--json", sandbox, "--",
         "head", "-c", "1000000", "/dev/zero"],
        stdout=writer, stderr=subprocess.PIPE,
    ) as tool, os.fdopen(reader, "rb") as lines:
        os.close(writer)
        time.sleep(0.5)  # the pipe is full
        *output, end = [json.loads(line) for line in lines]
        assert tool.wait(timeout=60) == 0 and tool.stderr.read() == b""
    assert sum(len(piece["data"]) for piece in output) == 1_000_000
    assert end["exit_code"] == 0


def test_a_list_that_cannot_be_written_is_said(daemon, sandbox):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([TOOL, "--socket", str(daemon.socket), "ls"], stdout=full,
                              stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 1 and sandbox
    assert done.stderr == b"agentfense: cannot write the output: No space left on device\n"
