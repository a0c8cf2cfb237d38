"""What runs on this machine, as tests that look for left-overs ask it."""

import os
import pathlib


def alive_with(marker):
    """Processes whose arguments hold the marker, but for Python programs (the tests)."""
    found = []
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (proc / "cmdline").read_bytes() and "python" not in os.readlink(
                proc / "exe"
            ):
                found.append(proc.name)
        except OSError:
            continue
    return found


def processes_with_uid(low, high):
    """Pids of processes whose uid lies in a range, those that have ended left out."""
    found = []
    for pid in os.listdir("/proc"):
        try:
            if pid.isdigit() and low <= os.stat(f"/proc/{pid}").st_uid < high:
                found.append(int(pid))
        except FileNotFoundError:
            pass
    return found
