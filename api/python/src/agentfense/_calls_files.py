"""The calls of FileService and ArchiveService, built and checked."""

from __future__ import annotations

import os
from typing import IO, Any, Iterable, Iterator, Optional, Union

from . import _convert as cv
from . import _rpc as rpc
from . import extensions as ext
from . import types
from ._calls import CHUNK_BYTES, AnyCall, Content, codebase_id, sandbox_id
from ._calls_v1 import _count, _enum
from ._proto import agentfense_file_pb2 as fil
from ._proto import agentfense_pb2 as af
from ._rpc import About, Call
from .exceptions import InvalidConfigurationError

Path = Union[str, bytes]
Archive = Union[bytes, bytearray, memoryview, IO[bytes], Iterable[bytes]]


def view_path(path: Any) -> bytes:
    """A path as commands see it (/workspace/x) or relative (x), as bytes."""
    name = cv.raw(path, "path")
    if name == b"/workspace" or name.startswith(b"/workspace/"):
        name = name[len(b"/workspace") :]
    return name.lstrip(b"/")


def _about(operation: str, id_: str, path: bytes) -> About:
    return About(operation, "path", sandbox_id=id_, path=os.fsdecode(path), needs_running=True)


def entry(m: fil.FileEntry) -> ext.FileEntry:
    """A file of a sandbox from its message."""
    return ext.FileEntry(
        os.fsdecode(m.path),
        _enum(ext.FileKind, af.FileKind, m.kind, "FILE_KIND_"),
        m.size,
        m.mode,
        cv.time(m, "modified_at"),
        os.fsdecode(m.symlink_target) if m.symlink_target else None,
        None if not m.level else _enum(types.Permission, af.Level, m.level, "LEVEL_"),
    )


# ---- files of a sandbox --------------------------------------------------------------------


def read(id_: str, path: Path, offset: int, length: Optional[int]) -> AnyCall:
    id_, name = sandbox_id(id_), view_path(path)
    request = fil.FileReadRequest(
        sandbox_id=id_,
        path=name,
        offset=_count(offset, "offset"),
        length=0 if length is None else _count(length, "length"),
    )
    if length == 0:
        raise InvalidConfigurationError("length must be at least 1, or None for all of it")
    return Call(rpc.FILE_READ, request, _about("read", id_, name), lambda m: m.data)


def write(
    id_: str, path: Path, content: Content, mode: Optional[int]
) -> Call[Any, Any, ext.FileEntry]:
    """The request is a function that makes the messages, as in upload_file."""
    id_, name = sandbox_id(id_), view_path(path)
    data = memoryview(cv.raw(content, "content"))
    target = fil.FileRequest(sandbox_id=id_, path=name, mode=_mode(mode))

    def messages() -> Iterator[fil.FileWriteRequest]:
        yield fil.FileWriteRequest(target=target)
        for start in range(0, len(data), CHUNK_BYTES):
            yield fil.FileWriteRequest(data=bytes(data[start : start + CHUNK_BYTES]))

    return Call(rpc.FILE_WRITE, messages, _about("write", id_, name), entry)


def _mode(mode: Optional[int]) -> int:
    value = 0 if mode is None else _count(mode, "mode")
    if value > 0o777:
        raise InvalidConfigurationError(f"mode {value:o} holds more than permission bits")
    return value


def stat(id_: str, path: Path) -> Call[Any, Any, ext.FileEntry]:
    id_, name = sandbox_id(id_), view_path(path)
    request = fil.FileRequest(sandbox_id=id_, path=name)
    return Call(rpc.FILE_STAT, request, _about("stat", id_, name), entry)


def make_directory(id_: str, path: Path, mode: Optional[int]) -> Call[Any, Any, ext.FileEntry]:
    id_, name = sandbox_id(id_), view_path(path)
    request = fil.FileRequest(sandbox_id=id_, path=name, mode=_mode(mode))
    return Call(rpc.FILE_MAKE_DIRECTORY, request, _about("make directory", id_, name), entry)


def rename(id_: str, old: Path, new: Path) -> Call[Any, Any, ext.FileEntry]:
    id_, name = sandbox_id(id_), view_path(old)
    request = fil.FileRenameRequest(sandbox_id=id_, to=view_path(new))
    setattr(request, "from", name)
    return Call(rpc.FILE_RENAME, request, _about("rename", id_, name), entry)


def link(id_: str, path: Path, target: Path, hard: bool) -> Call[Any, Any, ext.FileEntry]:
    id_, name = sandbox_id(id_), view_path(path)
    leads_to = view_path(target) if hard else cv.raw(target, "target")
    request = fil.FileLinkRequest(sandbox_id=id_, path=name, target=leads_to, hard=bool(hard))
    return Call(rpc.FILE_LINK, request, _about("link", id_, name), entry)


def remove(id_: str, path: Path, recursive: bool) -> Call[Any, Any, int]:
    id_, name = sandbox_id(id_), view_path(path)
    request = fil.FileRemoveRequest(sandbox_id=id_, path=name, recursive=bool(recursive))
    about = _about("remove", id_, name)
    return Call(rpc.FILE_REMOVE, request, about, lambda m: int(m.removed))


def list_view(id_: str, path: Path, recursive: bool) -> AnyCall:
    id_, name = sandbox_id(id_), view_path(path)
    request = fil.FileListRequest(sandbox_id=id_, path=name, recursive=bool(recursive))
    about = About("list files", "path", sandbox_id=id_, path=os.fsdecode(name))
    return Call(rpc.FILE_LIST, request, about, entry)


def list_codebase(id_: str, path: Path, recursive: bool) -> AnyCall:
    id_, name = codebase_id(id_), view_path(path)
    request = fil.FileListRequest(codebase_id=id_, path=name, recursive=bool(recursive))
    about = About("list files", "file", codebase_id=id_, path=os.fsdecode(name))
    return Call(rpc.FILE_LIST, request, about, entry)


# ---- archives ------------------------------------------------------------------------------


def _imported(id_: str) -> Any:
    def convert(m: fil.ImportArchiveResponse) -> types.ImportResult:
        made = types.ImportResult(id_, m.files, m.directories, m.symlinks, m.bytes)
        made.hard_links, made.unchanged = m.hard_links, m.reused_files
        return made

    return convert


def _pieces(source: Archive) -> Iterator[bytes]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = memoryview(source).cast("B")
        for start in range(0, len(data), CHUNK_BYTES):
            yield bytes(data[start : start + CHUNK_BYTES])
        return
    read = getattr(source, "read", None)
    pieces: Any = iter(lambda: read(CHUNK_BYTES), b"") if read is not None else source
    for piece in pieces:
        yield cv.raw(piece, "a piece of the archive") if not isinstance(piece, bytes) else piece


def import_archive(
    id_: str, source: Archive, path: Path, merge: bool, remove: Iterable[Path]
) -> Call[Any, Any, types.ImportResult]:
    """The request is a function that makes the messages: one try, one iteration."""
    id_, name = codebase_id(id_), view_path(path)
    if isinstance(source, str):
        raise TypeError("an archive is bytes, a binary file or pieces, not text")
    target = fil.ImportTarget(
        codebase_id=id_, path=name, merge=bool(merge), remove=[view_path(p) for p in remove]
    )

    def messages() -> Iterator[fil.ImportArchiveRequest]:
        yield fil.ImportArchiveRequest(target=target)
        for piece in _pieces(source):
            yield fil.ImportArchiveRequest(data=piece)

    about = About("import archive", "codebase", codebase_id=id_, is_upload=True)
    return Call(rpc.IMPORT_ARCHIVE, messages, about, _imported(id_))


def import_directory(
    id_: str, path: Any, exclude: Iterable[Path], ignore_files: bool, merge: bool
) -> Call[Any, Any, types.ImportResult]:
    id_, name = codebase_id(id_), os.path.abspath(os.fsencode(path))
    if isinstance(exclude, (str, bytes)):
        raise TypeError("exclude must be a list of patterns, not one text")
    request = fil.ImportDirectoryRequest(
        codebase_id=id_,
        path=name,
        exclude=[cv.raw(pattern, "a pattern") for pattern in exclude],
        honour_ignore_files=bool(ignore_files),
        merge=bool(merge),
    )
    where = os.fsdecode(name)
    about = About("import directory", "codebase", codebase_id=id_, path=where, is_upload=True)
    return Call(rpc.IMPORT_DIRECTORY, request, about, _imported(id_))


def export_archive(
    codebase: Optional[str],
    sandbox: Optional[str],
    delta_of: Optional[str],
    path: Path,
    zstd: bool,
    everything: bool,
) -> AnyCall:
    if sum(source is not None for source in (codebase, sandbox, delta_of)) != 1:
        raise InvalidConfigurationError(
            "name one of codebase_id, sandbox_id and delta_of to export from"
        )
    request = fil.ExportArchiveRequest(path=view_path(path), zstd=bool(zstd), all=bool(everything))
    if codebase is not None:
        request.codebase_id = codebase_id(codebase)
        about = About("export archive", "codebase", codebase_id=request.codebase_id)
    elif sandbox is not None:
        request.sandbox_id = sandbox_id(sandbox)
        about = About("export archive", "sandbox", sandbox_id=request.sandbox_id)
    else:
        request.delta_of = sandbox_id(delta_of)
        about = About("export archive", "sandbox", sandbox_id=request.delta_of)
    return Call(rpc.EXPORT_ARCHIVE, request, about, lambda m: m.data)
