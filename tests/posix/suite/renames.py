"""rename and renameat2."""

import os
import stat

from suite.base import (DIR, EXCHANGE, NOREPLACE, NOT_DIR, REGULAR, SYMLINK, TYPES, WHITEOUT,
                        as_other, as_owner, case, error_of, fails, make, moved, opened,
                        read_file, rename2, write_file)
from suite.names import FORMATS

PAIRS = [(f"{a}_onto_{b}", a, b) for a in TYPES for b in TYPES]


def identity(name):
    """What must not change by moving."""
    status = os.lstat(name)
    return status.st_ino, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns


@case(each=TYPES)
def what_is_renamed_stays_itself(_place, kind):
    make(kind, "a")
    os.mkdir("d")
    before = identity("a")
    os.rename("a", "b")
    fails("ENOENT", os.lstat, "a")
    os.rename("b", "d/c")
    assert identity("d/c") == before and os.listdir("d") == ["c"]
    assert os.listdir(".") == ["d"]


@case(each=TYPES)
def rename_moves_ctime_of_the_object_and_times_of_both_directories(_place, kind):
    make(kind, "p")
    os.mkdir("from")
    os.mkdir("to")
    os.rename("p", "from/x")
    with opened("from/x", os.O_PATH | os.O_NOFOLLOW) as fd:
        got = moved(lambda: os.rename("from/x", "to/y"), "from", "to", ".", fd)
        assert got == {"from:m", "from:c", "to:m", "to:c", f"{fd}:c"}, got


@case(each=PAIRS)
def onto_an_existing_name(_place, _name, source, target):
    make(source, "a")
    make(target, "b")
    want = "ok"
    if target == DIR and source != DIR:
        want = "EISDIR"
    elif source == DIR and target != DIR:
        want = "ENOTDIR"
    before = identity("a"), identity("b")
    if want == "ok":
        os.rename("a", "b")
        assert identity("b") == before[0] and os.listdir(".") == ["b"]
    else:
        assert not moved(lambda: fails(want, os.rename, "a", "b"), "a", "b", ".")
        assert (identity("a"), identity("b")) == before


@case(each=PAIRS)
def noreplace_replaces_nothing(_place, _name, source, target):
    make(source, "a")
    make(target, "b")
    before = identity("a"), identity("b")
    assert not moved(lambda: fails("EEXIST", rename2, "a", "b", NOREPLACE), "a", "b", ".")
    assert (identity("a"), identity("b")) == before
    rename2("a", "c", NOREPLACE)
    assert identity("c") == before[0]


@case(each=PAIRS)
def exchange_swaps_any_two(_place, _name, source, target):
    os.mkdir("d")
    make(source, "a")
    make(target, "d/b")
    before = identity("a"), identity("d/b")
    rename2("a", "d/b", EXCHANGE)
    assert (identity("d/b"), identity("a")) == before
    assert sorted(os.listdir(".")) == ["a", "d"] and os.listdir("d") == ["b"]


@case()
def exchange_needs_both_and_moves_both_ctimes(_place):
    write_file("a")
    os.mkdir("d")
    fails("ENOENT", rename2, "a", "nothing", EXCHANGE)
    fails("ENOENT", rename2, "nothing", "a", EXCHANGE)
    fails("EINVAL", rename2, "a", "d", EXCHANGE | NOREPLACE)
    fails("EINVAL", rename2, "a", "d", 64)
    with opened("a", os.O_PATH) as file, opened("d", os.O_PATH) as folder:
        got = moved(lambda: rename2("a", "d", EXCHANGE), file, folder, ".")
        assert {f"{file}:c", f"{folder}:c", ".:m", ".:c"} <= got, got


@case()
def exchange_with_ones_own_descendant_is_EINVAL(_place):
    os.makedirs("d/e/f")
    fails(("EINVAL", "ENOTEMPTY"), rename2, "d", "d/e/f", EXCHANGE)
    fails(("EINVAL", "ENOTEMPTY"), rename2, "d/e/f", "d", EXCHANGE)
    assert os.path.isdir("d/e/f")


@case("user")
def a_whiteout_is_made_by_nobody(place):
    write_file("a")
    want = place.differs("whiteout", ("ok", "EPERM"), "EINVAL")
    fails(want, rename2, "a", "b", WHITEOUT)


@case(each=TYPES)
def onto_a_full_directory_is_ENOTEMPTY(_place, kind):
    os.mkdir("a")
    os.mkdir("b")
    make(kind, "b/x")
    fails(("ENOTEMPTY", "EEXIST"), os.rename, "a", "b")
    assert os.listdir("b") == ["x"] and os.path.isdir("a")
    os.rename("b", "a")
    assert os.listdir("a") == ["x"]


@case()
def into_itself_is_EINVAL(_place):
    os.makedirs("a/b/c")
    fails("EINVAL", os.rename, "a", "a/x")
    fails("EINVAL", os.rename, "a", "a/b/c/x")
    fails("EINVAL", rename2, "a", "a/b/x", NOREPLACE)
    fails("ENOTEMPTY", os.rename, "a/b/c", "a")
    assert os.path.isdir("a/b/c")


@case(each=["d/.", "d/..", ".", ".."])
def dot_and_dotdot_cannot_be_moved(_place, name):
    os.mkdir("d")
    fails(("EBUSY", "EINVAL"), os.rename, name, "x")
    fails(("EBUSY", "EINVAL", "ENOTEMPTY", "EEXIST"), os.rename, "d", name)


@case(each=NOT_DIR)
def two_names_of_one_file_stay_two(_place, kind):
    make(kind, "a")
    os.link("a", "b", follow_symlinks=False)
    assert not moved(lambda: os.rename("a", "b"), ".", "a")
    assert sorted(os.listdir(".")) == ["a", "b"] and os.lstat("a").st_nlink == 2


@case(each=TYPES)
def onto_itself_does_nothing(_place, kind):
    make(kind, "a")
    assert not moved(lambda: os.rename("a", "a"), ".", "a")


@case(each=NOT_DIR)
def a_replaced_file_loses_one_name(_place, kind):
    make(kind, "source")
    make(kind, "target")
    os.link("target", "second", follow_symlinks=False)
    assert moved(lambda: os.rename("source", "target"), "second") == {"second:c"}
    assert os.lstat("second").st_nlink == 1 == os.lstat("target").st_nlink


@case()
def a_replaced_open_file_keeps_its_content(_place):
    write_file("a", b"new")
    write_file("b", b"old")
    with opened("b", os.O_RDWR) as fd:
        os.rename("a", "b")
        assert os.pread(fd, 9, 0) == b"old" and os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"X", 0)
    assert read_file("b") == b"new"


@case()
def a_replaced_open_directory_is_gone(_place):
    os.mkdir("a")
    os.mkdir("b")
    with opened("b") as fd:
        os.rename("a", "b")
        assert os.listdir(fd) == [] and os.fstat(fd).st_nlink == 0
        fails("ENOENT", os.mkdir, "x", dir_fd=fd)


@case()
def dotdot_follows_a_moved_directory(_place):
    os.makedirs("a/d")
    os.makedirs("b")
    inside = os.open("a/d", os.O_RDONLY)
    os.rename("a/d", "b/d")
    assert os.stat("b/d/..").st_ino == os.stat("b").st_ino
    assert os.stat("..", dir_fd=inside).st_ino == os.stat("b").st_ino
    names = {e.name: e.inode() for e in os.scandir("b")}
    assert names == {"d": os.stat("b/d").st_ino}
    os.close(inside)
    os.chdir("b/d")
    os.rename("../../b", "../../c")
    assert os.getcwd().endswith("/case/c/d")


@case()
def a_symbolic_link_is_moved_not_followed(_place):
    write_file("file", b"1")
    os.symlink("file", "link")
    os.rename("link", "moved")
    assert os.readlink("moved") == "file"
    write_file("other", b"2")
    os.rename("other", "moved")
    assert read_file("moved") == b"2" and read_file("file") == b"1"
    assert stat.S_ISREG(os.lstat("moved").st_mode)


@case()
def a_trailing_slash_is_for_directories(_place):
    write_file("f")
    os.mkdir("d")
    fails("ENOTDIR", os.rename, "f", "g/")
    fails("ENOTDIR", os.rename, "f/", "g")
    os.rename("d/", "e/")
    assert sorted(os.listdir(".")) == ["e", "f"]


@case()
def to_another_file_system_is_EXDEV(place):
    write_file("f")
    os.mkdir("d")
    for name in ("f", "d"):
        fails("EXDEV", os.rename, name, os.path.join(place.other_fs, "x"))
        fails("EXDEV", rename2, name, os.path.join(place.other_fs, "x"), NOREPLACE)
    fails("EXDEV", os.link, "f", os.path.join(place.other_fs, "x"))


@case("user")
def moving_a_directory_elsewhere_needs_write_on_it(_place):
    os.mkdir("a")
    os.mkdir("b")
    os.mkdir("a/d")
    os.chmod("a/d", 0o555)
    os.rename("a/d", "a/e")
    fails("EACCES", os.rename, "a/e", "b/e")
    os.chmod("a/e", 0o755)
    os.rename("a/e", "b/e")


@case("root", each=[("from", "d/x", "free"), ("to", "free", "d/x")])
def in_a_sticky_directory_only_the_owner_renames(place, _name, source, target):
    os.mkdir("d")
    os.chmod(".", 0o777)
    write_file("d/x")
    if source == "free":
        write_file("free")
    for name in ("d", "d/x"):
        os.chown(name, place.uid, place.gid)
    os.chmod("d", 0o1777)
    fails(("EPERM", "EACCES"), as_other, lambda: os.rename(source, target))
    as_owner(place, lambda: os.rename(source, target))


@case("root")
def another_user_renames_only_where_both_directories_let_him(_place):
    for name, mode in (("a", 0o777), ("b", 0o755), ("c", 0o777)):
        os.mkdir(name)
        os.chmod(name, mode)
    write_file("a/f")
    os.mkdir("a/d")
    assert error_of(as_other, lambda: os.rename("a/f", "b/f")) == "EACCES"
    as_other(lambda: os.rename("a/f", "c/f"))
    assert error_of(as_other, lambda: os.rename("a/d", "c/d")) == "EACCES"
    as_other(lambda: os.rename("a/d", "a/e"))


@case()
def many_renames_over_one_name_keep_a_whole_file(_place):
    for number in range(200):
        write_file("new", b"%d" % number * 100)
        os.rename("new", "name")
        assert read_file("name") == b"%d" % number * 100
    assert os.listdir(".") == ["name"]


@case(each=[REGULAR, DIR, SYMLINK])
def a_freed_name_can_be_anything_else(_place, kind):
    for other in TYPES:
        make(kind, "x")
        os.rename("x", "y")
        fails("ENOENT", os.lstat, "x")
        make(other, "x")
        assert stat.S_IFMT(os.lstat("x").st_mode) == FORMATS[other]
        (os.rmdir if other == DIR else os.unlink)("x")
        (os.rmdir if kind == DIR else os.unlink)("y")
