"""flock, POSIX locks and locks of open file descriptions."""

import fcntl
import os
import struct

from suite.base import case, child, error_of, fails, opened, write_file

F_OFD_GETLK, F_OFD_SETLK = 36, 37
READ, WRITE, FREE = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
SHARED, EXCLUSIVE = fcntl.LOCK_SH | fcntl.LOCK_NB, fcntl.LOCK_EX | fcntl.LOCK_NB
LAYOUT = "hhqqi4x"


def lock(fd, kind, start=0, length=0, command=fcntl.F_SETLK):
    """A POSIX lock, or with F_OFD_SETLK one of the open file."""
    return fcntl.fcntl(fd, command, struct.pack(LAYOUT, kind, os.SEEK_SET, start, length, 0))


def holder(fd, kind, start=0, length=0, command=fcntl.F_GETLK):
    """(kind, start, length) of a lock in the way; None when there is none."""
    found = struct.unpack(LAYOUT, lock(fd, kind, start, length, command))
    return None if found[0] == FREE else (found[0], found[2], found[3])


def tried_elsewhere(kind, start=0, length=0):
    """What another process gets for a lock."""

    def run():
        with opened("f", os.O_RDWR) as fd:
            return error_of(lock, fd, kind, start, length)

    return child(run)


@case()
def S1_flock_excludes_until_it_is_given_back(_place):
    write_file("f")
    with opened("f") as one:
        with opened("f") as two:
            fcntl.flock(one, SHARED)
            fcntl.flock(two, SHARED)
            fails("EAGAIN", fcntl.flock, one, EXCLUSIVE)
            fcntl.flock(two, fcntl.LOCK_UN)
            fcntl.flock(one, EXCLUSIVE)
            fails("EAGAIN", fcntl.flock, two, SHARED)
        copy = os.dup(one)
        fcntl.flock(copy, SHARED)
        with opened("f") as two:
            fcntl.flock(two, SHARED)
            fails("EAGAIN", fcntl.flock, two, EXCLUSIVE)
        os.close(copy)
    with opened("f") as two:
        fcntl.flock(two, EXCLUSIVE)


@case()
def S1_posix_locks_are_by_range_and_process(_place):
    write_file("f", b"x" * 100)
    with opened("f", os.O_RDWR) as fd:
        lock(fd, WRITE, 10, 30)
        lock(fd, FREE, 20, 10)
        lock(fd, READ, 50, 10)
        for start, length, kind, want in ((0, 10, WRITE, "ok"), (10, 1, READ, "EAGAIN"),
                                          (20, 10, WRITE, "ok"), (39, 1, READ, "EAGAIN"),
                                          (55, 1, READ, "ok"), (55, 1, WRITE, "EAGAIN"),
                                          (60, 0, WRITE, "ok")):
            assert tried_elsewhere(kind, start, length) == want, (start, length, kind)

        def look():
            with opened("f", os.O_RDWR) as other:
                return [holder(other, WRITE, start, 1) for start in (0, 15, 25, 35, 55)]

        assert child(look) == [None, (WRITE, 10, 10), None, (WRITE, 30, 10), (READ, 50, 10)]


@case()
def S1_a_posix_lock_goes_with_any_close_and_with_the_process(_place):
    write_file("f")
    with opened("f", os.O_RDWR) as fd:
        lock(fd, WRITE)
        assert tried_elsewhere(WRITE) == "EAGAIN"
        os.close(os.open("f", os.O_RDONLY))
        assert tried_elsewhere(WRITE) == "ok"

    def leave_locked():
        lock(os.open("f", os.O_RDWR), WRITE)

    child(leave_locked)
    assert tried_elsewhere(WRITE) == "ok"


@case()
def S1_locks_need_a_descriptor_of_their_kind(_place):
    write_file("f")
    with opened("f") as fd:
        fails("EBADF", lock, fd, WRITE)
        lock(fd, READ)
    with opened("f", os.O_WRONLY) as fd:
        fails("EBADF", lock, fd, READ)
        lock(fd, WRITE)
        fails("EINVAL", lock, fd, 77)


@case()
def S1_locks_of_open_files_belong_to_the_open_file(_place):
    write_file("f")
    with opened("f", os.O_RDWR) as one, opened("f", os.O_RDWR) as two:
        lock(one, WRITE, 0, 10, F_OFD_SETLK)
        fails("EAGAIN", lock, two, READ, 5, 1, F_OFD_SETLK)
        assert holder(two, READ, 5, 1, F_OFD_GETLK) == (WRITE, 0, 10)
        os.close(os.open("f", os.O_RDONLY))
        fails("EAGAIN", lock, two, READ, 5, 1, F_OFD_SETLK)
        fails("EAGAIN", lock, two, WRITE, 5, 1)
        lock(one, FREE, 0, 0, F_OFD_SETLK)
        lock(two, READ, 5, 1, F_OFD_SETLK)


@case()
def S1_a_waiting_lock_is_granted_when_the_other_goes(_place):
    write_file("f")
    reading, writing = os.pipe()
    fd = os.open("f", os.O_RDWR)
    lock(fd, WRITE)
    pid = os.fork()
    if pid == 0:
        other = os.open("f", os.O_RDWR)
        os.write(writing, b"1")
        lock(other, WRITE, command=fcntl.F_SETLKW)
        os.write(writing, b"2")
        os._exit(0)
    assert os.read(reading, 1) == b"1"
    lock(fd, FREE)
    assert os.read(reading, 1) == b"2"
    assert os.waitpid(pid, 0)[1] == 0
    for each in (fd, reading, writing):
        os.close(each)


@case()
def S1_locks_survive_rename_unlink_and_a_write(_place):
    write_file("f", b"x")
    with opened("f", os.O_RDWR) as one:
        fcntl.flock(one, EXCLUSIVE)
        os.pwrite(one, b"y" * 10000, 0)
        os.rename("f", "g")
        with opened("g", os.O_RDWR) as two:
            fails("EAGAIN", fcntl.flock, two, EXCLUSIVE)
            os.unlink("g")
            fails("EAGAIN", fcntl.flock, two, EXCLUSIVE)
