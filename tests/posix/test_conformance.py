"""Every case of the suite holds in a view, for root on the host and for the agent in its sandbox,
and on ordinary file systems: what a case expects is what Linux does, not what we do.

Where a view differs on purpose, the case expects both answers and docs/POSIX.md says why.
"""

import os
import subprocess

import pytest

import documents
import places
import suite.__main__ as main

CONTROL_UID = 200001  # owns the cases' files where there is no view


def is_ext4(directory):
    """Whether the machine's disk is of a kind that all cases hold on."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", directory], stdout=subprocess.PIPE, text=True,
                          check=True).stdout
    return "ext" in kind


@pytest.fixture(scope="module")
def outcomes(daemon, client, tmpfs, tmp_path_factory):
    """{place: {case: (outcome, deviations)}}"""
    sandbox = client.sandbox(client.codebase({"file": "content\n"}))
    view, disk = daemon.mount / sandbox, tmp_path_factory.mktemp("disk")
    uid = client.uid_of(sandbox)
    for directory in (view / "root", tmpfs / "cases", disk / "cases"):
        os.mkdir(directory)
    found = {
        "view, root": places.on_host(view / "root", "view", uid, tmpfs),
        "tmpfs, root": places.on_host(tmpfs / "cases", "plain", CONTROL_UID, disk),
        "view, agent": places.in_sandbox(client, sandbox, "/workspace/agent", "view", "/dev/shm"),
        "tmpfs, agent": places.in_sandbox(client, sandbox, "/tmp/cases", "plain", "/dev/shm"),
    }
    if is_ext4(disk):
        found["ext4, root"] = places.on_host(disk / "cases", "plain", CONTROL_UID, tmpfs)
    yield found
    assert os.listdir(view / "root") == os.listdir(view / "agent") == []
    client.destroy(sandbox)


@pytest.mark.parametrize("case", [pytest.param(case, id=name)
                                  for name, case in main.load().items()])
def test_posix(outcomes, case):
    for place, found in outcomes.items():
        if case.who == "root" and place.endswith("agent"):
            assert case.name not in found
            continue
        outcome, _ = found[case.name]
        assert outcome == "ok", f"{place}: {outcome}"


def test_every_deviation_of_a_view_is_met_by_a_case_and_documented(outcomes):
    met = {deviation for name, found in outcomes.items() if name.startswith("view")
           for _, deviations in found.values() for deviation in deviations}
    told = {row.id for row in documents.deviations() if row.is_held_by_a_case()}
    assert met == told, f"only met: {met - told}, only in docs/POSIX.md: {told - met}"
