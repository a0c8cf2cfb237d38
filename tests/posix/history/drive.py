"""Sets the stage for histories: sandboxes and their controls, restarts, and shrinking.

A history is a list of parts: lists of operations, with "stop" or "kill" between them, after which
the daemon and its sandbox are started again. A history that fails is shrunk before it is shown:
parts of it are left out as long as it still fails, each time from a new sandbox and a new control.
"""

import json
import os
import random
import stat
import subprocess
import sys
import time

import places
from harness import FULL, afpb, pb

SHRINK_SECONDS = 60
LIMIT_S = 1200
LONG_AGO_NS = 1_500_000_000 * 10**9

KINDS = {stat.S_IFREG: afpb.FILE_KIND_REGULAR, stat.S_IFDIR: afpb.FILE_KIND_DIRECTORY,
         stat.S_IFLNK: afpb.FILE_KIND_SYMLINK}


def base_tree(seed):
    """{path: (mode, content or target)} of a base that histories change."""
    rng = random.Random(seed)
    found = {}
    for folder in ("", "a", "a/b", "a/b/c", "d", "d/e"):
        if folder:
            found[folder] = (stat.S_IFDIR | 0o755, b"")
        for name, size in zip("fghij", (0, 17, 2048, 2049, 150000)):
            mode = rng.choice((0o644, 0o755, 0o600))
            found[os.path.join(folder, name)] = (stat.S_IFREG | mode, rng.randbytes(size))
        found[os.path.join(folder, "s")] = (stat.S_IFLNK | 0o777, b"f")
    return found


def import_tree(client, tree):
    """A codebase with this tree; returns its id."""
    codebase = client.codebase()

    def messages():
        yield afpb.ImportRequest(codebase_id=codebase)
        for path, (mode, data) in tree.items():
            entry = afpb.ImportEntry(path=os.fsencode(path), kind=KINDS[stat.S_IFMT(mode)],
                                     mode=mode & 0o7777)
            entry.modified_at.FromNanoseconds(LONG_AGO_NS)
            if stat.S_ISLNK(mode):
                entry.symlink_target = data
            yield afpb.ImportRequest(entry=entry)
            if stat.S_ISREG(mode) and data:
                yield afpb.ImportRequest(data=data)

    client.trees.Import(messages())
    return codebase


def write_tree(top, tree, uid):
    """The same tree as a plain directory."""
    os.mkdir(top)
    os.chown(top, uid, uid)
    for path, (mode, data) in tree.items():
        full = os.path.join(top, path)
        if stat.S_ISDIR(mode):
            os.mkdir(full)
        elif stat.S_ISLNK(mode):
            os.symlink(data, full)
        else:
            with open(full, "wb") as file:
                file.write(data)
            os.chmod(full, mode & 0o7777)
        os.chown(full, uid, uid, follow_symlinks=False)
    for path in reversed(tree):
        os.utime(os.path.join(top, path), ns=(LONG_AGO_NS, LONG_AGO_NS), follow_symlinks=False)


def give(top, uid):
    """Another owner for a whole control, all else as it was."""
    for path in [top, *(os.path.join(at, name) for at, dirs, files in os.walk(top)
                        for name in dirs + files)]:
        status = os.lstat(path)
        os.lchown(path, uid, uid)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(path, stat.S_IMODE(status.st_mode))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


class Stage:
    """A sandbox and its control, both from one tree."""

    def __init__(self, daemon, codebase, tree, control):
        self.daemon, self.client = daemon, daemon.client()
        self.sandbox = self.client.sandbox(codebase, FULL)
        self.uid = self.client.uid_of(self.sandbox)
        self.control = control
        write_tree(control, tree, self.uid)
        self.began_ns = time.time_ns()

    def begin(self, **job):
        """Starts a worker on operations, or on a seed and a count."""
        view = os.open(self.daemon.mount / self.sandbox, os.O_PATH | os.O_DIRECTORY)
        control = os.open(self.control, os.O_PATH | os.O_DIRECTORY)
        job |= {"view": view, "control": control, "uid": self.uid, "zero_range": False,
                "began_ns": self.began_ns}
        process = subprocess.Popen([sys.executable, "-m", "history.worker", json.dumps(job)],
                                   cwd=places.HERE, stdout=subprocess.PIPE, text=True,
                                   pass_fds=(view, control))
        os.close(view)
        os.close(control)
        return process

    def run(self, **job):
        """A worker's result: (operations done, failure or None)."""
        return self.end(self.begin(**job))

    @staticmethod
    def end(process):
        """Waits for a worker."""
        text, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, f"the worker ended with {process.returncode}"
        result = json.loads(text)
        return result["operations"], result["failure"]

    def restart(self, how):
        """The daemon ends and begins again; the files follow the view's user of the day."""
        self.client.close()
        self.daemon.kill() if how == "kill" else self.daemon.stop()
        self.daemon.start()
        self.client = self.daemon.client()
        self.client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=self.sandbox))
        uid = self.client.uid_of(self.sandbox)
        if uid != self.uid:
            self.uid = uid
            give(self.control, uid)

    def close(self):
        """The sandbox goes; the control is left to the caller's directory."""
        self.client.destroy(self.sandbox)
        self.client.close()


def replay(stage, parts):
    """A history; returns its failure or None."""
    for part in parts:
        if isinstance(part, str):
            stage.restart(part)
            continue
        _, failure = stage.run(operations=part)
        if failure:
            return failure
    return None


def without(parts, begin, end):
    """The history without its operations begin..end; empty parts and their restarts stay."""
    result, at = [], 0
    for part in parts:
        if isinstance(part, str):
            result.append(part)
            continue
        result.append([op for n, op in enumerate(part, at) if not begin <= n < end])
        at += len(part)
    return result


def shrink(parts, fails):
    """Leaves out what is not needed for the failure, ever smaller pieces, as long as time is."""
    deadline = time.monotonic() + SHRINK_SECONDS
    count = sum(len(part) for part in parts if not isinstance(part, str))
    step = max(count // 2, 1)
    while step >= 1 and time.monotonic() < deadline:
        begin = 0
        while begin < count and time.monotonic() < deadline:
            fewer = without(parts, begin, begin + step)
            if fails(fewer):
                parts = fewer
                count = sum(len(part) for part in parts if not isinstance(part, str))
            else:
                begin += step
        step //= 2
    return parts
