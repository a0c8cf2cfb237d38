"""The process that lives in a view and in its control: python3 -m history.worker JOB

JOB is JSON: {"view": fd, "control": fd, "uid": n, "zero_range": bool, "began_ns": n, and either
"operations": [...] or "seed": n, "count": n}. Prints JSON: {"operations": [those done], "failure":
null or words}. It has the user of the view, so that permissions count in both directories.
"""

import json
import os
import random
import sys

from history import compare
from history.generate import Generator
from history.world import World

COMPARE_EVERY = 64
UNFLUSHED = ("store", "read", "pread")  # they see stores through maps before anything is flushed


class Mismatch(Exception):
    """The worlds differ."""


class Pair:
    """The two worlds and what has been done to both."""

    def __init__(self, job):
        self.view = World(job["view"], True)
        self.control = World(job["control"], job["zero_range"])
        self.began_ns = job["began_ns"]
        self.done = []

    def both(self, function):
        """What a function gives in either world: (view's, control's)."""
        results = []
        for world in (self.view, self.control):
            world.enter()
            results.append(function(world))
        return results

    def step(self, operation):
        """One operation in both worlds."""
        self.done.append(operation)
        if operation[0] not in UNFLUSHED:
            self.both(lambda world: world.flush())
        paths = compare.touched(operation)
        before = self.both(lambda _: compare.times(paths))
        view, control = self.both(lambda world: world.apply(operation))
        if view != control:
            raise Mismatch(f"{compare.short(view, control)}")
        after = self.both(lambda _: compare.times(paths))
        view, control = (compare.moved(b, a) for b, a in zip(before, after))
        text = compare.moves_differ(view, control, before[1])
        if text:
            raise Mismatch(text)

    def compare(self):
        """The whole trees."""
        self.both(lambda world: world.flush())
        text = compare.difference(*self.both(lambda _: compare.tree(self.began_ns)))
        if text:
            raise Mismatch(text)


def operations(job, pair):
    """The operations of a job, given or made up."""
    if "operations" in job:
        yield from job["operations"]
        return
    generator = Generator(random.Random(job["seed"]))
    for _ in range(job["count"]):
        pair.control.enter()
        yield generator.next()


def main():
    """Does the job."""
    job = json.loads(sys.argv[1])
    os.setgroups([])
    os.setresgid(job["uid"], job["uid"], job["uid"])
    os.setresuid(job["uid"], job["uid"], job["uid"])
    os.umask(0o022)
    pair, failure = Pair(job), None
    try:
        pair.compare()
        for number, operation in enumerate(operations(job, pair)):
            pair.step(operation)
            if number % COMPARE_EVERY == COMPARE_EVERY - 1:
                pair.compare()
        pair.compare()
        pair.both(lambda world: world.close_all())
        pair.compare()
    except Mismatch as mismatch:
        failure = str(mismatch)
    print(json.dumps({"operations": pair.done, "failure": failure}))


if __name__ == "__main__":
    main()
