"""Real programs in a view: S3. Each says why it is skipped where the program is not there."""

import os
import shutil
import stat
import subprocess

import pytest

from harness import FULL, afpb

PYTHON_PACKAGE_MODULES = 300


@pytest.fixture
def codebase(client):
    """A codebase of the test's own with one file: commands commit what the programs make."""
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


KINDS = {
    stat.S_IFREG: afpb.FILE_KIND_REGULAR,
    stat.S_IFDIR: afpb.FILE_KIND_DIRECTORY,
    stat.S_IFLNK: afpb.FILE_KIND_SYMLINK,
}


def import_directory(client, codebase, top):
    """A directory of the host becomes the content of a codebase."""

    def messages():
        yield afpb.ImportRequest(codebase_id=codebase)
        for at, dirs, files in os.walk(top):
            for path in sorted(os.path.join(at, name) for name in dirs + files):
                status = os.lstat(path)
                entry = afpb.ImportEntry(
                    path=os.fsencode(os.path.relpath(path, top)),
                    kind=KINDS[stat.S_IFMT(status.st_mode)],
                    mode=stat.S_IMODE(status.st_mode),
                )
                entry.modified_at.FromNanoseconds(status.st_mtime_ns)
                if os.path.islink(path):
                    entry.symlink_target = os.fsencode(os.readlink(path))
                yield afpb.ImportRequest(entry=entry)
                if stat.S_ISREG(status.st_mode) and status.st_size:
                    with open(path, "rb") as file:
                        yield afpb.ImportRequest(data=file.read())

    client.trees.Import(messages())


REPOSITORY = r"""
set -e
git init -q repo && cd repo
for d in $(seq 20); do mkdir d$d; for f in $(seq 50); do echo "$d $f" > d$d/f$f; done; done
ln -s d1/f1 link && chmod +x d1/f2
git add -A && git commit -qm first && git gc -q
echo more > d2/new && git add d2/new && git commit -qm second
"""
IN_A_BASE = r"""
set -e
test -z "$(git status --porcelain)" && git diff-index --quiet HEAD && git fsck --full 2>&1
before=$(git ls-files --debug | sha256sum)
test -z "$(git status --porcelain)" && test "$before" = "$(git ls-files --debug | sha256sum)"
git checkout -q -b other HEAD~1 && test ! -e d2/new && echo changed >> d7/f7
git commit -qam third && git checkout -q master && test -e d2/new && test "$(cat d7/f7)" = "7 7"
git merge -q -m merged other && test -z "$(git status --porcelain)" && git gc -q
git clone -q . /tmp/clone && diff -r --exclude .git . /tmp/clone && git rev-list --count HEAD
"""


def test_S3_a_git_repository_in_a_base_is_clean_and_goes_on(client, tmp_path):
    if not shutil.which("git"):
        pytest.skip("git is not installed on this machine")
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1"}
    env |= {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")}
    subprocess.run(["git", "config", "--global", "init.defaultBranch", "master"], env=env,
                   check=True)
    subprocess.run(["sh", "-c", REPOSITORY], cwd=tmp_path, env=env, check=True)
    codebase = client.codebase()
    import_directory(client, codebase, tmp_path / "repo")
    names = {name: value for name, value in env.items() if name.startswith("GIT_")}
    for _ in range(2):  # what one sandbox does with it, the other does not see
        sandbox = client.sandbox(codebase, FULL)
        assert client.out(sandbox, IN_A_BASE, env=names, timeout=120).split()[-1] == "4"
        client.destroy(sandbox)


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


UNPACK = r"""
import compileall, io, os, shutil, subprocess, sys, tarfile, tempfile, zipfile
# As pip does: a wheel is unpacked beside, checked against its record, and renamed into place.
wheel = "pkg-1.0-py3-none-any.whl"
with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as z:
    for i in range(400):
        z.writestr(f"pkg/sub{i % 20}/m{i}.py", f"value = {i}\n")
    z.writestr("pkg/__init__.py", "")
for round in range(2):
    staging = tempfile.mkdtemp(dir="."); site = "site"
    with zipfile.ZipFile(wheel) as z: z.extractall(staging)
    os.makedirs(site, exist_ok=True)
    if os.path.exists(f"{site}/pkg"):
        os.rename(f"{site}/pkg", f"{site}/~kg"); shutil.rmtree(f"{site}/~kg")
    os.rename(f"{staging}/pkg", f"{site}/pkg"); os.rmdir(staging)
    assert compileall.compile_dir(site, quiet=1)
    run = "import pkg.sub7.m147 as m; print(m.value)"
    out = subprocess.run([sys.executable, "-c", run], env={"PYTHONPATH": site},
                         capture_output=True, text=True, check=True).stdout
    assert out == "147\n", out
    assert sum(len(f) for _, _, f in os.walk(site)) == 2 * 401
# As npm does: tarballs, unpacked in any order, linked by relative symlinks and by hard links.
for i in range(60):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as t:
        for name in ("package.json", "index.js", f"lib/deep/er/{i}.js"):
            info = tarfile.TarInfo(f"package/{name}"); body = f"// {i} {name}\n".encode()
            info.size, info.mode, info.mtime = len(body), 0o755, 499162500
            t.addfile(info, io.BytesIO(body))
    data.seek(0); at = f"node_modules/.store/p{i}"
    os.makedirs(at)
    with tarfile.open(fileobj=data) as t: t.extractall(at)
    os.rename(f"{at}/package", f"{at}/p{i}")
    os.symlink(f".store/p{i}/p{i}", f"node_modules/p{i}")
    os.makedirs("node_modules/.bin", exist_ok=True)
    os.link(f"node_modules/p{i}/index.js", f"node_modules/.bin/p{i}")
for i in range(60):
    with open(f"node_modules/p{i}/lib/deep/er/{i}.js") as f: assert f.read().startswith(f"// {i} ")
    s = os.stat(f"node_modules/.bin/p{i}"); assert (s.st_nlink, s.st_mtime) == (2, 499162500)
shutil.rmtree("node_modules"); shutil.rmtree("site"); os.unlink(wheel)
assert os.listdir(".") == ["README"], os.listdir(".")
print("ok")
"""


def test_S3_packages_are_unpacked_as_pip_and_npm_do(client, sandbox):
    need(client, sandbox, "python3")
    assert client.out(sandbox, "python3 -", stdin=UNPACK, timeout=120) == "ok\n"
