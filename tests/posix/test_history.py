"""Random histories in views match those in a plain directory: on a base and on nothing, across
restarts and crashes of the daemon, and for two sandboxes of one codebase at once (B2).

AGENTFENSE_LONG=1 runs more and longer ones. A failure prints the seed and the shortest history
that still fails; AGENTFENSE_SEED=n runs that seed alone.
"""

import itertools
import os
import pathlib
import pprint
import shutil
import tempfile

import pytest

from history import drive

LONG = bool(os.environ.get("AGENTFENSE_LONG"))
COUNT = 4000 if LONG else 500
SEEDS = range(1, 31) if LONG else range(1, 5)
if os.environ.get("AGENTFENSE_SEED"):
    SEEDS = [int(os.environ["AGENTFENSE_SEED"])]
TREES = {"base": drive.base_tree(1), "empty": {}}


class Theatre:
    """Stages on one daemon, their codebases and controls."""

    def __init__(self, daemon, folder):
        self.daemon, self.folder, self.codebases = daemon, folder, {}
        self.number = itertools.count()

    def codebase(self, kind):
        if kind not in self.codebases:
            client = self.daemon.client()
            self.codebases[kind] = drive.import_tree(client, TREES[kind])
            client.close()
        return self.codebases[kind]

    def stage(self, kind):
        control = self.folder / f"{kind}-{next(self.number)}"
        return drive.Stage(self.daemon, self.codebase(kind), TREES[kind], control)

    def check(self, kind, seed, parts, failure):
        """Fails with the shortest history, when there is a failure."""
        if failure is None:
            return

        def fails(fewer):
            stage = self.stage(kind)
            try:
                return drive.replay(stage, fewer) is not None
            finally:
                stage.close()

        fewer = drive.shrink(parts, fails)
        stage = self.stage(kind)
        again = drive.replay(stage, fewer)
        stage.close()
        pytest.fail(f"seed {seed} on {kind}: {failure}\nshrunk: {again}\n{pprint.pformat(fewer)}")


@pytest.fixture
def theatre(new_daemon, tmpfs):
    """With a node cache that a history does not fit in, so that nodes are made again from records
    at all times."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=tmpfs))
    yield Theatre(new_daemon("--node-cache", "16").start(), folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_history_matches_a_plain_directory(theatre, kind, seed):
    stage = theatre.stage(kind)
    done, failure = stage.run(seed=seed, count=COUNT)
    stage.close()
    theatre.check(kind, seed, [done], failure)


@pytest.mark.parametrize("seed", SEEDS)
def test_B9_a_random_history_goes_on_after_restarts_and_crashes(theatre, seed):
    stage, parts, failure = theatre.stage("base"), [], None
    for number in range(5):
        done, failure = stage.run(seed=1000 * seed + number, count=COUNT // 5)
        parts.append(done)
        if failure:
            break
        if number < 4:
            parts.append("kill" if (seed + number) % 2 else "stop")
            stage.restart(parts[-1])
    stage.close()
    theatre.check("base", seed, parts, failure)


@pytest.mark.parametrize("seed", SEEDS)
def test_B2_two_sandboxes_with_random_histories_at_once_never_mix(theatre, seed):
    stages = [theatre.stage("base") for _ in range(2)]
    workers = [stage.begin(seed=10000 * seed + n, count=COUNT) for n, stage in enumerate(stages)]
    results = [stage.end(worker) for stage, worker in zip(stages, workers)]
    fresh = theatre.stage("base")
    results.append(fresh.run(operations=[]))  # the codebase is as it was
    for stage in (*stages, fresh):
        stage.close()
    for done, failure in results:
        theatre.check("base", seed, [done], failure)
        assert failure is None, f"seed {seed}: {failure}, but not in one sandbox alone"
