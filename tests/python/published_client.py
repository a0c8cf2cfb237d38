"""What the published client of the reference system must be able to do; run inside its own venv.

  published_client.py ENDPOINT    prints "ok NAME" for each case; fails at the first that does not

Only the published package is used here (`agentfense` 0.2.1, the reference system's own client).
"""

import asyncio
import hashlib
import os
import pathlib
import sys
import tempfile
from datetime import timedelta

import agentfense as af

WRITE = [{"pattern": "**/*", "permission": "write"}]


def project():
    """A directory to upload."""
    root = pathlib.Path(tempfile.mkdtemp())
    (root / "src").mkdir()
    (root / "src/main.py").write_text("print('from main')\n")
    (root / "run.sh").write_text("#!/bin/sh\necho script\n")
    (root / "notes.log").write_text("ignored")
    (root / ".gitignore").write_text("*.log\n")
    return root


def raises(kind, call, *args, **kwargs):
    """The call must fail with this exception."""
    try:
        call(*args, **kwargs)
    except kind:
        return
    raise AssertionError(f"{call} did not raise {kind}")


def client_calls(endpoint):
    """SandboxClient, method by method."""
    with af.SandboxClient(endpoint) as client:
        codebase = client.create_codebase("published", "tester")
        assert client.get_codebase(codebase.id).owner_id == "tester"
        assert codebase.id in [c.id for c in client.list_codebases("tester")]
        data = os.urandom(300_000)
        result = client.upload_file(codebase.id, "a/b.bin", data)
        assert result.checksum == hashlib.md5(data).hexdigest() and result.size == len(data)
        assert client.upload_file(codebase.id, "empty", b"").size == 0
        assert client.download_file(codebase.id, "a/b.bin") == data
        assert {f.path for f in client.list_files(codebase.id, recursive=True)} == {
            "a",
            "a/b.bin",
            "empty",
        }
        sandbox = client.create_sandbox(
            codebase.id, WRITE, labels={"k": "v"}, expires_in=timedelta(hours=1)
        )
        assert sandbox.status == af.SandboxStatus.PENDING and sandbox.labels == {"k": "v"}
        assert client.start_sandbox(sandbox.id).status == af.SandboxStatus.RUNNING
        assert [s.id for s in client.list_sandboxes(codebase.id)] == [sandbox.id]
        result = client.exec(
            sandbox.id, "cat; echo $A >&2; exit 5", stdin="in", env={"A": "b"}, workdir="/tmp"
        )
        assert (result.stdout, result.stderr, result.exit_code) == ("in", "b\n", 5)
        assert b"".join(client.exec_stream(sandbox.id, "seq 3")) == b"1\n2\n3\n"
        session = client.create_session(sandbox.id)
        client.session_exec(session.id, "cd a; X=1")
        assert client.session_exec(session.id, "echo $X $PWD").stdout == "1 /workspace/a\n"
        assert client.get_session(session.id).status == af.SessionStatus.ACTIVE
        assert [s.id for s in client.list_sessions(sandbox.id)] == [session.id]
        client.destroy_session(session.id)
        raises(af.SandboxError, client.session_exec, session.id, "true")
        assert client.stop_sandbox(sandbox.id).status == af.SandboxStatus.STOPPED
        raises(af.SandboxError, client.exec, sandbox.id, "true")
        client.destroy_sandbox(sandbox.id)
        raises(af.SandboxError, client.get_sandbox, sandbox.id)
        client.delete_codebase(codebase.id)
        raises(af.SandboxError, client.get_codebase, codebase.id)


def sandbox_object(endpoint):
    """Sandbox.from_local and what hangs on it."""
    with af.Sandbox.from_local(
        str(project()), preset="agent-safe", permissions=WRITE, endpoint=endpoint
    ) as sandbox:
        assert sandbox.run("python3 src/main.py").stdout == "from main\n"
        assert sandbox.run("./run.sh").stdout == "script\n", "scripts are executable"
        assert sorted(sandbox.list_files("/")) == [".gitignore", "run.sh", "src"]
        raises(af.CommandExecutionError, sandbox.run, "exit 2", raise_on_error=True)
        raises(af.CommandTimeoutError, sandbox.run, "sleep 60", timeout=1)
        sandbox.write_file("/workspace/data.txt", "written")
        assert sandbox.read_file("/workspace/data.txt") == "written"
        with sandbox.session() as session:
            session.exec("cd src")
            assert session.exec("pwd").stdout.strip() == "/workspace/src"
        assert af.Sandbox.connect(sandbox.id, endpoint=endpoint).codebase_id == (
            sandbox.codebase_id
        )
        sandbox.stop()
        sandbox.start()
        assert sandbox.refresh().status == af.SandboxStatus.RUNNING
    raises(af.SandboxError, af.Sandbox.connect, sandbox.id, endpoint=endpoint)


def files_follow_commands(endpoint):
    """A sandbox's file calls see what its commands wrote, and its commands what was written."""
    with af.Sandbox.from_local(str(project()), preset="full-access", endpoint=endpoint) as sandbox:
        sandbox.run("echo hi > out.txt")
        assert sandbox.read_file("/workspace/out.txt") == "hi\n"
        sandbox.write_file("/workspace/a.py", "print(6 * 7)")
        assert sandbox.run("python3 a.py").stdout == "42\n"


def async_objects(endpoint):
    """AsyncSandbox and AsyncSandboxClient."""

    async def main():
        async with await af.AsyncSandbox.from_local(
            str(project()), preset="full-access", endpoint=endpoint
        ) as sandbox:
            results = await asyncio.gather(*[sandbox.run(f"echo {i}") for i in range(8)])
            assert [r.stdout for r in results] == [f"{i}\n" for i in range(8)]
            chunks = [c async for c in sandbox.exec_stream("seq 3")]
            assert b"".join(chunks) == b"1\n2\n3\n"
            async with await sandbox.session() as session:
                assert (await session.exec("echo s")).stdout == "s\n"
            assert "src" in await sandbox.list_files("/")
        async with af.AsyncSandboxClient(endpoint) as client:
            made = await client.create_codebase("async", "tester")
            await client.upload_file(made.id, "x", b"1")
            assert await client.download_file(made.id, "x") == b"1"
            assert [f.path for f in await client.list_files(made.id)] == ["x"]
            sandbox = await client.create_sandbox(made.id, WRITE)
            await client.start_sandbox(sandbox.id)
            assert (await client.exec(sandbox.id, "cat x")).stdout == "1"
            await client.destroy_sandbox(sandbox.id)
            await client.delete_codebase(made.id)

    asyncio.run(main())


CASES = [client_calls, sandbox_object, files_follow_commands, async_objects]

if __name__ == "__main__":
    wanted = sys.argv[2:] or [case.__name__ for case in CASES]
    for case in CASES:
        if case.__name__ in wanted:
            case(sys.argv[1])
            print("ok", case.__name__, flush=True)
