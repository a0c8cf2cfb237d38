"""Makes the message modules of agentfense._proto from proto/*.proto.

  generate.py OUT [PROTO]   writes descriptors.binpb and X_pb2.py, X_pb2.pyi for each X.proto

What is made depends on no version of protobuf: a serialised FileDescriptorSet that
agentfense._proto loads at run time, typed stubs for checkers, and two-line modules that join them.
protoc is grpcio-tools' when that can be imported, else the system's.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
MODULE = '''"""The messages of {name}.proto (made by generate.py)."""
from ._load import fill

fill(globals(), "{name}.proto")
'''


def proto_folder():
    """Where the .proto files are: beside an unpacked source archive, or in the repository."""
    for folder in (HERE / "proto", HERE.parent.parent / "proto"):
        if (folder / "sandbox.proto").is_file():
            return folder
    raise SystemExit("generate.py: no proto folder here: build from the repository or an sdist")


def protoc():
    """The command of a protoc that is here."""
    try:
        from grpc_tools import protoc as found
    except ImportError:
        return ["protoc"]
    include = pathlib.Path(found.__file__).parent / "_proto"
    return [sys.executable, "-m", "grpc_tools.protoc", f"-I{include}"]


def generate(out, protos=None):
    """Writes the modules into the folder `out`; returns the paths of what it wrote."""
    protos = pathlib.Path(protos) if protos else proto_folder()
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    names = sorted(p.stem for p in protos.glob("*.proto"))
    written = []
    with tempfile.TemporaryDirectory() as scratch:
        made = pathlib.Path(scratch)
        done = subprocess.run(
            [*protoc(), f"-I{protos}", f"--pyi_out={made}", "--include_imports"]
            + [f"--descriptor_set_out={made}/descriptors.binpb"]
            + [f"{name}.proto" for name in names],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(f"generate.py: protoc failed:\n{done.stdout}")
        for name in names:
            stub = (made / f"{name}_pb2.pyi").read_text(encoding="utf-8")
            stub = re.sub(r"^import (\w+_pb2) as", r"from . import \1 as", stub, flags=re.M)
            stub = "# mypy: ignore-errors\n" + stub  # as protoc writes it
            (made / f"{name}_pb2.pyi").write_text(stub, encoding="utf-8")
            (made / f"{name}_pb2.py").write_text(MODULE.format(name=name), encoding="utf-8")
        for path in sorted(made.iterdir()):
            target = out / path.name
            part = out / (path.name + ".part")
            part.write_bytes(path.read_bytes())
            part.replace(target)
            written.append(target)
    return written


if __name__ == "__main__":
    generate(*sys.argv[1:3])
