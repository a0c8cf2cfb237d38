#!/usr/bin/python3
"""Commands against their peer: the daemon's start, exec and destroy beside a bare bubblewrap.

Both run in the same loop, one after the other, so that a busy machine slows both; the ratio counts.
The client is Python's grpcio over the unix socket, whose own cost (about 0.3 ms a call) is part
of each figure. Prints a table and, with --json, one line per figure: {name, value, unit, peer,
peer_value, ratio}. Run it with `make bench-exec`; needs root.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/e2e"))

from harness import FULL, Daemon, afpb, pb  # noqa: E402

BARE = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]


def timed(call):
    """Milliseconds that a call takes."""
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e3


def measure(client, rounds):
    """Lists of milliseconds by name, every kind once a round."""
    codebase = client.codebase({"f": "x"})
    warm = client.sandbox(codebase, FULL)
    argv = afpb.RunRequest(sandbox_id=warm, argv=[b"true"])
    found = {}

    def note(name, call):
        found.setdefault(name, []).append(timed(call))

    for _ in range(rounds):
        sandbox = client.sandbox(codebase, FULL, start=False)
        start = pb.StartSandboxRequest(sandbox_id=sandbox)
        note("bare bwrap", lambda: subprocess.run(BARE, check=True))
        note("exec of true (argv)", lambda: client.execs.Run(argv))
        note("exec of true (shell)", lambda: client.exec(warm, "true"))
        note("create", lambda: client.sandbox(codebase, FULL, start=False))
        note("start", lambda: client.sandboxes.StartSandbox(start))
        note("destroy (running)", lambda: client.destroy(sandbox))
    return found


def main():
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=100)
    options.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="agentfense-bench-") as directory:
        daemon = Daemon(directory).start()
        try:
            found = measure(daemon.client(), given.rounds)
        finally:
            daemon.cleanup()
    peer = statistics.median(found.pop("bare bwrap"))
    if not given.json:
        print(f"{'':24}{'p50 ms':>9}{'p99 ms':>9}{'x bare bwrap':>14}   bare bwrap {peer:.2f} ms")
    for name, times in found.items():
        median = statistics.median(times)
        worst = sorted(times)[int(len(times) * 0.99) - 1]
        if given.json:
            row = {"name": name, "value": median, "unit": "ms", "peer": "bare bwrap"}
            print(json.dumps(row | {"peer_value": peer, "ratio": median / peer}))
        else:
            print(f"{name:24}{median:9.2f}{worst:9.2f}{median / peer:14.2f}")


if __name__ == "__main__":
    main()
