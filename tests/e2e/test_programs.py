"""Real programs in a view: S3. Each says why it is skipped where the program is not there."""

import pytest

from harness import FULL

PYTHON_PACKAGE_MODULES = 300


@pytest.fixture(scope="module")
def codebase(client):
    """A codebase with one file: the programs make the rest."""
    return client.codebase({"README": "readme\n"})


@pytest.fixture
def sandbox(client, codebase):
    """A started sandbox that may write everything."""
    made = client.sandbox(codebase, FULL)
    yield made
    client.destroy(made)


def need(client, sandbox, *programs):
    """Skips unless the sandbox has all of these programs."""
    for program in programs:
        if client.exec(sandbox, f"command -v {program}").exit_code != 0:
            pytest.skip(f"{program} is not installed in /usr of this machine")


GIT = r"""
set -e
export HOME=/tmp GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b
export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git config --global init.defaultBranch main
git config --global protocol.file.allow always
mkdir repo && cd repo && git init -q .
for d in 1 2 3 4 5; do mkdir d$d; for f in $(seq 40); do echo "$d $f" > d$d/f$f; done; done
ln -s d1/f1 link; chmod +x d1/f2
git add -A && git commit -qm first
git checkout -qb other && echo changed > d1/f1 && git rm -q d2/f2 && git mv d3/f3 moved
git commit -qam second
test -z "$(git status --porcelain)"; git status >/dev/null; test -z "$(git status --porcelain)"
git diff-files --quiet && git diff-index --quiet HEAD
git checkout -q main && test "$(cat d1/f1)" = "1 1" && test -e d2/f2 && test ! -e moved
test -z "$(git status --porcelain)"
git worktree add -q ../tree other && test "$(cat ../tree/d1/f1)" = changed
git gc -q && git fsck --full 2>&1 && git repack -adq
cd .. && git clone -q repo clone && git clone -q --no-hardlinks repo clone2
cd clone && test -z "$(git status --porcelain)" && git checkout -q other && cat moved
git log --oneline | wc -l
git stash list; echo x >> d4/f4; git stash -q; test -z "$(git status --porcelain)"; git stash pop -q
git diff --stat | tail -1
cd ../repo && git worktree remove ../tree && git merge -q other && git rev-list --count HEAD
"""


def test_S3_git(client, sandbox):
    need(client, sandbox, "git")
    out = client.out(sandbox, GIT, timeout=120).splitlines()
    assert out[-4:] == ["3 3", "2", " 1 file changed, 1 insertion(+)", "2"], out


def test_S3_git_status_finds_its_index_true_again(client, sandbox):
    need(client, sandbox, "git")
    client.out(
        sandbox,
        "git init -q r && cd r && for i in $(seq 200); do echo $i > f$i; done && git add -A"
        " && git -c user.name=a -c user.email=a@b commit -qm c",
        env={"HOME": "/tmp"},
    )
    # The index holds ctime, mtime, inode number, owner and size: none may change by itself.
    client.out(sandbox, "cd r && git status -s", env={"HOME": "/tmp"})
    script = "cd r && git ls-files --debug | sha256sum && git status -s && git ls-files -m | wc -l"
    first = client.out(sandbox, script, env={"HOME": "/tmp"})
    assert first.endswith("0\n") and client.out(sandbox, script, env={"HOME": "/tmp"}) == first


SQLITE = r"""
import os, sqlite3
for mode in ("wal", "delete", "truncate", "persist"):
    name = f"{mode}.db"
    a = sqlite3.connect(name, isolation_level=None); b = sqlite3.connect(name, timeout=0.1)
    assert a.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    a.execute("pragma synchronous=full")
    a.execute("create table t (k integer primary key, v blob)")
    for i in range(20):
        a.execute("begin immediate")
        a.executemany("insert into t (v) values (?)", [(os.urandom(500),) for _ in range(50)])
        a.execute("commit" if i % 4 else "rollback")
    assert b.execute("select count(*) from t").fetchone() == (750,), mode
    a.execute("begin immediate"); a.execute("insert into t (v) values (1)")
    try: b.execute("insert into t (v) values (2)"); raise AssertionError("no lock")
    except sqlite3.OperationalError as error: assert "locked" in str(error)
    a.execute("commit")
    pid = os.fork()
    if pid == 0:  # a writer that dies in the middle of a transaction
        c = sqlite3.connect(name, isolation_level=None); c.execute("pragma cache_size=2")
        c.execute("begin immediate"); c.execute("update t set v = zeroblob(500)"); os._exit(9)
    os.waitpid(pid, 0)
    a.close(); b.close()
    d = sqlite3.connect(name)
    assert d.execute("pragma integrity_check").fetchall() == [("ok",)], mode
    assert d.execute("select count(*) from t where v = zeroblob(500)").fetchone() == (0,), mode
    d.execute("vacuum"); d.execute("delete from t where k % 3"); d.commit()
    assert d.execute("pragma integrity_check").fetchall() == [("ok",)], mode
    d.close()
print("ok")
"""


def test_S3_sqlite_in_every_journal_mode(client, sandbox):
    need(client, sandbox, "python3")
    if client.exec(sandbox, "python3 -c 'import sqlite3'").exit_code != 0:
        pytest.skip("this machine's python3 has no sqlite3 module")
    assert client.out(sandbox, "python3 -", stdin=SQLITE, timeout=120) == "ok\n"


TAR = r"""
import os, subprocess
def tree(top):
    found = {}
    for at, dirs, files in os.walk(top):
        for name in dirs + files:
            path = os.path.join(at, name); s = os.lstat(path)
            data = os.readlink(path) if os.path.islink(path) else None
            if data is None and name in files:
                with open(path, "rb") as f: data = f.read()
            size = 0 if name in dirs else s.st_size
            found[os.path.relpath(path, top)] = (oct(s.st_mode), s.st_mtime_ns, size, data)
    return found
os.mkdir("in")
for d in range(50):
    os.mkdir(f"in/d{d}")
    for f in range(98):
        path = f"in/d{d}/f{f}"
        with open(path, "w") as file: file.write(f"{d} {f}\n" * (f * 3))
        os.chmod(path, (0o644, 0o755, 0o600, 0o4711)[f % 4])
        os.utime(path, ns=(10**18 + f, 10**18 + d * 1001 + f))
    os.symlink("f1", f"in/d{d}/link"); os.link(f"in/d{d}/f2", f"in/d{d}/hard")
    os.utime(f"in/d{d}", ns=(10**18, 10**18 + d))
before = tree("in")
assert len(before) == 50 * 101
subprocess.run("tar --format=posix -cf all.tar -C in . && mkdir out && tar -xpf all.tar -C out"
               " && tar -df all.tar -C out", shell=True, check=True)
after = tree("out")
wrong = [(p, before[p][:3], after.get(p, ())[:3]) for p in before if before[p] != after.get(p)]
assert not wrong, wrong[:3]
assert after.keys() == before.keys()
assert os.stat("out/d7/hard").st_ino == os.stat("out/d7/f2").st_ino
subprocess.run("rm -rf in out all.tar", shell=True, check=True)
assert os.listdir(".") == ["README"]
print("ok")
"""


def test_S3_tar_of_5000_files_keeps_times_and_modes(client, sandbox):
    need(client, sandbox, "tar", "python3")
    assert client.out(sandbox, "python3 -", stdin=TAR, timeout=200) == "ok\n"


MAKE = r"""
set -e
mkdir -p src obj
for i in $(seq 24); do
    printf '#include "all.h"\nint f%d(int x) { return x + %d; }\n' $i $i > src/f$i.c
done
(for i in $(seq 24); do echo "int f$i(int);"; done) > src/all.h
(echo '#include "all.h"'; echo 'int main(void) { int x = 0;'
 for i in $(seq 24); do echo "x = f$i(x);"; done; echo 'return x == 300 ? 0 : 1; }') > src/main.c
cat > Makefile <<'END'
.RECIPEPREFIX := >
OBJ := $(patsubst src/%.c,obj/%.o,$(wildcard src/*.c))
prog: liball.a obj/main.o
> cc -o $@ obj/main.o liball.a
liball.a: $(filter-out obj/main.o,$(OBJ))
> ar rcs $@ $^
obj/%.o: src/%.c src/all.h
> cc -O1 -c -o $@ $<
END
make -s -j2 && ./prog
test "$(make -s -q -j2; echo $?)" = 0   # nothing to do: times are as they were written
touch src/f3.c && make -j2 | grep -c 'cc -O1'
make -s -q; ./prog; rm -rf obj/* && make -s -j2 && ./prog && echo done
"""


def test_S3_make_builds_what_is_needed_and_no_more(client, sandbox):
    need(client, sandbox, "make", "cc", "ar")
    assert client.out(sandbox, MAKE, timeout=200) == "1\ndone\n"


VENV = r"""
import os, subprocess, sys
site = f"env/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
os.makedirs(site); os.mkdir("env/bin"); os.symlink(sys.executable, "env/bin/python3")
with open("env/pyvenv.cfg", "w") as f:
    f.write(f"home = {os.path.dirname(sys.executable)}\ninclude-system-site-packages = false\n")
os.mkdir(f"{site}/big")
for i in range(N):
    with open(f"{site}/big/m{i}.py", "w") as f: f.write(f"from . import m{i + 1}\nvalue = {i}\n")
with open(f"{site}/big/m{N}.py", "w") as f: f.write("value = 0\n")
with open(f"{site}/big/__init__.py", "w") as f:
    f.write("from importlib import import_module\n")
    f.write(f"for i in range({N}, -1, -1): import_module(f'.m{{i}}', __name__)\n")
run = ["env/bin/python3", "-c", "import big, sys; print(big.m7.value, sys.prefix, big.__file__)"]
first = subprocess.run(run, capture_output=True, text=True, check=True).stdout
cached = os.listdir(f"{site}/big/__pycache__"); assert len(cached) == N + 2, len(cached)
times = {n: os.stat(f"{site}/big/__pycache__/{n}").st_mtime_ns for n in cached}
assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == first
assert times == {n: os.stat(f"{site}/big/__pycache__/{n}").st_mtime_ns for n in cached}
here = os.path.realpath("."); assert first == f"7 {here}/env {here}/{site}/big/__init__.py\n", first
os.rename("env", "env2"); run[0] = "env2/bin/python3"
assert "env2" in subprocess.run(run, capture_output=True, text=True, check=True).stdout
print("ok")
"""


def test_S3_a_python_tree_like_a_venv_is_imported(client, sandbox):
    need(client, sandbox, "python3")
    script = f"N = {PYTHON_PACKAGE_MODULES}\n" + VENV
    assert client.out(sandbox, "python3 -", stdin=script, timeout=120) == "ok\n"
