"""Every call of sandbox.v1, built and checked: what both clients send. Extensions: _calls_v1.py."""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Union

from . import _convert as cv
from . import _rpc as rpc
from . import presets, types
from ._proto import sandbox_pb2 as pb
from ._rpc import About, Call
from .exceptions import InvalidConfigurationError

Content = Union[bytes, bytearray, memoryview, str]
CHUNK_BYTES = 64 * 1024
AnyCall = Call[Any, Any, Any]


def _nothing(_reply: Any) -> None:
    return None


def codebase_path(path: Any) -> str:
    """A path as commands see it (/workspace/x) or of the codebase (/x, x): relative, as x."""
    name = cv.text(path, "path")
    if name == "/workspace" or name.startswith("/workspace/"):
        name = name[len("/workspace") :]
    return name.lstrip("/")


def codebase_id(value: Any) -> str:
    """An id from an id, or from a Codebase."""
    return cv.text(value.id if isinstance(value, types.Codebase) else value, "codebase_id")


def sandbox_id(value: Any) -> str:
    """An id from an id, or from anything with one."""
    return cv.text(value if isinstance(value, str) else getattr(value, "id", value), "sandbox_id")


# ---- codebases ---------------------------------------------------------------------------


def create_codebase(name: str, owner_id: str) -> Call[Any, Any, types.Codebase]:
    request = pb.CreateCodebaseRequest(
        name=cv.text(name, "name"), owner_id=cv.text(owner_id, "owner_id")
    )
    about = About("create codebase", "codebase")
    return Call(rpc.CREATE_CODEBASE, request, about, cv.codebase)


def get_codebase(id_: str) -> Call[Any, Any, types.Codebase]:
    id_ = codebase_id(id_)
    about = About("get codebase", "codebase", codebase_id=id_)
    return Call(rpc.GET_CODEBASE, pb.GetCodebaseRequest(codebase_id=id_), about, cv.codebase)


def list_codebases(owner_id: Optional[str]) -> Call[Any, Any, List[types.Codebase]]:
    request = pb.ListCodebasesRequest(owner_id=cv.text(owner_id or "", "owner_id"))
    return Call(
        rpc.LIST_CODEBASES,
        request,
        About("list codebases", "codebase"),
        lambda reply: [cv.codebase(c) for c in reply.codebases],
    )


def delete_codebase(id_: str) -> Call[Any, Any, None]:
    id_ = codebase_id(id_)
    about = About("delete codebase", "codebase", codebase_id=id_)
    return Call(rpc.DELETE_CODEBASE, pb.DeleteCodebaseRequest(codebase_id=id_), about, _nothing)


def upload_file(
    id_: str, path: str, content: Content, chunk_size: int
) -> Call[Any, Any, types.UploadResult]:
    """The request is a function that makes the messages: one try, one iteration."""
    id_, path = codebase_id(id_), cv.text(path, "file_path")
    if isinstance(content, str):
        content = content.encode("utf-8")
    try:
        data = memoryview(content).cast("B")
    except TypeError:
        raise TypeError(f"content must be text or bytes, not {type(content).__name__}") from None
    if not isinstance(chunk_size, int) or not 0 < chunk_size <= 2 << 20:
        raise InvalidConfigurationError(f"chunk_size {chunk_size!r} must be 1 to 2097152 bytes")

    def messages() -> Iterator[pb.UploadChunk]:
        meta = pb.UploadChunk.Metadata(codebase_id=id_, file_path=path, total_size=len(data))
        yield pb.UploadChunk(metadata=meta)
        for start in range(0, len(data), chunk_size):
            yield pb.UploadChunk(data=bytes(data[start : start + chunk_size]))

    about = About("upload", "file", codebase_id=id_, path=path, is_upload=True)
    return Call(rpc.UPLOAD_FILES, messages, about, cv.upload_result)


def download_file(id_: str, path: str) -> AnyCall:
    id_, path = codebase_id(id_), cv.text(path, "file_path")
    about = About("download", "file", codebase_id=id_, path=path)
    request = pb.DownloadFileRequest(codebase_id=id_, file_path=path)
    return Call(rpc.DOWNLOAD_FILE, request, about, lambda chunk: chunk.data)


def list_files(id_: str, path: str, recursive: bool) -> Call[Any, Any, List[types.FileInfo]]:
    id_, path = codebase_id(id_), cv.text(path, "path")
    about = About("list files", "file", codebase_id=id_, path=path)
    request = pb.ListFilesRequest(codebase_id=id_, path=path, recursive=bool(recursive))
    return Call(
        rpc.LIST_FILES, request, about, lambda reply: [cv.file_info(f) for f in reply.files]
    )


# ---- sandboxes ---------------------------------------------------------------------------


def sandbox_request(
    id_: str,
    permissions: Optional[Iterable[types.Rule]] = None,
    labels: Optional[Mapping[str, str]] = None,
    expires_in: cv.Timeout = None,
    runtime: Optional[types.RuntimeType] = None,
    image: Optional[str] = None,
    resources: Any = None,
) -> pb.CreateSandboxRequest:
    """A CreateSandboxRequest. permissions None: the default preset; an empty list: no rule."""
    rules = presets.as_rules(permissions)
    if permissions is None:
        rules = presets.get_preset(presets.DEFAULT_PRESET)
    request = pb.CreateSandboxRequest(
        codebase_id=codebase_id(id_),
        permissions=cv.rules_messages(rules),
        labels=cv.text_map(labels, "labels"),
        runtime=cv.runtime_number(runtime),
        image=cv.text(image or "", "image"),
    )
    cv.set_duration(request.expires_in, expires_in, "expires_in")
    if resources is not None:
        cv.set_resources(request.resources, resources)
    return request


def create_sandbox(request: pb.CreateSandboxRequest) -> Call[Any, Any, types.Sandbox]:
    about = About("create sandbox", "codebase", codebase_id=request.codebase_id)
    return Call(rpc.CREATE_SANDBOX, request, about, cv.sandbox)


def get_sandbox(id_: str) -> Call[Any, Any, types.Sandbox]:
    id_ = sandbox_id(id_)
    about = About("get sandbox", "sandbox", sandbox_id=id_)
    return Call(rpc.GET_SANDBOX, pb.GetSandboxRequest(sandbox_id=id_), about, cv.sandbox)


def list_sandboxes(id_: Optional[str]) -> Call[Any, Any, List[types.Sandbox]]:
    request = pb.ListSandboxesRequest(codebase_id=codebase_id(id_ or ""))
    return Call(
        rpc.LIST_SANDBOXES,
        request,
        About("list sandboxes", "codebase", codebase_id=request.codebase_id),
        lambda reply: [cv.sandbox(s) for s in reply.sandboxes],
    )


def start_sandbox(id_: str) -> Call[Any, Any, types.Sandbox]:
    id_ = sandbox_id(id_)
    about = About("start sandbox", "sandbox", sandbox_id=id_)
    return Call(rpc.START_SANDBOX, pb.StartSandboxRequest(sandbox_id=id_), about, cv.sandbox)


def stop_sandbox(id_: str) -> Call[Any, Any, types.Sandbox]:
    id_ = sandbox_id(id_)
    about = About("stop sandbox", "sandbox", sandbox_id=id_, needs_running=True)
    return Call(rpc.STOP_SANDBOX, pb.StopSandboxRequest(sandbox_id=id_), about, cv.sandbox)


def destroy_sandbox(id_: str) -> Call[Any, Any, None]:
    id_ = sandbox_id(id_)
    about = About("destroy sandbox", "sandbox", sandbox_id=id_)
    return Call(rpc.DESTROY_SANDBOX, pb.DestroySandboxRequest(sandbox_id=id_), about, _nothing)


# ---- commands ----------------------------------------------------------------------------


def exec_request(
    id_: str,
    command: str,
    stdin: Optional[str],
    env: Optional[Mapping[str, str]],
    workdir: Optional[str],
    timeout: cv.Timeout,
) -> pb.ExecRequest:
    request = pb.ExecRequest(
        sandbox_id=sandbox_id(id_),
        command=cv.text(command, "command"),
        stdin=cv.text(stdin if stdin is not None else "", "stdin"),
        env=cv.text_map(env, "env"),
        workdir=cv.text(workdir or "", "workdir"),
    )
    cv.set_duration(request.timeout, timeout)
    return request


def _about_exec(request: pb.ExecRequest) -> About:
    timeout = cv.duration(request, "timeout")
    return About(
        "exec",
        "command",
        sandbox_id=request.sandbox_id,
        command=request.command,
        timeout_s=timeout.total_seconds() if timeout is not None else None,
        needs_running=True,
    )


def exec_(request: pb.ExecRequest) -> Call[Any, Any, types.ExecResult]:
    command = request.command
    return Call(rpc.EXEC, request, _about_exec(request), lambda m: cv.result(m, command))


def exec_stream(request: pb.ExecRequest) -> AnyCall:
    return Call(rpc.EXEC_STREAM, request, _about_exec(request), cv.chunk)


# ---- sessions ----------------------------------------------------------------------------


def create_session(
    id_: str, shell: Optional[str], env: Optional[Mapping[str, str]]
) -> Call[Any, Any, types.Session]:
    id_ = sandbox_id(id_)
    request = pb.CreateSessionRequest(
        sandbox_id=id_, shell=cv.text(shell or "", "shell"), env=cv.text_map(env, "env")
    )
    about = About("create session", "sandbox", sandbox_id=id_, needs_running=True)
    return Call(rpc.CREATE_SESSION, request, about, cv.session)


def get_session(id_: str) -> Call[Any, Any, types.Session]:
    id_ = cv.text(id_, "session_id")
    about = About("get session", "session", session_id=id_)
    return Call(rpc.GET_SESSION, pb.GetSessionRequest(session_id=id_), about, cv.session)


def list_sessions(id_: str) -> Call[Any, Any, List[types.Session]]:
    id_ = sandbox_id(id_)
    return Call(
        rpc.LIST_SESSIONS,
        pb.ListSessionsRequest(sandbox_id=id_),
        About("list sessions", "sandbox", sandbox_id=id_),
        lambda reply: [cv.session(s) for s in reply.sessions],
    )


def destroy_session(id_: str) -> Call[Any, Any, None]:
    id_ = cv.text(id_, "session_id")
    about = About("destroy session", "session", session_id=id_)
    return Call(rpc.DESTROY_SESSION, pb.DestroySessionRequest(session_id=id_), about, _nothing)


def session_request(id_: str, command: str, timeout: cv.Timeout) -> pb.SessionExecRequest:
    request = pb.SessionExecRequest(
        session_id=cv.text(id_, "session_id"), command=cv.text(command, "command")
    )
    cv.set_duration(request.timeout, timeout)
    return request


def _about_session(request: pb.SessionExecRequest) -> About:
    timeout = cv.duration(request, "timeout")
    return About(
        "session exec",
        "session_command",
        session_id=request.session_id,
        command=request.command,
        timeout_s=timeout.total_seconds() if timeout is not None else None,
    )


def session_exec(request: pb.SessionExecRequest) -> Call[Any, Any, types.ExecResult]:
    command = request.command
    about = _about_session(request)
    return Call(rpc.SESSION_EXEC, request, about, lambda m: cv.result(m, command))


def session_exec_stream(request: pb.SessionExecRequest) -> AnyCall:
    return Call(rpc.SESSION_EXEC_STREAM, request, _about_session(request), cv.chunk)


def local_sandbox_options(options: Dict[str, Any]) -> Dict[str, Any]:
    """The options of `create_sandbox` among those of the high-level constructors."""
    rules = presets.resolve(options.pop("preset"), options.pop("permissions"))
    return {**options, "permissions": rules}
