"""One of two directories under comparison, and the operations that happen in it.

An operation is a list [name, arguments...] of numbers and strings, so that a history can be
printed, kept and replayed, and any part of a history is a history. What an operation gives is its
outcome: a value, or the name of an errno. Paths are relative; enter() makes them this world's.
"""

import errno
import mmap
import os
import random
import stat

from suite.base import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate, rename2

SLOTS = 6  # open files that live across operations
FLAGS = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "a": os.O_RDWR | os.O_APPEND,
         "t": os.O_RDWR | os.O_TRUNC, "c": os.O_RDWR | os.O_CREAT,
         "x": os.O_RDWR | os.O_CREAT | os.O_EXCL}
MODES = {"grow": 0, "keep": KEEP_SIZE, "punch": PUNCH_HOLE | KEEP_SIZE, "zero": ZERO_RANGE,
         "zero_keep": ZERO_RANGE | KEEP_SIZE}
NOFOLLOW = os.O_NOFOLLOW | os.O_NONBLOCK


def data_of(length, seed):
    """The bytes that an operation writes."""
    return random.Random(seed).randbytes(length)


class World:
    """A directory, known by a descriptor, and the files that are open in it."""

    def __init__(self, top, has_zero_range):
        self.top, self.has_zero_range = top, has_zero_range
        self.files, self.maps = {}, {}

    def enter(self):
        """Relative paths mean this world's from now on."""
        os.fchdir(self.top)

    def apply(self, operation):
        """Does it; returns the outcome."""
        name, *arguments = operation
        try:
            return getattr(self, name)(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno]

    # ---- by path -------------------------------------------------------------------------

    def create(self, path, mode):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | NOFOLLOW, mode))

    def write(self, path, offset, length, seed):
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | NOFOLLOW, 0o644)
        try:
            return os.pwrite(fd, data_of(length, seed), offset)
        finally:
            os.close(fd)

    def append(self, path, length, seed):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | NOFOLLOW)
        try:
            return os.write(fd, data_of(length, seed))
        finally:
            os.close(fd)

    def replace(self, path, length, seed):
        fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | NOFOLLOW, 0o640)
        try:
            return os.write(fd, data_of(length, seed))
        finally:
            os.close(fd)

    def read(self, path, offset, length):
        fd = os.open(path, os.O_RDONLY | NOFOLLOW)
        try:
            return os.pread(fd, length, offset).hex()
        finally:
            os.close(fd)

    def truncate(self, path, size):
        """To the same size, the times may move or not: they do here."""
        os.truncate(path, size)
        os.utime(path)

    def space(self, path, mode, offset, length):
        fd = os.open(path, os.O_RDWR | NOFOLLOW)
        try:
            self.reserve(fd, mode, offset, length)
        finally:
            os.close(fd)

    def reserve(self, fd, mode, offset, length):
        """fallocate, done by hand where the control has no ZERO_RANGE."""
        if self.has_zero_range or not mode.startswith("zero"):
            fallocate(fd, MODES[mode], offset, length)
            return
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length)  # with its errors
        if mode == "zero" and offset + length > os.fstat(fd).st_size:
            os.ftruncate(fd, offset + length)

    def copy(self, source, target, at, to, length):
        fd = os.open(source, os.O_RDONLY | NOFOLLOW)
        try:
            out = os.open(target, os.O_CREAT | os.O_RDWR | NOFOLLOW, 0o644)
            try:
                return os.copy_file_range(fd, out, length, at, to)
            finally:
                os.close(out)
        finally:
            os.close(fd)

    def rename(self, source, target, flags):
        rename2(source, target, flags)

    def link(self, source, target):
        os.link(source, target, follow_symlinks=False)

    def symlink(self, target, path):
        os.symlink(target, path)

    def readlink(self, path):
        return os.readlink(path)

    def unlink(self, path):
        os.unlink(path)

    def mkdir(self, path, mode):
        os.mkdir(path, mode)

    def rmdir(self, path):
        os.rmdir(path)

    def mkfifo(self, path, mode):
        os.mkfifo(path, mode)

    def chmod(self, path, mode):
        os.chmod(path, mode)

    def utime(self, path, access, change):
        os.utime(path, ns=(access, change), follow_symlinks=False)

    def list(self, path):
        return sorted(os.listdir(path))

    def setxattr(self, path, name, length, seed, flags):
        os.setxattr(path, name, data_of(length, seed), flags, follow_symlinks=False)

    def getxattr(self, path, name):
        return os.getxattr(path, name, follow_symlinks=False).hex()

    def removexattr(self, path, name):
        os.removexattr(path, name, follow_symlinks=False)

    # ---- by open file --------------------------------------------------------------------

    def open(self, slot, path, flags):
        self.close(slot)
        self.files[slot] = os.open(path, FLAGS[flags] | NOFOLLOW, 0o644)

    def unnamed(self, slot, path):
        self.close(slot)
        self.files[slot] = os.open(path, os.O_TMPFILE | os.O_RDWR, 0o600)

    def name_it(self, slot, path):
        os.link(f"/proc/self/fd/{self.fd(slot)}", path, dst_dir_fd=self.top)

    def fd(self, slot):
        """The descriptor in a slot; EBADF when there is none."""
        if slot not in self.files:
            raise OSError(errno.EBADF, "no open file")
        return self.files[slot]

    def pwrite(self, slot, offset, length, seed):
        return os.pwrite(self.fd(slot), data_of(length, seed), offset)

    def pread(self, slot, offset, length):
        return os.pread(self.fd(slot), length, offset).hex()

    def ftruncate(self, slot, size):
        self.unmap(slot)
        os.ftruncate(self.fd(slot), size)
        os.utime(self.fd(slot))

    def freserve(self, slot, mode, offset, length):
        self.reserve(self.fd(slot), mode, offset, length)

    def fchmod(self, slot, mode):
        os.fchmod(self.fd(slot), mode)

    def fsync(self, slot):
        os.fsync(self.fd(slot))

    def status(self, slot):
        """What fstat says, but for times and numbers that are the file system's own."""
        status = os.fstat(self.fd(slot))
        return [stat.S_IFMT(status.st_mode), status.st_mode & 0o7777, *(
            [0, 0] if stat.S_ISDIR(status.st_mode) else [status.st_size, status.st_nlink])]

    def store(self, slot, offset, length, seed):
        """A store through a shared map, which stays a while; never behind the end, nor where it
        takes set-id bits away in a view alone (docs/POSIX.md, setid-map)."""
        fd = self.fd(slot)
        size = os.fstat(fd).st_size
        if os.fstat(fd).st_mode & 0o6000:
            return "not mapped"
        if slot in self.maps and len(self.maps[slot]) > size:
            self.unmap(slot)
        if slot not in self.maps:
            if size == 0:
                return "nothing to map"
            self.maps[slot] = mmap.mmap(fd, size)
        shared = self.maps[slot]
        end = min(offset + length, len(shared))
        if end > offset:
            shared[offset:end] = data_of(end - offset, seed)
        return end

    def flush(self):
        """Stores reach the file, if they have not yet; the next one needs a new map."""
        for slot in list(self.maps):
            self.maps[slot].flush()
            self.unmap(slot)

    def unmap(self, slot):
        """The map of a slot goes, its stores stay."""
        if slot in self.maps:
            self.maps.pop(slot).close()

    def close(self, slot):
        self.unmap(slot)
        if slot in self.files:
            os.close(self.files.pop(slot))

    def close_all(self):
        for slot in range(SLOTS):
            self.close(slot)
