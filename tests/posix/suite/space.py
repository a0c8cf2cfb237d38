"""fallocate, holes, copies within the kernel, extended attributes."""

import ctypes
import errno
import mmap
import os

from suite.base import (COLLAPSE_RANGE, FIFO, INSERT_RANGE, KEEP_SIZE, NOT_LINK, PUNCH_HOLE,
                        SYMLINK, ZERO_RANGE, case, error_of, fails, fallocate, libc, make, mode_of,
                        moved, opened, read_file, write_file)


@case()
def posix_fallocate_grows_with_zeros_and_moves_times(_place):
    write_file("f", b"data")
    with opened("f", os.O_RDWR) as fd:
        grow = lambda: os.posix_fallocate(fd, 2, 9998)  # noqa: E731
        assert moved(grow, "f", ".") == {"f:m", "f:c"}
        assert os.pread(fd, 20000, 0) == b"data" + bytes(9996)
        os.posix_fallocate(fd, 0, 10)
        assert os.fstat(fd).st_size == 10000


@case("user", each=[("grow", 0), ("keep", KEEP_SIZE), ("punch", PUNCH_HOLE | KEEP_SIZE)])
def fallocate_takes_setid_bits(_place, _name, mode):
    write_file("f", b"data", 0o6755)
    with opened("f", os.O_RDWR) as fd:
        fallocate(fd, mode, 0, 100)
    assert mode_of("f") == 0o755


@case()
def fallocate_out_of_range_is_EINVAL(_place):
    write_file("f", b"data")
    with opened("f", os.O_RDWR) as fd:
        for offset, length in ((0, 0), (-1, 10), (0, -1), (10, 0)):
            fails("EINVAL", fallocate, fd, 0, offset, length)
        fails("EFBIG", fallocate, fd, 0, (1 << 63) - 10, 100)
        fails("EOPNOTSUPP", fallocate, fd, PUNCH_HOLE, 0, 10)
        fails("EOPNOTSUPP", fallocate, fd, 1 << 20, 0, 10)
    with opened("f") as fd:
        fails("EBADF", fallocate, fd, 0, 0, 10)
    assert read_file("f") == b"data"


@case()
def fallocate_is_for_files(_place):
    make(FIFO, "fifo")
    with opened("fifo", os.O_RDWR) as fd:
        fails("ESPIPE", fallocate, fd, 0, 0, 10)
    with opened(".") as fd:
        fails(("EISDIR", "EBADF"), fallocate, fd, 0, 0, 10)


@case()
def keep_size_keeps_the_size(place):
    write_file("f", b"data")
    with opened("f", os.O_RDWR) as fd:
        keep = lambda: fallocate(fd, KEEP_SIZE, 0, 1 << 20)  # noqa: E731
        assert moved(keep, "f", ".") == {"f:m", "f:c"}
        assert os.fstat(fd).st_size == 4
        assert (os.fstat(fd).st_blocks > 1024) == place.differs("keep-size", True, False)
        os.ftruncate(fd, 100)
        assert os.pread(fd, 200, 0) == b"data" + bytes(96)


@case()
def a_punched_range_is_zeros(_place):
    data = os.urandom(300000)
    write_file("f", data)
    want = bytearray(data)
    with opened("f", os.O_RDWR) as fd:
        for at, length in ((5, 10), (4096, 8192), (100000, 70001), (299990, 5000)):
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, at, length)
            end = min(at + length, len(want))
            want[at:end] = bytes(end - at)
            assert os.pread(fd, 400000, 0) == want
        assert os.fstat(fd).st_size == 300000


@case()
def a_zeroed_range_is_zeros_and_may_grow_the_file(place):
    write_file("f", b"x" * 10000)
    with opened("f", os.O_RDWR) as fd:
        try:
            fallocate(fd, ZERO_RANGE | KEEP_SIZE, 9000, 2000)
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP and not place.is_view
            return
        assert os.pread(fd, 20000, 0) == b"x" * 9000 + bytes(1000)
        fallocate(fd, ZERO_RANGE, 5000, 6000)
        assert os.pread(fd, 20000, 0) == b"x" * 5000 + bytes(6000)


@case(each=[("collapse", COLLAPSE_RANGE), ("insert", INSERT_RANGE)])
def a_range_is_not_taken_out_or_put_in(place, _name, mode):
    write_file("f", b"x" * 16384)
    with opened("f", os.O_RDWR) as fd:
        want = place.differs("no-collapse", ("ok", "EOPNOTSUPP"), "EOPNOTSUPP")
        fails(want, fallocate, fd, mode, 4096, 4096)
    assert os.stat("f").st_size == 16384 or not place.is_view


@case()
def data_and_holes_are_found(_place):
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 1 << 30)
        os.pwrite(fd, b"x" * 65536, 1 << 29)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 29
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
        assert os.lseek(fd, 1 << 29, os.SEEK_HOLE) == (1 << 29) + 65536
        fails("ENXIO", os.lseek, fd, (1 << 29) + 65536, os.SEEK_DATA)
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            fails("ENXIO", os.lseek, fd, 1 << 30, whence)
            fails("ENXIO", os.lseek, fd, 1 << 31, whence)
            fails(("EINVAL", "ENXIO"), os.lseek, fd, -1, whence)


@case()
def a_hole_over_the_end_takes_the_last_block_too(_place):
    write_file("f", b"x" * 50000)
    with opened("f", os.O_RDWR) as fd:
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 8192, 100000)
        assert os.fstat(fd).st_size == 50000
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 8192
        fails("ENXIO", os.lseek, fd, 8192, os.SEEK_DATA)
        os.ftruncate(fd, 200000)
        assert os.pread(fd, 200000, 0) == b"x" * 8192 + bytes(191808)


@case()
def what_a_map_stored_is_data_once_it_is_written_back(place):
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 1 << 20)
        with mmap.mmap(fd, 1 << 20) as shared:
            shared[8192:8196] = b"data"
            found = place.differs("seek-map", ("ok",), ("ENXIO", "ok"))  # it may have been already
            assert error_of(os.lseek, fd, 0, os.SEEK_DATA) in found
            shared.flush()
        assert os.lseek(fd, 0, os.SEEK_DATA) <= 8192


# ---- copies ------------------------------------------------------------------------------


def copied(source, target, length, at_source, at_target):
    """copy_file_range(2) until everything is copied or the source ends."""
    total = 0
    while length > total:
        count = os.copy_file_range(source, target, length - total, at_source + total,
                                   at_target + total)
        if count == 0:
            break
        total += count
    return total


@case(each=[("small", 100), ("pages", 50000), ("large", 20 << 20)])
def copy_file_range_copies(_place, _name, size):
    data = os.urandom(size)
    write_file("f", data)
    with opened("f") as source, opened("g", os.O_CREAT | os.O_RDWR) as target:
        assert copied(source, target, size + 10, 0, 7) == size
        assert read_file("g") == bytes(7) + data
        half = size // 2
        assert copied(target, target, half, 7, 7 + half) == half
        assert read_file("g")[7:7 + 2 * half] == data[:half] * 2


@case()
def copy_file_range_refuses_what_makes_no_sense(_place):
    write_file("f", b"x" * 10000)
    os.mkdir("d")
    with opened("f", os.O_RDWR) as fd, opened("f") as reading, opened("d") as folder, \
            opened("a", os.O_CREAT | os.O_WRONLY | os.O_APPEND) as appending:
        fails("EINVAL", os.copy_file_range, fd, fd, 100, 0, 50)
        fails("EBADF", os.copy_file_range, fd, reading, 100, 0, 5000)
        fails("EBADF", os.copy_file_range, reading, appending, 100, 0, 0)
        fails("EISDIR", os.copy_file_range, folder, fd, 100, 0, 0)
    assert read_file("f") == b"x" * 10000


@case()
def copy_file_range_moves_the_targets_times(_place):
    write_file("f", b"x" * 10000)
    write_file("g", b"y" * 10000)
    with opened("f") as source, opened("g", os.O_RDWR) as target:
        run = lambda: os.copy_file_range(source, target, 5000, 0, 0)  # noqa: E731
        assert moved(run, "f", "g") == {"g:m", "g:c"}


@case()
def sendfile_and_splice_carry_content(_place):
    data = os.urandom(100000)
    write_file("f", data)
    with opened("f") as source, opened("g", os.O_CREAT | os.O_RDWR) as target:
        at = 0
        while at < len(data):
            at += os.sendfile(target, source, at, len(data) - at)
        assert read_file("g") == data
        reading, writing = os.pipe()
        assert os.splice(source, writing, 4000, 10) == 4000
        assert os.splice(reading, target, 4000, offset_dst=0) == 4000
        assert os.pread(target, 4000, 0) == data[10:4010]
        os.close(reading)
        os.close(writing)


# ---- extended attributes -----------------------------------------------------------------


@case(each=["regular", "dir"])
def attributes_are_kept_listed_and_removed(_place, kind):
    make(kind, "x")
    assert os.listxattr("x") == []
    values = {"user.a": b"", "user.b": b"\0" * 100, "user." + "n" * 250: b"v"}
    for name, value in values.items():
        os.setxattr("x", name, value)
    assert {n: os.getxattr("x", n) for n in os.listxattr("x") if n.startswith("user.")} == values
    assert moved(lambda: os.setxattr("x", "user.a", b"new"), "x") == {"x:c"}
    os.removexattr("x", "user.b")
    fails("ENODATA", os.getxattr, "x", "user.b")
    fails("ENODATA", os.removexattr, "x", "user.b")
    fails("EEXIST", os.setxattr, "x", "user.a", b"", os.XATTR_CREATE)
    fails("ENODATA", os.setxattr, "x", "user.b", b"", os.XATTR_REPLACE)
    os.rename("x", "y")
    assert os.getxattr("y", "user.a") == b"new"
    fails("ERANGE", os.setxattr, "y", "user." + "n" * 251, b"")
    fails(("EOPNOTSUPP", "EPERM"), os.setxattr, "y", "nonamespace", b"")


@case()
def a_small_buffer_is_ERANGE_and_none_tells_the_size(_place):
    write_file("f")
    os.setxattr("f", "user.a", b"12345")
    buffer = ctypes.create_string_buffer(100)
    assert libc.getxattr(b"f", b"user.a", buffer, 0) == 5
    assert libc.getxattr(b"f", b"user.a", buffer, 4) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.listxattr(b"f", buffer, 0) >= 7 and libc.listxattr(b"f", buffer, 3) == -1
    assert ctypes.get_errno() == errno.ERANGE


@case(each=[k for k in NOT_LINK if k not in ("regular", "dir")] + [SYMLINK])
def user_attributes_are_for_files_and_directories(_place, kind):
    make(kind, "x")
    fails("EPERM", lambda: os.setxattr("x", "user.a", b"", follow_symlinks=False))


# Version 2; owner rw, group r, others r.
ACL = bytes.fromhex("02000000" "01000600ffffffff" "04000400ffffffff" "20000400ffffffff")


@case("root", each=[("trusted.a", ("EPERM", "EOPNOTSUPP")),
                    ("security.capability", "EOPNOTSUPP"),
                    ("system.posix_acl_access", "EOPNOTSUPP")])
def other_namespaces_are_closed(place, name, refusal):
    write_file("f")
    value = {"security.capability": bytes.fromhex("01000002" + "00" * 16),
             "system.posix_acl_access": ACL}.get(name, b"value")
    fails(place.differs("xattr-namespaces", ("ok", "EINVAL", "EOPNOTSUPP"), refusal), os.setxattr,
          "f", name, value)
    if place.is_view:
        assert os.listxattr("f") == []


@case("user")
def attributes_follow_the_mode(_place):
    write_file("f", b"data", 0o600)
    os.setxattr("f", "user.a", b"1")
    os.chmod("f", 0o400)
    fails("EACCES", os.setxattr, "f", "user.a", b"2")
    assert os.getxattr("f", "user.a") == b"1"
    os.chmod("f", 0o200)
    fails("EACCES", os.getxattr, "f", "user.a")
    os.setxattr("f", "user.a", b"3")
