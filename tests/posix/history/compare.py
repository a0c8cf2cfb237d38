"""What two worlds must agree on: the whole tree, and which times an operation moves."""

import os
import stat
import time

# Operations after which times differ between file systems, on purpose or by their granularity:
# stores through maps, truncation to the same size, reservations.
TIMELESS = {"truncate", "ftruncate", "space", "freserve", "store", "close", "open", "unnamed",
            "replace", "pwrite", "fsync"}


def content_of(path, status):
    """A file's bytes, a link's target, None of all else."""
    if stat.S_ISREG(status.st_mode):
        try:
            with open(path, "rb") as file:
                return file.read()
        except PermissionError:
            return "closed"
    return os.readlink(path) if stat.S_ISLNK(status.st_mode) else None


def attributes_of(path):
    """All extended attributes; of what may not be read, that there are some."""
    names = sorted(os.listxattr(path, follow_symlinks=False))
    try:
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    except PermissionError:
        return names


def time_of(at_ns, began_ns):
    """A time that was set, or "now": the history sets times long ago only."""
    return at_ns if at_ns < began_ns else "now"


def facts_of(path, status, began_ns):
    """What must be the same of one object."""
    facts = {"mode": oct(status.st_mode), "xattrs": attributes_of(path)}
    if not stat.S_ISFIFO(status.st_mode):  # docs/POSIX.md, fifo-times
        facts |= {"mtime": time_of(status.st_mtime_ns, began_ns),
                  "atime": time_of(status.st_atime_ns, began_ns)}
    if not stat.S_ISDIR(status.st_mode):
        facts |= {"size": status.st_size, "nlink": status.st_nlink,
                  "content": content_of(path, status)}
    return facts


def tree(began_ns):
    """{path: all that is the same in both worlds} below the working directory."""
    found, groups = {}, {}
    for at, dirs, files in os.walk("."):
        for name in dirs + files:
            path = os.path.join(at, name)
            try:
                status = os.lstat(path)
            except PermissionError:  # in a directory that may be listed and not searched
                found[path] = {}
                continue
            found[path] = facts_of(path, status, began_ns)
            if not stat.S_ISDIR(status.st_mode):
                groups.setdefault(status.st_ino, []).append(path)
    for paths in groups.values():
        for path in paths:
            found[path]["same file"] = sorted(paths)
    return found


def difference(view, control):
    """The first difference of two trees in words, None when they are equal."""
    if view.keys() != control.keys():
        more, less = sorted(view.keys() - control.keys()), sorted(control.keys() - view.keys())
        return f"the view alone has {more[:3]}, the control alone has {less[:3]}"
    for path, facts in sorted(view.items()):
        for fact, value in facts.items():
            other = control[path].get(fact)
            if value != other:
                return f"{path}: {fact} {short(value, other)}"
    return None


def short(value, other):
    """Two values; of long bytes, where they begin to differ."""
    if isinstance(value, bytes) and isinstance(other, bytes):
        at = next((i for i, (a, b) in enumerate(zip(value, other)) if a != b),
                  min(len(value), len(other)))
        return (f"differs from byte {at} of {len(value)}/{len(other)}: "
                f"{value[at:at + 8].hex()} in the view, {other[at:at + 8].hex()} in the control")
    return f"{str(value)[:200]!r} in the view, {str(other)[:200]!r} in the control"


def times(paths):
    """{path: (mtime, ctime)} of what exists."""
    found = {}
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISFIFO(status.st_mode):
            continue
        found[path] = status.st_ino, status.st_mtime_ns, status.st_ctime_ns
    return found


GRAIN_NS = 20_000_000  # tmpfs may give two changes within a tick of the clock one time


def moved(before, after):
    """{path:m or path:c: time} of what an operation moved, of objects that are still there under
    one of the paths; a renamed one goes by its old path."""
    left = {number: times for number, *times in after.values()}
    return {f"{path}:{letter}": new for path, (number, *old_times) in before.items()
            if number in left
            for letter, old, new in zip("mc", old_times, left[number]) if old != new}


def moves_differ(view, control, before):
    """What moves in one world only, in words; None when both are right. `before` is the control's
    times before the operation: what it moved just then may have been given the same time again."""
    for label in view.keys() ^ control.keys():
        path, letter = label.rsplit(":", 1)
        last = before[path]["mc".index(letter) + 1]
        if label in control or last < time.time_ns() - GRAIN_NS:
            return f"{label} moved in the {'control' if label in control else 'view'} only"
    return None


def touched(operation):
    """The paths whose times an operation may move."""
    if operation[0] in TIMELESS:
        return []
    paths = [word for word in operation[1:] if isinstance(word, str)]
    return sorted({p for path in paths for p in (path, os.path.dirname(path) or ".")})
