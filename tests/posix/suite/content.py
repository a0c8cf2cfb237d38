"""Content: truncate, read, write, append, seek, sync, maps, limits."""

import mmap
import os
import resource
import signal

from suite.base import (FIFO, REGULAR, SOCKET, case, child, fails, make, moved, opened, read_file,
                        write_file)

BIG = 3 << 20


def truncators():
    """The two ways to set a size."""

    def by_descriptor(name, size):
        with opened(name, os.O_RDWR) as fd:
            os.ftruncate(fd, size)

    return [("truncate", os.truncate), ("ftruncate", by_descriptor)]


@case(each=truncators())
def truncation_keeps_what_stays_and_adds_zeros(_place, _name, truncate):
    data = os.urandom(BIG)
    write_file("f", data)
    for size in (BIG, BIG - 1, 1 << 20, 5000, 4096, 2049, 2048, 3, 0):
        truncate("f", size)
        assert read_file("f") == data[:size], size
        data = data[:size] + bytes(len(data) - size)
        truncate("f", size + 100)
        assert read_file("f") == data[:size] + bytes(100), size
        data = data[:size]


@case(each=truncators())
def truncation_moves_both_times(_place, _name, truncate):
    write_file("f", b"data")
    for size in (2, 10, 0):
        assert moved(lambda size=size: truncate("f", size), "f", ".") == {"f:m", "f:c"}, size


@case(each=truncators())
def a_negative_size_is_EINVAL(_place, _name, truncate):
    write_file("f", b"data")
    assert not moved(lambda: fails("EINVAL", truncate, "f", -1), "f")
    fails("EINVAL", truncate, "f", -(1 << 40))


@case(each=truncators())
def a_size_beyond_all_limits_is_EFBIG(place, _name, truncate):
    write_file("f", b"data")
    most = (1 << 63) - 1
    fails(place.differs("file-size", ("ok", "EFBIG"), "EFBIG"), truncate, "f", most)
    if place.is_view:
        truncate("f", 1 << 43)
        fails("EFBIG", truncate, "f", (1 << 43) + 1)
        with opened("f", os.O_WRONLY) as fd:
            fails("EFBIG", os.pwrite, fd, b"x", 1 << 43)
            fails("EFBIG", os.pwrite, fd, b"x", most - 1)
        assert os.stat("f").st_size == 1 << 43
    os.truncate("f", 0)


@case(each=[REGULAR, FIFO, SOCKET, "dir"])
def truncate_is_for_files(_place, kind):
    make(kind, "x")
    want = {"dir": "EISDIR", REGULAR: "ok"}.get(kind, "EINVAL")
    fails(want, os.truncate, "x", 0)


@case()
def ftruncate_needs_a_descriptor_that_writes(_place):
    write_file("f", b"data")
    with opened("f") as fd:
        fails("EINVAL", os.ftruncate, fd, 0)
    with opened(".") as fd:
        fails("EINVAL", os.ftruncate, fd, 0)
    assert read_file("f") == b"data"


def limited(size, call):
    """Runs call with RLIMIT_FSIZE and SIGXFSZ ignored."""

    def run():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return call()

    return child(run)


@case()
def the_limit_of_a_file_size_is_EFBIG(_place):
    write_file("f", b"data")

    def run():
        with opened("f", os.O_WRONLY) as fd:
            assert os.pwrite(fd, b"x" * 100, 950) == 50
            fails("EFBIG", os.pwrite, fd, b"x", 1000)
            fails("EFBIG", os.ftruncate, fd, 1001)
            fails("EFBIG", os.posix_fallocate, fd, 0, 1001)
        fails("EFBIG", os.truncate, "f", 1001)

    limited(1000, run)
    assert os.stat("f").st_size == 1000


# ---- read and write ----------------------------------------------------------------------


@case()
def a_write_moves_both_times_and_a_read_none_of_them(_place):
    write_file("f", b"data")
    with opened("f", os.O_RDWR) as fd:
        assert moved(lambda: os.pwrite(fd, b"D", 0), "f", ".") == {"f:m", "f:c"}
        assert moved(lambda: os.pwrite(fd, b"more", 4), fd) == {f"{fd}:m", f"{fd}:c"}
        assert not moved(lambda: os.pread(fd, 10, 0), "f")
        assert not moved(lambda: os.pwrite(fd, b"", 0), "f")


@case()
def what_lies_between_is_zeros(_place):
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        for at in (10, 5000, 100000, 1 << 21):
            os.pwrite(fd, b"x", at)
        got = os.pread(fd, 1 << 22, 0)
    want = bytearray((1 << 21) + 1)
    for at in (10, 5000, 100000, 1 << 21):
        want[at] = ord("x")
    assert got == bytes(want) == read_file("f")


@case()
def reading_at_and_behind_the_end_is_nothing(_place):
    write_file("f", b"data")
    with opened("f") as fd:
        assert os.pread(fd, 10, 4) == os.pread(fd, 10, 5) == os.pread(fd, 10, 1 << 40) == b""
        assert os.pread(fd, 10, 2) == b"ta"
        fails("EBADF", os.pwrite, fd, b"x", 0)
        fails("EINVAL", os.pread, fd, 1, -1)
    with opened("f", os.O_WRONLY) as fd:
        fails("EBADF", os.pread, fd, 1, 0)
    with opened(".") as fd:
        fails("EISDIR", os.read, fd, 1)


@case()
def vectors_are_read_and_written_in_order(_place):
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        assert os.pwritev(fd, [b"ab", b"", b"cd" * 3000, b"e"], 1) == 6003
        parts = [bytearray(2), bytearray(1), bytearray(9000)]
        assert os.preadv(fd, parts, 0) == 6004
        assert parts[0] == b"\0a" and parts[1] == b"b" and parts[2][:6001] == b"cd" * 3000 + b"e"


@case()
def seeking_is_relative_to_start_place_and_end(_place):
    write_file("f", b"0123456789")
    with opened("f", os.O_RDWR) as fd:
        assert os.lseek(fd, 3, os.SEEK_SET) == 3 and os.read(fd, 1) == b"3"
        assert os.lseek(fd, 2, os.SEEK_CUR) == 6 and os.lseek(fd, -1, os.SEEK_END) == 9
        fails("EINVAL", os.lseek, fd, -1, os.SEEK_SET)
        fails("EINVAL", os.lseek, fd, 0, 99)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 9
        assert os.lseek(fd, 100, os.SEEK_SET) == 100 and os.fstat(fd).st_size == 10
        os.write(fd, b"x")
        assert os.fstat(fd).st_size == 101


@case()
def appends_of_two_processes_are_all_there(_place):
    rounds, size = 200, 37

    def run(letter):
        with opened("f", os.O_CREAT | os.O_WRONLY | os.O_APPEND) as fd:
            for _ in range(rounds):
                assert os.write(fd, letter * size) == size

    pid = os.fork()
    if pid == 0:
        try:
            run(b"a")
            os._exit(0)
        finally:
            os._exit(1)
    run(b"b")
    assert os.waitpid(pid, 0)[1] == 0
    data = read_file("f")
    assert len(data) == 2 * rounds * size
    pieces = {data[at:at + size] for at in range(0, len(data), size)}
    assert pieces == {b"a" * size, b"b" * size}


@case()
def an_append_goes_to_the_end_whatever_the_position(_place):
    write_file("f", b"start")
    with opened("f", os.O_RDWR | os.O_APPEND) as fd, opened("f", os.O_WRONLY) as other:
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"1")
        os.pwrite(other, b"xx", 6)
        os.write(fd, b"2")
        os.ftruncate(fd, 3)
        os.write(fd, b"3")
        assert os.lseek(fd, 0, os.SEEK_CUR) == 4
    assert read_file("f") == b"sta3"


@case()
def one_descriptor_sees_at_once_what_another_writes(_place):
    with opened("f", os.O_CREAT | os.O_RDWR) as one, opened("f", os.O_RDWR) as two:
        for number in range(100):
            os.pwrite(one, b"%05d" % number, number * 700)
            assert os.pread(two, 5, number * 700) == b"%05d" % number
            assert os.fstat(two).st_size == number * 700 + 5
        os.ftruncate(two, 1)
        assert os.fstat(one).st_size == 1 and os.pread(one, 9, 0) == b"0"


@case()
def unbuffered_io_meets_buffered_io(_place):
    page = mmap.mmap(-1, 8192)
    page.write(b"D" * 8192)
    write_file("f", b"b" * 16384)
    read_file("f")
    with opened("f", os.O_RDWR | os.O_DIRECT) as fd:
        assert os.pwritev(fd, [page], 4096) == 8192
        assert read_file("f") == b"b" * 4096 + b"D" * 8192 + b"b" * 4096
        with opened("f", os.O_WRONLY) as other:
            os.pwrite(other, b"x" * 4096, 8192)
        assert os.preadv(fd, [page], 8192) == 8192
        assert page[:] == b"x" * 4096 + b"b" * 4096


@case()
def sync_calls_go_through_on_files_and_directories(_place):
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"x" * 100000)
        os.fdatasync(fd)
        os.fsync(fd)
        os.unlink("f")
        os.fsync(fd)
    write_file("g")
    with opened("g") as fd:
        os.fsync(fd)
    with opened(".") as fd:
        os.fsync(fd)
        os.fdatasync(fd)
    make(FIFO, "fifo")
    with opened("fifo", os.O_RDWR) as fd:
        fails("EINVAL", os.fsync, fd)


# ---- maps --------------------------------------------------------------------------------


@case()
def stores_into_a_shared_map_are_the_files_content(_place):
    write_file("f", b"-" * 10000)
    with opened("f", os.O_RDWR) as fd:
        with mmap.mmap(fd, 10000) as shared:
            shared[5000:5005] = b"store"
            assert os.pread(fd, 5, 5000) == b"store"
            os.pwrite(fd, b"write", 100)
            assert shared[100:105] == b"write"
            shared[0:1] = b"S"
            shared.flush()
    assert read_file("f")[:1] == b"S" and read_file("f")[5000:5005] == b"store"


@case()
def two_processes_share_a_map(_place):
    write_file("f", bytes(8192))
    with opened("f", os.O_RDWR) as fd, mmap.mmap(fd, 8192) as mine:

        def run():
            with opened("f", os.O_RDWR) as other, mmap.mmap(other, 8192) as theirs:
                theirs[4096:4101] = b"child"
                assert theirs[0:6] == b"parent"
                theirs.flush()

        mine[0:6] = b"parent"
        child(run)
        assert mine[4096:4101] == b"child"
    assert read_file("f")[4096:4101] == b"child"


@case()
def stores_into_a_private_map_stay_private(_place):
    write_file("f", b"-" * 5000)
    with opened("f") as fd:
        with mmap.mmap(fd, 5000, access=mmap.ACCESS_COPY) as private:
            private[0:5] = b"store"
            assert os.pread(fd, 5, 0) == b"-----"
    assert read_file("f") == b"-" * 5000


@case()
def a_map_outlives_its_descriptor_and_its_name(_place):
    write_file("f", b"-" * 5000)
    fd = os.open("f", os.O_RDWR)
    os.link("f", "g")
    shared = mmap.mmap(fd, 5000)
    os.close(fd)
    os.unlink("f")
    shared[10:14] = b"here"
    shared.flush()
    shared.close()
    assert read_file("g")[10:14] == b"here"


@case()
def a_map_needs_the_rights_of_its_descriptor(_place):
    write_file("f", b"-" * 5000)
    with opened("f") as fd:
        fails("EACCES", mmap.mmap, fd, 5000, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with opened("f", os.O_WRONLY) as fd:
        fails("EACCES", mmap.mmap, fd, 5000, mmap.MAP_SHARED, mmap.PROT_READ)


@case()
def a_store_behind_the_end_is_SIGBUS(_place):
    write_file("f", b"-" * 10000)
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with opened("f", os.O_RDWR) as fd:
            shared = mmap.mmap(fd, 10000)
            os.ftruncate(fd, 100)
            shared[50:51] = b"x"
            shared[9000:9001] = b"x"
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS, status
    os.truncate("f", 10000)
    assert read_file("f") == b"-" * 50 + b"x" + b"-" * 49 + bytes(9900)


@case()
def what_is_stored_behind_the_end_is_all_that_can_follow_it(place):
    write_file("f", b"-" * 4096)
    with opened("f", os.O_RDWR) as fd, mmap.mmap(fd, 4096) as shared:
        os.ftruncate(fd, 10)
        shared[2000:2004] = b"junk"
        os.ftruncate(fd, 4096)
        got = os.pread(fd, 4096, 0)
        want = b"-" * 10 + bytes(4086)
        # ext4 zeroes it as the file grows; tmpfs and FUSE keep the page. Nothing else may show.
        kept = want[:2000] + b"junk" + want[2004:]
        assert got in place.differs("map-behind-end", (want, kept), (want, kept))
