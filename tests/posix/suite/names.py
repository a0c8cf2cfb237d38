"""Names that come and go: mkdir, mkfifo, mknod, symlink, link, unlink, rmdir."""

import os
import socket
import stat

from suite.base import (DIR, FIFO, NOT_DIR, NOT_LINK, REGULAR, SOCKET, SYMLINK, TYPES, as_other,
                        as_owner, case, child, fails, make, mode_of, moved, opened, read_file,
                        remove, tick, umask, write_file)
from suite.paths import mount_here

MAKERS = {
    REGULAR: lambda name, mode: os.mknod(name, stat.S_IFREG | mode),
    DIR: os.mkdir,
    FIFO: os.mkfifo,
    SOCKET: lambda name, mode: os.mknod(name, stat.S_IFSOCK | mode),
}
FORMATS = {REGULAR: stat.S_IFREG, DIR: stat.S_IFDIR, FIFO: stat.S_IFIFO, SOCKET: stat.S_IFSOCK,
           SYMLINK: stat.S_IFLNK}


@case(each=MAKERS.items())
def a_new_object_has_its_type_mode_and_owner(place, kind, maker):
    for number, (mask, mode, want) in enumerate([(0, 0o777, 0o777), (0o22, 0o777, 0o755),
                                                 (0o70, 0o345, 0o305), (0o501, 0o345, 0o244),
                                                 (0, 0, 0), (0o777, 0o777, 0)]):
        with umask(mask):
            as_owner(place, lambda: maker(f"x{number}", mode))
        status = os.lstat(f"x{number}")
        assert stat.S_IFMT(status.st_mode) == FORMATS[kind]
        assert status.st_mode & 0o7777 == want, oct(status.st_mode)
        assert (status.st_uid, status.st_gid) == (place.uid, place.gid)
        assert status.st_nlink == (1 if kind != DIR else place.differs("dir-nlink", 2, 1))


@case("root")
def root_makes_objects_that_belong_to_the_view(place):
    for kind in TYPES:
        make(kind, kind)
        owner = place.differs("one-owner", (0, 0), (place.uid, place.gid))
        assert (os.lstat(kind).st_uid, os.lstat(kind).st_gid) == owner


@case(each=TYPES)
def making_a_name_moves_the_directorys_times(_place, kind):
    assert moved(lambda: make(kind, "x"), ".") == {".:m", ".:c"}


@case(each=TYPES)
def a_new_object_has_the_time_of_now(_place, kind):
    before = os.stat(".").st_ctime_ns
    tick()
    make(kind, "x")
    status = os.lstat("x")
    assert min(status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns) > before


@case(each=TYPES)
def an_existing_name_is_EEXIST_for_all_makers_and_stays(_place, kind):
    make(kind, "x")
    before = os.lstat("x")
    tick()

    def tries():
        for maker in MAKERS.values():
            fails("EEXIST", maker, "x", 0o644)
        fails("EEXIST", os.symlink, "target", "x")
        write_file("other")
        fails("EEXIST", os.link, "other", "x")
        fails("EEXIST", os.open, "x", os.O_CREAT | os.O_EXCL)

    tries()
    after = os.lstat("x")
    assert (before.st_ino, before.st_mode, before.st_ctime_ns, before.st_mtime_ns) == \
        (after.st_ino, after.st_mode, after.st_ctime_ns, after.st_mtime_ns)


@case()
def a_maker_that_fails_leaves_the_directorys_times(_place):
    make(DIR, "x")
    assert not moved(lambda: fails("EEXIST", os.mkdir, "x"), ".", "x")
    assert not moved(lambda: fails("EEXIST", os.mkfifo, "x"), ".", "x")


@case("root", each=[("char", stat.S_IFCHR), ("block", stat.S_IFBLK)])
def a_device_is_never_made(place, _name, kind):
    want = place.differs("devices", "ok", "EPERM")
    fails(want, os.mknod, "device", kind | 0o666, os.makedev(1, 3))
    assert os.path.exists("device") == (want == "ok")


@case("user", each=[("char", stat.S_IFCHR), ("block", stat.S_IFBLK)])
def a_user_makes_no_device(_place, _name, kind):
    fails("EPERM", os.mknod, "device", kind | 0o666, os.makedev(1, 3))


@case(each=[("unknown", 0o030000), ("directory", stat.S_IFDIR), ("symlink", stat.S_IFLNK)])
def mknod_of_what_is_no_node_is_refused(_place, _name, kind):
    fails(("EINVAL", "EPERM"), os.mknod, "x", kind | 0o644)
    assert os.listdir(".") == []


@case()
def setgid_is_inherited_by_directories_only(_place):
    os.mkdir("parent")
    os.chmod("parent", 0o2775)
    for kind in TYPES:
        make(kind, f"parent/{kind}", 0o664)
        os.lstat(f"parent/{kind}")
    with umask(0):
        os.mkdir("parent/second", 0o775)
    assert mode_of("parent/second") == 0o2775
    assert not mode_of("parent/regular") & 0o2000
    os.mkdir("parent/second/third")
    assert mode_of("parent/second/third") & 0o2000


@case()
def the_sticky_bit_is_not_inherited(_place):
    os.mkdir("parent")
    os.chmod("parent", 0o1777)
    os.mkdir("parent/sub")
    assert not mode_of("parent/sub") & 0o1000


@case()
def mkdir_with_set_id_bits_keeps_only_the_sticky_one(_place):
    with umask(0):
        os.mkdir("d", 0o7777)
    assert mode_of("d") == 0o1777


# ---- symlink -----------------------------------------------------------------------------


@case(each=[("one_byte", "t"), ("path", "a/b/../c"), ("root", "/"), ("any_bytes", "\udcff\n x"),
            ("255_bytes", "l" * 255), ("4095_bytes", "p/" * 2047 + "x")])
def a_link_gives_back_its_target(_place, _name, target):
    os.symlink(target, "link")
    assert os.readlink("link") == target
    status = os.lstat("link")
    assert status.st_size == len(os.fsencode(target)) and status.st_mode & 0o777 == 0o777


@case(each=NOT_LINK)
def readlink_of_what_is_no_link_is_EINVAL(_place, kind):
    make(kind, "x")
    fails("EINVAL", os.readlink, "x")


@case()
def a_link_leads_to_file_directory_and_nowhere(_place):
    write_file("file", b"1")
    os.mkdir("dir")
    write_file("dir/in", b"2")
    for target in ("file", "dir", "nowhere"):
        os.symlink(target, f"to_{target}")
    assert read_file("to_file") == b"1" and read_file("to_dir/in") == b"2"
    assert os.stat("to_file").st_ino == os.stat("file").st_ino
    fails("ENOENT", os.stat, "to_nowhere")
    write_file("to_nowhere", b"3")
    assert read_file("nowhere") == b"3"
    fails("ENOTDIR", os.rmdir, "to_dir")
    fails("ENOTDIR", os.rmdir, "to_dir/")
    os.unlink("to_dir")
    assert os.path.exists("dir/in")


@case()
def forty_links_are_followed_and_forty_one_are_ELOOP(_place):
    write_file("l0", b"end")
    for number in range(41):
        os.symlink(f"l{number}", f"l{number + 1}")
    assert read_file("l40") == b"end"
    fails("ELOOP", os.stat, "l41")


# ---- link --------------------------------------------------------------------------------


@case(each=NOT_DIR)
def all_names_of_a_file_are_one_file(_place, kind):
    make(kind, "a")
    os.link("a", "b", follow_symlinks=False)
    os.link("b", "c", follow_symlinks=False)
    if kind != SYMLINK:
        os.chmod("b", 0o201)
    want = (os.lstat("a").st_ino, os.lstat("a").st_mode)
    assert all((os.lstat(n).st_ino, os.lstat(n).st_mode) == want for n in "abc")
    assert all(os.lstat(n).st_nlink == 3 for n in "abc")
    os.unlink("a")
    assert os.lstat("b").st_nlink == os.lstat("c").st_nlink == 2
    os.unlink("c")
    assert os.lstat("b").st_nlink == 1
    assert os.listdir(".") == ["b"]


@case(each=NOT_DIR)
def link_moves_ctime_of_the_file_and_times_of_the_directory(_place, kind):
    make(kind, "a")
    os.mkdir("d")
    assert moved(lambda: os.link("a", "d/b", follow_symlinks=False), "a", ".", "d") == \
        {"a:c", "d:m", "d:c"}


@case(each=NOT_DIR)
def unlink_moves_ctime_of_the_file_and_times_of_the_directory(_place, kind):
    make(kind, "a")
    os.mkdir("d")
    os.link("a", "d/b", follow_symlinks=False)
    assert moved(lambda: os.unlink("d/b"), "a", ".", "d") == {"a:c", "d:m", "d:c"}


@case()
def a_link_that_fails_moves_no_time(_place):
    write_file("a")
    write_file("b")
    assert not moved(lambda: fails("EEXIST", os.link, "a", "b"), "a", "b", ".")


@case()
def a_directory_has_one_name(_place):
    os.mkdir("d")
    fails("EPERM", os.link, "d", "e")
    assert os.listdir(".") == ["d"]


@case()
def a_file_has_at_most_so_many_names(place):
    write_file("f")
    os.mkdir("d")
    most = place.differs("links-max", 4200, 4096)
    for number in range(1, min(most, 4200)):
        os.link("f", f"d/{number}")
    assert os.stat("f").st_nlink == most
    fails(place.differs("links-max", "ok", "EMLINK"), os.link, "f", "one-more")


@case()
def written_under_one_name_it_is_read_under_all(_place):
    write_file("a", b"x" * 5000)
    os.link("a", "b")
    with opened("b", os.O_RDWR) as fd:
        os.pwrite(fd, b"new", 4000)
    assert read_file("a")[4000:4003] == b"new"
    os.truncate("a", 3)
    assert os.stat("b").st_size == 3


# ---- unlink, rmdir -----------------------------------------------------------------------


@case(each=NOT_DIR)
def unlink_removes(_place, kind):
    make(kind, "x")
    os.unlink("x")
    fails("ENOENT", os.lstat, "x")
    fails("ENOENT", os.unlink, "x")
    assert os.listdir(".") == []


@case()
def unlink_of_a_directory_is_EISDIR(_place):
    os.mkdir("d")
    fails("EISDIR", os.unlink, "d")
    assert os.path.isdir("d")


@case(each=NOT_DIR)
def rmdir_of_what_is_no_directory_is_ENOTDIR(_place, kind):
    make(kind, "x")
    fails("ENOTDIR", os.rmdir, "x")
    assert os.listdir(".") == ["x"]


@case(each=TYPES)
def rmdir_of_a_full_directory_is_ENOTEMPTY(_place, kind):
    os.mkdir("d")
    make(kind, "d/x")
    fails("ENOTEMPTY", os.rmdir, "d")
    remove("d/x")
    os.rmdir("d")
    fails("ENOENT", os.stat, "d")


@case()
def rmdir_of_dot_and_dotdot_is_refused(_place):
    os.makedirs("d/e")
    fails("EINVAL", os.rmdir, "d/.")
    fails("ENOTEMPTY", os.rmdir, "d/e/..")
    fails("EINVAL", os.rmdir, ".")


@case()
def rmdir_moves_the_parents_times_and_a_refused_one_does_not(_place):
    os.makedirs("p/d")
    write_file("p/d/x")
    assert not moved(lambda: fails("ENOTEMPTY", os.rmdir, "p/d"), "p", "p/d")
    os.unlink("p/d/x")
    assert moved(lambda: os.rmdir("p/d"), "p", ".") == {"p:m", "p:c"}


@case("root")
def a_directory_that_is_a_mount_point_is_EBUSY(_place):
    os.mkdir("m")

    def inside():
        os.chdir("m")
        mount_here(0)
        os.chdir("..")
        fails("EBUSY", os.rmdir, "m")
        fails("EBUSY", os.rename, "m", "n")

    child(inside)


@case()
def in_a_removed_directory_nothing_can_be_made(_place):
    os.mkdir("d")
    fd = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    fails("ENOENT", os.open, "x", os.O_CREAT | os.O_RDWR, dir_fd=fd)
    fails("ENOENT", os.mkdir, "x", dir_fd=fd)
    fails("ENOENT", os.symlink, "t", "x", dir_fd=fd)
    assert os.listdir(fd) == []
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


@case()
def an_unlinked_open_file_lives_until_it_is_closed(_place):
    with opened("f", os.O_CREAT | os.O_RDWR) as fd, opened("f") as second:
        os.write(fd, b"before")
        os.unlink("f")
        assert os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"after" * 1000, 6)
        assert os.pread(second, 16, 0) == b"beforeafterafter"
        os.ftruncate(fd, 2)
        os.fchmod(fd, 0o600)
        assert os.fstat(second).st_size == 2 and mode_of(second) == 0o600
        write_file("f", b"another")
        assert os.pread(fd, 9, 0) == b"be"
    assert read_file("f") == b"another"


# ---- who may -----------------------------------------------------------------------------


@case("root", each=[("write_without_search", 0o776), ("search_without_write", 0o775),
                    ("neither", 0o770)])
def another_user_needs_write_and_search_on_the_directory(place, _name, mode):
    os.mkdir("d")
    make(REGULAR, "d/x")
    make(DIR, "d/e")
    os.chown("d", place.uid, place.gid)
    os.chmod("d", mode)

    def tries():
        fails("EACCES", os.mkdir, "d/new")
        fails("EACCES", os.mkfifo, "d/new")
        fails("EACCES", os.symlink, "t", "d/new")
        fails("EACCES", os.unlink, "d/x")
        fails("EACCES", os.rmdir, "d/e")
        fails("EACCES", os.open, "d/new", os.O_CREAT | os.O_RDWR)

    assert not moved(lambda: as_other(tries), "d", "d/x", "d/e")


@case("root", each=TYPES)
def in_a_sticky_directory_only_the_owner_removes(place, kind):
    os.mkdir("d")
    make(kind, "d/x")
    for name in ("d", "d/x"):
        os.chown(name, place.uid, place.gid, follow_symlinks=False)
    os.chmod("d", 0o1777)
    fails(("EPERM", "EACCES"), as_other, lambda: remove("d/x"))
    assert os.path.lexists("d/x")
    as_owner(place, lambda: remove("d/x"))
    assert os.listdir("d") == []


@case("root")
def in_a_shared_directory_a_new_file_belongs_to_the_view(place):
    os.mkdir("d")
    os.chmod("d", 0o777)
    as_other(lambda: os.close(os.open("d/x", os.O_CREAT | os.O_RDWR)))
    owner = place.differs("one-owner", (65534, 65534), (place.uid, place.gid))
    assert (os.stat("d/x").st_uid, os.stat("d/x").st_gid) == owner
    as_other(lambda: os.unlink("d/x"))
