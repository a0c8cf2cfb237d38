"""Permission rules as an agent meets them: the P cases, from inside the sandbox."""

import grpc
import pytest

from harness import AGENT_SAFE, FULL, READ_ONLY, expect, pb, rule

FILES = {
    "README.md": "readme",
    "src/main.py": "print('hi')",
    "src/app/one.py": "1",
    "src/other/two.py": "2",
    "secrets/db.json": "S",
    "a/b/secrets/c/d": "S",
    ".env": "S",
    "a/.env.local": "S",
    "id.key": "S",
    ".git/config": "S",
    "keep/x/m.py": "m",
}


@pytest.fixture(scope="module")
def codebase(client):
    """A codebase with things to hide."""
    return client.codebase(FILES)


@pytest.fixture
def make(client, codebase):
    """Makes started sandboxes on the codebase and destroys them after the test."""
    made = []

    def start(rules):
        made.append(client.sandbox(codebase, rules))
        return made[-1]

    yield start
    for sandbox in made:
        client.destroy(sandbox)


def found(client, sandbox):
    return set(client.out(sandbox, "find . -mindepth 1 | sed 's,^./,,'").split())


def test_P1_agent_safe_hides_secrets_everywhere(client, make):
    sandbox = make(AGENT_SAFE)
    names = found(client, sandbox)
    assert "src/app/one.py" in names and "README.md" in names
    assert not [n for n in names if "secret" in n or ".env" in n or ".key" in n or ".git" in n]
    for path in ["secrets", "secrets/db.json", "a/b/secrets/c/d", ".env", "id.key", ".git/config"]:
        result = client.exec(sandbox, f"cat {path}")
        assert result.exit_code != 0 and "No such file" in result.stderr, (path, result.stderr)


def test_agent_safe_is_read_only_except_output(client, make):
    sandbox = make(AGENT_SAFE)
    for command in ["echo x > README.md", "echo x > new", "rm README.md", "mkdir src/d"]:
        result = client.exec(sandbox, command)
        assert result.exit_code != 0 and "denied" in result.stderr, (command, result.stderr)
    client.out(sandbox, "mkdir output && echo made > output/report && cat output/report")
    assert client.out(sandbox, "cat README.md") == "readme"


def test_P2_the_rest_after_a_doublestar_is_matched_whole(client, make):
    sandbox = make([("/src/**/app/*.py", "read", 0)])
    names = found(client, sandbox)
    assert "src/app/one.py" in names
    assert "src/other/two.py" not in names and "src/main.py" not in names


def test_P3_ancestors_of_the_visible_are_listable_and_show_nothing_else(client, make):
    sandbox = make([("/src/app/**", "read", 0)])
    assert client.out(sandbox, "ls -A").split() == ["src"]
    assert client.out(sandbox, "ls -A src").split() == ["app"]
    assert client.out(sandbox, "cat src/app/one.py") == "1"
    assert client.exec(sandbox, "ls README.md").exit_code != 0
    assert client.exec(sandbox, "cat src/main.py").exit_code != 0


def test_P4_a_rule_below_a_directory_grants_nothing_on_it(client, make):
    sandbox = make([("**/*", "read", 0), ("/keep/**/*.py", "write", 10)])
    client.out(sandbox, "echo changed > keep/x/m.py; echo new > keep/n.py")
    assert client.exec(sandbox, "echo no > keep/x/m.txt").exit_code != 0
    assert client.exec(sandbox, "chmod 700 keep").exit_code != 0
    assert client.exec(sandbox, "rmdir keep; mv keep moved").exit_code != 0


def test_P5_ties_take_the_most_restrictive(client, make):
    sandbox = make([("/src/m*.py", "write", 0), ("/src/m?in.py", "none", 0), ("**/*", "read", -1)])
    # Same type, priority, root, prefix length and wildcards; fewer literal bytes lose.
    assert client.exec(sandbox, "cat src/main.py").exit_code != 0
    tie = make([("/src/mai*.py", "write", 0), ("/src/mai?.py", "view", 0)])
    assert client.exec(tie, "stat src/main.py").exit_code == 0
    assert client.exec(tie, "cat src/main.py").exit_code != 0


BAD_PATTERNS = ["", "a/../b", "/./a", "[a", "{a,b", "a\\", "a\x00b", "x" * 2000, "//a"]


@pytest.mark.parametrize("pattern", BAD_PATTERNS, ids=range(len(BAD_PATTERNS)))
def test_P5_malformed_patterns_are_refused_at_create(client, codebase, pattern):
    before = len(client.sandboxes.ListSandboxes(pb.ListSandboxesRequest()).sandboxes)
    request = pb.CreateSandboxRequest(
        codebase_id=codebase, permissions=[rule("**/*", "read"), rule(pattern, "write")]
    )
    expect(grpc.StatusCode.INVALID_ARGUMENT, client.sandboxes.CreateSandbox, request)
    after = len(client.sandboxes.ListSandboxes(pb.ListSandboxesRequest()).sandboxes)
    assert after == before


def test_unknown_enums_are_refused(client, codebase):
    for bad in (rule("**/*", 9), rule("**/*", "read", kind=7)):
        request = pb.CreateSandboxRequest(codebase_id=codebase, permissions=[bad])
        expect(grpc.StatusCode.INVALID_ARGUMENT, client.sandboxes.CreateSandbox, request)


def test_view_level_shows_names_and_refuses_content(client, make):
    sandbox = make([("**/*", "view", 0)])
    assert "secrets/db.json" in found(client, sandbox)
    assert client.out(sandbox, "stat -c %s README.md") == "6\n"
    assert "denied" in client.exec(sandbox, "cat README.md").stderr
    assert client.exec(sandbox, "echo x > new").exit_code != 0


def test_no_rule_means_none(client, make):
    sandbox = make([("/README.md", "read", 0)])
    assert client.out(sandbox, "ls -A").split() == ["README.md"]


def test_the_same_pattern_again_replaces_the_first(client, make):
    sandbox = make([("**/*", "view", 0), ("**/*", "read", 0)])
    assert client.out(sandbox, "cat README.md") == "readme"


def test_P8_hidden_names_answer_the_same_whether_they_exist(client, make):
    sandbox = make(
        [("**/*", "write", 0), ("**/secrets/**", "none", 100), ("**/.env*", "none", 100)]
    )
    real = client.exec(sandbox, "echo x > .env")
    absent = client.exec(sandbox, "echo x > .env.nope")
    assert real.exit_code != 0 and absent.exit_code != 0
    assert real.stderr.replace(".env", "N") == absent.stderr.replace(".env.nope", "N")
    for target in ("secrets", "src/secrets"):
        result = client.exec(sandbox, f"mkdir {target}")
        assert result.exit_code != 0 and "denied" in result.stderr, result.stderr
        result = client.exec(sandbox, f"mv README.md {target}")
        assert result.exit_code != 0, target
    assert client.out(sandbox, "cat README.md") == "readme"


def test_P6_a_directory_with_hidden_names_cannot_be_moved_or_removed(client, make):
    sandbox = make([("**/*", "write", 0), ("**/secrets/**", "none", 100)])
    assert client.exec(sandbox, "mv a moved").exit_code != 0
    assert client.exec(sandbox, "rm -rf a").exit_code != 0
    assert client.exec(sandbox, "ls -d a/b").exit_code == 0
    client.out(sandbox, "mv src moved && cat moved/app/one.py")


def test_read_level_is_not_opened_by_a_user_namespace(client, make):
    sandbox = make(READ_ONLY)
    result = client.exec(sandbox, "unshare -Ur sh -c 'echo x > README.md; chmod 666 README.md'")
    assert result.exit_code != 0
    assert client.out(sandbox, "cat README.md") == "readme"


def test_full_access_writes_everywhere(client, make):
    sandbox = make(FULL)
    client.out(sandbox, "echo x > secrets/db.json && rm .env && touch -d @1 . && mkdir -p n/m")
    assert client.out(sandbox, "cat secrets/db.json") == "x\n"
