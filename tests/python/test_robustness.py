"""Threads, forks, restarts, forgotten objects, interrupted programs."""

import asyncio
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import warnings

import agentfense as af
import pytest
from harness import eventually


@pytest.fixture
def sandbox(endpoint, project, nothing_left):
    """A running sandbox that may write everywhere."""
    with af.Sandbox.from_local(project, preset="full-access", endpoint=endpoint) as made:
        yield made


def program(endpoint, code, *args, **options):
    """Runs Python code as a program of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        env={
            **os.environ,
            "AGENTFENSE_ENDPOINT": endpoint,
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_many_threads_share_a_client_and_a_sandbox(sandbox):
    failures = []

    def work(number):
        try:
            for i in range(5):
                text = f"{number}-{i}"
                assert sandbox.run(f"echo {text}").stdout == text + "\n"
                sandbox.write_file(f"t{number}", text)
                assert sandbox.read_file(f"t{number}") == text
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_client_closed_under_a_call_in_another_thread(sandbox, endpoint):
    client = af.SandboxClient(endpoint)
    caught = []

    def wait():
        try:
            client.exec(sandbox.id, "touch /tmp/began; sleep 100", timeout=200)
        except af.SandboxError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    sandbox.run("until [ -e /tmp/began ]; do sleep 0.01; done")
    client.close()
    thread.join(30)
    assert not thread.is_alive() and isinstance(caught[0], af.ConnectionError)
    with pytest.raises(af.ConnectionError, match="closed"):
        client.exec(sandbox.id, "true")


def test_a_closed_client_ends_its_streams(sandbox, endpoint):
    client = af.SandboxClient(endpoint)
    stream = client.exec_stream(sandbox.id, "echo x; sleep 100")
    assert next(stream) == b"x\n"
    client.close()
    with pytest.raises(af.ConnectionError):
        next(stream)


def test_a_dropped_stream_kills_its_command(sandbox):
    stream = sandbox.exec_stream("echo x; touch /tmp/on; sleep 1000", timeout=2000)
    next(stream)
    del stream
    gc.collect()
    look = "cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^sleep$'"
    eventually(lambda: sandbox.run(look).stdout == "0\n")


def test_a_forgotten_sandbox_warns(endpoint, project, daemon):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        sandbox = af.Sandbox.from_local(project, endpoint=endpoint)
        id_, codebase_id = sandbox.id, sandbox.codebase_id
        del sandbox
        gc.collect()
    found = [w for w in seen if issubclass(w.category, ResourceWarning)]
    assert len(found) == 1 and id_ in str(found[0].message)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        sandbox = af.Sandbox.connect(id_, endpoint=endpoint)  # did not make it: no warning
        del sandbox
        gc.collect()
        with af.Sandbox.connect(id_, endpoint=endpoint) as sandbox:
            pass
        del sandbox
        gc.collect()
    assert [w for w in seen if issubclass(w.category, ResourceWarning)] == []
    with af.SandboxClient(endpoint) as client:
        client.delete_codebase(codebase_id)


def test_a_daemon_that_restarts_is_found_again(new_daemon, api, project):
    daemon = new_daemon().start()
    endpoint = f"unix:{daemon.socket}"
    with api.client(endpoint) as client:
        codebase = client.create_codebase("kept", "me")
        daemon.stop()
        with pytest.raises(af.ConnectionError):
            client.get_codebase(codebase.id)
        daemon.start()

        def answers():
            try:
                return client.get_codebase(codebase.id).id == codebase.id
            except af.ConnectionError:
                return False

        eventually(answers)


def test_a_daemon_that_dies_under_a_command(new_daemon, api, project):
    daemon = new_daemon().start()
    endpoint = f"unix:{daemon.socket}"
    with api.client(endpoint) as client:
        codebase = client.create_codebase("c", "me")
        made = client.create_sandbox(codebase.id, [{"pattern": "**/*", "permission": "write"}])
        client.start_sandbox(made.id)
        stream = client.exec_stream(made.id, "echo begun; sleep 100")
        assert next(iter(stream)) == b"begun\n"
        daemon.kill()
        with pytest.raises(af.ConnectionError):
            list(stream)
    daemon.start()


FORK = """
import os, sys
from agentfense import Sandbox
with Sandbox.from_local(sys.argv[1], preset="full-access") as sandbox:
    assert sandbox.run("echo parent").stdout == "parent\\n"
    pid = os.fork()
    if pid == 0:
        assert sandbox.run("echo child").stdout == "child\\n"
        sys.exit(7)  # leaves the with block: the sandbox is the parent's
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
    assert sandbox.run("echo still there").stdout == "still there\\n"
print("done")
"""


def test_a_forked_child_uses_the_sandbox_and_leaves_it_alone(endpoint, project, nothing_left):
    with program(endpoint, FORK, str(project)) as running:
        out, err = running.communicate(timeout=60)
    assert out == "done\n" and running.returncode == 0, err


CTRL_C = """
import sys
from agentfense import Sandbox
with Sandbox.from_local(sys.argv[1]) as sandbox:
    print("ready", flush=True)
    sandbox.run("sleep 1000", timeout=2000)
"""


def test_ctrl_c_during_a_command_destroys_the_sandbox(endpoint, project, nothing_left):
    with program(endpoint, CTRL_C, str(project)) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert "KeyboardInterrupt" in err and running.returncode != 0


def test_ctrl_c_with_asyncio_destroys_the_sandbox(endpoint, project, nothing_left):
    code = """
import asyncio, sys
from agentfense import AsyncSandbox
async def main():
    async with AsyncSandbox.from_local(sys.argv[1]) as sandbox:
        print("ready", flush=True)
        await sandbox.run("sleep 1000", timeout=2000)
asyncio.run(main())
"""
    with program(endpoint, code, str(project)) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert "KeyboardInterrupt" in err and running.returncode != 0


def test_a_program_that_ends_with_an_open_client_ends(endpoint):
    code = """
from agentfense import SandboxClient
client = SandboxClient()
client.list_codebases()
"""
    with program(endpoint, code) as running:
        out, err = running.communicate(timeout=60)
    assert (out, err, running.returncode) == ("", "", 0)


def test_no_descriptor_and_no_thread_stays_behind(endpoint, project, nothing_left):
    def counts():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    def once():
        with af.Sandbox.from_local(project, endpoint=endpoint) as sandbox:
            sandbox.run("true")
            list(sandbox.exec_stream("true"))

    for _ in range(3):
        once()
    before = counts()
    for _ in range(20):
        once()
    gc.collect()
    eventually(lambda: counts()[0] <= before[0] + 2 and counts()[1] <= before[1] + 1)


def test_no_descriptor_stays_behind_asynchronously(endpoint, project, nothing_left):
    async def once():
        async with af.AsyncSandbox.from_local(project, endpoint=endpoint) as sandbox:
            await sandbox.run("true")

    async def many(count):
        for _ in range(count):
            await once()

    asyncio.run(many(3))
    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(many(20))
    gc.collect()
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + 3)


def test_the_package_and_other_stubs_of_the_contract_live_in_one_process(endpoint):
    import sandbox_pb2  # of the end-to-end tests: the default descriptor pool
    from agentfense._proto import sandbox_pb2 as ours

    assert sandbox_pb2.Codebase is not ours.Codebase
    data = sandbox_pb2.Codebase(id="x", file_count=3).SerializeToString()
    assert ours.Codebase.FromString(data).file_count == 3


def test_a_huge_output_does_not_break_the_client(sandbox):
    result = sandbox.run("head -c 20000000 /dev/zero | tr '\\0' x")
    assert result.success and len(result.stdout) < 4 << 20
    total = sum(len(c) for c in sandbox.exec_stream("head -c 20000000 /dev/zero"))
    assert total == 20_000_000


def test_the_package_works_from_a_zip(tmp_path, endpoint):
    import zipfile

    import agentfense

    source = pathlib.Path(agentfense.__file__).parent
    archive = tmp_path / "lib.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for path in source.rglob("*"):
            if path.suffix in (".py", ".binpb"):
                made.write(path, path.relative_to(source.parent))
    code = "import agentfense; print(agentfense.SandboxClient().list_codebases())"
    env = {**os.environ, "AGENTFENSE_ENDPOINT": endpoint, "PYTHONPATH": str(archive)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("["), done.stderr
