"""The upload of a directory: what to send, and the messages that send it.

One stream, all or nothing: a codebase holds the whole tree or is as before. `Upload` is the part
that does no I/O with the daemon; Wire.send and its asynchronous twin run `messages()`.
"""

from __future__ import annotations

import os
import stat
from typing import Any, Iterable, Iterator, List, Optional, Set

from . import _convert as cv
from . import _rpc as rpc
from . import _tree, types
from ._ignore import Ignore
from ._manifest import Hash
from ._proto import agentfense_pb2 as af
from ._rpc import About, Call

_KINDS = {
    stat.S_IFREG: af.FILE_KIND_REGULAR,
    stat.S_IFDIR: af.FILE_KIND_DIRECTORY,
    stat.S_IFLNK: af.FILE_KIND_SYMLINK,
}


class Upload:
    """A directory on its way into a codebase."""

    _hashes = False  # whether `_sent` needs the content's hash

    def __init__(
        self,
        path: _tree.Path,
        ignore_patterns: Optional[Iterable[str]] = None,
        default_ignores: bool = True,
    ) -> None:
        if isinstance(ignore_patterns, (str, bytes)):
            raise TypeError("ignore_patterns must be a list of patterns, not one text")
        patterns = [cv.text(p, "an ignore pattern") for p in ignore_patterns or ()]
        self.root = _tree.root_of(path)
        self._ignore = Ignore(patterns, default_ignores)
        self.entries: List[_tree.Entry] = []
        self.progress = types.UploadProgress(0, 0, 0, 0)
        self._gone: Set[bytes] = set()  # files that went between the scan and their turn

    def scan(self) -> None:
        """Reads the directories (blocks)."""
        self.entries = list(_tree.scan(self.root, self._ignore))
        self._count()

    def _count(self) -> None:
        files = [e for e in self.entries if e.is_file]
        self.progress = types.UploadProgress(0, len(files), 0, sum(e.size for e in files))

    def call(self, codebase_id: str) -> Call[Any, Any, types.ImportResult]:
        """The call that `messages(codebase_id)` belongs to."""
        about = About(
            "upload",
            "codebase",
            codebase_id=codebase_id,
            path=os.fsdecode(self.root),
            is_upload=True,
        )

        def convert(m: af.ImportResponse) -> types.ImportResult:
            made = types.ImportResult(codebase_id, m.files, m.directories, m.symlinks, m.bytes)
            made.hard_links = m.hard_links
            return made

        return Call(rpc.IMPORT_TREE, None, about, convert)

    def messages(self, codebase_id: str) -> Iterator[af.ImportRequest]:
        """The stream's messages, made as they are asked for (blocks on the disk)."""
        yield af.ImportRequest(codebase_id=codebase_id)
        yield from self._entries()

    def _entries(self) -> Iterator[af.ImportRequest]:
        for entry in self.entries:
            if entry.is_file or entry.link in self._gone:
                yield from self._file(entry)
            else:
                yield af.ImportRequest(entry=self._header(entry))
                self._sent(entry, None)

    def _sent(self, entry: _tree.Entry, content: Optional[Hash]) -> None:
        """An entry is on its way; content: of a file, when `_hashes`."""

    def _missing(self, entry: _tree.Entry) -> Iterator[af.ImportRequest]:
        """A file was gone when its turn came."""
        return iter(())

    def _header(self, entry: _tree.Entry) -> af.ImportEntry:
        made = af.ImportEntry(
            path=entry.path,
            kind=_KINDS[stat.S_IFMT(entry.mode)],
            mode=stat.S_IMODE(entry.mode),
            symlink_target=entry.target,
            hard_link=b"" if entry.link in self._gone else entry.link,
        )
        made.modified_at.FromNanoseconds(entry.mtime_ns)
        return made

    def _file(self, entry: _tree.Entry) -> Iterator[af.ImportRequest]:
        progress = self.progress
        progress.path = os.fsdecode(entry.path)
        sent = 0
        content = Hash() if self._hashes else None
        fd = _tree.open_file(self.root, entry)
        if fd is None:
            self._gone.add(entry.path)
            yield from self._missing(entry)
        else:
            try:
                yield af.ImportRequest(entry=self._header(entry))
                for piece in _tree.pieces(fd, os.path.join(self.root, entry.path)):
                    if isinstance(piece, int):
                        size = piece
                        yield af.ImportRequest(hole=piece)
                    else:
                        size = len(piece)
                        yield af.ImportRequest(data=piece)
                    if content is not None:
                        content.add(piece)
                    step = min(size, entry.size - sent)  # it may have grown since the scan
                    sent += step
                    progress.bytes_done += step
                self._sent(entry, content)
            finally:
                os.close(fd)
        progress.bytes_done += entry.size - sent
        progress.files_done += 1
