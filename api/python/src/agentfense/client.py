"""SandboxClient: one method for each RPC of sandbox.v1. The extensions are in _client_v1.py.

A client may be shared between threads. Errors are those of agentfense.exceptions; times are in
seconds or timedeltas, sizes in bytes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
from typing import Any, Iterable, List, Mapping, Optional, Union

from . import _calls, _endpoint, types
from ._client_v1 import ExtensionCalls
from ._convert import Timeout
from ._rpc import Call
from ._wire import ExecStream, Wire
from .exceptions import InvalidConfigurationError, SessionNotFoundError

Source = Union[bytes, bytearray, memoryview, str, "os.PathLike[str]"]


class SandboxClient(ExtensionCalls):
    """A connection to the daemon.

    endpoint: `HOST:PORT` or `unix:/path`; None: AGENTFENSE_ENDPOINT, else the local socket if it is
      there, else localhost:9000.
    secure: TLS, with `root_certificates` (PEM) instead of the system's.
    token: sent as a bearer token; over the network with TLS only.
    Nothing is connected before the first call.
    """

    def __init__(
        self,
        endpoint: Optional[str] = None,
        secure: bool = False,
        *,
        token: Optional[str] = None,
        root_certificates: Optional[bytes] = None,
    ) -> None:
        self._wire = Wire(_endpoint.resolve(endpoint, secure, token, root_certificates))

    @property
    def endpoint(self) -> str:
        """Where it connects to."""
        return self._wire.endpoint.target

    def close(self) -> None:
        """Closes the connection; calls in flight fail. May be called again."""
        self._wire.close()

    def __enter__(self) -> SandboxClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- codebases -----------------------------------------------------------------------

    def create_codebase(self, name: str, owner_id: str = "") -> types.Codebase:
        """A new, empty codebase. owner_id is a label for limits and listings."""
        return self._wire.call(_calls.create_codebase(name, owner_id))

    def get_codebase(self, codebase_id: str) -> types.Codebase:
        """A codebase. CodebaseNotFoundError."""
        return self._wire.call(_calls.get_codebase(codebase_id))

    def list_codebases(self, owner_id: Optional[str] = None) -> List[types.Codebase]:
        """All codebases, or those of an owner."""
        return self._wire.call(_calls.list_codebases(owner_id))

    def delete_codebase(self, codebase_id: str) -> None:
        """Deletes a codebase. CodebaseNotFoundError; CodebaseError while sandboxes use it."""
        self._wire.call(_calls.delete_codebase(codebase_id))

    def upload_file(
        self,
        codebase_id: str,
        file_path: str,
        content: _calls.Content,
        chunk_size: int = _calls.CHUNK_BYTES,
    ) -> types.UploadResult:
        """Adds or replaces one file; missing directories are made.

        The file changes when all of it has arrived, or not at all. CodebaseNotFoundError,
        UploadError (bad path), ResourceLimitExceededError (disk full).
        """
        call = _calls.upload_file(codebase_id, file_path, content, chunk_size)
        return self._wire.send(call, call.request)

    def upload_files(
        self, codebase_id: str, files: Mapping[str, Source], parallel: int = 8
    ) -> List[types.UploadResult]:
        """Several files at a time over the one connection; results in the order of `files`.

        files: path in the codebase -> its content, or a local path object to read it from.
        The first failure is raised, and files that wait are not sent. For whole trees,
        upload_directory is faster and keeps modes and links.
        """
        if not isinstance(parallel, int) or parallel < 1:
            raise InvalidConfigurationError(f"parallel must be at least 1, not {parallel!r}")
        with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
            waiting = [
                pool.submit(self._upload_source, codebase_id, path, source)
                for path, source in files.items()
            ]
            try:
                return [each.result() for each in waiting]
            except BaseException:
                for each in waiting:
                    each.cancel()
                raise

    def _upload_source(
        self, codebase_id: str, file_path: str, source: Source
    ) -> types.UploadResult:
        return self.upload_file(codebase_id, file_path, read_source(source))

    def download_file(self, codebase_id: str, file_path: str) -> bytes:
        """The content of a file. CodebaseNotFoundError, FileNotFoundError."""
        return b"".join(self._wire.stream(_calls.download_file(codebase_id, file_path)))

    def list_files(
        self, codebase_id: str, path: str = "", recursive: bool = False
    ) -> List[types.FileInfo]:
        """What a directory holds, or everything below it.

        CodebaseNotFoundError, FileNotFoundError, CodebaseError (no directory),
        ResourceLimitExceededError (some 40,000 names do not fit into one reply).
        """
        return self._wire.call(_calls.list_files(codebase_id, path, recursive))

    # ---- sandboxes -----------------------------------------------------------------------

    def create_sandbox(
        self,
        codebase_id: str,
        permissions: Optional[Iterable[types.Rule]] = None,
        labels: Optional[Mapping[str, str]] = None,
        expires_in: Timeout = None,
        runtime: Optional[types.RuntimeType] = None,
        image: Optional[str] = None,
        resources: Union[None, types.ResourceLimits, Mapping[str, Any]] = None,
    ) -> types.Sandbox:
        """A new sandbox, PENDING until start_sandbox.

        permissions: the rules; None is the preset agent-safe, an empty list hides everything.
        expires_in: it is destroyed after so long; None: never.
        CodebaseNotFoundError, InvalidConfigurationError, ResourceLimitExceededError.
        """
        request = _calls.sandbox_request(
            codebase_id, permissions, labels, expires_in, runtime, image, resources
        )
        return self._wire.call(_calls.create_sandbox(request))

    def get_sandbox(self, sandbox_id: str) -> types.Sandbox:
        """A sandbox. SandboxNotFoundError."""
        return self._wire.call(_calls.get_sandbox(sandbox_id))

    def list_sandboxes(self, codebase_id: Optional[str] = None) -> List[types.Sandbox]:
        """All sandboxes, or those on a codebase."""
        return self._wire.call(_calls.list_sandboxes(codebase_id))

    def start_sandbox(self, sandbox_id: str) -> types.Sandbox:
        """Starts it. SandboxNotFoundError; SandboxError when it runs already."""
        return self._wire.call(_calls.start_sandbox(sandbox_id))

    def stop_sandbox(self, sandbox_id: str) -> types.Sandbox:
        """Ends its commands; its changes stay. SandboxNotFoundError, SandboxNotRunningError."""
        return self._wire.call(_calls.stop_sandbox(sandbox_id))

    def destroy_sandbox(self, sandbox_id: str) -> None:
        """Ends and removes it, in whatever state it is. SandboxNotFoundError."""
        self._wire.call(_calls.destroy_sandbox(sandbox_id))

    # ---- commands ------------------------------------------------------------------------

    def exec(
        self,
        sandbox_id: str,
        command: str,
        stdin: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
    ) -> types.ExecResult:
        """Runs a shell command to its end; another exit code than 0 is no error.

        workdir: absolute inside the sandbox, default /workspace. timeout: seconds or timedelta,
        default 30 s. SandboxNotFoundError, SandboxNotRunningError, CommandTimeoutError.
        """
        request = _calls.exec_request(sandbox_id, command, stdin, env, workdir, timeout)
        return self._wire.call(_calls.exec_(request))

    def exec_stream(
        self,
        sandbox_id: str,
        command: str,
        stdin: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
    ) -> ExecStream:
        """Runs a command and yields its output as it comes; see ExecStream."""
        request = _calls.exec_request(sandbox_id, command, stdin, env, workdir, timeout)
        return self._exec_stream(_calls.exec_stream(request))

    def _exec_stream(self, call: Call[Any, Any, types.OutputChunk]) -> ExecStream:
        return ExecStream(self._wire, self._wire.start(call.method, call.request), call)

    # ---- sessions ------------------------------------------------------------------------

    def create_session(
        self,
        sandbox_id: str,
        shell: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
    ) -> SandboxSession:
        """A shell that keeps its directory and variables between commands.

        shell: None is the root's bash, else sh. SandboxNotFoundError, SandboxNotRunningError.
        """
        return SandboxSession(self, self._wire.call(_calls.create_session(sandbox_id, shell, env)))

    session = create_session

    def get_session(self, session_id: str) -> types.Session:
        """A session, open or closed. SessionNotFoundError."""
        return self._wire.call(_calls.get_session(session_id))

    def list_sessions(self, sandbox_id: str) -> List[types.Session]:
        """The sessions of a sandbox, closed ones too. SandboxNotFoundError."""
        return self._wire.call(_calls.list_sessions(sandbox_id))

    def destroy_session(self, session_id: str) -> None:
        """Ends the shell and what runs in it. SessionNotFoundError."""
        self._wire.call(_calls.destroy_session(session_id))

    def session_exec(
        self, session_id: str, command: str, timeout: Timeout = None
    ) -> types.ExecResult:
        """Runs a command in a session; commands wait for their turn.

        timeout: default 30 s from its turn on; running into it closes the session.
        SessionNotFoundError, SessionClosedError, CommandTimeoutError.
        """
        request = _calls.session_request(session_id, command, timeout)
        return self._wire.call(_calls.session_exec(request))

    def session_exec_stream(
        self, session_id: str, command: str, timeout: Timeout = None
    ) -> ExecStream:
        """The same, with output as it comes; see ExecStream."""
        request = _calls.session_request(session_id, command, timeout)
        return self._exec_stream(_calls.session_exec_stream(request))


def read_source(source: Any) -> _calls.Content:
    """Content as it is, or that of a local file."""
    if isinstance(source, os.PathLike):
        with open(source, "rb") as file:
            return file.read()
    content: _calls.Content = source
    return content


class SandboxSession:
    """An open shell session; a with block closes it."""

    def __init__(self, client: SandboxClient, session: types.Session) -> None:
        self._client = client
        self._session = session

    @property
    def id(self) -> str:
        """Its id (sess_...)."""
        return self._session.id

    @property
    def sandbox_id(self) -> str:
        """The sandbox it runs in."""
        return self._session.sandbox_id

    @property
    def shell(self) -> str:
        """The program that runs it."""
        return self._session.shell

    @property
    def status(self) -> types.SessionStatus:
        """As of the last call; refresh() asks again."""
        return self._session.status

    def refresh(self) -> SandboxSession:
        """Asks for its present state."""
        self._session = self._client.get_session(self.id)
        return self

    def exec(self, command: str, timeout: Timeout = None) -> types.ExecResult:
        """Runs a command in it; see SandboxClient.session_exec."""
        return self._client.session_exec(self.id, command, timeout)

    def exec_stream(self, command: str, timeout: Timeout = None) -> ExecStream:
        """The same, with output as it comes."""
        return self._client.session_exec_stream(self.id, command, timeout)

    def close(self) -> None:
        """Ends the shell. May be called again."""
        if self._session.status != types.SessionStatus.CLOSED:
            self._client.destroy_session(self.id)
            self._session.status = types.SessionStatus.CLOSED

    def __enter__(self) -> SandboxSession:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(SessionNotFoundError):  # it went with its sandbox
            self.close()
