"""Runs the conformance suite in a place and gives its results: {case: (outcome, deviations)}.

In a sandbox the suite is one archive that python3 runs; on the host it is a child process, since
cases change their user, their working directory and their mounts.
"""

import base64
import io
import json
import pathlib
import subprocess
import sys
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
LIMIT_S = 150
START = "import runpy; runpy.run_module('suite', run_name='__main__')\n"


def results(text):
    """{case: (outcome, deviations)} from the suite's output."""
    lines = (json.loads(line) for line in text.splitlines())
    return {name: (outcome, deviations) for name, outcome, deviations in lines}


def on_host(directory, kind, uid, other_fs):
    """As root, in a directory of the host."""
    command = [sys.executable, "-m", "suite", str(directory), kind, str(uid), str(uid),
               str(other_fs)]
    done = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=True,
                          timeout=LIMIT_S)
    return results(done.stdout)


def archive():
    """The suite as a file that python3 runs, in base64."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("__main__.py", START)
        for source in sorted((HERE / "suite").glob("*.py")):
            file.write(source, f"suite/{source.name}")
    return base64.b64encode(packed.getvalue()).decode()


def in_sandbox(client, sandbox, directory, kind, other_fs):
    """As the agent, in a directory of its sandbox; the suite lies in its private home."""
    client.out(sandbox, "base64 -d > ~/suite.pyz", stdin=archive())
    command = f"mkdir -p {directory} && python3 ~/suite.pyz {directory} {kind} $(id -u) $(id -g)"
    return results(client.out(sandbox, f"{command} {other_fs}", timeout=LIMIT_S))
