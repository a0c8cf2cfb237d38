"""Default names: of a codebase made from a directory, and of its owner."""

from __future__ import annotations

import getpass
import os
import re


def codebase_name(root: bytes) -> str:
    """A name from a directory's: runs of anything but letters, digits and ._- become a dash."""
    base = os.fsdecode(os.path.basename(root)) or "root"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-")[:64] or "codebase"


def owner_id() -> str:
    """The user's name, or the number when it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
