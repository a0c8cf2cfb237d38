"""Limits on cgroup v2, by the tests of limits themselves, in a guest that has nothing but v2."""

import os
import pathlib
import re
import shlex

import pytest

import guest

BIN = pathlib.Path(os.environ.get("AGENTFENSE_BIN", guest.ROOT / "build/release/bin")).resolve()
UNIT = BIN.parent / "tests/unit/exec/test_cgroup"
LIMIT_S = 600  # without processor support a minute is usual, beside other tests three

pytestmark = pytest.mark.skipif(bool(guest.missing()), reason=f"no guest: {guest.missing()}")

# Those of test_limits.py that do not feel a control group, or not its version, are for the machine
# itself. Nor is the one whose files fill the memory here: now and then a command ends with neither
# a word nor a kill that the kernel had counted (docs/EXEC.md, limits).
COMMANDS = f"""
export AGENTFENSE_BIN={shlex.quote(str(BIN))}
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONDONTWRITEBYTECODE=1
cat /sys/fs/cgroup/cgroup.controllers
{shlex.quote(str(UNIT))}
unit=$?
/usr/bin/python3 -m pytest -p no:cacheprovider -v --color=no --tb=short tests/e2e/test_limits.py \
    -k "not O1 and not no_sense and not trailers[2] and not at_once and not files_fill"
exit $(($? | unit))
"""


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    """What the guest printed; it is started once."""
    code, text = guest.run(COMMANDS, tmp_path_factory.mktemp("guest"), LIMIT_S)
    if code is None and guest.BEGUN not in text:
        pytest.skip(f"QEMU did not bring its guest as far as {guest.BEGUN!r} within {LIMIT_S} s; "
                    f"the console ended with {text[-500:]!r}")
    assert code == 0, f"exit code {code} of the guest:\n{text}"
    return text


def test_the_guest_has_v2_and_nothing_else(console):
    controllers = re.search(r"^.*\bmemory\b.*\bpids\b.*$", console, re.M)[0].split()
    assert {"memory", "cpu", "pids"} <= set(controllers)


def test_boxes_feel_their_bounds_on_v2(console):
    assert not re.findall(r"\[  (?:FAILED|SKIPPED)", console)
    passed = re.findall(r"\[       OK \] (\w+)", console)
    assert "a_command_over_the_memory_bound_is_killed_and_says_so" in passed
    assert "the_number_of_processes_is_bounded_and_fork_failure_is_clear" in passed
    assert "the_cpu_quota_slows_a_spinning_command" in passed


def test_the_daemons_limit_tests_hold_on_v2(console):
    outcomes = dict(re.findall(r"test_limits\.py::(\S+) (PASSED|FAILED|ERROR|SKIPPED)", console))
    assert set(outcomes.values()) == {"PASSED"}, outcomes
    assert any("out_of_memory" in name for name in outcomes)
    assert any("leaf" in name for name in outcomes)
