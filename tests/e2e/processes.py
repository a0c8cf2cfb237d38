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
