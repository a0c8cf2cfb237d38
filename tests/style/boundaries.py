"""The module boundaries of docs/ARCHITECTURE.md as a check on #include lines.

Two tables: which folder may include which folder, and which folder owns which library. Tests may
include what the folder they mirror may (tests/unit/fs/... as fs/...), plus test support; fuzzers
and benchmarks may include anything of ours. What to do about a finding: move the code, or ask the
owner of the library for a function; a new edge in the tables is a change of the design.
"""
import re

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')

# The longest matching folder decides. A folder may always include itself.
MAY_INCLUDE = {
    "mux/base": (),
    "mux/store": ("mux/base",),
    "mux": ("mux",),
    "fs": ("mux",),
    "exec": ("mux/base",),
    "exec/init": ("exec",),  # its protocol header; it is linked with nothing else
    "api": ("mux", "fs", "exec", "proto"),
    "api/client": ("mux/base", "proto"),
    "tools": ("api/client", "mux/base", "proto"),
    "tools/fsctl": ("tools", "api/client", "mux/base", "proto", "mux/store"),
}
MAY_NOT = {"fs": ("mux/store",)}

# Library -> (pattern of its headers, folders or files that may include them).
OWNERS = {
    "libfuse": (r"(fuse3/)?(fuse|cuse)(_\w+)?\.h|linux/fuse\.h", ("fs/",)),
    "LMDB": (r"lmdb\.h", ("mux/store/",)),
    "liburing": (r"liburing(/.*)?(\.h)?", ("mux/base/",)),
    "OpenSSL's TLS": (r"openssl/(ssl|err)\.h", ("api/net/",)),
    "libarchive": (r"archive(_entry)?\.h", ("api/", "tools/agentfense/")),
    "nghttp2": (r"nghttp2/.*", ("api/",)),
    "protobuf-c": (r"protobuf-c/.*|.*\.pb-c\.h", ("api/", "tools/")),
    "libcurl": (r"curl/.*", ("exec/",)),
    "jansson": (r"jansson\.h", ("exec/", "tools/", "api/")),
    # The daemon drops what it does not need at start-up, too.
    "libseccomp": (r"seccomp\.h|linux/seccomp\.h", ("exec/", "api/main.c", "api/startup.c")),
    "the YAML library": (r"(cyaml/.*|yaml\.h|libfyaml\.h)", ("api/",)),
    "libsystemd": (r"systemd/.*", ("api/",)),
    "ncurses": (r"(n?curses(w)?/)?n?curses\.h", ("tools/fsctl/",)),
    "cmocka": (r"cmocka\.h", ("tests/",)),
}
EVERYWHERE = ("bench/", "tests/fuzz/")
OURS = ("mux/", "fs/", "exec/", "api/", "proto/", "tools/", "tests/", "bench/")


def owner_folder(path):
    """The row of MAY_INCLUDE that a file falls under, or None."""
    found = [f for f in MAY_INCLUDE if path.startswith(f + "/")]
    return max(found, key=len) if found else None


def allowed(path, header):
    """Whether a file of ours may include a header of ours."""
    folder = owner_folder(path)
    if folder is None:
        return True
    inside = (folder, *MAY_INCLUDE[folder])
    refused = tuple(f + "/" for f in MAY_NOT.get(folder, ()))
    return header.startswith(tuple(f + "/" for f in inside)) and not header.startswith(refused)


def judge(path, header):
    """What is wrong with path including header, or None."""
    # A test stands for the folder that it mirrors.
    is_test = path.startswith("tests/unit/")
    acts_as = path[len("tests/unit/"):] if is_test else path
    if path.startswith(EVERYWHERE) or (is_test and header.startswith("tests/")):
        return None
    for library, (pattern, owners) in OWNERS.items():
        if re.fullmatch(pattern, header):
            if acts_as.startswith(owners) or path.startswith(owners):
                return None
            return f"{library} ({header}) belongs to {', '.join(owners)}"
    if not header.startswith(OURS):
        return None
    if header.startswith("tests/"):
        return f"{header}: only tests include tests"
    if is_test and "/" not in acts_as:
        return None
    if not allowed(acts_as, header):
        return f"{owner_folder(acts_as)} may not include {header} (docs/ARCHITECTURE.md)"
    return None


def check(files):
    """Findings (path, line, text) over the C files; files maps a path to its lines."""
    for path, lines in files.items():
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            if match[1] == '"' and "/" not in match[2]:
                yield path, number, f'include "{match[2]}" by its path from the root'
                continue
            wrong = judge(path, match[2])
            if wrong:
                yield path, number, wrong
