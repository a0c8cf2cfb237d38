"""What calls raise. Every exception is a SandboxError; its text says what to do.

Each carries `message` (what failed), `details` (the daemon's sentence, or None) and `grpc_code` (a
grpc.StatusCode, or None when no call failed), and what identifies its subject. Three are also the
built-in exception of the same meaning, so that `except OSError` or the built-in name catches them.
"""

from __future__ import annotations

import builtins
from typing import Any, Optional, Tuple


class SandboxError(Exception):
    """Any failure of this package; the base of the others."""

    def __init__(
        self, message: str, details: Optional[str] = None, grpc_code: Optional[Any] = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.grpc_code = grpc_code

    def __str__(self) -> str:
        return f"{self.message}: {self.details}" if self.details else self.message

    def __reduce__(self) -> Tuple[Any, ...]:
        return _restore, (type(self), self.message, dict(self.__dict__))


def _restore(kind: Any, message: str, state: Any) -> SandboxError:
    made: SandboxError = kind.__new__(kind, message)
    Exception.__init__(made, message)
    made.__dict__.update(state)
    return made


class SandboxNotFoundError(SandboxError):
    """There is no such sandbox: it was destroyed, has expired, or never was."""

    def __init__(self, sandbox_id: str, details: Optional[str] = None) -> None:
        super().__init__(f"Sandbox not found: {sandbox_id}", details)
        self.sandbox_id = sandbox_id


class SandboxNotRunningError(SandboxError):
    """The call needs a running sandbox: start it first."""

    def __init__(
        self, sandbox_id: str, current_status: str = "", details: Optional[str] = None
    ) -> None:
        status = f" (it is {current_status})" if current_status else ""
        super().__init__(f"Sandbox is not running: {sandbox_id}{status}", details)
        self.sandbox_id = sandbox_id
        self.current_status = current_status


class CodebaseError(SandboxError):
    """A call on a codebase failed."""


class CodebaseNotFoundError(CodebaseError):
    """There is no such codebase."""

    def __init__(self, codebase_id: str, details: Optional[str] = None) -> None:
        super().__init__(f"Codebase not found: {codebase_id}", details)
        self.codebase_id = codebase_id


class FileNotFoundError(CodebaseError, builtins.FileNotFoundError):
    """There is no such file or directory in the codebase, or in the sandbox's view of it."""

    def __init__(self, codebase_id: str, file_path: str, details: Optional[str] = None) -> None:
        super().__init__(f"File not found in {codebase_id}: {file_path!r}", details)
        self.codebase_id = codebase_id
        self.file_path = file_path


class ConflictError(CodebaseError):
    """Somebody else changed the same files; nothing was done. Rebase, or commit to win."""


class CommandTimeoutError(SandboxError, builtins.TimeoutError):
    """The command ran into its timeout; everything that it started was killed."""

    def __init__(
        self, command: str, timeout_seconds: Optional[float], details: Optional[str] = None
    ) -> None:
        after = f" after {timeout_seconds:g} s" if timeout_seconds is not None else ""
        super().__init__(f"Command timed out{after}: {command}", details)
        self.command = command
        self.timeout_seconds = timeout_seconds


class CommandExecutionError(SandboxError):
    """A command that had to succeed (`raise_on_error`) ended with another exit code than 0."""

    def __init__(self, command: str, exit_code: int, stdout: str = "", stderr: str = "") -> None:
        super().__init__(f"Command failed with exit code {exit_code}: {command}", stderr or None)
        self.command = command
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr


class PermissionDeniedError(SandboxError):
    """The daemon does not serve this caller, or a rule forbids the operation."""

    def __init__(
        self, operation: str, path: Optional[str] = None, details: Optional[str] = None
    ) -> None:
        on = f" on {path!r}" if path else ""
        super().__init__(f"Permission denied: {operation}{on}", details)
        self.operation = operation
        self.path = path


class SessionError(SandboxError):
    """A call on a session failed."""


class SessionNotFoundError(SessionError):
    """There is no such session: its sandbox is gone, or the daemon was restarted."""

    def __init__(self, session_id: str, details: Optional[str] = None) -> None:
        super().__init__(f"Session not found: {session_id}", details)
        self.session_id = session_id


class SessionClosedError(SessionError):
    """The session is closed: make another."""

    def __init__(self, session_id: str, details: Optional[str] = None) -> None:
        super().__init__(f"Session is closed: {session_id}", details)
        self.session_id = session_id


class ResourceLimitExceededError(SandboxError):
    """A limit was reached (disk, size of a message, number of sandboxes); details name it."""

    def __init__(self, resource_type: str, limit: str = "", details: Optional[str] = None) -> None:
        of = f" of {limit}" if limit else ""
        super().__init__(f"Resource limit{of} exceeded: {resource_type}", details)
        self.resource_type = resource_type
        self.limit = limit


class InvalidConfigurationError(SandboxError):
    """An argument has a value that cannot work: a pattern, a preset, an id, a directory."""


class UploadError(CodebaseError):
    """A file or tree could not be sent; the codebase holds none of it."""

    def __init__(self, file_path: str, codebase_id: str, details: Optional[str] = None) -> None:
        target = codebase_id or "a codebase"
        super().__init__(f"Upload of {file_path!r} to {target} failed", details)
        self.file_path = file_path
        self.codebase_id = codebase_id


class ConnectionError(SandboxError, builtins.ConnectionError):
    """The daemon does not answer at this endpoint, or the connection was lost."""

    def __init__(
        self, endpoint: str, details: Optional[str] = None, grpc_code: Optional[Any] = None
    ) -> None:
        super().__init__(f"Cannot reach the daemon at {endpoint}", details, grpc_code)
        self.endpoint = endpoint
