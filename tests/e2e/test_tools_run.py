"""agentfense run and its sister commands when things go wrong: kills, conflicts, hostile names."""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

from harness import BIN, FULL, ROOT, eventually

TOOL = str(BIN / "agentfense")
FSCTL = str(BIN / "agentfense-fsctl")


def run(*argv, **kwargs):
    """Runs a program to its end, output as bytes."""
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        [os.fspath(a) for a in argv], capture_output=True, timeout=120, check=False, **kwargs
    )


def full(project, script, *flags, **kwargs):
    """agentfense run with full access; script is a shell line."""
    return run(TOOL, "run", *flags, "--preset", "full-access", project, "--", "sh", "-c", script,
               **kwargs)


@pytest.fixture
def project(tmp_path):
    """A small directory."""
    made = tmp_path / "project"
    (made / "src").mkdir(parents=True)
    (made / "README").write_text("readme\n")
    (made / "src/a").write_text("a\n")
    (made / ".env").write_text("SECRET\n")
    return made


@pytest.fixture
def private():
    """An environment whose TMPDIR is of this test alone and short, as a socket's path must be."""
    made = pathlib.Path(tempfile.mkdtemp(prefix="af-"))
    yield dict(os.environ, TMPDIR=str(made)), made
    shutil.rmtree(made, ignore_errors=True)


def left_behind(directory):
    """What a run left of its private daemon: files, mounts, processes."""
    found = [str(p) for p in directory.iterdir()]
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        found += [line for line in mounts if str(directory) in line]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read()
        except OSError:
            continue
        if str(directory).encode() in command:
            found.append(f"process {pid}: {command!r}")
    return found


class Paused:
    """A run whose command waits until its stdin, and with it this object, is closed.

    Changes made meanwhile are changes during the run.
    """

    def __init__(self, private, *argv):
        self.env, self.tmp = private
        at = argv.index("--") + 1
        argv = [*argv[:at], "sh", "-c", 'cat; exec "$@"', "sh", *argv[at:]]
        self.process = subprocess.Popen(
            [TOOL, *map(os.fspath, argv)], env=self.env, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        try:
            eventually(self.is_running)
        except BaseException:
            self.process.terminate()
            self.finish()
            raise

    def is_running(self):
        """Whether the sandbox has been started, which is after the import."""
        assert self.process.poll() is None, self.process.communicate()
        for found in self.tmp.glob("agentfense-*/socket"):
            done = run(FSCTL, "--socket", found, "--json", "views")
            return done.returncode == 0 and b'"running"' in done.stdout
        return False

    def finish(self):
        """Lets the command run. Returns (exit code, stdout, stderr)."""
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing_behind_and_applies_nothing(project, private, number):
    paused = Paused(private, "run", "--apply", "--preset", "full-access", project, "--", "rm",
                    "README")
    paused.process.send_signal(number)
    code, _, err = paused.finish()
    assert code == 128 + number and b"nothing was applied" in err
    assert left_behind(private[1]) == [] and (project / "README").exists()


def test_a_killed_run_leaves_nothing_behind(project, private):
    paused = Paused(private, "run", project, "--", "sleep", "1000")
    assert left_behind(private[1])
    paused.process.kill()
    paused.finish()
    eventually(lambda: left_behind(private[1]) == [])


def test_a_killed_keeper_leaves_no_daemon_and_no_mount(project, private):
    paused = Paused(private, "run", project, "--", "true")
    with open(f"/proc/{paused.process.pid}/task/{paused.process.pid}/children",
              encoding="utf-8") as children:
        keeper = int(children.read().split()[0])
    os.kill(keeper, signal.SIGKILL)
    code, _, _ = paused.finish()
    assert code == 125
    # The directory stays, for nobody is left to remove it; daemon and mount go.
    eventually(lambda: [f for f in left_behind(private[1]) if "agentfense-" not in f[-18:]] == [])


def test_apply_refuses_when_the_directory_changed_at_the_same_path(project, private):
    paused = Paused(private, "run", "--apply", "--preset", "full-access", project, "--", "sh", "-c",
                    "echo agent > README; echo new > made")
    (project / "README").write_text("mine\n")
    code, _, err = paused.finish()
    assert code == 125 and b"README" in err and b"Nothing was applied" in err
    assert (project / "README").read_text() == "mine\n" and not (project / "made").exists()
    assert sorted(p.name for p in project.iterdir()) == [".env", "README", "src"]


def test_apply_keeps_changes_of_the_directory_at_other_paths(project, private):
    paused = Paused(private, "run", "--apply", "--preset", "full-access", project, "--", "sh", "-c",
                    "echo agent > README")
    (project / "src/a").write_text("mine\n")
    code, _, err = paused.finish()
    assert code == 0, err
    assert (project / "README").read_text() == "agent\n"
    assert (project / "src/a").read_text() == "mine\n"


def test_apply_takes_over_what_a_failed_command_changed_and_says_so(project):
    done = full(project, "echo x > made; exit 3", "--apply")
    assert done.returncode == 3 and b"although the command failed" in done.stderr
    assert (project / "made").read_text() == "x\n"


def test_a_timeout_ends_with_124_and_applies_nothing(project):
    done = full(project, "echo x > made; sleep 1000", "--apply", "--timeout", "0.5")
    assert done.returncode == 124 and b"NOT applied" in done.stderr and b"made" in done.stderr
    assert not (project / "made").exists()


def test_apply_of_moves_and_replacements_in_one_go(project):
    (project / "d1").mkdir()
    (project / "d1/f").write_text("one")
    (project / "d2").mkdir()
    (project / "d2/f").write_text("two")
    os.symlink("README", project / "link")
    script = (
        "mv d1 t && mv d2 d1 && mv t d2; echo more >> d2/f; rm link; ln -s src link; "
        "rm -r src; echo file > src; mv README d1/README; mkdir README; touch README/x"
    )
    done = full(project, script, "--apply")
    assert done.returncode == 0, done.stderr
    assert (project / "d1/f").read_text() == "two" and (project / "d2/f").read_text() == "onemore\n"
    assert os.readlink(project / "link") == "src" and (project / "src").read_text() == "file\n"
    assert (project / "d1/README").read_text() == "readme\n" and (project / "README/x").is_file()


def test_E1_links_that_the_agent_made_are_applied_as_links(project, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    done = full(project, f"rm README; ln -s {victim} README; ln -s {tmp_path} src/up", "--apply")
    assert done.returncode == 0, done.stderr
    assert victim.read_text() == "precious" and os.readlink(project / "README") == str(victim)


def test_B8_hostile_names_come_back_as_they_are_and_print_harmlessly(project):
    name = b"evil\x1b[2J\nA  fake\xff"
    done = full(project, r"""printf x > "$(printf 'evil\033[2J\nA  fake\377')" """, "--apply",
                "--diff")
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stderr and rb"evil\x1b[2J\nA  fake\xff" in done.stderr
    assert name in os.listdir(os.fsencode(project))


def test_set_id_bits_do_not_reach_the_directory(project):
    done = full(project, "cp /bin/true t; chmod 6755 t", "--apply")
    assert done.returncode == 0, done.stderr
    assert os.stat(project / "t").st_mode & 0o7777 == 0o755 and b"set-user-id" in done.stderr


def test_sockets_of_the_directory_are_left_out_with_a_note(project):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(project / "sock"))
        done = full(project, "ls; rm -r src")
    assert done.returncode == 0 and b"sock" not in done.stdout
    assert b"left out: sock" in done.stderr and (project / "src/a").exists()


def test_the_git_directory_is_imported_but_hidden_by_the_preset(project):
    (project / ".git").mkdir()
    (project / ".git/config").write_text("[core]\n")
    hidden = run(TOOL, "run", project, "--", "ls", "-A")
    assert hidden.returncode == 0 and b".git" not in hidden.stdout
    assert b"[core]" in full(project, "cat .git/config").stdout


def test_a_permission_without_priority_opens_but_does_not_uncover(project):
    (project / "src/.env").write_text("SECRET")
    flags = ("--permission", "/src/**=write")
    opened = run(TOOL, "run", *flags, project, "--", "sh", "-c", "echo x > src/a; ls -A src")
    assert opened.returncode == 0 and opened.stdout == b"a\n", opened.stderr
    flags = ("--permission", "/src/.env=read@200")
    assert b"SECRET" in run(TOOL, "run", *flags, project, "--", "cat", "src/.env").stdout


@pytest.fixture
def linked(project):
    """The directory with a file of two names, and one whose other name is outside."""
    (project / "b").hardlink_to(project / "src/a")
    (project.parent / "outside").write_text("out\n")
    (project / "half").hardlink_to(project.parent / "outside")
    return project


def test_names_of_one_file_stay_names_of_one_file(linked):
    done = full(linked, "stat -c '%h %i' src/a b half; echo more >> b; cat src/a; stat -c %h half")
    assert done.returncode == 0, done.stderr
    first, second, half, *rest = done.stdout.decode().split("\n")
    assert first == second and first.startswith("2 ") and half.startswith("1 ")
    assert rest == ["a", "more", "1", ""]
    assert b"M  b\n" in done.stderr and b"M  src/a\n" in done.stderr
    assert (linked / "b").read_text() == "a\n"


def test_what_is_left_out_is_left_out_by_all_its_names(linked):
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(linked, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{here}/s1")
        os.close(here)
    (linked / "s2").hardlink_to(linked / "s1")
    os.symlink("README", linked / "l1")
    os.link(linked / "l1", linked / "l2", follow_symlinks=False)
    os.mkfifo(linked / "p1")
    (linked / "p2").hardlink_to(linked / "p1")
    done = full(linked, "ls; readlink l1 l2; stat -c %h p2")
    assert done.returncode == 0, done.stderr
    names = ["README", "b", "half", "l1", "l2", "p1", "p2", "src"]
    assert done.stdout.decode().split() == names + ["README", "README", "2"]
    assert done.stderr.count(b"left out") == 2


def test_apply_changes_every_name_of_a_file_and_keeps_them_together(linked):
    done = full(linked, "echo more >> b; chmod 600 half; echo n > n1; ln n1 src/n2; ln n1 n3",
                "--apply")
    assert done.returncode == 0, done.stderr
    assert (linked / "src/a").read_text() == (linked / "b").read_text() == "a\nmore\n"
    assert (linked / "src/a").samefile(linked / "b")
    assert (linked / "n1").samefile(linked / "src/n2")
    assert (linked / "n1").samefile(linked / "n3")
    assert (linked / "half").stat().st_mode & 0o777 == 0o600
    assert (linked / "half").stat().st_nlink == 2


def test_apply_of_a_file_that_left_the_others_leaves_them_alone(linked):
    done = full(linked, "cp b t && echo own >> t && mv t b", "--apply")
    assert done.returncode == 0, done.stderr
    assert ((linked / "src/a").read_text(), (linked / "b").read_text()) == ("a\n", "a\nown\n")


def test_apply_of_a_mode_and_of_times_that_several_names_have(linked):
    done = full(linked, "chmod 640 b; touch -d 2001-02-03 b", "--apply")
    assert done.returncode == 0, done.stderr
    assert (linked / "src/a").samefile(linked / "b")
    assert (linked / "b").stat().st_mode & 0o777 == 0o640
    assert time.localtime((linked / "b").stat().st_mtime).tm_year == 2001


def test_a_sandbox_that_is_kept_has_the_links_too(linked, daemon, client):
    done = run(TOOL, "create", "--socket", daemon.socket, "--preset", "full-access", linked)
    assert done.returncode == 0, done.stderr
    sandbox = done.stdout.decode().strip()
    assert client.out(sandbox, "stat -c %h b src/a half") == "2\n2\n1\n"
    assert run(TOOL, "rm", "--socket", daemon.socket, sandbox).returncode == 0


def test_output_and_stdin_are_raw_bytes(project):
    data = bytes(range(256)) * 1000
    done = subprocess.run([TOOL, "run", str(project), "--", "cat"], input=data,
                          capture_output=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout == data
    done = full(project, "echo err >&2")
    assert done.stdout == b"" and done.stderr.startswith(b"err\n")


def test_stdin_and_output_have_no_bound_and_stay_as_they_are(project):
    data = random.Random(2).randbytes(20 << 20)
    done = subprocess.run([TOOL, "run", str(project), "--", "cat"], input=data,
                          capture_output=True, timeout=120, check=False)
    assert done.returncode == 0 and done.stdout == data


def test_output_comes_while_the_command_runs_and_stdin_as_well(project):
    script = "echo first; read x; echo $x; read x || echo end"
    with subprocess.Popen([TOOL, "run", project, "--", "sh", "-c", script], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"first\n"
        process.stdin.write(b"second\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"second\n"
        process.stdin.close()
        assert process.stdout.readline() == b"end\n"
    assert process.returncode == 0


def test_a_command_that_ends_does_not_wait_for_the_end_of_stdin(project):
    with subprocess.Popen([TOOL, "run", project, "--", "echo", "x"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.read() == b"x\n" and process.wait(60) == 0


def test_a_lost_reader_ends_the_command_as_it_would_at_home(project):
    command = f"{TOOL} run {project} -n -- yes 2>/dev/null | head -1; echo ${{PIPESTATUS[0]}}"
    assert run("bash", "-c", command).stdout == b"y\n141\n"


def test_environment_and_workdir_reach_the_command_and_the_tools_own_do_not(project):
    env = dict(os.environ, LEAK="leaked")
    done = run(TOOL, "run", "--env", "A=b c", "--workdir", "/workspace/src", project, "--", "sh",
               "-c", 'echo "$A $LEAK"; pwd', env=env)
    assert done.stdout == b"b c \n/workspace/src\n", done.stderr


def test_a_program_that_is_not_there_is_named(project):
    done = run(TOOL, "run", project, "--", "no-such-program")
    assert done.returncode == 125 and b"no-such-program" in done.stderr


def test_a_shared_daemon_keeps_nothing_unless_told_to(project, daemon, client):
    def count():
        return len(json.loads(run(FSCTL, "--socket", daemon.socket, "--json", "views").stdout))

    before = count()
    env = dict(os.environ, AGENTFENSE_SOCKET=str(daemon.socket))
    assert full(project, "exit 5", env=env).returncode == 5
    assert run(TOOL, "run", project, "--", "no-such-program", env=env).returncode == 125
    assert count() == before
    done = full(project, "echo x > made", "--keep", env=env)
    assert count() == before + 1
    kept = done.stderr.decode().split("kept: ")[1].strip()
    assert "made" in run(FSCTL, "diff", kept, env=env).stdout.decode()
    assert run(TOOL, "rm", kept, env=env).returncode == 0 and count() == before


def test_create_exec_ls_and_rm(project, daemon):
    def call(*args):
        return run(TOOL, "--socket", daemon.socket, *args)

    made = call("create", project, "--preset", "read-only").stdout.decode().strip()
    assert made.startswith("sb_") and made in call("ls").stdout.decode()
    assert call("exec", made[:12], "--", "cat", "README").stdout == b"readme\n"
    assert call("exec", made, "--", "sh", "-c", "exit 9").returncode == 9
    assert call("exec", made, "--", "touch", "x").returncode == 1
    assert call("rm", made).returncode == 0 and made not in call("ls").stdout.decode()
    gone = call("rm", made)
    assert gone.returncode == 1 and gone.stderr


def test_fsctl_json_is_valid_for_names_of_any_bytes(project, daemon, client):
    made = client.sandbox(client.codebase({}), FULL, manual=True)
    try:
        client.out(made, r"""printf x > "$(printf 'a\377\033b')"; mkdir 'q"\'""")
        for command in ("tree", "diff"):
            out = run(FSCTL, "--socket", daemon.socket, command, "--json", made).stdout
            nodes = {n.get("path_hex", n["path"]): n for n in json.loads(out.decode("utf-8"))}
            assert nodes["61ff1b62"]["path"] == "a\ufffd\x1bb" and 'q"\\' in nodes
            text = run(FSCTL, "--socket", daemon.socket, command, made).stdout
            assert b"\x1b" not in text and rb"a\xff\x1bb" in text
    finally:
        client.destroy(made)


def test_fsctl_takes_the_beginning_of_an_id_and_a_depth(project, daemon, client):
    made = client.sandbox(client.codebase({"a/b/c": "x", "a.txt": "y"}), FULL)
    try:
        def tree(*args):
            out = run(FSCTL, "--socket", daemon.socket, "--json", "tree", *args).stdout
            return [n["path"] for n in json.loads(out)]

        assert tree(made[3:15]) == ["a", "a/b", "a/b/c", "a.txt"]
        assert tree("--depth", "1", made[:14]) == ["a", "a.txt"]
        assert tree(made, "/a/") == ["a/b", "a/b/c"]
        for bad in (("tree", ""), ("tree", made, "../x"), ("stat", made, "no")):
            done = run(FSCTL, "--socket", daemon.socket, *bad)
            assert done.returncode == 1 and done.stderr.count(b"\n") == 1
        for bad in (("tree", "--depth", "0", made), ("views", "x"), ("views", "--all"), ("stat",)):
            assert run(FSCTL, "--socket", daemon.socket, *bad).returncode == 2
    finally:
        client.destroy(made)


def test_the_demonstration_works_and_leaves_nothing_behind(private):
    env = dict(private[0], AGENTFENSE_BIN=str(BIN))
    done = run(ROOT / "tools/demo.sh", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"No such file or directory" in done.stdout and b"Permission denied" in done.stdout
    assert left_behind(private[1]) == []


def sparse_project(directory, size, data=b""):
    """A directory with one sparse file: `data` in its middle."""
    directory.mkdir()
    with open(directory / "disk.img", "wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(data)
    return directory


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB, so that what is imported densely fails instead of filling a disk."""
    made = tmp_path / "disk"
    made.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", made], check=True)
    yield made
    subprocess.run(["umount", "-l", made], check=False)


def test_a_sparse_file_of_2_tib_costs_neither_time_nor_space(small_disk, new_daemon):
    project = sparse_project(small_disk / "project", 2 << 40, b"needle")
    daemon = new_daemon()
    daemon.dir = small_disk
    daemon.state, daemon.mount = small_disk / "state", small_disk / "mnt"
    daemon.start()
    used = shutil.disk_usage(small_disk).used
    began = time.monotonic()
    made = run(TOOL, "--socket", daemon.socket, "create", "--preset", "full-access", project)
    assert made.returncode == 0, made.stderr
    assert time.monotonic() - began < 5  # milliseconds, on a machine that does nothing else
    assert shutil.disk_usage(small_disk).used - used < 8 << 20
    script = (f"stat -c %s disk.img; tail -c +{(1 << 40) + 1} disk.img | head -c 6;"
              "printf x | dd of=disk.img conv=notrunc status=none; stat -c %s disk.img")
    done = run(TOOL, "--socket", daemon.socket, "exec", made.stdout.decode().strip(), "--", "sh",
               "-c", script)
    assert done.stdout == b"2199023255552\nneedle2199023255552\n", done.stderr
    assert shutil.disk_usage(small_disk).used - used < 16 << 20


def test_apply_writes_zeros_as_holes(tmp_path):
    project = sparse_project(tmp_path / "sparse", 256 << 20, b"old")
    done = full(project, "printf new | dd of=disk.img conv=notrunc status=none; "
                "truncate -s 64M made", "--apply", "--diff")
    assert done.returncode == 0, done.stderr
    assert b"disk.img: more than 32 MiB, no diff" in done.stderr
    with open(project / "disk.img", "rb") as file:
        assert file.read(4) == b"new\0"
        file.seek(128 << 20)
        assert file.read(4) == b"old\0"
    for name, size in (("disk.img", 256 << 20), ("made", 64 << 20)):
        st = os.stat(project / name)
        assert st.st_size == size and st.st_blocks * 512 < 1 << 20, name


def test_apply_of_a_file_of_2_tib_costs_neither_time_nor_space(small_disk):
    project = small_disk / "project"
    project.mkdir()
    began = time.monotonic()
    done = full(project, "truncate -s 2T made; echo x > moved; truncate -s 2T moved; "
                "printf y >> moved", "--apply", "--diff")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 20  # with the start of a private daemon
    assert os.stat(project / "made").st_size == 2 << 40
    with open(project / "moved", "rb") as file:
        assert file.read(3) == b"x\n\0"
        file.seek(2 << 40)
        assert file.read() == b"y"
    assert shutil.disk_usage(small_disk).used < 1 << 20


def test_without_a_timeout_the_servers_maximum_is_taken(project, new_daemon):
    daemon = new_daemon("--exec-timeout-max", "60s").start()
    done = run(TOOL, "--socket", daemon.socket, "run", project, "--", "true")
    assert done.returncode == 0, done.stderr
    made = run(TOOL, "--socket", daemon.socket, "create", project).stdout.decode().strip()
    done = run(TOOL, "--socket", daemon.socket, "exec", made, "--", "true")
    assert done.returncode == 0, done.stderr
    done = run(TOOL, "--socket", daemon.socket, "exec", "--timeout", "61", made, "--", "true")
    assert done.returncode == 125 and b"60 s" in done.stderr


def test_fsctl_json_of_a_call_that_fails_is_empty(project, daemon, client):
    made = client.sandbox(client.codebase({}), FULL, manual=True)
    try:
        def call(*args):
            return run(FSCTL, "--socket", daemon.socket, "--json", *args)

        for bad in (("tree", made, "nope"), ("tree", "sb_00000000000000000000000000"),
                    ("diff", "sb_00000000000000000000000000"), ("stat", made, "nope")):
            done = call(*bad)
            assert done.returncode == 1 and done.stdout == b"" and done.stderr, bad
        assert json.loads(call("tree", made).stdout) == []
        assert json.loads(call("diff", made).stdout) == []
    finally:
        client.destroy(made)


def readme_session():
    """README's session: [(command, what is shown below it)]."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("## A session")[1].split("```console\n")[1].split("```")[0]
    parts = re.split(r"^# ", block, flags=re.M)[1:]
    return [tuple(part.partition("\n")[::2]) for part in parts]


def settled(text, home):
    """Without what is different each time: ids, times, the home directory, the daemon's log, and
    which box of the pool came first (slot and uid of a view)."""
    text = re.sub(r"^level=.*\n", "", text.replace(str(home), "/root"), flags=re.M)
    text = re.sub(r"sb_[0-9a-z]{26}", "sb_ID", text)
    text = re.sub(r"(running +)\d+  20000\d", r"\1N  UID", text)
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "WHEN", text)


def test_readmes_session_goes_as_it_is_shown(tmp_path):
    """In a mount namespace of its own, where the default places are empty."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", symlinks=True)
    script = ["exec 2>&1", "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib || exit 99"]
    for command, _ in readme_session():
        script.append("echo @@@")
        if command.endswith(" &"):  # what is typed next comes when it is ready
            script.append(f"exec 3< <({command[:-2]}); daemon=$!")
            script.append("while read -ru3 line && [ \"$line\" != ready ]; do :; done")
            script.append("echo \"$line\"")
        else:
            script.append(command + " <&-")
    script.append("kill $daemon; cat <&3 > /dev/null")
    env = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = run("unshare", "-m", "bash", "-c", "\n".join(script), env=env, cwd=tmp_path)
    shown = done.stdout.decode().split("@@@\n")[1:]
    assert len(shown) == len(readme_session()), done.stdout
    for (command, expected), got in zip(readme_session(), shown):
        assert settled(got, tmp_path) == settled(expected, tmp_path), command


DEEP = """python3 -c "
import os
for i in range(2200):
    os.mkdir('d'); os.chdir('d')
"; echo kept > a-file"""


def test_paths_too_long_for_any_program_hide_nothing_else(project):
    done = full(project, DEEP)
    assert done.returncode == 0, done.stderr
    assert b"a-file" in done.stderr and b"more changes lie at paths of over" in done.stderr
    told = json.loads(full(project, DEEP, "--json").stdout.splitlines()[-1])
    assert told["too_long"] > 0 and "a-file" in {change["path"] for change in told["changes"]}
    before = sorted(os.listdir(project))
    refused = full(project, DEEP, "--apply")
    assert refused.returncode == 125 and b"nothing is applied" in refused.stderr
    assert sorted(os.listdir(project)) == before


def test_two_private_daemons_run_their_sandboxes_as_different_users(project):
    script = "cat /proc/self/uid_map"
    uids = {full(project, script).stdout.split()[1] for _ in range(2)}
    assert len(uids) == 2 and all(int(uid) > 1_000_000_000 for uid in uids)
