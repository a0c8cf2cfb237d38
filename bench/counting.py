#!/usr/bin/python3
"""What counting and watching cost: operations counted, not counted, and traced.

Three sandboxes of two daemons of the same binary, in turn: one daemon counts as always, the other
does not (AGENTFENSE_TEST_NO_COUNTING), and one sandbox of the first is traced by a client that
reads. Ratios are to the daemon that does not count.

  bench/counting.py [--quick | --tiny]
"""

import os
import shutil
import subprocess
import sys

from common import PROGRAMS, ROOT, Table, import_tree, rotated, running, temporary
from ops import SIZES, Worker, make_template

OPS = ["stat", "negative-stat", "open+read+close", "readdir-100", "create", "append", "rename",
       "unlink", "mkdir+rmdir", "random-write"]
FSCTL = ROOT / "build/release/bin/agentfense-fsctl"


def run(table, size="full"):
    """Every operation in the three places."""
    rounds = SIZES[size][0]
    table.title(f"Counting and watching, on tmpfs, {rounds} rounds")
    with temporary() as directory:
        template = directory / "template"
        make_template(template, rounds, 0)
        program = shutil.copy(PROGRAMS / "ops_load", directory)
        with running(directory / "counts") as (counts, client), running(
            directory / "plain", env=dict(os.environ, AGENTFENSE_TEST_NO_COUNTING="1")
        ) as (plain, other):
            base = import_tree(client, template)
            ids = {"counted": client.sandbox(base), "traced": client.sandbox(base)}
            places = {name: counts.mount / id_ for name, id_ in ids.items()}
            places["plain"] = plain.mount / other.sandbox(import_tree(other, template))
            argv = [str(FSCTL), "--socket", str(counts.socket), "--json", "trace", ids["traced"]]
            reader = subprocess.Popen(argv, stdout=subprocess.PIPE)
            reader.stdout.readline()  # ready
            sink = subprocess.Popen(["cat"], stdin=reader.stdout, stdout=subprocess.DEVNULL)
            workers = {n: Worker(program, p, os.stat(p).st_uid, 0) for n, p in places.items()}
            try:
                found = {name: [] for name in workers}
                for number in range(rounds):
                    for name in rotated(list(workers), number):
                        found[name].append(workers[name].round(number))
            finally:
                for worker in workers.values():
                    worker.close()
                reader.terminate()
                reader.wait()
                sink.wait()
        for op in OPS:
            samples = {name: [r[op] for r in found[name]] for name in found}
            for name in ("counted", "traced"):
                pair = {"view": samples[name], "not counting": samples["plain"]}
                table.compare(f"{op}, {name}", "us", pair, {})


if __name__ == "__main__":
    run(Table(), sys.argv[1][2:] if len(sys.argv) > 1 else "full")
