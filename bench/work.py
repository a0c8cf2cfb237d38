#!/usr/bin/python3
"""Real work: commands in a sandbox beside a plain directory, overlayfs, fuse-overlayfs and
libfuse's example passthrough_ll over io_uring.

Ours go the way of every command: Exec, into the sandbox's namespaces, on its view. A peer's run
as an unprivileged user in a directory of the same content. The shell around a command takes the
time, so that neither our API nor the peer's fork is in it (bench/exec.py has those). Each round has
a fresh sandbox and fresh peers; medians over rounds count. A walk is cold in that nothing of the
codebase has been looked at since it was imported; then in a second view of it. On a tmpfs, or on
the disk below build/ with --disk.

  bench/work.py [--quick | --tiny] [--disk]
"""

import argparse
import subprocess

from common import (FUSE_OVERLAY, NATIVE, PASSTHROUGH, PEER_UID, QUIET, ROOT, Aim, Peers, Table,
                    as_user, import_tree, own, rotated, running, temporary)

# Rounds; files of: the repository, the C project, the Python package, the archive, the walk.
SIZES = {
    "full": (5, 10000, 60, 300, 5000, 20000),
    "quick": (2, 5000, 10, 300, 1000, 5000),
    "tiny": (1, 60, 2, 5, 30, 60),
}
# Name, command, times a round, bound against native on tmpfs, on a disk.
WORK = [
    ("git status, first", "git -C repo status --porcelain", 1, 2.5, 1.5),
    ("git status, second", "git -C repo status --porcelain", 3, 1.3, 1.05),
    ("find", "find repo -name '*.txt'", 3, 1.3, 1.05),
    ("grep -r", "! grep -r no-such-word repo", 3, 1.6, 1.5),
    ("make -j2 of a C project", "make -s -j2 -C c", 1, 1.3, 1.05),
    ("Python import", "python3 -c 'import py.everything'", 3, 1.3, 1.05),
    ("tar x", "mkdir x && tar -C x -xf files.tar", 1, 6, 1.5),
    ("rm -rf", "rm -rf x", 1, 6, 1.5),
]
WALK = "find . -type f -size +1000k"
WALK_BOUNDS = {"cold walk, fresh view": (2.5, 1.5), "cold walk, second view": (2, 1.5)}


# ---- what is worked on --------------------------------------------------------------------


def write_text_files(tree, count):
    """`count` files of about 1.5 KB, 25 in a directory."""
    for i in range(count):
        place = tree / f"part{i // 25 % 20}/dir{i // 500}"
        place.mkdir(parents=True, exist_ok=True)
        text = "".join(f"line {n} of the file with number {i}\n" for n in range(40))
        (place / f"file{i}.{'txt' if i % 2 else 'md'}").write_text(text)


def make_repository(tree, count):
    """Files in one commit, as a checkout has them. No gc but ours: the one that git starts by
    itself in the background would hold its lock."""
    write_text_files(tree, count)
    git = ["git", "-C", tree, "-c", "user.name=bench", "-c", "user.email=bench@localhost",
           "-c", "gc.auto=0", "-c", "maintenance.auto=false"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"], ["gc", "-q"]):
        subprocess.run(git + words, check=True, **QUIET)


def make_c_project(tree, count):
    """`count` sources that include a few headers, and a program of them."""
    tree.mkdir()
    for i in range(count):
        (tree / f"unit{i}.h").write_text(f"int unit{i}(int value);\n")
        includes = "".join(f'#include "unit{(i + k) % count}.h"\n' for k in range(5))
        body = "\n".join(f"    value = value * {n} + snprintf(NULL, 0, \"%d\", value);"
                         for n in range(1, 30))
        (tree / f"unit{i}.c").write_text(
            f"#include <stdio.h>\n#include <stdlib.h>\n{includes}"
            f"int unit{i}(int value)\n{{\n{body}\n    return value;\n}}\n")
    calls = " + ".join(f"unit{i}(argc)" for i in range(count))
    headers = "".join(f'#include "unit{i}.h"\n' for i in range(count))
    (tree / "main.c").write_text(f"{headers}int main(int argc, char **argv)\n"
                                 f"{{\n    (void)argv;\n    return ({calls}) & 1;\n}}\n")
    (tree / "Makefile").write_text(
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\nprogram: $(OBJECTS)\n\tcc -o $@ $^\n"
        "%.o: %.c $(wildcard *.h)\n\tcc -O0 -c -o $@ $<\n")


def make_python_package(tree, count):
    """`count` modules, compiled, and one that imports them all."""
    tree.mkdir()
    for i in range(count):
        (tree / f"module{i}.py").write_text(
            f"class Thing{i}:\n    def number(self):\n        return {i}\n")
    (tree / "__init__.py").touch()
    everything = "".join(f"import py.module{i}\n" for i in range(count))
    (tree / "everything.py").write_text(everything)
    command = ["/usr/bin/python3", "-m", "compileall", "-q", "py"]
    subprocess.run(command, cwd=tree.parent, check=True)


def make_templates(directory, repo, units, modules, archived, walked):
    """The tree for the commands and the one for the walk."""
    work, walk, parts = directory / "work", directory / "walk", directory / "parts"
    make_repository(work / "repo", repo)
    make_c_project(work / "c", units)
    make_python_package(work / "py", modules)
    write_text_files(parts, archived)
    subprocess.run(["tar", "-C", parts, "-cf", work / "files.tar", "."], check=True)
    write_text_files(walk, walked)
    own(work)
    own(walk)
    return work, walk


# ---- the same command in each kind of place -----------------------------------------------


def timing(command):
    """A bash script that prints the microseconds of a command, which must succeed."""
    return (f"began=$EPOCHREALTIME; {{ {command}; }} >/dev/null 2>&1 || exit 1; "
            'ended=$EPOCHREALTIME; echo $((${ended/.} - ${began/.}))')


def in_sandbox(client, sandbox):
    """A function that runs a command there and returns its milliseconds."""

    def run_command(command):
        quoted = timing(command).replace("'", "'\\''")
        return int(client.out(sandbox, f"bash -c '{quoted}'", timeout=300)) / 1000

    return run_command


def in_directory(place):
    def run_command(command):
        pipe = {"stdout": subprocess.PIPE, "text": True}
        with as_user(["bash", "-c", timing(command)], place, PEER_UID, **pipe) as process:
            out = process.stdout.read()
        if process.returncode:
            raise RuntimeError(f"{command} failed in {place}")
        return int(out) / 1000

    return run_command


class Rounds:
    """Figures of each step and place: {name: {place: [milliseconds]}}."""

    def __init__(self):
        self.found = {}

    def measure(self, name, command, runners, turn):
        for place in rotated(list(runners), turn):
            took = runners[place](command)
            self.found.setdefault(name, {}).setdefault(place, []).append(took)


def work_round(client, codebase, peers, rounds, turn):
    """Every command once in each place."""
    sandbox = client.sandbox(codebase, manual=True)
    runners = {"view": in_sandbox(client, sandbox)}
    runners |= {kind: in_directory(peers.fresh(kind)) for kind in peers.kinds}
    for name, command, times, *_ in WORK:
        for again in range(times):
            rounds.measure(name, command, runners, turn + again)
    client.destroy(sandbox)
    peers.drop()


def walk_round(client, template, peers, rounds, turn):
    """A walk of a codebase that nobody has looked at, and again in a second view."""
    codebase = import_tree(client, template)
    made = []
    for name in WALK_BOUNDS:
        made.append(client.sandbox(codebase, manual=True))
        runners = {"view": in_sandbox(client, made[-1])}
        runners |= {kind: in_directory(peers.fresh(kind)) for kind in peers.kinds}
        rounds.measure(name, WALK, runners, turn)
    for sandbox in made:
        client.destroy(sandbox)
    peers.drop()


def run(table, size="full", on_disk=False):
    """All work in all places."""
    count, *numbers = SIZES[size]
    where = "ext4" if on_disk else "tmpfs"
    repo, units, modules, archived, walked = numbers
    table.title(f"Real work, on {where}, {count} rounds: git and grep of {repo:,} files, make of "
                f"{units}, import of {modules}, tar of {archived:,}, walk of {walked:,}")
    base = ROOT / "build" if on_disk else None
    with temporary(base) as directory:
        work, walk = make_templates(directory, *numbers)
        with running(directory / "daemon") as (_, client):
            rounds = Rounds()
            for turn in range(count):
                walk_round(client, walk, Peers(directory / f"walk{turn}", walk), rounds, turn)
            codebase = import_tree(client, work)
            for turn in range(count):
                work_round(client, codebase, Peers(directory / f"work{turn}", work), rounds, turn)
    bounds = {name: pair for name, _, _, *pair in WORK} | WALK_BOUNDS
    for name, samples in rounds.found.items():
        if PASSTHROUGH not in samples:
            table.note(f"{name}: passthrough_ll is not built, or may not open so many files")
        aims = {NATIVE: Aim(bounds[name][on_disk]), FUSE_OVERLAY: Aim(0.5), PASSTHROUGH: Aim(1)}
        table.compare(name + (", ext4" if on_disk else ""), "ms", samples, aims)


def main():
    """By itself."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", dest="size", action="store_const", const="quick")
    parser.add_argument("--tiny", dest="size", action="store_const", const="tiny")
    parser.add_argument("--disk", action="store_true")
    given = parser.parse_args()
    run(Table(), given.size or "full", given.disk)


if __name__ == "__main__":
    main()
