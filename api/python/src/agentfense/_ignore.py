"""Which paths of a directory are not uploaded: patterns as in .gitignore.

Sources, each stronger than those before it: the built-in list (caches, virtual environments, .git,
.env), the .gitignore and .sandboxignore of each directory from the top down, and the caller's own
patterns. Within a source the last pattern that matches decides; `!` takes a path back in. What is
below an ignored directory is ignored, whatever its patterns say. Names are bytes.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Iterable, List, Optional, Pattern, Sequence, Tuple, Union

IGNORE_FILES = (b".gitignore", b".sandboxignore")
DEFAULT_PATTERNS: Sequence[str] = (
    ".git",
    ".env",
    "__pycache__/",
    "*.pyc",
    "*.pyo",
    "*.egg-info/",
    ".venv/",
    "venv/",
    ".tox/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    "node_modules/",
    ".DS_Store",
    "Thumbs.db",
)
_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"\x21-\x7e",
    b"lower": rb"a-z",
    b"print": rb"\x20-\x7e",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb" \t\n\r\x0b\x0c",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}


_ANY_DIRECTORIES = b"(?:.*/)?"


def _byte(value: int) -> bytes:
    return b"\\x%02x" % value


def _bracket(text: bytes, at: int) -> Optional[Tuple[bytes, int]]:
    """A bracket expression at text[at] == '[' as a regex, and its end; None: it has none."""
    i, body, negated = at + 1, b"", False
    if text[i : i + 1] in (b"!", b"^"):
        negated, i = True, i + 1
    first = i
    while i < len(text):
        if text[i : i + 1] == b"]" and i > first:
            # A slash is never matched by a bracket, negated or not.
            inside = b"(?!/)[" + (b"^" if negated else b"") + body + b"]" if body else b"(?!)"
            return (b"[^/]" if negated and not body else inside), i + 1
        named = re.compile(rb"\[:([a-z]*):\]").match(text, i)
        if named:
            if named[1] not in _CLASSES:
                return b"(?!)", len(text)
            body += _CLASSES[named[1]]
            i = named.end()
            continue
        low, i = _bracket_char(text, i)
        body += _byte(low)  # also when it begins an empty range, as git has it
        if text[i : i + 1] == b"-" and text[i + 1 : i + 2] not in (b"]", b""):
            high, i = _bracket_char(text, i + 1)
            if low <= high:
                body += _byte(low) + b"-" + _byte(high)
    return None


def _bracket_char(text: bytes, i: int) -> Tuple[int, int]:
    if text[i : i + 1] == b"\\" and i + 1 < len(text):
        i += 1
    return text[i], i + 1


def _translate(pattern: bytes) -> Optional[bytes]:
    """The regex of a pattern without `!` and the leading and trailing slash; None: no pattern."""
    out, i, n = b"", 0, len(pattern)
    while i < n:
        char = pattern[i : i + 1]
        if pattern.startswith(b"**", i) and (i == 0 or pattern[i - 1 : i] == b"/"):
            end = i + len(pattern[i:]) - len(pattern[i:].lstrip(b"*"))
            if end == n:
                return out + b".+"
            if pattern[end : end + 1] == b"/":
                i = end + 1
                if not out.endswith(_ANY_DIRECTORIES):
                    out += _ANY_DIRECTORIES
                continue
        if char == b"*":
            while pattern[i : i + 1] == b"*":
                i += 1
            out += b"[^/]*"
        elif char == b"?":
            out, i = out + b"[^/]", i + 1
        elif char == b"[":
            found = _bracket(pattern, i)
            if found is None:
                return None
            out, i = out + found[0], found[1]
        elif char == b"\\":
            if i + 1 == n:
                return None
            out, i = out + _byte(pattern[i + 1]), i + 2
        else:
            out, i = out + _byte(pattern[i]), i + 1
    return out


@dataclass(frozen=True)
class Rule:
    """One pattern, compiled against paths relative to the directory it is for."""

    regex: Pattern[bytes]
    takes_in: bool  # it began with `!`
    directories_only: bool


def _without_trailing_blanks(line: bytes) -> bytes:
    """Blanks at the end do not count unless escaped; a backslash escapes one character."""
    end, i = 0, 0
    while i < len(line):
        char = line[i : i + 1]
        i += 2 if char == b"\\" else 1
        if char != b" ":
            end = min(i, len(line))
    return line[:end]


def parse_line(line: bytes) -> Optional[Rule]:
    """A rule from a line of an ignore file; None for comments, blanks and broken patterns."""
    line = _without_trailing_blanks(line.rstrip(b"\r\n"))
    if not line or line.startswith(b"#"):
        return None
    takes_in = line.startswith(b"!")
    if takes_in:
        line = line[1:]
    directories_only = line.endswith(b"/")
    if directories_only:
        line = line[:-1]
    anchored = b"/" in line
    line = line[1:] if line.startswith(b"/") else line
    if not line:
        return None
    body = _translate(line)
    if body is None:
        return None
    head = b"" if anchored else _ANY_DIRECTORIES
    return Rule(re.compile(head + body, re.S), takes_in, directories_only)


def parse(lines: Iterable[Union[str, bytes]]) -> List[Rule]:
    """The rules in lines, in order."""
    found = (parse_line(os.fsencode(line)) for line in lines)
    return [rule for rule in found if rule is not None]


class Ignore:
    """The rules that hold in one directory."""

    def __init__(self, patterns: Optional[Iterable[str]] = None, defaults: bool = True) -> None:
        self._strong = parse(patterns or ())
        weak = parse(DEFAULT_PATTERNS) if defaults else []
        self._levels: List[Tuple[bytes, List[Rule]]] = [(b"", weak)]

    def enter(self, directory: bytes, files: Iterable[Tuple[bytes, bytes]]) -> Ignore:
        """The rules below `directory` (b"" or ending in a slash), given its ignore files.

        files: (name, content) of those that are there.
        """
        contents = dict(files)
        rules = [
            rule
            for name in IGNORE_FILES
            if name in contents
            for rule in parse(contents[name].split(b"\n"))
        ]
        if not rules:
            return self
        made = Ignore.__new__(Ignore)
        made._strong = self._strong
        made._levels = [*self._levels, (directory, rules)]
        return made

    def ignores(self, path: bytes, is_directory: bool) -> bool:
        """Whether a path is left out. Its parents are asked about before it."""
        for base, rules in [(b"", self._strong), *reversed(self._levels)]:
            relative = path[len(base) :]
            for rule in reversed(rules):
                if rule.directories_only and not is_directory:
                    continue
                if rule.regex.fullmatch(relative):
                    return not rule.takes_in
        return False
