"""The command line tools: agentfense-fsctl, and agentfense run on a directory."""

import json
import os
import shutil
import subprocess

import pytest

from harness import AGENT_SAFE, BIN, OPEN_POLICY, ROOT


def run(*argv, **kwargs):
    """Runs a tool; returns the finished process with text output."""
    return subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, timeout=120, **kwargs
    )


@pytest.fixture(scope="module")
def sandbox(client):
    """An agent-safe sandbox that wrote something."""
    files = {"README": "r", "src/a.py": "print(1)", "secrets/k": "S", ".env": "S"}
    made = client.sandbox(client.codebase(files), AGENT_SAFE, manual=True)
    client.out(made, "mkdir output && echo hi > output/new")
    yield made
    client.destroy(made)


@pytest.fixture
def fsctl(daemon):
    """Runs agentfense-fsctl on the module's daemon; must succeed."""

    def call(*args, ok=True):
        done = run(BIN / "agentfense-fsctl", "--socket", daemon.socket, *args)
        assert (done.returncode == 0) == ok, (args, done.stdout, done.stderr)
        return done.stdout if ok else done.stderr

    return call


def test_fsctl_views(fsctl, sandbox):
    assert sandbox in fsctl("views")
    views = json.loads(fsctl("--json", "views"))
    mine = [v for v in views if v["sandbox_id"] == sandbox][0]
    assert mine["status"] == "running" and mine["slot"] > 0


def test_fsctl_tree_shows_levels_and_hidden_with_all(fsctl, sandbox):
    out = fsctl("tree", sandbox)
    assert "src" in out and "a.py" in out and "secrets" not in out
    assert "secrets" in fsctl("tree", "--all", sandbox)
    nodes = {n["path"]: n for n in json.loads(fsctl("--json", "tree", "--all", sandbox))}
    assert nodes["secrets"]["level"] == "none" and nodes["output/new"]["level"] == "write"


def test_fsctl_stat(fsctl, sandbox):
    assert "read" in fsctl("stat", sandbox, "src/a.py")
    info = json.loads(fsctl("--json", "stat", sandbox, "src/a.py"))
    assert info["size"] == 8 and info["level"] == "read"
    assert info["shared"] is (OPEN_POLICY == "kernel")
    assert "no such" in fsctl("stat", sandbox, "nope", ok=False).lower()


def test_fsctl_explain(fsctl, sandbox):
    out = fsctl("explain", sandbox, "secrets/k")
    assert "**/secrets/**" in out and "none" in out
    why = json.loads(fsctl("--json", "explain", sandbox, "output/x"))
    assert why["level"] == "write" and why["matched"][0]["pattern"] == "/output/**"


def test_fsctl_diff(fsctl, sandbox):
    assert "output/new" in fsctl("diff", sandbox)
    changes = {e["path"]: e["change"] for e in json.loads(fsctl("--json", "diff", sandbox))}
    assert changes == {"output": "added", "output/new": "added"}


def test_fsctl_stats(fsctl, sandbox):
    assert "transport" in fsctl("stats")
    assert json.loads(fsctl("--json", "stats"))["open_policy"] == OPEN_POLICY


@pytest.mark.parametrize("words", ["stats", "explain {sandbox} f", "--version"])
def test_fsctl_says_that_stdout_is_closed(daemon, sandbox, words):
    """And writes it nowhere else, such as into the connection to the daemon."""
    command = [BIN / "agentfense-fsctl", "--socket", daemon.socket]
    command += words.format(sandbox=sandbox).split()
    done = run("bash", "-c", '"$@" >&-', "sh", *command)
    assert done.stderr == "agentfense-fsctl: cannot write the output: Bad file descriptor\n"
    assert done.returncode == 1


def test_fsctl_says_what_is_wrong(fsctl, tmp_path):
    assert fsctl("tree", "sb_nope", ok=False)
    assert "usage" in run(BIN / "agentfense-fsctl", "--help").stdout.lower()
    assert run(BIN / "agentfense-fsctl", "frobnicate").returncode == 2
    nobody = run(BIN / "agentfense-fsctl", "--socket", tmp_path / "none", "views")
    assert nobody.returncode != 0 and "none" in nobody.stderr


@pytest.fixture
def project(tmp_path):
    """A copy of examples/hello, and a way to tell whether it changed."""
    target = tmp_path / "hello"
    shutil.copytree(ROOT / "examples/hello", target, symlinks=True)
    return target


def snapshot(directory):
    found = {}
    for base, _, files in os.walk(directory):
        for name in files:
            path = os.path.join(base, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, directory)] = (file.read(), os.stat(path).st_mode)
    return found


def agentfense(*args, **kwargs):
    return run(BIN / "agentfense", *args, **kwargs)


def test_run_leaves_the_directory_untouched_and_says_what_changed(project):
    before = snapshot(project)
    done = agentfense(
        "run",
        project,
        "--preset",
        "full-access",
        "--",
        "sh",
        "-c",
        "cat README.md | head -n 1; echo new > made; rm run.sh; echo x >> src/hello.py",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# hello\n")
    for name in ("made", "run.sh", "src/hello.py"):
        assert name in done.stdout + done.stderr
    assert snapshot(project) == before


def test_run_exits_with_the_commands_code_and_applies_the_default_preset(project):
    assert agentfense("run", project, "--", "sh", "-c", "exit 7").returncode == 7
    hidden = agentfense("run", project, "--", "cat", ".env")
    assert hidden.returncode != 0 and "No such file" in hidden.stderr
    refused = agentfense("run", project, "--", "sh", "-c", "echo x > src/new")
    assert refused.returncode != 0 and "denied" in refused.stderr
    killed = agentfense("run", project, "--", "sh", "-c", "kill -9 $$")
    assert killed.returncode == 137


def test_run_permission_flags(project):
    done = agentfense(
        "run", project, "--permission", "/src/**=write@20", "--", "sh", "-c", "echo x > src/new"
    )
    assert done.returncode == 0 and "src/new" in done.stdout + done.stderr
    bad = agentfense("run", project, "--permission", "nonsense", "--", "true")
    assert bad.returncode == 2 and "nonsense" in bad.stderr


def test_run_diff_shows_the_changed_lines(project):
    done = agentfense(
        "run",
        "--diff",
        project,
        "--preset",
        "full-access",
        "--",
        "sh",
        "-c",
        "echo added >> README.md",
    )
    assert "+added" in done.stdout + done.stderr


def test_run_apply_brings_every_kind_of_change_back(project):
    (project / "old").mkdir()
    (project / "old/f").write_text("f")
    script = (
        "echo new > made; chmod 755 made; rm run.sh; mv old moved; ln -s README.md link; "
        "mkdir -p empty/dir; echo changed > README.md; chmod 600 src/hello.c; "
        "touch -d @1000000000 made"
    )
    done = agentfense(
        "run", "--apply", project, "--preset", "full-access", "--", "sh", "-c", script
    )
    assert done.returncode == 0, done.stderr
    assert (project / "made").read_text() == "new\n"
    assert os.stat(project / "made").st_mode & 0o777 == 0o755
    assert int(os.stat(project / "made").st_mtime) == 1000000000
    assert not (project / "run.sh").exists()
    assert not (project / "old").exists() and (project / "moved/f").read_text() == "f"
    assert os.readlink(project / "link") == "README.md"
    assert (project / "empty/dir").is_dir()
    assert (project / "README.md").read_text() == "changed\n"
    assert os.stat(project / "src/hello.c").st_mode & 0o777 == 0o600
    assert (project / ".env").exists() and (project / "secrets/db.json").exists()


def test_E1_apply_never_writes_through_a_symlink(project, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (project / "src").rename(project / "real")
    os.symlink(victim, project / "src")
    done = agentfense(
        "run",
        "--apply",
        project,
        "--preset",
        "full-access",
        "--",
        "sh",
        "-c",
        "rm src; mkdir src; echo evil > src/file",
    )
    assert done.returncode == 0, done.stderr
    assert not list(victim.iterdir())
    assert (project / "src/file").read_text() == "evil\n" and not (project / "src").is_symlink()


def test_run_keeps_modes_symlinks_and_empty_directories_of_the_directory(project):
    os.symlink("README.md", project / "link")
    (project / "empty").mkdir()
    os.chmod(project / "src/hello.c", 0o600)
    done = agentfense(
        "run",
        project,
        "--preset",
        "full-access",
        "--",
        "sh",
        "-c",
        "readlink link; stat -c %a src/hello.c run.sh; ls -A empty | wc -l",
    )
    assert done.stdout.split()[:4] == ["README.md", "600", "755", "0"]


def test_run_leaves_no_daemon_and_no_mount_behind(project, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    done = agentfense("run", project, "--", "true", env=dict(os.environ, TMPDIR=str(private)))
    assert done.returncode == 0, done.stderr
    assert str(private) not in open("/proc/self/mountinfo").read()
    assert not list(private.iterdir())


def test_run_on_a_shared_daemon(project, daemon):
    done = agentfense("--socket", daemon.socket, "run", project, "--", "cat", "README.md")
    assert done.returncode == 0 and done.stdout.startswith("# hello")


def test_run_with_bad_arguments(project):
    assert agentfense("run", project / "nope", "--", "true").returncode not in (0, -11, -6)
    assert agentfense("run", project).returncode == 2
    assert agentfense("run", project, "--preset", "nope", "--", "true").returncode == 2
    assert "usage" in agentfense("--help").stdout.lower()


def test_stdin_reaches_the_command(project):
    done = agentfense("run", project, "--", "wc", "-c", input="12345")
    assert done.stdout.split()[0] == "5"
