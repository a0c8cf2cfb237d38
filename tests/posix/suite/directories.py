"""Reading directories: whole, while they change, by position; names of any bytes."""

import ctypes
import os

from suite.base import TYPES, case, check, fails, libc, make, write_file

libc.opendir.restype = libc.fdopendir.restype = libc.readdir64.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
DT = {"fifo": 1, "dir": 4, "regular": 8, "symlink": 10, "socket": 12}


class Stream:
    """opendir(3) and its family."""

    def __init__(self, name):
        self.pointer = ctypes.c_void_p(libc.opendir(os.fsencode(name)))
        assert self.pointer.value

    def next(self):
        """The next (name, type, inode number), or None."""
        entry = libc.readdir64(self.pointer)
        if not entry:
            return None
        data = ctypes.string_at(entry, 19)
        name = ctypes.string_at(entry + 19)
        return os.fsdecode(name), data[18], int.from_bytes(data[:8], "little")

    def rest(self):
        """All names to the end."""
        found = []
        while (entry := self.next()) is not None:
            found.append(entry[0])
        return found

    def tell(self):
        return libc.telldir(self.pointer)

    def seek(self, position):
        libc.seekdir(self.pointer, ctypes.c_long(position))

    def rewind(self):
        libc.rewinddir(self.pointer)

    def close(self):
        check(libc.closedir(self.pointer))


def fill(directory, count):
    """A directory of so many names."""
    os.mkdir(directory)
    for number in range(count):
        os.close(os.open(f"{directory}/{number}", os.O_CREAT | os.O_WRONLY))
    return {str(number) for number in range(count)}


@case()
def a_listing_has_every_name_once_with_its_type_and_inode(_place):
    os.mkdir("d")
    for kind in TYPES:
        make(kind, f"d/{kind}")
    stream = Stream("d")
    found = {}
    while (entry := stream.next()) is not None:
        assert entry[0] not in found
        found[entry[0]] = entry[1:]
    stream.close()
    assert set(found) == {".", "..", *TYPES}
    for kind in TYPES:
        assert found[kind] == (DT[kind], os.lstat(f"d/{kind}").st_ino)
    assert found["."] == (4, os.stat("d").st_ino) and found[".."] == (4, os.stat(".").st_ino)


@case()
def S2_B4_removing_while_reading_removes_all(_place):
    names = fill("d", 3000)
    stream = Stream("d")
    seen = set()
    while (entry := stream.next()) is not None:
        if entry[0] not in (".", ".."):
            os.unlink(f"d/{entry[0]}")
            assert entry[0] not in seen
            seen.add(entry[0])
    stream.close()
    assert seen == names and os.listdir("d") == []
    os.rmdir("d")


@case()
def S2_a_position_leads_back_to_where_it_was_taken(_place):
    names = fill("d", 500)
    stream = Stream("d")
    positions, order = [], []
    while True:
        positions.append(stream.tell())
        entry = stream.next()
        if entry is None:
            break
        order.append(entry[0])
    assert set(order) == names | {".", ".."} and len(set(positions)) == len(positions)
    for at in (0, 1, 2, 3, 250, 499, 501, 100):
        stream.seek(positions[at])
        assert stream.rest() == order[at:], at
    stream.close()


@case()
def S2_positions_hold_while_other_names_come_and_go(place):
    fill("d", 400)
    stream = Stream("d")
    order = [stream.next()[0] for _ in range(100)]
    position = stream.tell()
    following = stream.rest()
    for name in order[2:]:
        if name not in (".", ".."):
            os.unlink(f"d/{name}")
    for name in following[::2]:
        os.unlink(f"d/{name}")
    for number in range(100):
        write_file(f"d/new{number}")
    stream.seek(position)
    again = [name for name in stream.rest() if not name.startswith("new")]
    stream.close()
    assert len(again) == len(set(again)), "a name came twice"
    # POSIX leaves open whether a name removed since the stream began is still listed.
    most = place.differs("readdir-stale", following, following)
    assert set(following[1::2]) <= set(again) <= set(most), set(following[1::2]) - set(again)


@case()
def a_rewound_stream_sees_what_is_new_and_not_what_is_gone(_place):
    fill("d", 10)
    stream = Stream("d")
    stream.rest()
    os.unlink("d/3")
    write_file("d/new")
    stream.rewind()
    found = stream.rest()
    stream.close()
    assert "new" in found and "3" not in found and len(found) == 12


@case()
def a_removed_directory_lists_nothing(_place):
    os.mkdir("d")
    stream = Stream("d")
    os.rmdir("d")
    assert [name for name in stream.rest() if name not in (".", "..")] == []
    stream.close()


@case()
def B5_a_removed_name_never_comes_back_as_something_else(_place):
    os.mkdir("d")
    for number in range(50):
        write_file("d/tmp", b"1")
        os.unlink("d/tmp")
        os.mkdir(f"x{number}")
        write_file(f"x{number}/a", b"hi")
        assert os.listdir("d") == []
        fails("ENOENT", os.stat, "d/tmp")


NAMES = [("255_bytes", b"n" * 255), ("not_utf8", b"\xff\xfe\x80"), ("newline", b"a\nb\n"),
         ("blanks", b"  "), ("dots", b"..."), ("dotted", b"..a"), ("dash", b"-rf"),
         ("255_bytes_not_utf8", b"\xc3" * 255), ("control", bytes(range(1, 47)) + b"\x7f"),
         ("composed", "é".encode()), ("decomposed", "e\u0301".encode()),
         ("whiteout", b".wh.x"), ("opaque", b".wh..wh..opq"), ("fuse", b".fuse_hidden0001"),
         ("backslash", b"a\\b"), ("star", b"*?[")]


@case(each=NAMES)
def B8_names_are_bytes(_place, _name, name):
    os.mkdir(b"d")
    path = b"d/" + name
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    assert os.listdir(b"d") == [name]
    os.rename(path, path[:-1] + b"2")
    os.symlink(name, path)
    assert os.readlink(path) == name
    assert sorted(os.listdir(b"d")) == sorted([name, name[:-1] + b"2"])
    os.unlink(path)
    os.unlink(path[:-1] + b"2")
    os.mkdir(path)
    os.rmdir(path)
    assert os.listdir(b"d") == []


@case()
def B8_names_that_differ_in_anything_are_different(_place):
    names = [b"a", b"A", "é".encode(), "e\u0301".encode(), b"a ", b" a", b"a\n", b"a.", b"\xe9"]
    for number, name in enumerate(names):
        write_file(name, b"%d" % number)
    assert sorted(os.listdir(b".")) == sorted(names)
    for number, name in enumerate(names):
        with open(name, "rb") as file:
            assert file.read() == b"%d" % number


@case()
def a_deep_tree_is_walked_and_removed(_place):
    here = os.open(".", os.O_RDONLY)
    for _ in range(300):
        os.mkdir("dir")
        os.chdir("dir")
    write_file("end")
    for _ in range(300):
        os.chdir("..")
    assert os.stat(".").st_ino == os.fstat(here).st_ino
    os.close(here)
    assert sum(len(files) for _, _, files in os.walk(".")) == 1
