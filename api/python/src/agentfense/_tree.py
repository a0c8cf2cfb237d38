"""A local directory as the entries of an upload: what is there, and what is in the files.

Names are bytes. Regular files, directories and symbolic links are taken, with modes and mtimes;
devices, sockets and FIFOs are left out. Of a file's several names the first in the order of the
scan is the file, the others are hard links to it. Nothing follows a symbolic link below the root.
A file that goes away between the scan and its turn is left out; one that cannot be read is an
UploadError that names it.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Tuple, Union

from ._ignore import IGNORE_FILES, Ignore
from .exceptions import InvalidConfigurationError, UploadError

READ_BYTES = 1 << 20
IGNORE_FILE_BYTES_MAX = 1 << 20
Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]


@dataclass
class Entry:
    """One object of the tree."""

    path: bytes  # relative to the root
    mode: int  # type and permission bits
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    target: bytes = b""  # of a symbolic link
    link: bytes = b""  # the path of the file that this is one more name of

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file, under its first name."""
        return stat.S_ISREG(self.mode) and not self.link

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)


def root_of(path: Path) -> bytes:
    """The absolute path of a directory; InvalidConfigurationError when it is none."""
    try:
        root = os.path.abspath(os.fsencode(path))
    except TypeError:
        raise TypeError(f"a path must be text, bytes or a path, not {path!r}") from None
    except ValueError as error:
        raise InvalidConfigurationError(f"{path!r} is no path: {error}") from None
    try:
        is_directory = stat.S_ISDIR(os.stat(root).st_mode)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidConfigurationError(f"cannot upload {os.fsdecode(root)!r}: {reason}") from None
    if not is_directory:
        raise InvalidConfigurationError(f"cannot upload {os.fsdecode(root)!r}: it is no directory")
    return root


def _failed(path: bytes, error: OSError) -> UploadError:
    hint = " (an ignore pattern can leave it out)" if error.errno == errno.EACCES else ""
    return UploadError(os.fsdecode(path), "", f"{error.strerror or error}{hint}")


def _ignore_files(directory: bytes, names: List[bytes]) -> Iterator[Tuple[bytes, bytes]]:
    for name in IGNORE_FILES:
        if name not in names:
            continue
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                continue
            raise _failed(path, error) from error
        with open(fd, "rb") as file:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                yield name, file.read(IGNORE_FILE_BYTES_MAX)


def scan(root: bytes, ignore: Ignore) -> Iterator[Entry]:
    """The entries below `root`, names sorted, each directory before what it holds."""
    pending: List[Tuple[bytes, Ignore]] = [(b"", ignore)]
    first: Dict[Tuple[int, int], bytes] = {}  # names of files that have several
    while pending:
        prefix, rules = pending.pop()
        directory = os.path.join(root, prefix)
        try:
            with os.scandir(directory) as listing:
                found = sorted(listing, key=lambda e: e.name)
        except OSError as error:
            if error.errno == errno.ENOENT and prefix:
                continue
            raise _failed(directory, error) from error
        rules = rules.enter(prefix, _ignore_files(directory, [e.name for e in found]))
        below: List[Tuple[bytes, Ignore]] = []
        for item in found:
            path = prefix + item.name
            is_directory = item.is_dir(follow_symlinks=False)
            if rules.ignores(path, is_directory):
                continue
            entry = _entry(item, path, first)
            if entry is None:
                continue
            yield entry
            if entry.is_directory:
                below.append((path + b"/", rules))
        pending.extend(reversed(below))


def _entry(
    item: os.DirEntry[bytes], path: bytes, first: Dict[Tuple[int, int], bytes]
) -> Optional[Entry]:
    try:
        st = item.stat(follow_symlinks=False)
        target = os.readlink(item.path) if stat.S_ISLNK(st.st_mode) else b""
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):  # gone, or another thing by now
            return None
        raise _failed(item.path, error) from error
    if not (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode) or target):
        return None
    size = st.st_size if stat.S_ISREG(st.st_mode) else 0
    link = b""
    if stat.S_ISREG(st.st_mode) and st.st_nlink > 1:
        name = first.setdefault((st.st_dev, st.st_ino), path)
        link = name if name != path else b""
    times = (st.st_mtime_ns, st.st_ctime_ns)
    return Entry(path, st.st_mode, size, *times, st.st_ino, target, link)


def open_file(root: bytes, entry: Entry) -> Optional[int]:
    """A descriptor of a regular file for reading; None when it is gone or something else by now."""
    path = os.path.join(root, entry.path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            return None
        raise _failed(path, error) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return fd


def pieces(fd: int, path: bytes) -> Iterator[Union[bytes, int]]:
    """The content of a file: bytes, and for holes their length. Stops where the file ends."""
    offset = 0
    try:
        while True:
            data_at = _seek(fd, offset, os.SEEK_DATA)
            if data_at is None:  # no data up to the end
                end = os.fstat(fd).st_size
                if end > offset:
                    yield end - offset
                return
            if data_at > offset:
                yield data_at - offset
            offset = data_at
            hole_at = _seek(fd, offset, os.SEEK_HOLE)
            while hole_at is None or offset < hole_at:
                want = READ_BYTES if hole_at is None else min(READ_BYTES, hole_at - offset)
                data = os.pread(fd, want, offset)
                if not data:
                    return
                offset += len(data)
                yield data
    except OSError as error:
        raise _failed(path, error) from error


def _seek(fd: int, offset: int, whence: int) -> Optional[int]:
    try:
        return os.lseek(fd, offset, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        if error.errno in (errno.EINVAL, errno.ENOTSUP):  # a file system without holes
            return offset if whence == os.SEEK_DATA else None
        raise
