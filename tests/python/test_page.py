"""The users' page: every snippet of it that is code runs as it stands (performance.md beside this).

What a snippet takes for granted is there: the directory ./project, the endpoint in the environment,
the names that an earlier import of the page would have brought, a sandbox where it uses one. A
literal `...` among arguments is filled in.
"""

import ast
import asyncio
import pathlib
import re

import agentfense as af
import pytest

PAGE = pathlib.Path(__file__).with_name("performance.md").read_text()
SNIPPETS = dict(re.findall(r"^## ([^\n]*)\n\n```python\n(.*?)^```$", PAGE, re.M | re.S))
NOT_CODE = "Monitoring"  # a list of metrics in a code block
RULES = 'permissions=[{"pattern": "**/*", "permission": "read"}]'


@pytest.fixture
def names(endpoint, project, tmp_path, monkeypatch, nothing_left):
    """A namespace for a snippet, in the directory that holds ./project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTFENSE_ENDPOINT", endpoint)
    return {name: getattr(af, name) for name in af.__all__}


def run(title, names):
    """Runs a snippet; returns its names."""
    text = SNIPPETS[title].replace("codebase.id, ...)", f"codebase.id, {RULES})")
    exec(compile(text, title, "exec"), names)
    return names


def test_the_page_has_the_snippets_that_are_tested():
    assert list(SNIPPETS) == [
        "Choose the Right Runtime",
        "Reuse Codebases",
        "Batch Operations",
        "Limit Resource Usage",
        "Clean Up Properly",
        "Use Async for Concurrency",
        "Monitoring",
    ]
    with pytest.raises(SyntaxError):
        ast.parse(SNIPPETS[NOT_CODE])


def test_choose_the_right_runtime(names):
    assert run("Choose the Right Runtime", names)["runtime"] == af.RuntimeType.DOCKER


def test_reuse_codebases(names):
    run("Reuse Codebases", names)
    with names["client"] as client:
        client.delete_codebase(names["codebase"].id)


def test_batch_operations(names):
    with af.Sandbox.from_local("./project") as sandbox:
        run("Batch Operations", {**names, "sandbox": sandbox})
        listed = sandbox.run("ls output").stdout
        assert listed == "file1.txt\nfile2.txt\n"


def test_limit_resource_usage(names):
    try:
        sandbox = run("Limit Resource Usage", names)["sandbox"]
    except af.InvalidConfigurationError as error:
        if "limit" not in str(error):
            raise
        pytest.skip(f"this machine's daemon cannot enforce limits: {error.details}")
    assert sandbox.info.resources == af.ResourceLimits(
        memory_bytes=256 * 1024 * 1024, cpu_quota=50000, pids_limit=100
    )
    assert sandbox.run("echo works").stdout == "works\n"
    sandbox.destroy()


def test_clean_up_properly(names):
    sandbox = af.Sandbox.from_local("./project")
    run("Clean Up Properly", {**names, "sandbox": sandbox})


def test_use_async_for_concurrency(names, monkeypatch):
    returned = []
    original = asyncio.run
    monkeypatch.setattr(asyncio, "run", lambda main: returned.append(original(main)))
    run("Use Async for Concurrency", names)
    (results,) = returned
    assert len(results) == 10
    assert all(isinstance(result, af.ExecResult) for result in results)
    assert {result.command for result in results} == {"pytest"}
