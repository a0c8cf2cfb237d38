"""What the documents promise about tests: docs/POSIX.md's deviations, docs/TESTING.md's ids."""

import pathlib
import re

import suite.__main__ as main

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Deviation:
    """A row of docs/POSIX.md: | `id` | what | here | why | `test` |"""

    def __init__(self, line):
        self.id = line.split("`")[1]
        self.test = line.rstrip(" |").split("`")[-2]

    def is_held_by_a_case(self):
        """Whether a case of the suite holds it, rather than a test elsewhere."""
        return any(name.split(".")[1].split("[")[0] == self.test for name in main.load())


def deviations():
    """All rows with an id."""
    text = (ROOT / "docs/POSIX.md").read_text()
    return [Deviation(line) for line in text.splitlines() if line.startswith("| `")]


def test_names():
    """The names of all tests and cases in tests/."""
    names = set()
    for path in (ROOT / "tests").rglob("*.*"):
        if path.suffix == ".py":
            names |= set(re.findall(r"^def (\w+)\(", path.read_text(), re.M))
        elif path.suffix == ".c":
            names |= set(re.findall(r"^static void (test_\w+)\(", path.read_text(), re.M))
    return names


IDS = [f"{letter}{number}" for letter, last in (("S", 3), ("D", 8), ("E", 7), ("P", 8), ("B", 9),
                                           ("X", 8), ("O", 5))
       for number in range(1, last + 1)]


def cases():
    """{id: test, or None where it says "not built yet"} of docs/TESTING.md's table."""
    rows = re.findall(r"^\| ([SDEPBXO]\d) \| .* \| (?:`(\w+)`|not built yet) \|$",
                      (ROOT / "docs/TESTING.md").read_text(), re.M)
    return {name: test or None for name, test in rows}
