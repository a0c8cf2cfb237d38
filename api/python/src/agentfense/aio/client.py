"""AsyncSandboxClient: the twin of agentfense.client, with await.

A client belongs to one event loop, and may be shared between its tasks. Errors are those of
agentfense.exceptions; times are in seconds or timedeltas, sizes in bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Iterable, List, Mapping, Optional, Union

from .. import _calls, _endpoint, types
from .._convert import Timeout
from .._rpc import Call
from ..client import Source, read_source
from ..exceptions import InvalidConfigurationError, SessionNotFoundError
from ._client_v1 import AsyncExtensionCalls
from ._commands import Commands
from ._opening import Opening
from ._wire import AsyncExecStream, AsyncWire


class AsyncSandboxClient(AsyncExtensionCalls):
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
        self._wire = AsyncWire(_endpoint.resolve(endpoint, secure, token, root_certificates))

    @property
    def endpoint(self) -> str:
        """Where it connects to."""
        return self._wire.endpoint.target

    async def close(self) -> None:
        """Closes the connection; calls in flight fail. May be called again."""
        await self._wire.close()

    async def __aenter__(self) -> AsyncSandboxClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # ---- codebases -----------------------------------------------------------------------

    async def create_codebase(self, name: str, owner_id: str = "") -> types.Codebase:
        """A new, empty codebase. owner_id is a label for limits and listings."""
        return await self._wire.call(_calls.create_codebase(name, owner_id))

    async def get_codebase(self, codebase_id: str) -> types.Codebase:
        """A codebase. CodebaseNotFoundError."""
        return await self._wire.call(_calls.get_codebase(codebase_id))

    async def list_codebases(self, owner_id: Optional[str] = None) -> List[types.Codebase]:
        """All codebases, or those of an owner."""
        return await self._wire.call(_calls.list_codebases(owner_id))

    async def delete_codebase(self, codebase_id: str) -> None:
        """Deletes a codebase. CodebaseNotFoundError; CodebaseError while sandboxes use it."""
        await self._wire.call(_calls.delete_codebase(codebase_id))

    async def upload_file(
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
        return await self._wire.send(call, call.request)

    async def upload_files(
        self, codebase_id: str, files: Mapping[str, Source], parallel: int = 8
    ) -> List[types.UploadResult]:
        """Several files at a time over the one connection; results in the order of `files`.

        files: path in the codebase -> its content, or a local path object to read it from.
        The first failure is raised, and files that wait are not sent. For whole trees,
        upload_directory is faster and keeps modes and links.
        """
        if not isinstance(parallel, int) or parallel < 1:
            raise InvalidConfigurationError(f"parallel must be at least 1, not {parallel!r}")
        slots = asyncio.Semaphore(parallel)
        loop = asyncio.get_running_loop()

        async def one(path: str, source: Source) -> types.UploadResult:
            async with slots:
                content = await loop.run_in_executor(None, read_source, source)
                return await self.upload_file(codebase_id, path, content)

        waiting = [asyncio.ensure_future(one(*item)) for item in files.items()]
        try:
            return list(await asyncio.gather(*waiting))
        finally:
            for each in waiting:
                each.cancel()

    async def download_file(self, codebase_id: str, file_path: str) -> bytes:
        """The content of a file. CodebaseNotFoundError, FileNotFoundError."""
        stream = self._wire.stream(_calls.download_file(codebase_id, file_path))
        return b"".join([piece async for piece in stream])

    async def list_files(
        self, codebase_id: str, path: str = "", recursive: bool = False
    ) -> List[types.FileInfo]:
        """What a directory holds, or everything below it.

        CodebaseNotFoundError, FileNotFoundError, CodebaseError (no directory),
        ResourceLimitExceededError (some 40,000 names do not fit into one reply).
        """
        return await self._wire.call(_calls.list_files(codebase_id, path, recursive))

    # ---- sandboxes -----------------------------------------------------------------------

    async def create_sandbox(
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
        return await self._wire.call(_calls.create_sandbox(request))

    async def get_sandbox(self, sandbox_id: str) -> types.Sandbox:
        """A sandbox. SandboxNotFoundError."""
        return await self._wire.call(_calls.get_sandbox(sandbox_id))

    async def list_sandboxes(self, codebase_id: Optional[str] = None) -> List[types.Sandbox]:
        """All sandboxes, or those on a codebase."""
        return await self._wire.call(_calls.list_sandboxes(codebase_id))

    async def start_sandbox(self, sandbox_id: str) -> types.Sandbox:
        """Starts it. SandboxNotFoundError; SandboxError when it runs already."""
        return await self._wire.call(_calls.start_sandbox(sandbox_id))

    async def stop_sandbox(self, sandbox_id: str) -> types.Sandbox:
        """Ends its commands; its changes stay. SandboxNotFoundError, SandboxNotRunningError."""
        return await self._wire.call(_calls.stop_sandbox(sandbox_id))

    async def destroy_sandbox(self, sandbox_id: str) -> None:
        """Ends and removes it, in whatever state it is. SandboxNotFoundError."""
        await self._wire.call(_calls.destroy_sandbox(sandbox_id))

    # ---- commands ------------------------------------------------------------------------

    async def exec(
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
        return await self._wire.call(_calls.exec_(request))

    def exec_stream(
        self,
        sandbox_id: str,
        command: str,
        stdin: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
    ) -> AsyncExecStream:
        """Runs a command and yields its output as it comes; see AsyncExecStream."""
        request = _calls.exec_request(sandbox_id, command, stdin, env, workdir, timeout)
        return self._exec_stream(_calls.exec_stream(request))

    def _exec_stream(self, call: Call[Any, Any, types.OutputChunk]) -> AsyncExecStream:
        return AsyncExecStream(self._wire, self._wire.start(call.method, call.request), call)

    # ---- sessions ------------------------------------------------------------------------

    def create_session(
        self,
        sandbox_id: str,
        shell: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
    ) -> Opening[AsyncSandboxSession]:
        """A shell that keeps its directory and variables between commands.

        Await it, or use it as `async with client.session(id) as session`.
        shell: None is the root's bash, else sh. SandboxNotFoundError, SandboxNotRunningError.
        """
        call = _calls.create_session(sandbox_id, shell, env)

        async def create() -> AsyncSandboxSession:
            return AsyncSandboxSession(self, await self._wire.call(call))

        return Opening(create)

    session = create_session

    async def get_session(self, session_id: str) -> types.Session:
        """A session, open or closed. SessionNotFoundError."""
        return await self._wire.call(_calls.get_session(session_id))

    async def list_sessions(self, sandbox_id: str) -> List[types.Session]:
        """The sessions of a sandbox, closed ones too. SandboxNotFoundError."""
        return await self._wire.call(_calls.list_sessions(sandbox_id))

    async def destroy_session(self, session_id: str) -> None:
        """Ends the shell and what runs in it. SessionNotFoundError."""
        await self._wire.call(_calls.destroy_session(session_id))

    async def session_exec(
        self, session_id: str, command: str, timeout: Timeout = None
    ) -> types.ExecResult:
        """Runs a command in a session; commands wait for their turn.

        timeout: default 30 s from its turn on; running into it closes the session.
        SessionNotFoundError, SessionClosedError, CommandTimeoutError.
        """
        request = _calls.session_request(session_id, command, timeout)
        return await self._wire.call(_calls.session_exec(request))

    def session_exec_stream(
        self, session_id: str, command: str, timeout: Timeout = None
    ) -> AsyncExecStream:
        """The same, with output as it comes; see AsyncExecStream."""
        request = _calls.session_request(session_id, command, timeout)
        return self._exec_stream(_calls.session_exec_stream(request))


class AsyncSandboxSession:
    """An open shell session; an async with block closes it."""

    def __init__(self, client: AsyncSandboxClient, session: types.Session) -> None:
        self._client = client
        self._session = session
        self._commands = Commands()

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

    async def refresh(self) -> AsyncSandboxSession:
        """Asks for its present state."""
        self._session = await self._client.get_session(self.id)
        return self

    def exec(self, command: str, timeout: Timeout = None) -> asyncio.Task[types.ExecResult]:
        """Runs a command in it, from now on; await the result."""
        return self._commands.start(self._client.session_exec(self.id, command, timeout))

    def exec_stream(self, command: str, timeout: Timeout = None) -> AsyncExecStream:
        """The same, with output as it comes."""
        return self._client.session_exec_stream(self.id, command, timeout)

    async def close(self) -> None:
        """Ends the shell. May be called again."""
        if self._session.status != types.SessionStatus.CLOSED:
            await self._client.destroy_session(self.id)
            self._session.status = types.SessionStatus.CLOSED

    async def __aenter__(self) -> AsyncSandboxSession:
        return self

    async def __aexit__(self, kind: object, *exc: object) -> None:
        try:
            await self._commands.finish(cancel=kind is not None)
        finally:
            with contextlib.suppress(SessionNotFoundError):  # it went with its sandbox
                await self.close()
