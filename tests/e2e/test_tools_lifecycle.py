"""agentfense create with its options, start, stop, diff: on a daemon that runs already."""

import json
import subprocess

import pytest

from harness import BIN, pb, sbpb


@pytest.fixture
def tool(daemon):
    """Runs agentfense on the module's daemon; returns (exit code, stdout, stderr)."""

    def call(*args):
        done = subprocess.run(
            [str(BIN / "agentfense"), "--socket", str(daemon.socket), *map(str, args)],
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def project(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a").write_text("a\n")
    return tmp_path


def made(tool, *args):
    code, out, err = tool("create", "--json", "--preset", "full-access", *args)
    assert code == 0, err
    return json.loads(out)


def test_create_passes_quota_policy_labels_and_lifetime_on(tool, client, project):
    ids = made(tool, project, "--quota", "10M", "--quota-inodes", "50", "--commit-policy",
               "on-destroy", "--conflicts", "refuse", "--expires-in", "1h", "--owner", "red",
               "--label", "team=red", "--label", "a=b=c", "--network", "none", "--runtime", "bwrap")
    info = client.views.Get(sbpb.GetRequest(sandbox_id=ids["sandbox_id"]))
    assert (info.options.quota.bytes, info.options.quota.inodes) == (10 << 20, 50)
    assert info.options.commit_policy == sbpb.COMMIT_POLICY_ON_DESTROY
    assert info.options.conflict_policy == sbpb.CONFLICT_POLICY_REFUSE
    assert info.owner_id == "red"
    assert info.sandbox.labels["team"] == "red" and info.sandbox.labels["a"] == "b=c"
    lifetime = info.sandbox.expires_at.seconds - info.sandbox.created_at.seconds
    assert 3598 <= lifetime <= 3602
    assert info.sandbox.runtime == pb.RUNTIME_TYPE_BWRAP
    assert tool("ls", "--label", "team=red")[1].startswith(ids["sandbox_id"])
    code, _, err = tool("exec", ids["sandbox_id"], "--", "dd", "if=/dev/zero", "of=big", "bs=1M",
                        "count=20")
    assert code != 0 and ("quota" in err.lower() or "space" in err.lower()), err
    assert tool("rm", ids["sandbox_id"])[0] == 0


@pytest.mark.parametrize("flag, value", [
    ("--quota", "0"), ("--quota", "-1"), ("--quota", "1X"), ("--quota", "99999999999T"),
    ("--memory", "lots"), ("--cpus", "nan"), ("--cpus", "0"), ("--pids", "1K"),
    ("--expires-in", "5"), ("--expires-in", "1y"), ("--commit-policy", "sometimes"),
    ("--network", "lan"), ("--runtime", "vm"), ("--owner", ""), ("--label", "novalue"),
])
def test_create_refuses_a_malformed_value_with_2_and_makes_nothing(tool, project, flag, value):
    before = tool("ls")[1]
    code, out, err = tool("create", project, flag, value)
    assert (code, out) == (2, "") and flag in err
    assert tool("ls")[1] == before


def test_a_sandbox_on_a_codebase_leaves_the_codebase_when_it_is_removed(tool, client):
    codebase = client.codebase({"a": "a"})
    ids = made(tool, codebase)
    assert ids["codebase_id"] == codebase
    assert tool("rm", ids["sandbox_id"])[0] == 0
    assert client.download(codebase, "a") == b"a"
    # Nor when the sandbox cannot be made.
    code, _, err = tool("create", codebase, "--image", "no-such-root")
    assert code == 1 and "no-such-root" in err
    assert client.download(codebase, "a") == b"a"


def test_stop_keeps_the_changes_and_start_brings_the_sandbox_back(tool, project):
    ids = made(tool, project)
    box = ids["sandbox_id"]
    assert tool("exec", box, "--", "sh", "-c", "echo b > src/b; ln -s b src/l; rm src/a")[0] == 0
    assert tool("stop", box)[0] == 0
    assert "stopped" in tool("ls")[1]
    code, out, _ = tool("diff", box)
    assert code == 0
    assert out.splitlines() == ["  D  src/a", "  A  src/b", "  A  src/l -> b"]
    entries = {e["path"]: e for e in json.loads(tool("diff", "--json", box)[1])}
    assert entries["src/b"]["size"] == 2 and entries["src/b"]["kind"] == "file"
    assert entries["src/l"]["symlink_target"] == "b"
    assert entries["src/a"]["change"] == "deleted"
    assert tool("start", box)[0] == 0
    assert tool("exec", box, "--", "cat", "src/b")[1] == "b\n"
    # One that is not there fails, the others are done all the same.
    code, _, err = tool("stop", "sb_nosuch", box)
    assert code == 1 and "sb_nosuch" in err
    assert "stopped" in tool("ls")[1]
    assert tool("rm", box)[0] == 0


def test_every_command_has_help_that_names_its_arguments(tool):
    usage = tool("--help")[1]
    commands = [line.split()[0] for line in usage.splitlines()
                if line.startswith("  ") and line[2] not in " -"]
    assert {"run", "create", "ls", "start", "stop", "exec", "shell", "diff", "commit", "rollback",
            "rules", "ps", "logs", "rm"} <= set(commands)
    for command in commands:
        code, out, _ = tool(command, "--help")
        assert code == 0 and out.startswith(f"Usage: agentfense [OPTION...] {command} ")
