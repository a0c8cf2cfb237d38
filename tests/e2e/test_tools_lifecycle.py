"""agentfense create with its options, start, stop, diff: on a daemon that runs already."""

import json
import subprocess
import time

import pytest

from harness import BIN, pb, sbpb


@pytest.fixture
def tool(daemon):
    """Runs agentfense on the module's daemon; returns (exit code, stdout, stderr)."""

    def call(*args, program="agentfense"):
        done = subprocess.run(
            [str(BIN / program), "--socket", str(daemon.socket), *map(str, args)],
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
    ("--iops", "0"), ("--iops", "2G"), ("--bandwidth", "63K"), ("--bandwidth", "9G"),
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


def test_a_living_sandbox_gets_another_lifetime_policy_and_quota(tool, client, project):
    box = made(tool, project, "--quota-inodes", "7", "--conflicts", "refuse")["sandbox_id"]

    def view():
        return client.views.Get(sbpb.GetRequest(sandbox_id=box))

    assert tool("set", box, "--expires-in", "2h") == (0, "", "")
    left = view().sandbox.expires_at.ToSeconds() - time.time()
    assert 7100 < left <= 7201
    assert tool("set", box[:10], "--expires-in", "never", "--quota", "5M",
                "--commit-policy", "on-exec") == (0, "", "")
    info = view()
    assert not info.sandbox.HasField("expires_at")
    assert (info.options.quota.bytes, info.options.quota.inodes) == (5 << 20, 7)
    assert info.options.commit_policy == sbpb.COMMIT_POLICY_ON_EXEC
    assert info.options.conflict_policy == sbpb.CONFLICT_POLICY_REFUSE, "it was not given"
    tool("exec", box, "--", "sh", "-c", "echo new > new")
    assert tool("diff", box)[1] == "", "on-exec commits"
    for args in ([], ["--expires-in", "soon"], ["--owner", "me"], ["--memory", "1G"]):
        assert tool("set", box, *args)[0] == 2, args
    assert tool("set", "sb_nothing", "--quota", "1M")[0] == 1
    tool("rm", box)


def test_limits_of_requests_and_bytes_are_given_changed_and_shown(tool, client, project):
    box = made(tool, project, "--iops", "1K", "--bandwidth", "2M")["sandbox_id"]

    def limit():
        options = client.views.Get(sbpb.GetRequest(sandbox_id=box)).options
        return options.io_limit.iops, options.io_limit.bandwidth

    def views():
        return next(v for v in json.loads(tool("views", "--json", program="agentfense-fsctl")[1])
                    if v["sandbox_id"] == box)

    assert limit() == (1024, 2 << 20)
    assert tool("set", box, "--iops", "30") == (0, "", "")
    assert limit() == (30, 2 << 20), "what is not given stays"
    assert (views()["iops"], views()["bandwidth"]) == (30, 2 << 20)
    assert "30     2.0M" in tool("views", program="agentfense-fsctl")[1]
    assert tool("exec", box, "--", "sh", "-c", "mkdir $(seq 30)")[0] == 0
    shown = json.loads(tool("requests", "--json", box, program="agentfense-fsctl")[1])
    assert (shown["iops"], shown["bandwidth"]) == (30, 2 << 20)
    assert shown["held"] > 0 and shown["held_ns"] > 1e8
    text = tool("requests", box, program="agentfense-fsctl")[1]
    assert "limit: 30 requests/s, 2.0M/s; held back: " in text, text
    assert tool("set", box, "--iops", "none", "--bandwidth", "none") == (0, "", "")
    assert limit() == (0, 0)
    assert "limit: none; held back: " in tool("requests", box, program="agentfense-fsctl")[1]
    assert tool("rm", box)[0] == 0


def test_run_takes_a_limit(tool, project):
    began = time.monotonic()
    assert tool("run", str(project), "--permission", "**=write", "--iops", "20", "--", "sh", "-c",
                "mkdir $(seq 10)")[0] == 0
    assert time.monotonic() - began > 0.8


def test_rebase_brings_in_what_others_did(tool, client):
    codebase = client.codebase({"a": "a"})
    box = made(tool, codebase)["sandbox_id"]
    tool("exec", box, "--", "sh", "-c", "echo mine > mine")
    client.upload(codebase, "theirs", b"theirs")
    assert tool("exec", box, "--", "ls")[1] == "a\nmine\n"
    assert tool("rebase", box) == (0, "brought onto the codebase's present state\n", "")
    assert tool("exec", box, "--", "ls")[1] == "a\nmine\ntheirs\n"
    assert "already" in tool("rebase", box)[1]
    assert tool("rebase", "sb_nothing")[0] == 1
    tool("rm", box)


def test_many_are_made_and_removed_in_one_step(tool, client, project):
    code, out, err = tool("create", "--copies", "5", "--label", "set=five", project)
    ids = out.split()
    assert (code, err, len(set(ids))) == (0, "", 5)
    assert tool("exec", ids[4], "--", "cat", "src/a")[1] == "a\n"
    assert sorted(line.split()[0] for line in
                  tool("ls", "--label", "set=five")[1].splitlines()) == sorted(ids)
    codebase = json.loads(tool("ls", "--json", "--label", "set=five")[1])[0]["codebase_id"]
    more = json.loads(tool("create", "--copies", "2", "--json", codebase)[1])
    assert [m["codebase_id"] for m in more] == [codebase] * 2
    code, _, err = tool("rm", *ids, "sb_nothing")
    assert code == 1 and err.count("\n") == 1 and "sb_nothing" in err
    client.codebases.GetCodebase(pb.GetCodebaseRequest(codebase_id=codebase))  # others use it
    assert tool("rm", *[m["sandbox_id"] for m in more]) == (0, "", "")
    for bad in ("0", "1025", "-1", "x"):
        assert tool("create", "--copies", bad, project)[0] == 2
    assert tool("create", "--copies", "2", "cb_" + "0" * 26)[0] == 1


def test_when_none_of_the_copies_can_be_made_nothing_stays(tool, client, project):
    before = client.codebases.ListCodebases(pb.ListCodebasesRequest())
    code, out, err = tool("create", "--copies", "3", "--network", "host", project)
    assert (code, out) == (1, "") and "network" in err
    assert client.codebases.ListCodebases(pb.ListCodebasesRequest()) == before


def test_exit_codes_are_those_of_the_manual(tool, project, daemon):
    box = made(tool, project)["sandbox_id"]

    def code(*args):
        return tool(*args)[0]

    assert code("exec", box, "--", "true") == 0
    assert code("exec", box, "--", "sh", "-c", "exit 77") == 77
    assert code("exec", box, "--", "sh", "-c", "kill -TERM $$") == 128 + 15
    assert code("exec", box, "--timeout", "0.2", "--", "sleep", "60") == 124
    assert code("exec", "sb_nothing", "--", "true") == 125
    assert code("run", project / "none", "--", "true") == 125
    assert code("run", project, "--", "sh", "-c", "exit 3") == 3
    for args in (["rm", "sb_nothing"], ["diff", "sb_nothing"], ["commit", "sb_nothing"],
                 ["cp", project / "none", f"{box}:x"], ["start", box], ["create", "/no/such"]):
        assert code(*args) == 1, args
    for args in ([], ["no-such-command"], ["ls", "--no-such-option"], ["rm"], ["exec", box],
                 ["cp", "one"], ["ls", "--", "true"], ["run", project, "--timeout", "x"]):
        assert code(*args) == 2, args
    assert tool("--help")[0] == tool("--version")[0] == 0
    gone = [str(BIN / "agentfense"), "--socket", str(daemon.dir / "nobody"), "ls"]
    done = subprocess.run(gone, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "nobody" in done.stderr
    assert code("rm", box) == 0


def test_every_command_has_help_that_names_its_arguments(tool):
    usage = tool("--help")[1]
    commands = [line.split()[0] for line in usage.splitlines()
                if line.startswith("  ") and line[2] not in " -"]
    assert {"run", "create", "ls", "start", "stop", "exec", "shell", "diff", "commit", "rollback",
            "rules", "ps", "logs", "rm"} <= set(commands)
    assert tool("help")[:2] == (0, usage)
    for command in commands:
        code, out, _ = tool(command, "--help")
        assert code == 0 and out.split()[:4] == ["Usage:", "agentfense", "[OPTION...]", command]
        assert tool("help", command)[:2] == (0, out)
