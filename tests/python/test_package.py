"""The package as users get it: installed by pip with the newest libraries, typed, in good style.

Virtual environments are kept under build/python, named by what is in them, so only a change of the
sources makes a new one. Without a package registry these tests say so and are skipped.
"""

import ast
import fcntl
import hashlib
import inspect
import os
import pathlib
import shutil
import subprocess
import sys

import agentfense as af
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "api/python"
VENVS = ROOT / "build/python"
PROGRAM = """
import asyncio, agentfense as af, pathlib, sys, tempfile
root = pathlib.Path(tempfile.mkdtemp()); (root / "a.txt").write_text("one")
with af.Sandbox.from_local(root, preset="full-access", progress=lambda p: None) as sb:
    assert sb.run("cat a.txt").stdout == "one"
    assert b"".join(sb.exec_stream("echo x; exit 2")) == b"x\\n"
    with sb.session() as s:
        assert s.exec("echo hi").success
    sb.write_file("b", b"\\xff"); assert sb.read_file_bytes("b") == b"\\xff"
    try:
        sb.read_file("none"); raise SystemExit("no error")
    except af.FileNotFoundError:
        pass
async def main():
    async with await af.AsyncSandbox.from_local(root) as sb:
        task = sb.run("echo async")
    assert (await task).stdout == "async\\n"
asyncio.run(main())
import grpc, google.protobuf
print(grpc.__version__, google.protobuf.__version__)
"""
CHECKERS = ["mypy", "ruff", "grpcio", "protobuf", "types-protobuf", "grpc-stubs", "tqdm"]
CHECKERS += ["types-tqdm"]


def sources():
    """What an installation is made of."""
    files = [p for p in (PACKAGE / "src").rglob("*.py") if not p.name.endswith("_pb2.py")]
    files += [PACKAGE / name for name in ("pyproject.toml", "generate.py", "hatch_build.py")]
    return sorted(files + list((ROOT / "proto").glob("*.proto")))


def stamp():
    """Changes with the sources."""
    return hashlib.sha256(b"".join(p.read_bytes() for p in sources())).hexdigest()


def venv(name, *packages, stamp="", python=sys.executable):
    """A virtual environment with these packages, made once; returns its Python."""
    key = hashlib.sha256(repr((packages, stamp, sys.version)).encode()).hexdigest()[:12]
    folder = VENVS / f"{name}-{key}"
    VENVS.mkdir(parents=True, exist_ok=True)
    with open(VENVS / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            for old in VENVS.glob(f"{name}-*"):
                shutil.rmtree(old, ignore_errors=True)
            subprocess.run([python, "-m", "venv", folder], check=True)
            pip = [folder / "bin/pip", "install", "-q", "--disable-pip-version-check", *packages]
            done = subprocess.run(pip, capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                shutil.rmtree(folder, ignore_errors=True)
                unreachable = ("Could not fetch URL", "Failed to establish", "No matching distrib")
                if any(text in done.stderr for text in unreachable):
                    pytest.skip(f"no package registry answers: {done.stderr.strip()[-300:]}")
                raise AssertionError(done.stderr)
            (folder / "complete").touch()
    return folder / "bin/python"


@pytest.fixture(scope="module")
def installed():
    """A Python with the package and the newest grpcio and protobuf."""
    return venv("installed", str(PACKAGE), stamp=stamp())


@pytest.fixture(scope="module")
def checkers():
    """A Python with mypy and ruff."""
    return venv("checkers", *CHECKERS)


def python(program, *args, env=None, **options):
    """Runs a program with a Python; returns its output."""
    done = subprocess.run(
        [program, *args],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": "", **(env or {})},
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pip_install_works_and_the_snippet_runs(installed, endpoint, project):
    readme = (PACKAGE / "README.md").read_text()
    snippet = readme.split("```python\n")[1].split("```")[0]
    out = python(
        installed, "-c", snippet, cwd=project.parent, env={"AGENTFENSE_ENDPOINT": endpoint}
    )
    assert "README.md" in out
    location = python(installed, "-c", "import agentfense; print(agentfense.__file__)")
    assert str(VENVS) in location
    assert (pathlib.Path(location.strip()).parent / "py.typed").exists()


def test_every_kind_of_call_works_with_the_newest_libraries(installed, endpoint):
    assert python(installed, "-c", PROGRAM, env={"AGENTFENSE_ENDPOINT": endpoint})


@pytest.mark.skipif(not os.environ.get("AGENTFENSE_LONG"), reason="make check-full runs it")
@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13"])
def test_other_pythons(version, endpoint):
    other = f"python{version}"
    if shutil.which(other) is None or subprocess.run([other, "--version"], check=False).returncode:
        pytest.skip(f"there is no {other} on this machine")
    installed = venv(f"python{version}", str(PACKAGE), stamp=stamp(), python=other)
    assert python(installed, "-c", PROGRAM, env={"AGENTFENSE_ENDPOINT": endpoint})


def test_mypy_strict_finds_nothing(checkers):
    out = python(
        checkers,
        *["-m", "mypy", "--cache-dir", str(VENVS / "mypy-cache"), "-p", "agentfense"],
        cwd=PACKAGE,
    )
    assert out.startswith("Success"), out


def test_users_see_the_types(checkers, tmp_path):
    (tmp_path / "use.py").write_text(
        """
import asyncio
from agentfense import AsyncSandbox, ExecResult, OutputChunk, Sandbox

def sync() -> None:
    with Sandbox.from_local(".") as sandbox:
        reveal_type(sandbox.run("x"))
        for chunk in sandbox.exec_stream("x"):
            reveal_type(chunk)

async def main() -> None:
    async with await AsyncSandbox.from_local(".") as one:
        reveal_type(await one.run("x"))
    async with AsyncSandbox.from_local(".") as two:
        reveal_type(two)
        async with two.session() as session:
            reveal_type(await session.exec("x"))
"""
    )
    command = ["-m", "mypy", "--strict", "--cache-dir", str(VENVS / "mypy-cache"), "use.py"]
    out = python(checkers, *command, cwd=tmp_path, env={"MYPYPATH": str(PACKAGE / "src")})
    shown = [line.split('"')[1] for line in out.splitlines() if "Revealed type" in line]
    assert [s.split(".")[-1].rstrip("]") for s in shown] == [
        "ExecResult",
        "OutputChunk",
        "ExecResult",
        "AsyncSandbox",
        "ExecResult",
    ]


def test_ruff_finds_nothing(checkers):
    python(checkers, "-m", "ruff", "check", "--no-cache", str(PACKAGE))
    python(checkers, "-m", "ruff", "format", "--check", "--no-cache", str(PACKAGE))


def test_everything_public_is_documented():
    for name in af.__all__:
        value = getattr(af, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        assert value.__doc__, name
        for method, function in vars(value).items() if inspect.isclass(value) else ():
            if not method.startswith("_") and inspect.isfunction(function):
                assert function.__doc__, f"{name}.{method}"


def test_both_flavours_have_the_same_methods():
    for one, two in (
        (af.SandboxClient, af.AsyncSandboxClient),
        (af.Sandbox, af.AsyncSandbox),
        (af.SandboxSession, af.AsyncSandboxSession),
        (af.SandboxProcess, af.AsyncSandboxProcess),
    ):
        names = [n for n in dir(one) if not n.startswith("_")]
        assert names == [n for n in dir(two) if not n.startswith("_")]
        for name in names:
            first, second = getattr(one, name), getattr(two, name)
            if callable(first):
                assert list(inspect.signature(first).parameters) == list(
                    inspect.signature(second).parameters
                ), name


def test_versions_agree():
    text = (PACKAGE / "pyproject.toml").read_text()
    assert f'version = "{af.__version__}"' in text


def test_modules_have_no_import_at_run_time_of_what_is_not_required():
    allowed = {"grpc", "google", "agentfense", "tqdm"} | set(sys.stdlib_module_names)
    for path in (PACKAGE / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] in allowed, f"{path}: {name}"
