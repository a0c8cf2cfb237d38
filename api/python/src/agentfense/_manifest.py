"""What was sent to which codebase: a file per codebase and directory, so that the next time only
changes go.

A manifest holds the version of the codebase after the sending (its `updated_at`, which no two
versions share) and, for each path, the file's stat as of the scan and the hash of what was sent.
It is only a memory: the daemon refuses an incremental import for another version than the
manifest's, and then everything is sent. So a lost, stale or overwritten manifest costs time, never
correctness.

A file counts as unchanged without being read when size, mtime, ctime, inode and mode are as before,
and mtime and ctime are older than the scan by RACY_NS: a later write within the same tick of the
clock would not show. Otherwise its content is hashed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

from . import _tree

FORMAT = 1
RACY_NS = 2_000_000_000  # coarser than the clock of any file system in use
KEEP_S = 60 * 24 * 3600
Seen = Tuple[int, int, int, int, int, str]  # mode, size, mtime, ctime, inode; hash or label()


def label(entry: _tree.Entry) -> str:
    """What stands for the content of an entry that is no file of its own."""
    return "\0" + os.fsdecode(entry.link) if entry.link else os.fsdecode(entry.target)


def folder() -> str:
    """Where manifests are: AGENTFENSE_CACHE_DIR, else the user's cache folder."""
    named = os.environ.get("AGENTFENSE_CACHE_DIR")
    if named:
        return named
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "agentfense")


def _file(kind: str, *parts: Any) -> str:
    key = hashlib.sha256("\0".join(map(repr, parts)).encode()).hexdigest()[:32]
    return os.path.join(folder(), f"{kind}-{key}.json")


def _read(path: str) -> Dict[str, Any]:
    """A JSON object; an empty one when there is none that can be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}


def _write(path: str, content: Dict[str, Any]) -> None:
    """Replaces a file as a whole. A cache that cannot be written is no error."""
    part = ""
    try:
        os.makedirs(folder(), mode=0o700, exist_ok=True)
        fd, part = tempfile.mkstemp(dir=folder(), prefix="part-")
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump({"format": FORMAT, **content}, file)
        os.replace(part, path)
    except OSError:
        if part:
            with contextlib.suppress(OSError):
                os.unlink(part)


def _forget_old_ones() -> None:
    oldest = time.time() - KEEP_S
    with contextlib.suppress(OSError), os.scandir(folder()) as listing:
        for item in listing:
            if item.stat().st_mtime < oldest:
                with contextlib.suppress(OSError):
                    os.unlink(item.path)


class Hash:
    """The hash of a file's pieces; a hole is not the same as zeros."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._hole = 0

    def add(self, piece: Union[bytes, int]) -> None:
        """The next piece."""
        if isinstance(piece, int):
            self._hole += piece
            return
        self._end_hole()
        self._hash.update(piece)

    def _end_hole(self) -> None:
        if self._hole:
            self._hash.update(f"\0hole {self._hole}\0".encode())
            self._hole = 0

    def text(self) -> str:
        """The result."""
        self._end_hole()
        return self._hash.hexdigest()


def hash_file(root: bytes, entry: _tree.Entry) -> Optional[str]:
    """The hash of a file's present content; None when it is gone."""
    fd = _tree.open_file(root, entry)
    if fd is None:
        return None
    try:
        made = Hash()
        for piece in _tree.pieces(fd, os.path.join(root, entry.path)):
            made.add(piece)
        return made.text()
    finally:
        os.close(fd)


@dataclass
class Plan:
    """What an upload has to do."""

    send: List[_tree.Entry]
    remove: List[bytes] = field(default_factory=list)
    unchanged: int = 0
    version: Optional[Tuple[int, int]] = None  # the codebase's, which the rest relies on


@dataclass
class Manifest:
    """What is known of one directory in one codebase."""

    codebase_id: str
    root: bytes
    version: Optional[Tuple[int, int]] = None  # seconds, nanoseconds
    scanned_ns: int = 0
    seen: Dict[str, Seen] = field(default_factory=dict)

    @classmethod
    def load(cls, codebase_id: str, root: bytes) -> Manifest:
        """The one on the disk, or an empty one."""
        made = cls(codebase_id, root)
        content = _read(_file("sent", codebase_id, root))
        try:
            if content:
                made.version = (int(content["version"][0]), int(content["version"][1]))
                made.scanned_ns = int(content["scanned_ns"])
                made.seen = {
                    path: (int(a), int(b), int(c), int(d), int(e), str(f))
                    for path, (a, b, c, d, e, f) in content["seen"].items()
                }
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            return cls(codebase_id, root)
        return made

    def save(self) -> None:
        """For the next time."""
        if self.version is None:
            return
        _forget_old_ones()
        content = {
            "version": list(self.version),
            "scanned_ns": self.scanned_ns,
            "seen": self.seen,
        }
        _write(_file("sent", self.codebase_id, self.root), content)

    def note(self, entry: _tree.Entry, content: str) -> None:
        """An entry is in the codebase with this content."""
        self.seen[os.fsdecode(entry.path)] = (
            entry.mode,
            entry.size,
            entry.mtime_ns,
            entry.ctime_ns,
            entry.inode,
            content,
        )

    def _is_same(self, entry: _tree.Entry, old: Seen) -> Optional[str]:
        """The content that the codebase has already, when it is the entry's; else None."""
        mode, size, mtime_ns, ctime_ns, inode, content = old
        if mode != entry.mode:
            return None
        if entry.is_directory:
            return content
        if not entry.is_file:
            return content if content == label(entry) else None
        if content.startswith("\0"):  # it was one more name of another file
            return None
        if size != entry.size:
            return None
        now = (entry.mtime_ns, entry.ctime_ns, entry.inode)
        settled = max(mtime_ns, ctime_ns) < self.scanned_ns - RACY_NS
        if settled and now == (mtime_ns, ctime_ns, inode):
            return content
        return content if hash_file(self.root, entry) == content else None

    def plan(self, entries: List[_tree.Entry], new: Manifest) -> Plan:
        """What is to be sent (reads files whose stat says nothing). What stays goes into `new`."""
        if self.version is None:
            return Plan(entries)
        made = Plan([], version=self.version)
        sent = set()
        for entry in entries:
            old = self.seen.get(os.fsdecode(entry.path))
            content = None if old is None else self._is_same(entry, old)
            if content is not None and entry.link in sent:  # a file that is sent is a new one
                content = None
            if content is not None:
                new.note(entry, content)
                made.unchanged += entry.is_file
                continue
            made.send.append(entry)
            sent.add(entry.path)
            if old is not None and stat.S_IFMT(old[0]) != stat.S_IFMT(entry.mode):
                made.remove.append(entry.path)
        made.remove += self._gone(entries)
        return made

    def _gone(self, entries: List[_tree.Entry]) -> Iterator[bytes]:
        here = {os.fsdecode(entry.path) for entry in entries}
        gone = [path for path in self.seen if path not in here]
        above = set(gone)
        for path in gone:
            if not any(path[:at] in above for at, char in enumerate(path) if char == "/"):
                yield os.fsencode(path)


def remembered_codebase(*key: Any) -> Optional[str]:
    """The codebase that from_local(reuse=True) used the last time for the same arguments."""
    found = _read(_file("reuse", *key)).get("codebase_id")
    return found if isinstance(found, str) else None


def remember_codebase(codebase_id: str, *key: Any) -> None:
    """For the next time."""
    _write(_file("reuse", *key), {"codebase_id": codebase_id})
