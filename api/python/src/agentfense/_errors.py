"""From a gRPC status and what is known of the call to the documented exception.

Statuses alone do not tell a missing codebase or sandbox from a missing file of it, nor a stopped
sandbox from another unmet precondition. For those, `question` names one more call to ask; its
answer goes into `to_error`.
"""

from __future__ import annotations

from typing import Any, Optional

import grpc

from . import exceptions as ex
from ._proto import sandbox_pb2 as pb
from ._rpc import GET_CODEBASE, GET_SANDBOX, About, Call

Code = grpc.StatusCode
_EXEC_TIMEOUT_S = 30.0  # the daemon's, when the call names none
_COMMANDS = ("command", "session_command")
_FILES = ("codebase", "file")


def question(code: Any, about: About) -> Optional[Call[Any, Any, Any]]:
    """The call whose outcome decides between two exceptions, if there is one."""
    if code == Code.NOT_FOUND and about.target == "file" and about.codebase_id:
        request: Any = pb.GetCodebaseRequest(codebase_id=about.codebase_id)
        return Call(GET_CODEBASE, request, About("get codebase", "codebase"))
    stopped = code == Code.FAILED_PRECONDITION and about.needs_running
    if stopped or (code == Code.NOT_FOUND and about.target == "path"):
        request = pb.GetSandboxRequest(sandbox_id=about.sandbox_id)
        return Call(GET_SANDBOX, request, About("get sandbox", "sandbox"))
    return None


def _not_found(about: About, details: str, answer: Any) -> ex.SandboxError:
    if about.target in ("session", "session_command") and about.session_id:
        return ex.SessionNotFoundError(about.session_id, details)
    if about.target == "file" and answer is not None:
        return ex.FileNotFoundError(about.codebase_id, about.path, details)
    if about.target == "path" and answer is not None:
        return ex.FileNotFoundError(about.sandbox_id, about.path, details)
    if about.target in _FILES:
        return ex.CodebaseNotFoundError(about.codebase_id, details)
    if about.sandbox_id:
        return ex.SandboxNotFoundError(about.sandbox_id, details)
    return ex.SandboxError(f"Not found: {about.operation}", details)


def _precondition(about: About, details: str, answer: Any) -> ex.SandboxError:
    if about.target in ("session", "session_command") and about.session_id:
        return ex.SessionClosedError(about.session_id, details)
    if about.needs_running and answer is not None:
        status = pb.SandboxStatus.Name(answer.status).replace("SANDBOX_STATUS_", "").lower()
        if status != "running":
            return ex.SandboxNotRunningError(about.sandbox_id, status, details)
    if about.operation == "create sandbox":
        return ex.InvalidConfigurationError("Cannot create the sandbox", details)
    kind = ex.CodebaseError if about.target in _FILES else ex.SandboxError
    return kind(f"Cannot {about.operation}", details)


def _invalid(about: About, details: str) -> ex.SandboxError:
    if about.is_upload:
        return ex.UploadError(about.path, about.codebase_id, details)
    if about.target == "file":
        return ex.CodebaseError(f"Cannot {about.operation}", details)
    return ex.InvalidConfigurationError(f"Cannot {about.operation}", details)


def _make(code: Any, details: str, about: About, endpoint: str, answer: Any) -> ex.SandboxError:
    if code == Code.NOT_FOUND:
        return _not_found(about, details, answer)
    if code == Code.FAILED_PRECONDITION:
        return _precondition(about, details, answer)
    if code == Code.INVALID_ARGUMENT:
        return _invalid(about, details)
    if code in (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED):
        return ex.PermissionDeniedError(about.operation, about.path or None, details)
    if code == Code.DEADLINE_EXCEEDED and about.target in _COMMANDS:
        timeout = _EXEC_TIMEOUT_S if about.timeout_s is None else about.timeout_s
        return ex.CommandTimeoutError(about.command, timeout, details)
    if code == Code.RESOURCE_EXHAUSTED:
        return ex.ResourceLimitExceededError(about.operation, "", details)
    if code == Code.UNAVAILABLE:
        return ex.ConnectionError(endpoint, details)
    if code == Code.ABORTED:
        return ex.ConflictError(f"Cannot {about.operation}", details)
    if about.is_upload:
        return ex.UploadError(about.path, about.codebase_id, details)
    return ex.SandboxError(f"{about.operation} failed ({code.name.lower()})", details)


def to_error(
    code: Any, details: Optional[str], about: About, endpoint: str, answer: Any = None
) -> ex.SandboxError:
    """The exception of a failed call. answer: what `question` brought, None when it failed too."""
    made = _make(code, details or "", about, endpoint, answer)
    made.grpc_code = code
    return made
