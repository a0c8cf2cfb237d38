"""Every call that takes a path, with every way in which a path can be wrong: ENOTDIR, ENAMETOOLONG,
ENOENT, EACCES, ELOOP, EFAULT, EROFS, and that a call which fails changes nothing.

A table of calls and a table of bad paths; a case is a pair. Traits of a call:
  n  makes the name            f  follows a link in the last place
  w  changes the file system   p  needs write permission on the directory
  d  is about a directory
"""

import ctypes
import os
import socket

from suite.base import DIR, REGULAR, add, check, child, error_of, libc, make

AT_FDCWD, NOFOLLOW = -100, 0x100
NEW, OLD = b"new", b"old"  # the other name of calls that take two
MODE = 0o644
NOW = (ctypes.c_int64 * 4)()


def call(name, *arguments):
    """A function of a path that calls libc's `name`; the path takes the place of `...`."""
    function = getattr(libc, name)
    return lambda path: check(function(*(path if a is ... else a for a in arguments)))


def opener(flags):
    """open(2) with flags."""

    def run(path):
        os.close(check(libc.open(path, flags | os.O_NONBLOCK, MODE)))

    return run


def watch(path):
    """inotify_add_watch(2)."""
    fd = check(libc.inotify_init())
    try:
        check(libc.inotify_add_watch(fd, path, 0x2))
    finally:
        os.close(fd)


def run_bind(path):
    """bind(2) of a socket."""
    with socket.socket(socket.AF_UNIX) as unbound:
        unbound.bind(path)


BUFFER = ctypes.create_string_buffer(4096)
EMPTY_LIST = (ctypes.c_char_p * 1)()

CALLS = {
    "open": ("f", opener(os.O_RDONLY)),
    "open_write": ("fw", opener(os.O_WRONLY)),
    "open_truncate": ("fw", opener(os.O_RDWR | os.O_TRUNC)),
    "open_create": ("nfwp", opener(os.O_CREAT | os.O_RDWR)),
    "open_exclusive": ("nwp", opener(os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
    "open_path": ("f", opener(os.O_PATH)),
    "open_path_nofollow": ("", opener(os.O_PATH | os.O_NOFOLLOW)),
    "open_directory": ("fd", opener(os.O_DIRECTORY)),
    "open_unnamed": ("fdw", opener(os.O_TMPFILE | os.O_RDWR)),
    "stat": ("f", call("stat", ..., BUFFER)),
    "lstat": ("", call("lstat", ..., BUFFER)),
    "access": ("f", call("access", ..., os.R_OK)),
    "access_write": ("fw", call("access", ..., os.W_OK)),
    "chmod": ("fw", call("chmod", ..., 0o600)),
    "chown": ("fw", call("chown", ..., -1, -1)),
    "lchown": ("w", call("lchown", ..., -1, -1)),
    "truncate": ("fw", call("truncate", ..., ctypes.c_int64(3))),
    "link_from": ("w", call("link", ..., NEW)),
    "link_to": ("nwp", call("link", OLD, ...)),
    "mkdir": ("nwp", call("mkdir", ..., 0o755)),
    "mkfifo": ("nwp", call("mkfifo", ..., MODE)),
    "mknod_regular": ("nwp", call("mknod", ..., 0o100644, ctypes.c_uint64(0))),
    "mknod_socket": ("nwp", call("mknod", ..., 0o140644, ctypes.c_uint64(0))),
    "bind": ("nwp", run_bind),
    "symlink": ("nwp", call("symlink", b"target", ...)),
    "rename_from": ("wp", call("rename", ..., NEW)),
    "rename_to": ("nwp", call("rename", OLD, ...)),
    "rename_noreplace_to": ("nwp", call("renameat2", AT_FDCWD, OLD, AT_FDCWD, ..., 1)),
    "exchange_from": ("wp", call("renameat2", AT_FDCWD, ..., AT_FDCWD, OLD, 2)),
    "exchange_to": ("wp", call("renameat2", AT_FDCWD, OLD, AT_FDCWD, ..., 2)),
    "rmdir": ("dwp", call("rmdir", ...)),
    "unlink": ("wp", call("unlink", ...)),
    "utimensat": ("fw", call("utimensat", AT_FDCWD, ..., NOW, 0)),
    "utimensat_nofollow": ("w", call("utimensat", AT_FDCWD, ..., NOW, NOFOLLOW)),
    "readlink": ("", call("readlink", ..., BUFFER, 4096)),
    "statfs": ("f", call("statfs", ..., BUFFER)),
    "chdir": ("fd", call("chdir", ...)),
    "execve": ("f", call("execve", ..., EMPTY_LIST, EMPTY_LIST)),
    "setxattr": ("fw", call("setxattr", ..., b"user.a", b"v", 1, 0)),
    "lsetxattr": ("w", call("lsetxattr", ..., b"user.a", b"v", 1, 0)),
    "getxattr": ("f", call("getxattr", ..., b"user.a", BUFFER, 10)),
    "listxattr": ("f", call("listxattr", ..., BUFFER, 10)),
    "removexattr": ("fw", call("removexattr", ..., b"user.a")),
    "inotify_add_watch": ("f", watch),
}
TARGET = {"symlink_target": ("", call("symlink", ..., NEW))}


def refused(function, path, want):
    """The call fails with the errno and leaves all names as they were."""
    before = sorted(os.listdir("."))
    got = error_of(function, path)
    assert got == want, f"{got}, not {want}"
    assert sorted(os.listdir(".")) == before, "a call that failed changed names"


def prepare(*kinds):
    """Makes the objects that bad paths are built from."""
    make(REGULAR, "old")
    for kind in kinds:
        if kind == "loop":
            os.symlink("loop", "loop")
        elif kind == "dangling":
            os.symlink("nothing", "dangling")
        else:
            make(kind, kind)


# What is wrong: (errno, traits that a call must have, traits it must not have, needs, path).
WRONG = {
    "below_a_file": ("ENOTDIR", "", "", [REGULAR], b"regular/x"),
    "below_a_fifo": ("ENOTDIR", "", "", ["fifo"], b"fifo/x"),
    "name_of_256_bytes": ("ENAMETOOLONG", "", "", [], b"n" * 256),
    "directory_of_256_bytes": ("ENAMETOOLONG", "", "", [], b"n" * 256 + b"/x"),
    "path_of_4096_bytes": ("ENAMETOOLONG", "", "", [], b"./" * 2047 + b"xx"),
    "below_what_is_not_there": ("ENOENT", "", "", [], b"nothing/x"),
    "below_a_dangling_link": ("ENOENT", "", "", ["dangling"], b"dangling/x"),
    "not_there": ("ENOENT", "", "n", [], b"nothing"),
    "longest_path_not_there": ("ENOENT", "", "n", [], b"./" * 2047 + b"x"),
    "longest_name_not_there": ("ENOENT", "", "n", [], b"n" * 255),
    "dangling_link": ("ENOENT", "f", "n", ["dangling"], b"dangling"),
    "empty": ("ENOENT", "", "", [], b""),
    "below_a_loop": ("ELOOP", "", "", ["loop"], b"loop/x"),
    "loop": ("ELOOP", "f", "", ["loop"], b"loop"),
    "bad_address": ("EFAULT", "", "", [], ctypes.c_void_p(-4096)),
}


def run_wrong(_place, function, want, needs, path):
    """A bad path."""
    prepare(*needs)
    refused(function, path, want)


def is_possible(name, path):
    """bind has a struct for its path: 108 bytes, no pointer, and an empty one means unnamed."""
    return name != "bind" or isinstance(path, bytes) and 0 < len(path) < 108


for wrong, (error, has, has_not, needed, bad) in WRONG.items():
    for call_name, (traits, run) in CALLS.items():
        fits = set(has) <= set(traits) and not set(has_not) & set(traits)
        if fits and is_possible(call_name, bad):
            add(f"paths.{call_name}_{wrong}_is_{error}", run_wrong, "any",
                (run, error, needed, bad))
for wrong in ("path_of_4096_bytes", "empty", "bad_address"):
    add(f"paths.symlink_target_{wrong}", run_wrong, "any",
        (TARGET["symlink_target"][1], WRONG[wrong][0], [], WRONG[wrong][4]))


def run_locked(_place, function, traits, mode):
    """In a directory of one's own that may not be searched (0600) or written (0555)."""
    prepare()
    os.mkdir("locked")
    if "n" not in traits:
        make(DIR if "d" in traits else REGULAR, "locked/x")
    os.chmod("locked", mode)
    refused(function, b"locked/x", "EACCES")


for call_name, (traits, run) in CALLS.items():
    add(f"paths.{call_name}_in_a_directory_not_searchable_is_EACCES", run_locked, "user",
        (run, traits, 0o600))
    if "p" in traits:
        add(f"paths.{call_name}_in_a_directory_not_writable_is_EACCES", run_locked, "user",
            (run, traits, 0o555))

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
CLONE_NEWNS = 0x20000


def mount_here(flags):
    """In a mount namespace of our own: the working directory is a mount of itself, and we in it."""
    here = os.fsencode(os.getcwd())
    check(libc.unshare(CLONE_NEWNS))
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    check(libc.mount(here, here, None, MS_BIND, None))
    if flags:
        check(libc.mount(None, here, None, MS_REMOUNT | MS_BIND | flags, None))
    os.chdir(here)


def run_read_only(_place, function, traits):
    """On a read-only mount."""
    prepare()
    if "n" not in traits:
        make(DIR if "d" in traits else REGULAR, "x")
    want = "EROFS" if "w" in traits else "ok"

    def inside():
        mount_here(MS_RDONLY)
        if want == "EROFS":
            refused(function, b"x", want)
        else:
            function(b"x")

    child(inside)


for call_name, (traits, run) in CALLS.items():
    if "w" in traits:
        add(f"paths.{call_name}_on_a_read_only_mount_is_EROFS", run_read_only, "root",
            (run, traits))
