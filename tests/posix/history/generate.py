"""Makes up the next operation from a seed and from what is there."""

import os

from history.world import FLAGS, MODES, SLOTS

NAMES = ("a", "b", "c", "d", "e", "long-" + "n" * 200, "\udcff\udc80")
OFFSETS = (0, 1, 100, 2047, 2048, 2049, 4095, 4096, 4097, 65536, 131072, 200001)
LENGTHS = (0, 1, 10, 100, 2048, 4096, 5000, 70000, 140000)
FILE_MODES = (0o644, 0o600, 0o755, 0o444, 0o4755, 0o2755, 0o6777, 0o2640)
DIRECTORY_MODES = (0o755, 0o700, 0o777, 0o1777, 0o2775, 0o555)
ATTRIBUTES = ("user.a", "user.b", "user.c", "trusted.x", "user." + "n" * 250)

# How often what happens, in parts.
WEIGHTS = {
    "create": 5, "write": 9, "append": 5, "replace": 4, "read": 4, "truncate": 4, "space": 4,
    "copy": 4, "rename": 12, "link": 5, "symlink": 3, "readlink": 1, "unlink": 7, "mkdir": 5,
    "rmdir": 3, "mkfifo": 1, "chmod": 4, "utime": 3, "list": 3, "setxattr": 3, "getxattr": 1,
    "removexattr": 1, "open": 6, "unnamed": 1, "name_it": 1, "pwrite": 5, "pread": 4,
    "ftruncate": 2, "freserve": 2, "fchmod": 1, "fsync": 1, "status": 2, "store": 4, "close": 2,
}


class Generator:
    """Operations in a world; the working directory is that world's top."""

    def __init__(self, rng):
        self.rng = rng
        self.names, self.weights = list(WEIGHTS), list(WEIGHTS.values())

    def known(self):
        """Paths that exist."""
        return [os.path.join(at, name)[2:] for at, dirs, files in os.walk(".")
                for name in sorted(dirs) + sorted(files)]

    def path(self):
        """A path: mostly one that exists, else one below something that may exist."""
        known = self.known()
        if known and self.rng.random() < 0.75:
            return self.rng.choice(known)
        return self.fresh(known)

    def fresh(self, known=None):
        """A path that likely does not exist, in a directory that likely does."""
        known = self.known() if known is None else known
        folders = [path for path in known if os.path.isdir(path)] + [""] * 3
        return os.path.join(self.rng.choice(folders), self.rng.choice(NAMES))

    def next(self):
        """The next operation."""
        name = self.rng.choices(self.names, self.weights)[0]
        return [name, *getattr(self, "of_" + name, self.of_path)()]

    def number(self):
        """A seed for the bytes that are written."""
        return self.rng.randrange(1 << 30)

    def range(self):
        """An offset and a length, at the edges of what is handled differently."""
        if self.rng.random() < 0.4:
            return [self.rng.randrange(200000), self.rng.randrange(1, 30000)]
        return [self.rng.choice(OFFSETS), self.rng.choice(LENGTHS)]

    def size(self):
        """A file's size."""
        return self.rng.choice(OFFSETS + (self.rng.randrange(300000),))

    def slot(self):
        """An open file."""
        return self.rng.randrange(SLOTS)

    def of_path(self):
        return [self.path()]

    def of_create(self):
        return [self.fresh(), self.rng.choice(FILE_MODES)]

    def of_write(self):
        return [self.path(), *self.range(), self.number()]

    def of_append(self):
        return [self.path(), self.rng.choice(LENGTHS), self.number()]

    of_replace = of_append

    def of_read(self):
        return [self.path(), *self.range()]

    def of_truncate(self):
        return [self.path(), self.size()]

    def of_space(self):
        return [self.path(), self.rng.choice(list(MODES)), *self.range()]

    def of_copy(self):
        at, length = self.range()
        return [self.path(), self.path(), at, self.rng.choice(OFFSETS), length]

    def of_rename(self):
        target = self.path() if self.rng.random() < 0.5 else self.fresh()
        return [self.path(), target, self.rng.choice((0, 0, 0, 1, 2))]

    def of_link(self):
        return [self.path(), self.fresh()]

    def of_symlink(self):
        return [self.rng.choice((self.path(), "nowhere", "t" * 3000, "../a")), self.fresh()]

    def of_mkdir(self):
        return [self.fresh(), self.rng.choice(DIRECTORY_MODES)]

    def of_mkfifo(self):
        return [self.fresh(), 0o644]

    def of_chmod(self):
        path = self.path()
        modes = DIRECTORY_MODES if os.path.isdir(path) else FILE_MODES
        return [path, self.rng.choice(modes)]

    def of_utime(self):
        return [self.path(), self.rng.randrange(1 << 59), self.rng.randrange(1 << 59)]

    def of_setxattr(self):
        return [self.path(), self.rng.choice(ATTRIBUTES), self.rng.choice((0, 1, 100, 3000)),
                self.number(), self.rng.choice((0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))]

    def of_getxattr(self):
        return [self.path(), self.rng.choice(ATTRIBUTES)]

    of_removexattr = of_getxattr

    def of_open(self):
        return [self.slot(), self.path(), self.rng.choice(list(FLAGS))]

    def of_unnamed(self):
        return [self.slot(), os.path.dirname(self.path()) or "."]

    def of_name_it(self):
        return [self.slot(), self.fresh()]

    def of_pwrite(self):
        return [self.slot(), *self.range(), self.number()]

    def of_pread(self):
        return [self.slot(), *self.range()]

    def of_ftruncate(self):
        return [self.slot(), self.size()]

    def of_freserve(self):
        return [self.slot(), self.rng.choice(list(MODES)), *self.range()]

    def of_fchmod(self):
        return [self.slot(), self.rng.choice(FILE_MODES)]

    def of_fsync(self):
        return [self.slot()]

    of_status = of_close = of_fsync

    def of_store(self):
        return [self.slot(), *self.range(), self.number()]
