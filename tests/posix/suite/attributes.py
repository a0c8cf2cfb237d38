"""chmod, chown, utimensat, access, set-id bits, stat, statfs."""

import ctypes
import mmap
import os
import stat
import time

from suite.base import (DIR, NOT_LINK, OTHER, REGULAR, SYMLINK, TYPES, as_other, as_owner, as_user,
                        case, check, error_of, fails, libc, make, mode_of, moved, opened, umask,
                        write_file)

# ---- chmod -------------------------------------------------------------------------------


@case(each=NOT_LINK)
def chmod_changes_the_mode(_place, kind):
    make(kind, "x")
    os.symlink("x", "link")
    for mode in (0o111, 0o222, 0, 0o755, 0o1640):
        os.chmod("x", mode)
        assert mode_of("x") == mode
    os.chmod("link", 0o444)
    assert mode_of("x") == 0o444 and mode_of("link") == 0o777
    with opened("x", os.O_PATH) as fd:
        os.chmod(f"/proc/self/fd/{fd}", 0o640)
    assert mode_of("x") == 0o640


@case(each=NOT_LINK)
def chmod_moves_ctime_only(_place, kind):
    make(kind, "x")
    assert moved(lambda: os.chmod("x", 0o640), "x", ".") == {"x:c"}
    assert moved(lambda: os.chmod("x", 0o640), "x", ".") == {"x:c"}


@case()
def fchmod_reaches_files_and_directories(_place):
    make(REGULAR, "f")
    make(DIR, "d")
    for name in ("f", "d"):
        with opened(name) as fd:
            os.fchmod(fd, 0o500)
            assert mode_of(fd) == mode_of(name) == 0o500


@case()
def a_links_own_mode_does_not_change(_place):
    make(SYMLINK, "link")
    fails(("EOPNOTSUPP", "EINVAL"), lambda: check(libc.fchmodat(-100, b"link", 0o600, 0x100)))
    assert mode_of("link") == 0o777


@case("root", each=NOT_LINK)
def another_user_cannot_chmod(place, kind):
    make(kind, "x")
    os.chown("x", place.uid, place.gid)
    assert not moved(lambda: fails("EPERM", as_other, lambda: os.chmod("x", 0o777)), "x")
    as_owner(place, lambda: os.chmod("x", 0o604))
    assert mode_of("x") == 0o604


@case("root")
def setgid_is_dropped_when_the_group_is_not_ones_own(place):
    make(REGULAR, "f", 0o755)
    make(DIR, "d", 0o755)
    for name in ("f", "d"):
        os.chown(name, place.uid, place.gid)
    as_owner(place, lambda: os.chmod("f", 0o2755))
    assert mode_of("f") == 0o2755
    as_user(place.uid, OTHER, lambda: os.chmod("f", 0o2755))
    assert mode_of("f") == 0o755
    as_user(place.uid, OTHER, lambda: os.chmod("d", 0o2755))
    assert mode_of("d") == 0o755
    as_user(place.uid, OTHER, lambda: os.chmod("f", 0o2755), [place.gid])
    assert mode_of("f") == 0o2755


@case("user")
def ones_own_setid_and_sticky_bits_can_be_set(_place):
    make(REGULAR, "f", 0o755)
    make(DIR, "d", 0o755)
    for name in ("f", "d"):
        for mode in (0o4755, 0o2755, 0o1755, 0o7777):
            os.chmod(name, mode)
            assert mode_of(name) == mode, oct(mode_of(name))


# ---- set-id bits go when content changes --------------------------------------------------

CHANGES = [
    ("write", lambda fd: os.pwrite(fd, b"x", 0)),
    ("truncate", lambda fd: os.ftruncate(fd, 1)),
    ("extend", lambda fd: os.ftruncate(fd, 100)),
]
SETID = [(f"{what}_{mode:o}", change, mode) for what, change in CHANGES
         for mode in (0o4777, 0o2777, 0o6777, 0o2767)]


def after_kill(mode):
    """What is left: setgid without group execute has no meaning and stays."""
    return mode & (0o1777 if mode & 0o010 else 0o3777)


@case("user", each=SETID)
def a_change_of_content_takes_setid_bits(_place, _name, change, mode):
    write_file("f", b"data", mode)
    with opened("f", os.O_RDWR) as fd:
        change(fd)
        assert mode_of(fd) == mode_of("f") == after_kill(mode), oct(mode_of("f"))


@case("root", each=SETID)
def another_users_change_of_content_takes_setid_bits(_place, _name, change, mode):
    write_file("f", b"data", mode)

    def run():
        with opened("f", os.O_RDWR) as fd:
            change(fd)

    as_other(run)
    assert mode_of("f") == after_kill(mode) or mode == 0o2767, oct(mode_of("f"))


@case("root")
def roots_writes_leave_setid_bits_only_outside_of_views(place):
    write_file("f", b"data", 0o6755)
    with opened("f", os.O_RDWR) as fd:
        os.pwrite(fd, b"x", 0)
    assert mode_of("f") == place.differs("setid-root", 0o6755, 0o755)


@case("user")
def a_store_through_a_map_takes_setid_bits_only_in_views(place):
    write_file("f", b"-" * 5000, 0o6755)
    with opened("f", os.O_RDWR) as fd, mmap.mmap(fd, 5000) as shared:
        shared[0:1] = b"x"
        shared.flush()
    assert mode_of("f") == place.differs("setid-map", 0o6755, 0o755)


@case()
def writing_into_a_fifo_moves_its_times_only_outside_of_views(place):
    make("fifo", "x")
    with opened("x", os.O_RDWR | os.O_NONBLOCK) as fd:
        want = place.differs("fifo-times", {"x:m", "x:c"}, set())
        assert moved(lambda: os.write(fd, b"data"), "x") == want


@case("user")
def open_with_truncation_takes_setid_bits(_place):
    write_file("f", b"data", 0o6777)
    os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))
    assert mode_of("f") == 0o777


@case("user")
def chown_to_oneself_takes_setid_bits_of_files(place):
    write_file("f", b"", 0o6755)
    make(DIR, "d")
    os.chmod("d", 0o2755)
    uid, gid = os.geteuid(), os.getegid()
    for name in ("f", "d"):
        assert moved(lambda name=name: os.chown(name, uid, gid), name) == {f"{name}:c"}
    assert mode_of("f") == 0o755 and mode_of("d") == 0o2755
    assert (os.stat("f").st_uid, os.stat("f").st_gid) == (uid, gid)
    assert place


# ---- chown -------------------------------------------------------------------------------


@case("user", each=TYPES)
def a_user_gives_nothing_away(_place, kind):
    make(kind, "x")
    uid, gid = os.geteuid(), os.getegid()

    def tries():
        fails(("EPERM", "EINVAL"), os.lchown, "x", 1, -1)
        fails(("EPERM", "EINVAL"), os.lchown, "x", -1, 1)
        fails(("EPERM", "EINVAL"), os.lchown, "x", 1, 1)

    assert not moved(tries, "x")
    os.lchown("x", uid, gid)
    os.lchown("x", -1, -1)
    os.lchown("x", uid, -1)
    os.lchown("x", -1, gid)
    assert (os.lstat("x").st_uid, os.lstat("x").st_gid) == (uid, gid)


@case("root", each=TYPES)
def root_changes_owners_but_not_of_a_view(place, kind):
    make(kind, "x")
    os.symlink("x", "link")
    want = place.differs("one-owner", "ok", "EPERM")
    for uid, gid in ((123, 456), (123, -1), (-1, 456), (0, 0)):
        before = os.lstat("x").st_uid, os.lstat("x").st_gid
        fails(want, os.lchown, "x", uid, gid)
        if want == "ok":
            before = tuple(old if new == -1 else new for old, new in zip(before, (uid, gid)))
        assert (os.lstat("x").st_uid, os.lstat("x").st_gid) == before
    if kind != SYMLINK:
        fails(want, os.chown, "link", 7, 8)
        assert (os.stat("x").st_uid == 7) == (want == "ok")
        assert os.lstat("link").st_uid != 7
    os.lchown("x", place.uid, place.gid)
    assert (os.lstat("x").st_uid, os.lstat("x").st_gid) == (place.uid, place.gid)


@case("root", each=TYPES)
def another_user_cannot_chown(place, kind):
    make(kind, "x")
    os.lchown("x", place.uid, place.gid)

    def tries():
        for uid, gid in ((OTHER, OTHER), (-1, OTHER), (OTHER, -1), (place.uid, place.gid)):
            fails("EPERM", os.lchown, "x", uid, gid)

    assert not moved(lambda: as_other(tries), "x")
    as_other(lambda: os.lchown("x", -1, -1))


@case("root")
def the_owner_moves_a_file_among_his_groups(place):
    make(REGULAR, "f")
    os.chown("f", place.uid, place.gid)
    want = place.differs("one-owner", "ok", "EPERM")
    got = as_user(place.uid, place.gid, lambda: error_of(os.chown, "f", -1, OTHER), [OTHER])
    assert got == want, got
    got = as_user(place.uid, place.gid, lambda: error_of(os.chown, "f", -1, 4321), [OTHER])
    assert got == "EPERM"


# ---- utimensat ---------------------------------------------------------------------------

SECOND = 1_000_000_000
TIMES = [("old", 1 * SECOND, 2 * SECOND), ("nanoseconds", 123456789123456789, 987654321987654321),
         ("access_after_change", 3 * SECOND, 2 * SECOND), ("zero", 0, 0),
         ("after_2038", (1 << 31) * SECOND + 1, (1 << 32) * SECOND + 2),
         ("before_1970", -5 * SECOND + 7, -6 * SECOND)]
OMIT, NOW = (1 << 30) - 2, (1 << 30) - 1


def set_times(name, access, change, flags=0):
    """utimensat(2) with (seconds, nanoseconds) pairs, which may be OMIT or NOW."""
    times = (ctypes.c_int64 * 4)(*access, *change)
    check(libc.utimensat(-100, os.fsencode(name), times, flags))


@case(each=[(f"{kind}_{name}", kind, a, m) for kind in TYPES for name, a, m in TIMES])
def times_are_kept_as_they_were_set(_place, _name, kind, access, change):
    make(kind, "x")
    got = moved(lambda: os.utime("x", ns=(access, change), follow_symlinks=False), ".")
    assert not got, got
    status = os.lstat("x")
    assert (status.st_atime_ns, status.st_mtime_ns) == (access, change)
    now = time.time_ns()
    assert now - 10 * SECOND < status.st_ctime_ns < now + SECOND


@case()
def utimensat_follows_links_unless_told_not_to(_place):
    write_file("f")
    os.symlink("f", "link")
    os.utime("link", ns=(1, 2))
    assert os.stat("f").st_mtime_ns == 2 and os.lstat("link").st_mtime_ns > SECOND
    os.utime("link", ns=(3, 4), follow_symlinks=False)
    assert os.stat("f").st_mtime_ns == 2 and os.lstat("link").st_mtime_ns == 4


@case(each=NOT_LINK)
def omitted_times_stay_and_now_is_now(_place, kind):
    make(kind, "x")
    os.utime("x", ns=(11, 12))
    set_times("x", (0, OMIT), (5, 6))
    assert (os.stat("x").st_atime_ns, os.stat("x").st_mtime_ns) == (11, 5 * SECOND + 6)
    set_times("x", (7, 8), (0, OMIT))
    assert (os.stat("x").st_atime_ns, os.stat("x").st_mtime_ns) == (7 * SECOND + 8, 5 * SECOND + 6)
    before = time.time_ns() - SECOND
    set_times("x", (0, NOW), (0, OMIT))
    assert before < os.stat("x").st_atime_ns and os.stat("x").st_mtime_ns == 5 * SECOND + 6
    set_times("x", (0, OMIT), (0, NOW))
    assert before < os.stat("x").st_mtime_ns
    assert not moved(lambda: set_times("x", (0, OMIT), (0, OMIT)), "x")


@case(each=[("seconds", (0, SECOND), (0, 0)), ("negative", (0, 0), (0, -1))])
def nanoseconds_out_of_range_are_EINVAL(_place, _name, access, change):
    write_file("f")
    assert not moved(lambda: fails("EINVAL", set_times, "f", access, change), "f")


@case("root")
def another_user_sets_now_where_he_may_write_and_no_other_time(place):
    write_file("f", mode=0o666)
    write_file("g", mode=0o644)
    for name in ("f", "g"):
        os.chown(name, place.uid, place.gid)
    os.utime("f", ns=(1, 1))
    as_other(lambda: set_times("f", (0, NOW), (0, NOW)))
    assert os.stat("f").st_mtime_ns > SECOND
    as_other(lambda: os.utime("f"))
    fails("EPERM", as_other, lambda: os.utime("f", ns=(1, 1)))
    fails("EPERM", as_other, lambda: set_times("f", (0, OMIT), (0, NOW)))
    fails("EACCES", as_other, lambda: set_times("g", (0, NOW), (0, NOW)))
    fails("EPERM", as_other, lambda: os.utime("g", ns=(1, 1)))
    as_other(lambda: set_times("g", (0, OMIT), (0, OMIT)))
    as_owner(place, lambda: os.utime("g", ns=(1, 1)))


@case()
def futimens_reaches_an_unlinked_file(_place):
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        os.unlink("f")
        os.utime(fd, ns=(5, 6))
        assert (os.fstat(fd).st_atime_ns, os.fstat(fd).st_mtime_ns) == (5, 6)


# ---- access ------------------------------------------------------------------------------


@case("user")
def access_is_what_the_owners_bits_say(_place):
    write_file("f")
    for mode in range(8):
        os.chmod("f", mode << 6 | (7 - mode) << 3 | (7 - mode))
        for want in range(8):
            assert os.access("f", want) == (want & mode == want), (mode, want)
        for flags, need in ((os.O_RDONLY, 4), (os.O_WRONLY, 2), (os.O_RDWR, 6)):
            got = error_of(lambda flags=flags: os.close(os.open("f", flags)))
            assert got == ("ok" if need & mode == need else "EACCES"), (mode, flags, got)


@case("root")
def access_is_what_the_groups_and_others_bits_say(place):
    write_file("f")
    os.chown("f", place.uid, place.gid)

    def table(shift):
        for mode in range(8):
            os.chmod("f", mode << shift | (0o777 & ~(7 << shift)))
            yield mode

    def opens():
        return [error_of(lambda flags=flags: os.close(os.open("f", flags)))
                for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)]

    for uid, gid, shift in ((OTHER, place.gid, 3), (OTHER, OTHER, 0), (place.uid, OTHER, 6)):
        for mode in table(shift):
            want = ["ok" if need & mode == need else "EACCES" for need in (4, 2, 6)]
            assert as_user(uid, gid, opens) == want, (shift, mode)


@case("user")
def what_is_executed_needs_an_x(_place):
    write_file("run", b"#!/bin/sh\nexit 7\n", 0o644)
    fails("EACCES", os.execv, "run", ["run"])
    os.chmod("run", 0o755)
    assert os.spawnv(os.P_WAIT, "./run", ["run"]) == 7
    os.mkdir("d")
    fails("EACCES", os.execv, "d", ["d"])
    write_file("bad", b"no program", 0o755)
    fails("ENOEXEC", os.execv, "bad", ["bad"])


# ---- stat, statfs ------------------------------------------------------------------------


@case(each=NOT_LINK)
def stat_of_path_descriptor_and_listing_agree(_place, kind):
    make(kind, "x")
    status = os.stat("x")
    with opened("x", os.O_PATH) as fd:
        assert os.fstat(fd) == status
    entry = next(os.scandir("."))
    assert entry.inode() == status.st_ino
    assert entry.is_dir() == stat.S_ISDIR(status.st_mode)
    assert status.st_dev == os.stat(".").st_dev


@case()
def a_directorys_size_and_link_count(place):
    os.makedirs("d/a/b")
    assert os.stat("d").st_nlink == place.differs("dir-nlink", 3, 1)
    if place.is_view:
        assert os.stat("d").st_size == 4096


@case()
def statfs_has_plausible_figures(_place):
    with umask(0):
        write_file("f", b"x" * 100000)
    with opened("f") as fd:
        for result in (os.statvfs("."), os.statvfs("f"), os.statvfs(fd)):
            assert result.f_namemax == 255 and result.f_bsize >= 512
            assert 0 <= result.f_bavail <= result.f_bfree <= result.f_blocks
            assert 0 <= result.f_ffree <= result.f_files
        assert os.fpathconf(fd, "PC_NAME_MAX") == 255


@case()
def blocks_follow_from_the_size(place):
    with opened("f", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 1 << 30)
        assert os.fstat(fd).st_blocks == place.differs("blocks", 0, (1 << 30) // 512)


@case()
def a_read_leaves_the_access_time(place):
    write_file("f", b"data")
    os.utime("f", ns=(5, os.stat("f").st_mtime_ns))
    with opened("f") as fd:
        os.read(fd, 10)
    os.listdir(".")
    moves = place.differs("atime", (True, False), (False,))  # a control may be mounted noatime
    assert (os.stat("f").st_atime_ns != 5) in moves


@case()
def a_time_out_of_range_is_the_nearest(place):
    write_file("f", b"data")
    # A local disk keeps the time or has a nearest one of its own (ext4: 1901 and 2446).
    last = place.differs("time-range", (15_000_000_000, 1 << 34), (9223372036,))
    first = place.differs("time-range", (-(1 << 34), -(1 << 31)), (-9223372037,))
    for wanted, nearest in ((1 << 34, last), (-(1 << 34), first)):
        os.utime("f", (wanted, wanted))
        got = os.stat("f").st_mtime_ns // 10**9
        assert min(nearest) <= got <= max(nearest), got


@case()
def inode_numbers_are_unique_and_stay(_place):
    for number in range(100):
        write_file(f"f{number}")
    numbers = {name: os.stat(name).st_ino for name in os.listdir(".")}
    assert len(set(numbers.values())) == 100
    for name in numbers:
        os.chmod(name, 0o600)
        os.rename(name, name + "x")
    assert numbers == {name[:-1]: os.stat(name).st_ino for name in os.listdir(".")}
