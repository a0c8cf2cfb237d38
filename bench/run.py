#!/usr/bin/python3
"""The benchmark suite: this system and its peers on the same work, in one run, in turn.

  make bench          everything, minutes        make bench-quick    the same pieces, smaller
  bench/run.py [--quick | --tiny] [--only PIECE,...] [--out FOLDER]

Prints a table as it goes and ends with one line of JSON a figure: {name, value, unit, peer,
peer_value, ratio}, and where there is a target {aim, met}. FOLDER/figures.jsonl (build/bench) gets
the same lines, figures.md all as a table, and there are the plots of growth. The machine's
load stands beside each figure: on a busy machine only ratios mean something. Needs root. Pieces
that need what is not installed are left out with a line that says so.
"""

import argparse
import os
import pathlib
import platform
import shutil
import sys
import traceback

import api
import cold
import counting
import exec as commands
import fair
import growth
import imports
import ops
import report
import work
from common import ROOT, Table

SIZES = ("full", "quick", "tiny")


def run_work(table, size):
    """On a tmpfs, and in a full run on the disk as well."""
    work.run(table, size)
    if size == "full":
        work.run(table, size, on_disk=True)


PIECES = {"ops": ops.run, "work": run_work, "exec": commands.run, "api": api.run,
          "counting": counting.run, "growth": growth.run, "imports": imports.run,
          "fair": fair.run, "cold": cold.run}


def machine():
    """One line about where this ran."""
    words = dict(line.split(":", 1) for line in open("/proc/cpuinfo", encoding="utf-8")
                 if line.strip())
    model = next((v.strip() for k, v in words.items() if k.startswith("model name")), "unknown CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (f"{os.cpu_count()} CPUs ({model}), {memory:.0f} GB, Linux {platform.release()}, "
            f"load {os.getloadavg()[0]:.1f}")


def main():
    """Runs the pieces."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for size in SIZES[1:]:
        parser.add_argument(f"--{size}", dest="size", action="store_const", const=size)
    parser.add_argument("--only", default=",".join(PIECES), help="pieces: %(default)s")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/bench")
    given = parser.parse_args()
    size = given.size or "full"
    table = Table()
    about = f"{machine()}; size {size}"
    table.note(about)
    if not shutil.which("fuse-overlayfs"):
        table.note("fuse-overlayfs is not installed: left out")
    given.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in given.only.split(","):
        more = {"folder": given.out} if name == "growth" else {}
        try:
            PIECES[name](table, size, **more)
        except Exception:  # the other pieces' figures are not lost with it
            traceback.print_exc()
            failed.append(name)
        (given.out / "figures.jsonl").write_text(table.lines())
        (given.out / "figures.md").write_text(report.markdown(table, about))
    print()
    print(table.lines(), end="")
    if failed:
        sys.exit(f"pieces that failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
