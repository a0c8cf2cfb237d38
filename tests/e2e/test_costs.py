"""docs/COSTS.md holds: no operation costs more requests or transactions than its entry.

Each operation runs in a process that stands in the view with the sandbox's uid, and is counted
between two looks at the daemon's counters; the least of REPEATS runs counts, since the daemon
also works for itself. `/usr/bin/python3 tests/e2e/test_costs.py` prints the table as it is here.
"""

import collections
import mmap
import os
import re
import traceback

import pytest

from harness import OPENING, ROOT, Daemon, afpb, pb, sbpb

REPEATS = 5
TABLE = ROOT / "docs/COSTS.md"
IGNORED = {"forget", "slow"}  # sent when the kernel likes, in batches; no request, but where


# ---- the operations, in a process inside the view -----------------------------------------
# Each is a generator: what comes before its `yield` prepares, what follows is counted.


def op_lookup_cold(i):
    yield
    os.stat(f"cold/f{i}")


def op_stat_warm(i):
    os.stat(f"cold/f{i}")
    yield
    os.stat(f"cold/f{i}")


def op_absent_cold(i):
    os.stat("cold")
    yield
    os.path.lexists(f"cold/absent{i}")


def op_absent_warm(i):
    os.path.lexists(f"cold/absent{i}")
    yield
    os.path.lexists(f"cold/absent{i}")


def read_file(path):
    fd = os.open(path, os.O_RDONLY)
    data = os.read(fd, 1 << 20)
    os.close(fd)
    return data


def op_read_cold(i):
    os.stat(f"read/f{i}")
    yield
    assert read_file(f"read/f{i}")


def op_read_warm(i):
    read_file(f"read/f{i}")
    yield
    read_file(f"read/f{i}")


def op_readdir_cold(i):
    os.stat(f"dirs/d{i}")
    yield
    assert len(os.listdir(f"dirs/d{i}")) == 20


def op_readdir_warm(i):
    os.listdir(f"dirs/d{i}")
    yield
    os.listdir(f"dirs/d{i}")


def make(path, data=b"", flags=0):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | flags, 0o644)
    if data:
        os.write(fd, data)
    os.close(fd)


def op_create_empty(i):
    os.stat("out")
    yield
    make(f"out/empty{i}")


def op_create_write(i):
    os.stat("out")
    yield
    make(f"out/made{i}", b"x" * 1000)


def op_append_own(i):
    make(f"out/own{i}", b"x" * 10000)
    make(f"out/own{i}", b"y", os.O_APPEND)
    yield
    make(f"out/own{i}", b"z" * 1000, os.O_APPEND)


def first_append(path):
    os.stat(path)
    yield
    make(path, b"z", os.O_APPEND)


def op_first_append_inline(i):
    yield from first_append(f"small/f{i}")


def op_first_append_small(i):
    yield from first_append(f"medium/f{i}")


def op_first_append_large(i):
    yield from first_append(f"large/f{i}")


def op_append_committed(i):
    make(f"out/log{i}", b"x" * (1 << 20))
    yield
    make(f"out/log{i}", b"z", os.O_APPEND)


def op_overwrite_committed(i):
    make(f"out/db{i}", b"x" * (1 << 20))
    yield
    make(f"out/db{i}", b"z" * 4096)


def op_write_4k(i):
    make(f"out/w{i}", b"x" * 10000)
    fd = os.open(f"out/w{i}", os.O_WRONLY)
    os.pwrite(fd, b"y" * 4096, 0)
    yield
    os.pwrite(fd, b"z" * 4096, 0)


def op_truncate(i):
    make(f"out/t{i}", b"x" * 10000)
    yield
    os.truncate(f"out/t{i}", 5000)


def op_chmod(i):
    make(f"out/c{i}", b"x")
    yield
    os.chmod(f"out/c{i}", 0o600)


def op_utimens(i):
    make(f"out/u{i}", b"x")
    yield
    os.utime(f"out/u{i}", ns=(1, 2))


def op_rename(i):
    make(f"out/r{i}", b"x")
    os.path.lexists(f"out/renamed{i}")
    yield
    os.rename(f"out/r{i}", f"out/renamed{i}")


def op_unlink(i):
    make(f"out/un{i}", b"x")
    yield
    os.unlink(f"out/un{i}")


def op_unlink_base(i):
    os.stat(f"cold/g{i}")
    yield
    os.unlink(f"cold/g{i}")


def op_mkdir(i):
    os.path.lexists(f"out/d{i}")
    yield
    os.mkdir(f"out/d{i}")


def op_rmdir(i):
    os.mkdir(f"out/d{i}x")
    yield
    os.rmdir(f"out/d{i}x")


def op_link(i):
    make(f"out/l{i}", b"x")
    os.path.lexists(f"out/linked{i}")
    yield
    os.link(f"out/l{i}", f"out/linked{i}")


def op_symlink(i):
    os.path.lexists(f"out/s{i}")
    yield
    os.symlink("target", f"out/s{i}")


def op_readlink(i):
    os.symlink("target", f"out/s{i}r")
    yield
    os.readlink(f"out/s{i}r")


def op_mmap_write(i):
    make(f"out/m{i}", b"x" * 10000)
    fd = os.open(f"out/m{i}", os.O_RDWR)
    os.read(fd, 10000)
    yield
    with mmap.mmap(fd, 10000) as mapped:
        mapped[5000] = 7
        mapped.flush()


def op_fsync(i):
    make(f"out/y{i}", b"x" * 10000)
    fd = os.open(f"out/y{i}", os.O_WRONLY)
    yield
    os.fsync(fd)


def op_copy_file_range(i):
    os.stat(f"medium/h{i}")
    make(f"out/copied{i}", b"x" * 3000)
    source = os.open(f"medium/h{i}", os.O_RDONLY)
    target = os.open(f"out/copied{i}", os.O_WRONLY)
    yield
    assert os.copy_file_range(source, target, 60_000) > 0


def op_getxattr(i):
    make(f"out/g{i}", b"x")
    os.setxattr(f"out/g{i}", "user.a", b"v")
    yield
    os.getxattr(f"out/g{i}", "user.a")


def op_setxattr(i):
    make(f"out/z{i}", b"x")
    yield
    os.setxattr(f"out/z{i}", "user.a", b"v")


def op_ioctl(i):
    fd = os.open(f"read/f{i}", os.O_RDONLY)
    os.isatty(fd)
    yield
    assert not os.isatty(fd)


def op_statfs(_):
    yield
    os.statvfs(".")


# The table's words for them.
IN_VIEW = {
    "lookup, cold": op_lookup_cold,
    "stat, warm": op_stat_warm,
    "absent name, cold": op_absent_cold,
    "absent name, warm": op_absent_warm,
    "open + read + close, first": op_read_cold,
    "open + read + close, warm": op_read_warm,
    "list 20 names, first": op_readdir_cold,
    "list 20 names, warm": op_readdir_warm,
    "create + close": op_create_empty,
    "create + write 1 KB + close": op_create_write,
    "append to an own file": op_append_own,
    "first append to a base file of 1 KB": op_first_append_inline,
    "first append to a base file of 60 KB": op_first_append_small,
    "first append to a base file of 1 MB": op_first_append_large,
    "first append to a file of 1 MB after a commit": op_append_committed,
    "first overwrite of 4 KB of a file of 1 MB after a commit": op_overwrite_committed,
    "overwrite 4 KB of an own file": op_write_4k,
    "truncate": op_truncate,
    "chmod": op_chmod,
    "utimensat": op_utimens,
    "rename": op_rename,
    "unlink of an own file": op_unlink,
    "unlink of a base file": op_unlink_base,
    "mkdir": op_mkdir,
    "rmdir": op_rmdir,
    "link": op_link,
    "symlink": op_symlink,
    "readlink": op_readlink,
    "store through mmap + msync": op_mmap_write,
    "fsync": op_fsync,
    "copy_file_range": op_copy_file_range,
    "getxattr": op_getxattr,
    "setxattr": op_setxattr,
    "statfs": op_statfs,
    "isatty of a file (any ioctl)": op_ioctl,
}


# Committed between the preparation and the operation.
COMMITTED = {op_append_committed, op_overwrite_committed}


class Inside:
    """A process whose working directory is the view's root and whose uid is the sandbox's."""

    def __init__(self, root, uid):
        ask_end, self.ask = os.pipe()
        self.answer, answer_end = os.pipe()
        self.code = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.ask)
            try:
                os.chdir(root)
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                os.umask(0o022)
                self.serve(ask_end, answer_end)
            except BaseException:  # pylint: disable=broad-except
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(ask_end)
        os.close(answer_end)

    @staticmethod
    def serve(ask, answer):
        """Runs operations: "NAME\\tNUMBER\\n" prepares, the next line runs."""
        lines = os.fdopen(ask)
        os.mkdir("out")
        for line in lines:
            name, number = line.rstrip("\n").split("\t")
            running = IN_VIEW[name](int(number))
            next(running)
            os.write(answer, b"+")
            lines.readline()
            for _ in running:
                pass
            os.write(answer, b"+")

    def step(self, line):
        """Sends a line and waits until it is done."""
        os.write(self.ask, (line + "\n").encode())
        answer = os.read(self.answer, 1)
        assert answer == b"+", f"{line}: the process in the view ended with {self.wait()}"

    def wait(self):
        """Its exit code, or minus the signal that ended it."""
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def close(self):
        """Ends it."""
        os.close(self.ask)
        self.wait()
        os.close(self.answer)


# ---- counting ------------------------------------------------------------------------------

Cost = collections.namedtuple("Cost", "requests reads writes")


def counters(client):
    """The daemon's counters by name."""
    found = client.inspect.Stats(afpb.StatsRequest()).counters
    return {c.name: c.value for c in found}


def difference(before, after):
    """What happened between two looks, the looks themselves not counted."""
    requests = collections.Counter()
    for name, value in after.items():
        operation = re.fullmatch(r"fuse_(\w+)_requests", name)
        n = value - before.get(name, 0)
        if operation and n > 0 and operation[1] not in IGNORED | OPENING:
            requests[operation[1]] = n
    looks = 1  # the second look's own transaction comes before it counts
    return Cost(requests, after["store_reads"] - before["store_reads"] - looks,
                after["store_commits"] - before["store_commits"])


def least(costs):
    """The cheapest run: the daemon's own work only adds."""
    return min(costs, key=lambda c: (sum(c.requests.values()), c.writes, c.reads))


def measure(client, prepare, run):
    """The cost of run(i), least of REPEATS."""
    costs = []
    for i in range(REPEATS):
        prepare(i)
        before = counters(client)
        run(i)
        costs.append(difference(before, counters(client)))
    return least(costs)


def nothing(_):
    """No preparation."""


def through_the_api(client, codebase):
    """Name -> (prepare, run) of what clients call."""
    made = {}

    def create(i, start=False):
        made[i] = client.sandbox(codebase, start=start)

    def start(i):
        client.sandboxes.StartSandbox(pb.StartSandboxRequest(sandbox_id=made[i]))

    def started(i):
        create(i, start=True)
        client.out(made[i], "true")

    return {
        "CreateSandbox": (nothing, create),
        "StartSandbox": (create, start),
        "Exec of `true`": (started, lambda i: client.out(made[i], "true")),
        "DestroySandbox": (started, lambda i: client.destroy(made[i])),
        "UploadFiles, 1 KB": (nothing, lambda i: client.upload(codebase, f"up{i}", b"x" * 1000)),
        "UploadFiles, 1 MB": (
            nothing, lambda i: client.upload(codebase, f"large{i}", os.urandom(1 << 20))),
        "DownloadFile, 1 KB": (nothing, lambda i: client.download(codebase, "small/f0")),
    }


def measure_all(daemon):
    """Name -> Cost of everything."""
    client = daemon.client()
    files = {"read/keep": b"k"}
    for i in range(REPEATS):
        files |= {f"cold/f{i}": b"c", f"cold/g{i}": b"c", f"read/f{i}": b"r" * 10_000,
                  f"small/f{i}": b"s" * 1000, f"medium/f{i}": b"m" * 60_000 + bytes([i]),
                  f"medium/h{i}": b"h" * 60_000 + bytes([i]), f"large/f{i}": os.urandom(1 << 20)}
        files |= {f"dirs/d{i}/n{j}": b"n" for j in range(20)}
    codebase = client.codebase(files)
    sandbox = client.sandbox(codebase)
    inside = Inside(daemon.mount / sandbox, client.uid_of(sandbox))
    costs = {}
    try:
        for name in IN_VIEW:
            def prepare(i, name=name):
                inside.step(f"{name}\t{i}")
                if IN_VIEW[name] in COMMITTED:
                    client.views.Commit(sbpb.CommitRequest(sandbox_id=sandbox))

            costs[name] = measure(client, prepare, lambda i: inside.step("go"))
    finally:
        inside.close()
    for name, (prepare, run) in through_the_api(client, codebase).items():
        costs[name] = measure(client, prepare, run)
    client.close()
    return costs


# ---- the table -----------------------------------------------------------------------------


def show(requests):
    """{"write": 2, "lookup": 1} as "2 WRITE, LOOKUP"; "-" for none."""
    words = [(f"{n} " if n > 1 else "") + op.upper() for op, n in sorted(requests.items())]
    return ", ".join(words) or "-"


def parse(text):
    """The inverse of show."""
    requests = collections.Counter()
    for word in text.split(", ") if text != "-" else []:
        n, op = re.fullmatch(r"(?:(\d+) )?(\w+)", word).groups()
        requests[op.lower()] += int(n or 1)
    return requests


def table():
    """Name -> Cost, as docs/COSTS.md says."""
    rows = {}
    for line in TABLE.read_text().splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[2].isdigit():
            rows[cells[0]] = Cost(parse(cells[1]), int(cells[2]), int(cells[3]))
    return rows


@pytest.fixture(scope="module")
def costs(daemon):
    """What everything costs on the module's daemon."""
    return measure_all(daemon)


def test_every_operation_is_in_the_table_and_the_table_names_no_other(costs):
    assert set(table()) == set(costs)


@pytest.mark.parametrize("name", sorted(table()) if TABLE.exists() else [])
def test_no_operation_costs_more_than_its_entry(daemon, costs, name):
    allowed, found = table()[name], costs[name]
    if daemon.libfuse() < (3, 18) and "write" in allowed.requests:
        allowed.requests["getxattr"] = 1  # nothing is written past the page cache (docs/FUSE.md)
    if OPENING and IN_VIEW.get(name) in COMMITTED:
        allowed = allowed._replace(reads=allowed.reads + 1)
    over = found.requests - allowed.requests
    assert not over and found.reads <= allowed.reads and found.writes <= allowed.writes, (
        f"{name}: {show(found.requests)} {found.reads} {found.writes}, "
        f"allowed {show(allowed.requests)} {allowed.reads} {allowed.writes}"
    )


def test_xattrs_switched_off_save_a_request_per_file_written(new_daemon, tmp_path):
    """`xattrs: false`: the kernel is told ENOSYS once and never asks again."""
    config = tmp_path / "agentfensed.yaml"
    config.write_text("xattrs: false\n")
    daemon = new_daemon("--config", str(config)).start()
    client = daemon.client()
    sandbox = client.sandbox(client.codebase({"f": "x"}))
    client.out(sandbox, "echo a > first")
    before = counters(client)
    client.out(sandbox, "for i in 1 2 3; do echo a > made$i; echo b >> made$i; done")
    assert "getxattr" not in difference(before, counters(client)).requests
    refused = client.exec(sandbox, "python3 -c \"import os; os.setxattr('f', 'user.a', b'v')\"")
    assert refused.exit_code != 0 and "not supported" in refused.stderr, refused
    assert client.out(sandbox, "cat made1 f") == "a\nb\nx"
    client.close()


if __name__ == "__main__":
    import tempfile

    made = Daemon(tempfile.mkdtemp(prefix="agentfense-costs-")).start()
    try:
        for operation, cost in measure_all(made).items():
            print(f"| {operation} | {show(cost.requests)} | {cost.reads} | {cost.writes} |")
    finally:
        made.cleanup()
