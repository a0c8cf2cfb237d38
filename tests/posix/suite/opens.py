"""open: its flags, ETXTBSY, O_TMPFILE, large files, notification."""

import ctypes
import errno
import os
import select
import shutil
import stat
import subprocess

from suite.base import (DIR, FIFO, NOT_DIR, REGULAR, SOCKET, SYMLINK, TYPES, as_other, case, check,
                        fails, libc, make, mode_of, moved, opened, read_file, umask, write_file)

O_TMPFILE = os.O_TMPFILE


@case()
def a_created_files_mode_is_cut_by_the_umask(place):
    for number, (mask, mode, want) in enumerate([(0, 0o755, 0o755), (0o70, 0o755, 0o705),
                                                 (0o501, 0o345, 0o244), (0o22, 0o1777, 0o1755)]):
        with umask(mask), opened(f"f{number}", os.O_CREAT | os.O_RDWR, mode) as fd:
            assert mode_of(fd) == want, oct(mode_of(fd))
            assert os.fstat(fd).st_uid in (place.uid, os.geteuid())


@case()
def a_file_created_without_any_right_can_be_written_by_its_maker(_place):
    for number, mode in enumerate((0o000, 0o040, 0o444)):
        with umask(0), opened(f"f{number}", os.O_CREAT | os.O_EXCL | os.O_RDWR, mode) as fd:
            os.write(fd, b"data")
            assert os.pread(fd, 9, 0) == b"data" and mode_of(fd) == mode


@case()
def creating_what_exists_changes_nothing(_place):
    write_file("f", b"data", 0o600)
    got = moved(lambda: os.close(os.open("f", os.O_CREAT | os.O_RDWR, 0o777)), "f", ".")
    assert not got and mode_of("f") == 0o600 and read_file("f") == b"data"


@case()
def truncation_at_open_moves_times_also_of_an_empty_file(_place):
    write_file("f", b"data")

    def truncate():
        os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))

    assert moved(truncate, "f", ".") == {"f:m", "f:c"}
    assert os.stat("f").st_size == 0
    assert moved(truncate, "f", ".") == {"f:m", "f:c"}
    write_file("f", b"data")
    os.close(os.open("f", os.O_CREAT | os.O_TRUNC | os.O_RDWR))
    assert os.stat("f").st_size == 0


@case("user")
def truncation_needs_write_permission(_place):
    write_file("f", b"data", 0o444)
    fails("EACCES", os.open, "f", os.O_RDONLY | os.O_TRUNC)
    fails("EACCES", os.open, "f", os.O_WRONLY | os.O_TRUNC)
    fails("EACCES", os.truncate, "f", 0)
    assert read_file("f") == b"data"


@case("root")
def another_users_truncation_needs_write_permission(_place):
    write_file("f", b"data", 0o644)
    fails("EACCES", as_other, lambda: os.open("f", os.O_RDONLY | os.O_TRUNC))
    fails("EACCES", as_other, lambda: os.truncate("f", 0))
    assert read_file("f") == b"data"


@case(each=[("write", os.O_WRONLY), ("both", os.O_RDWR), ("truncate", os.O_WRONLY | os.O_TRUNC),
            ("create", os.O_CREAT | os.O_RDONLY)])
def a_directory_cannot_be_opened_for_writing(_place, _name, flags):
    os.mkdir("d")
    fails("EISDIR", os.open, "d", flags)


@case(each=TYPES)
def exclusive_creation_is_for_new_names(_place, kind):
    make(kind, "x")
    fails("EEXIST", os.open, "x", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    assert not os.path.exists("nowhere")


@case()
def nofollow_is_ELOOP_at_a_link(_place):
    write_file("f")
    os.symlink("f", "link")
    fails("ELOOP", os.open, "link", os.O_RDONLY | os.O_NOFOLLOW)
    fails("ELOOP", os.open, "link", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    with opened("link", os.O_PATH | os.O_NOFOLLOW) as fd:
        assert stat.S_ISLNK(os.fstat(fd).st_mode)
        assert os.readlink("", dir_fd=fd) == "f"


@case(each=NOT_DIR)
def what_is_no_directory_is_not_opened_as_one(_place, kind):
    make(kind, "x")
    fails("ENOTDIR" if kind != SYMLINK else ("ENOENT", "ENOTDIR"), os.open, "x",
          os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)


@case()
def a_fifo_without_a_reader_is_ENXIO(_place):
    make(FIFO, "fifo")
    fails("ENXIO", os.open, "fifo", os.O_WRONLY | os.O_NONBLOCK)
    with opened("fifo", os.O_RDONLY | os.O_NONBLOCK) as reader:
        with opened("fifo", os.O_WRONLY | os.O_NONBLOCK) as writer:
            os.write(writer, b"through")
            assert os.read(reader, 99) == b"through"
        assert os.read(reader, 99) == b""


@case()
def a_socket_cannot_be_opened(_place):
    make(SOCKET, "socket")
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        fails("ENXIO", os.open, "socket", flags)


@case("user")
def a_running_program_cannot_be_written(_place):
    shutil.copy("/bin/sleep", "program")
    os.chmod("program", 0o755)
    with subprocess.Popen(["./program", "1000"]) as process:
        try:
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
                fails("ETXTBSY", os.open, "program", flags)
            fails("ETXTBSY", os.truncate, "program", 0)
            os.rename("program", "moved")
            os.unlink("moved")
        finally:
            process.kill()


@case()
def a_program_open_for_writing_cannot_be_run(_place):
    shutil.copy("/bin/true", "program")
    os.chmod("program", 0o755)
    with opened("program", os.O_WRONLY):
        fails("ETXTBSY", os.execv, "program", ["program"])
    assert os.spawnv(os.P_WAIT, "program", ["program"]) == 0


@case()
def a_file_grows_beyond_two_and_four_gigabytes(_place):
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        for at in ((1 << 31) - 1, (1 << 31) + 50, (1 << 32) + 7, 1 << 40):
            os.pwrite(fd, b"end", at)
            assert os.fstat(fd).st_size == at + 3
            assert os.pread(fd, 9, at) == b"end" and os.pread(fd, 4, at - 4) == bytes(4)
            os.lseek(fd, at, os.SEEK_SET)
            assert os.read(fd, 3) == b"end"


@case()
def close_on_exec_nonblock_and_append_show_in_the_flags(_place):
    import fcntl  # pylint: disable=import-outside-toplevel
    for flags in (os.O_APPEND, os.O_NONBLOCK, os.O_SYNC, os.O_DSYNC):
        with opened("f", os.O_CREAT | os.O_RDWR | flags) as fd:
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & flags == flags
            os.write(fd, b"x")


@case()
def a_descriptor_can_be_opened_again(_place):
    write_file("f", b"data")
    with opened("f") as fd:
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
            os.pwrite(again, b"D", 0)
        os.unlink("f")
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
            assert os.pread(again, 9, 0) == b"Data"
    with opened(".", os.O_PATH) as fd:
        fails("EBADF", os.read, fd, 1)
        os.mkdir("d", dir_fd=fd)
    assert os.listdir(".") == ["d"]


# ---- O_TMPFILE ---------------------------------------------------------------------------


@case()
def a_file_without_a_name_is_in_no_listing(_place):
    def run():
        with opened(".", O_TMPFILE | os.O_RDWR, 0o640) as fd:
            assert os.fstat(fd).st_nlink == 0 and mode_of(fd) == 0o640
            os.write(fd, b"x" * 10000)
            assert os.listdir(".") == [] and os.pread(fd, 3, 9999) == b"x"

    assert not moved(run, ".")


@case()
def a_file_without_a_name_can_get_one(_place):
    with opened(".", O_TMPFILE | os.O_RDWR, 0o600) as fd, opened(".") as here:
        os.write(fd, b"content")
        number = os.fstat(fd).st_ino
        source = f"/proc/self/fd/{fd}"
        write_file("taken")
        fails("EEXIST", os.link, source, "taken", dst_dir_fd=here)
        os.link(source, "named", dst_dir_fd=here)
        os.link("named", "again")
        assert os.fstat(fd).st_nlink == 2 and os.stat("named").st_ino == number
    assert read_file("again") == b"content"


@case()
def a_file_without_a_name_made_exclusively_never_gets_one(_place):
    with opened(".", O_TMPFILE | os.O_RDWR | os.O_EXCL) as fd, opened(".") as here:
        fails("ENOENT", os.link, f"/proc/self/fd/{fd}", "no", dst_dir_fd=here)


@case("user")
def a_file_without_a_name_needs_a_writable_directory_and_is_writable(_place):
    os.mkdir("d")
    fails("EINVAL", os.open, "d", O_TMPFILE | os.O_RDONLY)
    os.chmod("d", 0o555)
    fails("EACCES", os.open, "d", O_TMPFILE | os.O_RDWR)


# ---- inotify, ioctl ----------------------------------------------------------------------

EVENTS = {"modify": 0x2, "attrib": 0x4, "moved_from": 0x40, "moved_to": 0x80, "create": 0x100,
          "delete": 0x200}


@case()
def a_watch_sees_what_happens_here(_place):
    watch = check(libc.inotify_init())
    os.mkdir("d")
    check(libc.inotify_add_watch(watch, b"d", sum(EVENTS.values())))
    for name, call in (("create", lambda: write_file("d/f", b"")),
                       ("modify", lambda: write_file("d/f", b"data")),
                       ("attrib", lambda: os.chmod("d/f", 0o600)),
                       ("moved_to", lambda: os.rename("d/f", "d/g")),
                       ("delete", lambda: os.unlink("d/g"))):
        call()
        assert select.select([watch], [], [], 10)[0]
        data, seen, at = os.read(watch, 65536), 0, 0
        while at < len(data):
            seen |= int.from_bytes(data[at + 4:at + 8], "little")
            at += 16 + int.from_bytes(data[at + 12:at + 16], "little")
        assert seen & EVENTS[name], (name, hex(seen))
    os.close(watch)


def ioctl(fd, request, argument):
    """ioctl(2) on a buffer."""
    check(libc.ioctl(fd, ctypes.c_ulong(request), argument))


@case(each=[(REGULAR,), (DIR,)])
def an_unknown_ioctl_is_ENOTTY(_place, kind):
    make(kind, "x")
    with opened("x") as fd:
        fails("ENOTTY", ioctl, fd, 0x1234, None)
        fails(("ENOTTY",), ioctl, fd, 0x5401, ctypes.create_string_buffer(64))  # TCGETS
        fails(("ENOTTY", "EOPNOTSUPP", "EPERM", "EINVAL"), ioctl, fd, 0xC0185879,
              ctypes.create_string_buffer(24))  # FITRIM


@case()
def inode_flags_are_refused(place):
    make(REGULAR, "f")
    flags = ctypes.c_long(0)
    with opened("f") as fd:
        fails(place.differs("inode-flags", "ok", "ENOTTY"), ioctl, fd, 0x80086601,
              ctypes.byref(flags))
        fails(place.differs("inode-flags", ("ok", "EPERM", "EOPNOTSUPP"), "ENOTTY"), ioctl, fd,
              0x40086602, ctypes.byref(ctypes.c_long(0x10)))
        if not place.is_view:
            error_of_clear(fd)


def error_of_clear(fd):
    """Takes the immutable flag away again where it was set."""
    try:
        ioctl(fd, 0x40086602, ctypes.byref(ctypes.c_long(0)))
    except OSError as error:
        assert error.errno in (errno.EPERM, errno.EOPNOTSUPP)


@case()
def fionread_counts_what_is_left(_place):
    write_file("f", b"12345")
    with opened("f") as fd:
        os.lseek(fd, 2, os.SEEK_SET)
        left = ctypes.c_int(0)
        ioctl(fd, 0x541B, ctypes.byref(left))
        assert left.value == 3


@case()
def extents_are_not_told(place):
    write_file("f", b"x" * 10000)
    with opened("f") as fd:
        want = place.differs("no-fiemap", ("ok", "EOPNOTSUPP"), "EOPNOTSUPP")
        request = ctypes.create_string_buffer(bytes(8) + b"\xff" * 8 + bytes(16), 4096)
        fails(want, ioctl, fd, 0xC020660B, request)


@case()
def a_clone_is_refused_or_whole(place):
    write_file("f", b"x" * 8192)
    with opened("f") as source, opened("g", os.O_CREAT | os.O_RDWR) as target:
        want = place.differs("no-clone", ("ok", "EOPNOTSUPP", "ENOTTY", "EINVAL"), "EOPNOTSUPP")
        fails(want, lambda: check(libc.ioctl(target, ctypes.c_ulong(0x40049409), source)))
        assert os.fstat(target).st_size in (0, 8192)
