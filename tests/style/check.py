#!/usr/bin/python3
"""Style as a failing test: the habits of this project that a program can check.

  tests/style/check.py         findings as file:line: text
  tests/style/check.py --tap   the same, with one "ok"/"not ok" line per check, for tests/run

It looks at every file git would commit (tracked, or untracked and not ignored) except the sample
project examples/, where only the word check applies. Each function decorated with @check is one
check and yields (path, line, text). Include rules are in boundaries.py beside this file.
"""
import ast
import re
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import boundaries  # pylint: disable=wrong-import-position

ROOT = Path(__file__).resolve().parent.parent.parent

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 70
MAX_LINE_COLUMNS = 100

TOP_LEVEL = {
    "Makefile", "README.md", "LICENSE", "CHANGELOG.md",
    ".gitignore", ".gitattributes", ".clang-format", ".clang-tidy", ".ci",
    "fs", "mux", "exec", "api", "proto", "tools", "tests", "bench", "docs", "examples", "packaging",
}

# Names of package registries and mirrors, paths of a developer's machine, and the folders our own
# notes live in. Written with [.] and the like so that this file does not match itself.
FORBIDDEN_WORDS = [
    (r"\b(deb|security|snapshot|archive|ftp|httpredir)[.]debian[.]org", "a package mirror's name"),
    (r"\b(archive|ports|security)[.]ubuntu[.]com", "a package mirror's name"),
    (r"\bpypi[.]org|\bpythonhosted[.]org|\bregistry[.]npmjs[.]org|\bregistry[.]yarnpkg[.]com",
     "a package registry's name"),
    (r"\bproxy[.]golang[.]org|\bsum[.]golang[.]org|\bcrates[.]io|\bregistry-1[.]docker[.]io",
     "a package registry's name"),
    (r"\bpackages[.]cloud[.]google[.]com|\bpkg[.]dev\b", "a package registry's name"),
    (r"(?<![\w./~)}$%-])/work(?![\w-])", "an absolute path of one machine"),
    (r"(?<![\w./~)}$%-])/home/[a-z]+/", "an absolute path of one machine"),
    (r"\bshared/(design|seed|probes)\b", "a path outside of this repository"),
]

CHECKS = []


def check(function):
    """Registers a check; its name is the function's, its meaning the doc string."""
    CHECKS.append(function)
    return function


class Tree:
    """The files under test, read once."""

    def __init__(self):
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout.decode().split("\0")
        self.paths = sorted({p for p in listed if p and (ROOT / p).is_file()})
        self.text = {}
        for path in self.paths:
            try:
                self.text[path] = (ROOT / path).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                pass  # binary: a fuzz input, a picture
        self.own = [p for p in self.text if not p.startswith("examples/") and
                    not p.startswith("tests/fuzz/corpus/")]

    def lines(self, path):
        """The lines of a file, without their ends."""
        return self.text[path].split("\n")

    def of(self, *suffixes):
        """Our source files with one of these suffixes; extensionless Python counts as .py."""
        for path in self.own:
            python = ".py" in suffixes and self.text[path].startswith("#!/usr/bin/python3")
            if path.endswith(suffixes) or python:
                yield path


def blank_c(text):
    """C text with comments, strings and character constants blanked, lines kept."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text,
                  flags=re.S)


# ---- the checks --------------------------------------------------------------------------


@check
def file_length(tree):
    """Files stay short enough to hold one idea."""
    for path in tree.of(".c", ".h", ".py", ".sh", ".awk"):
        count = tree.text[path].count("\n")
        if count > MAX_FILE_LINES:
            yield path, count, f"{count} lines, at most {MAX_FILE_LINES}"


@check
def function_length(tree):
    """Functions fit on a screen."""
    for path in tree.of(".c", ".h"):
        start = None
        for number, line in enumerate(blank_c(tree.text[path]).split("\n"), 1):
            if line.rstrip() == "{":
                start = number
            elif line.startswith("}") and start:
                if number - start + 1 > MAX_FUNCTION_LINES:
                    yield path, start, (f"a function of {number - start + 1} lines, "
                                        f"at most {MAX_FUNCTION_LINES}")
                start = None
    for path in tree.of(".py"):
        for node in ast.walk(ast.parse(tree.text[path], path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                count = node.end_lineno - node.lineno + 1
                if count > MAX_FUNCTION_LINES:
                    yield path, node.lineno, f"{node.name}: {count} lines, at most " \
                                             f"{MAX_FUNCTION_LINES}"


@check
def header_comment(tree):
    """Every source file opens with a note: what it is, what it owns, how it fails."""
    for path in tree.of(".c", ".h", ".proto"):
        if not tree.text[path].lstrip("\n").startswith(("/*", "//")):
            yield path, 1, "no opening comment"
    for path in tree.of(".py"):
        if tree.text[path].strip() and not ast.get_docstring(ast.parse(tree.text[path], path)):
            yield path, 1, "no opening doc string"
    for path in tree.of(".sh", ".awk"):
        lines = tree.lines(path)
        first = lines[1] if lines[0].startswith("#!") and len(lines) > 1 else lines[0]
        if not first.startswith("# "):
            yield path, 1, "no opening comment"


@check
def white_space(tree):
    """No tabs in sources, no trailing blanks, no carriage returns, one newline at the end."""
    for path in tree.own:
        text = tree.text[path]
        if text and (not text.endswith("\n") or text.endswith("\n\n")) and path != "LICENSE":
            yield path, text.count("\n") + 1, "must end with exactly one newline"
        no_tabs = path.endswith((".c", ".h", ".py", ".proto", ".sh", ".awk", ".md"))
        for number, line in enumerate(text.split("\n"), 1):
            if line != line.rstrip():
                yield path, number, "trailing blank"
            if no_tabs and "\t" in line:
                yield path, number, "tab"


@check
def line_width(tree):
    """Lines fit; C is clang-format's business."""
    for path in tree.of(".py", ".sh", ".awk", ".proto"):
        for number, line in enumerate(tree.lines(path), 1):
            if len(line) > MAX_LINE_COLUMNS:
                yield path, number, f"{len(line)} columns, at most {MAX_LINE_COLUMNS}"


@check
def header_guard(tree):
    """Headers can be included twice."""
    for path in tree.of(".h"):
        body = blank_c(tree.text[path])
        if "#pragma once" not in body and not re.match(r"\s*#ifndef \w+\n#define \w+", body):
            yield path, 1, "no #pragma once or include guard"


@check
def clang_format(tree):
    """C is formatted by .clang-format: `make format` repairs."""
    files = list(tree.of(".c", ".h"))
    if not files:
        return
    done = subprocess.run(["clang-format", "--dry-run", "--ferror-limit=5", *files],
                          cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    for match in re.finditer(r"^(\S+?):(\d+):\d+: (?:warning|error): (.*)$", done.stderr, re.M):
        yield match[1], int(match[2]), match[3]
    if done.returncode != 0 and not done.stderr:
        yield ".clang-format", 1, f"clang-format exited with {done.returncode}"


@check
def module_boundaries(tree):
    """Includes follow docs/ARCHITECTURE.md."""
    yield from boundaries.check({p: tree.lines(p) for p in tree.of(".c", ".h")})


@check
def top_level(tree):
    """The top folder has what a newcomer expects and nothing else."""
    for name in sorted({p.split("/")[0] for p in tree.paths} - TOP_LEVEL):
        yield name, 1, "not part of the layout"


@check
def forbidden_words(tree):
    """No registry hosts, no paths of one machine."""
    patterns = [(re.compile(pattern), text) for pattern, text in FORBIDDEN_WORDS]
    for path, text in tree.text.items():
        for number, line in enumerate(text.split("\n"), 1):
            for pattern, what in patterns:
                match = pattern.search(line)
                if match:
                    yield path, number, f"{what}: {match[0]}"


@check
def unfinished(tree):
    """What is committed is finished: no marks of work left to do."""
    mark = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    for path in tree.own:
        for number, line in enumerate(tree.lines(path), 1):
            if mark.search(line):
                yield path, number, "unfinished: do it, or open an issue"


def main():
    """Runs every check; exit code 1 when one has findings."""
    tap = "--tap" in sys.argv[1:]
    tree, failed = Tree(), 0
    for number, function in enumerate(CHECKS, 1):
        findings = list(function(tree))
        for path, line, text in findings:
            print(f"{path}:{line}: {text}")
        failed += bool(findings)
        if tap:
            print(f"{'not ok' if findings else 'ok'} {number} - {function.__name__}: "
                  f"{function.__doc__}")
    if tap:
        print(f"1..{len(CHECKS)}")
    elif not failed:
        print(f"{len(CHECKS)} style checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
