"""agentfense rules and ls; agentfense-fsctl rules, quota, access and views on living sandboxes."""

import json
import subprocess

import pytest

from harness import BIN, READ_ONLY, eventually, pb, sbpb


@pytest.fixture
def codebase(client):
    """A small codebase of the test's own: commands commit what they change."""
    return client.codebase({"f": "content\n", "secret": "s\n", "d/g": "g\n"}, owner="ann")


@pytest.fixture
def sandbox(client, codebase):
    made = client.sandbox(codebase, READ_ONLY, labels={"team": "red", "n": "1"})
    yield made
    client.destroy(made)


@pytest.fixture
def tool(daemon):
    """Runs a tool on the module's daemon; returns its stdout, or its stderr when it must fail."""

    def call(name, *args, ok=True):
        argv = [str(BIN / name), "--socket", str(daemon.socket), *map(str, args)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert (done.returncode == 0) == ok, (argv, done.returncode, done.stdout, done.stderr)
        return done.stdout if ok else done.stderr

    return call


TOOLS = ["agentfense", "agentfense-fsctl"]


@pytest.mark.parametrize("name", TOOLS)
def test_rules_are_shown_and_set_on_a_running_sandbox(client, tool, sandbox, name):
    assert "**/*" in tool(name, "rules", sandbox)
    assert client.out(sandbox, "cat secret") == "s\n"
    shown = json.loads(tool(name, "--json", "rules", sandbox, "set", "secret=none", "d/**=write@7"))
    assert shown == [
        {"pattern": "**/*", "type": "glob", "level": "read", "priority": 0},
        {"pattern": "secret", "type": "glob", "level": "none", "priority": 20},
        {"pattern": "d/**", "type": "glob", "level": "write", "priority": 7},
    ]
    assert client.exec(sandbox, "cat secret").exit_code != 0
    client.out(sandbox, "echo x > d/new")
    again = json.loads(tool(name, "--json", "rules", sandbox[:12], "set", "secret=view"))
    assert [r["level"] for r in again] == ["read", "write", "view"]  # replaced, not added
    assert "denied" in client.exec(sandbox, "cat secret").stderr


@pytest.mark.parametrize("name", TOOLS)
def test_rules_from_a_file_take_the_place_of_all(client, tool, sandbox, tmp_path, name):
    file = tmp_path / "rules"
    file.write_text("# who may what\n\n**/*=write@0\nsecret=none@100\r\n")
    tool(name, "rules", sandbox, "set", "--file", file)
    rules = json.loads(tool(name, "rules", sandbox, "--json"))
    assert [(r["pattern"], r["level"], r["priority"]) for r in rules] == [
        ("**/*", "write", 0),
        ("secret", "none", 100),
    ]
    client.out(sandbox, "echo x > f")


@pytest.mark.parametrize("name", TOOLS)
def test_wrong_rules_are_refused_with_a_sentence_and_change_nothing(tool, sandbox, tmp_path, name):
    before = tool(name, "rules", sandbox)
    bad = tmp_path / "bad"
    bad.write_text("**/*=write\n[a=none\n")
    for args in (
        ("set",),
        ("set", "x"),
        ("set", "x=all"),
        ("set", "[a=none"),
        ("put", "x=none"),
        ("set", "--file", bad),
        ("set", "--file", tmp_path / "absent"),
        ("--end-holders",),
    ):
        assert len(tool(name, "rules", sandbox, *args, ok=False)) > 20, args
    assert tool(name, "rules", sandbox) == before
    tool(name, "ls" if name == "agentfense" else "views", "--end-holders", ok=False)


def test_rules_can_end_who_holds_a_forbidden_file(client, tool, sandbox):
    session = client.sandboxes.CreateSession(pb.CreateSessionRequest(sandbox_id=sandbox)).id
    client.sandboxes.SessionExec(
        pb.SessionExecRequest(session_id=session, command="exec 7< secret")
    )
    tool("agentfense-fsctl", "rules", sandbox, "set", "secret=none", "--end-holders")
    request = pb.GetSessionRequest(session_id=session)
    get = client.sandboxes.GetSession
    eventually(lambda: get(request).status == pb.SESSION_STATUS_CLOSED)


def test_ls_filters_by_label(tool, sandbox):
    assert sandbox in tool("agentfense", "ls")
    assert sandbox in tool("agentfense", "ls", "--label", "team=red", "--label", "n=1")
    assert sandbox not in tool("agentfense", "ls", "--label", "team=blue")
    listed = json.loads(tool("agentfense", "ls", "--json", "--label", "team=red"))
    assert [x["sandbox_id"] for x in listed] == [sandbox] and listed[0]["owner_id"] == "ann"
    assert {"key": "team", "value": "red"} in listed[0]["labels"]
    tool("agentfense", "ls", "--label", "team", ok=False)


def test_fsctl_sets_quota_and_access_and_views_shows_them(client, tool, sandbox):
    tool("agentfense-fsctl", "rules", sandbox, "set", "**/*=write@0")
    assert "10M" in tool("agentfense-fsctl", "quota", sandbox, "10M", "20")
    view = [
        v
        for v in json.loads(tool("agentfense-fsctl", "--json", "views"))
        if v["sandbox_id"] == sandbox
    ][0]
    assert (view["quota_bytes"], view["quota_inodes"], view["access"]) == (10 << 20, 20, "normal")
    assert "10M" in tool("agentfense-fsctl", "views")
    assert "none" in tool("agentfense-fsctl", "quota", sandbox, "none", "none")
    for bad in ("x", "-1", "0", "10Q", "10MM"):
        tool("agentfense-fsctl", "quota", sandbox, bad, ok=False)
    assert "read-only" in tool("agentfense-fsctl", "access", sandbox, "read-only")
    assert "Read-only" in client.exec(sandbox, "echo x > f").stderr
    tool("agentfense-fsctl", "access", sandbox, "frozen", ok=False)
    tool("agentfense-fsctl", "access", sandbox, "normal")
    client.out(sandbox, "echo x > f")
    assert client.views.Get(sbpb.GetRequest(sandbox_id=sandbox)).access == sbpb.ACCESS_NORMAL
