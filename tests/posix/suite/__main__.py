"""Runs the cases in a directory: python3 suite.pyz DIRECTORY view|plain UID GID OTHER_FS [WORD...]

UID and GID own what is made there. OTHER_FS is a directory on another file system. Prints a line
of JSON per case, [name, "ok" or what went wrong, [ids of deviations met]]. Only cases whose names
hold one of the words, if any are given.
"""

import importlib
import json
import os
import stat
import sys
import traceback

from suite import base

MODULES = ("paths", "names", "renames", "attributes", "opens", "content", "space", "directories",
           "locks")


def load():
    """Imports all cases; returns them by name."""
    for module in MODULES:
        importlib.import_module(f"suite.{module}")
    return base.CASES


def clean(directory):
    """Removes what a case left, whatever modes it gave it."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.chmod(path, 0o700)
            clean(path)
            os.rmdir(path)
        else:
            os.unlink(path)


def run_case(case, place):
    """Runs one case in a directory of its own; returns "ok" or a description."""
    at = os.path.join(place.directory, "case")
    place.deviations.clear()
    try:
        os.mkdir(at)
        os.chmod(at, 0o755)
        os.chown(at, place.uid, place.gid)
        os.chdir(at)
        if case.who == "user" and place.is_root:
            place.deviations |= base.as_owner(place, lambda: run_as_user(case, place))
        else:
            case.run(place)
        return "ok"
    except BaseException:  # pylint: disable=broad-except
        return traceback.format_exc(limit=-4)
    finally:
        os.chdir(place.directory)
        os.chmod(at, 0o700)
        clean(at)
        os.rmdir(at)


def run_as_user(case, place):
    """In a child that is the owner now; returns the deviations met."""
    place.is_root = False
    case.run(place)
    return place.deviations


def main():
    """Command line."""
    directory, kind, uid, gid, other_fs = sys.argv[1:6]
    words = sys.argv[6:]
    os.umask(0o022)
    place = base.Place(directory, kind == "view", int(uid), int(gid), other_fs)
    for case in load().values():
        if case.who == "root" and not place.is_root:
            continue
        if words and not any(word in case.name for word in words):
            continue
        result = run_case(case, place)
        print(json.dumps([case.name, result, sorted(place.deviations)]), flush=True)


if __name__ == "__main__":
    main()
