"""Files of a running sandbox; the twin of agentfense._files, with await."""

from __future__ import annotations

from typing import AsyncIterator, Optional

from .. import _calls_files as calls
from .. import extensions as ext
from .._calls import Content
from ._wire import AsyncWire


class AsyncSandboxFiles:
    """The files of one sandbox; see agentfense.SandboxFiles."""

    def __init__(self, wire: AsyncWire, sandbox_id: str) -> None:
        self._wire = wire
        self._id = sandbox_id

    async def read(self, path: calls.Path, offset: int = 0, length: Optional[int] = None) -> bytes:
        """The bytes of a file from `offset` on; length: at most so many, None: to the end."""
        return b"".join([piece async for piece in self.stream(path, offset, length)])

    def stream(
        self, path: calls.Path, offset: int = 0, length: Optional[int] = None
    ) -> AsyncIterator[bytes]:
        """The same in pieces, as they come."""
        return self._wire.stream(calls.read(self._id, path, offset, length))

    async def write(
        self, path: calls.Path, content: Content, mode: Optional[int] = None
    ) -> ext.FileEntry:
        """Replaces the content of a file (text as UTF-8), or makes it; mode: of a new one, 0644."""
        call = calls.write(self._id, path, content, mode)
        return await self._wire.send(call, call.request)

    async def stat(self, path: calls.Path) -> ext.FileEntry:
        """What is at a path, and which level the rules give it."""
        return await self._wire.call(calls.stat(self._id, path))

    def list(self, path: calls.Path = "", recursive: bool = False) -> AsyncIterator[ext.FileEntry]:
        """What a directory holds, in path order, as a stream: no bound on the number."""
        return self._wire.stream(calls.list_view(self._id, path, recursive))

    async def remove(self, path: calls.Path, recursive: bool = False) -> int:
        """Removes a file or an empty directory; recursive: all of a tree. Returns how many."""
        return await self._wire.call(calls.remove(self._id, path, recursive))

    async def make_directory(self, path: calls.Path, mode: Optional[int] = None) -> ext.FileEntry:
        """Makes a directory in one that is there; mode: 0755 unless given."""
        return await self._wire.call(calls.make_directory(self._id, path, mode))

    async def rename(self, old: calls.Path, new: calls.Path) -> ext.FileEntry:
        """Renames a file or directory; a file that has the new name is replaced."""
        return await self._wire.call(calls.rename(self._id, old, new))

    async def link(self, path: calls.Path, target: calls.Path, hard: bool = False) -> ext.FileEntry:
        """A symbolic link at `path` to `target`; hard: one more name for the file `target`."""
        return await self._wire.call(calls.link(self._id, path, target, hard))
