"""AsyncSandbox: the twin of agentfense.sandbox, with await.

run() and exec() start at once and return a task. Leaving the async with block waits for commands
that still run, then destroys; when it is left by an exception, they are cancelled instead.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Awaitable, Callable, Iterable, List, Mapping, Optional, Tuple

from .. import _calls, _manifest, _naming, presets, types
from .. import _calls_monitor as mc
from .. import extensions as ext
from .._client_v1 import Terminal
from .._convert import Timeout
from .._interrupts import made
from .._progress import Progress
from .._sandbox_base import SandboxBase
from .._tree import Path, root_of
from ..exceptions import CodebaseNotFoundError, SandboxNotFoundError
from ..sandbox import Permissions, Resources
from ._commands import Commands
from ._files import AsyncSandboxFiles
from ._opening import Opening
from ._process import AsyncSandboxProcess
from ._watch import AsyncEvents
from ._wire import AsyncExecStream
from .client import AsyncSandboxClient, AsyncSandboxSession

Undo = List[Tuple[Callable[[str], Awaitable[None]], str]]


class AsyncSandbox(SandboxBase):
    """A sandbox; see agentfense.Sandbox.

    Made by `await AsyncSandbox.from_local(...)` or `async with AsyncSandbox.from_local(...) as sb`.
    """

    def __init__(
        self,
        client: AsyncSandboxClient,
        sandbox_info: types.Sandbox,
        codebase: Optional[types.Codebase] = None,
        owns_client: bool = False,
        owns_codebase: bool = False,
    ) -> None:
        super().__init__(client, sandbox_info, codebase, owns_client, owns_codebase)
        self._commands = Commands()

    # ---- making one ------------------------------------------------------------------------

    @classmethod
    def from_local(
        cls,
        path: Path,
        preset: Optional[str] = presets.DEFAULT_PRESET,
        permissions: Permissions = None,
        runtime: Optional[types.RuntimeType] = None,
        image: Optional[str] = None,
        resources: Resources = None,
        endpoint: Optional[str] = None,
        secure: bool = False,
        owner_id: Optional[str] = None,
        codebase_name: Optional[str] = None,
        ignore_patterns: Optional[Iterable[str]] = None,
        labels: Optional[Mapping[str, str]] = None,
        auto_start: bool = True,
        *,
        default_ignores: bool = True,
        progress: Progress = None,
        reuse: bool = False,
        client: Optional[AsyncSandboxClient] = None,
    ) -> Opening[AsyncSandbox]:
        """Uploads a directory as a new codebase and makes a sandbox on it; see Sandbox.from_local.

        When it fails or is cancelled nothing stays behind.
        """

        async def fill(used: AsyncSandboxClient, undo: Undo) -> AsyncSandbox:
            root = root_of(path)
            rules = presets.resolve(preset, permissions)
            name, owner = (
                codebase_name or _naming.codebase_name(root),
                owner_id or _naming.owner_id(),
            )
            what = (root, ignore_patterns, default_ignores, progress)
            if reuse:
                codebase = await _reused(used, undo, name, owner, what)
            else:
                codebase = await _new_codebase(used, undo, name, owner)
                await used.upload_directory(codebase.id, *what)
            what_for = (rules, labels, None, runtime, image, resources)
            info = await _new_sandbox(used, undo, codebase.id, *what_for)
            if auto_start:
                info = await used.start_sandbox(info.id)
            codebase = await used.get_codebase(codebase.id)
            return cls(used, info, codebase, client is None, not reuse)

        return Opening(lambda: _made(client, endpoint, secure, fill))

    @classmethod
    def from_codebase(
        cls,
        codebase_id: str,
        preset: Optional[str] = presets.DEFAULT_PRESET,
        permissions: Permissions = None,
        runtime: Optional[types.RuntimeType] = None,
        image: Optional[str] = None,
        resources: Resources = None,
        endpoint: Optional[str] = None,
        secure: bool = False,
        labels: Optional[Mapping[str, str]] = None,
        auto_start: bool = True,
        *,
        client: Optional[AsyncSandboxClient] = None,
    ) -> Opening[AsyncSandbox]:
        """A sandbox on a codebase that is there already, and that stays. CodebaseNotFoundError."""

        async def fill(used: AsyncSandboxClient, undo: Undo) -> AsyncSandbox:
            rules = presets.resolve(preset, permissions)
            codebase = await used.get_codebase(codebase_id)
            what_for = (rules, labels, None, runtime, image, resources)
            info = await _new_sandbox(used, undo, codebase.id, *what_for)
            if auto_start:
                info = await used.start_sandbox(info.id)
            return cls(used, info, codebase, client is None, False)

        return Opening(lambda: _made(client, endpoint, secure, fill))

    @classmethod
    def connect(
        cls,
        sandbox_id: str,
        endpoint: Optional[str] = None,
        secure: bool = False,
        *,
        client: Optional[AsyncSandboxClient] = None,
    ) -> Opening[AsyncSandbox]:
        """A sandbox that is there already. SandboxNotFoundError. A with block destroys it."""

        async def fill(used: AsyncSandboxClient, _undo: Undo) -> AsyncSandbox:
            info = await used.get_sandbox(sandbox_id)
            codebase = None
            with contextlib.suppress(CodebaseNotFoundError):
                codebase = await used.get_codebase(info.codebase_id)
            return cls(used, info, codebase, client is None, False)

        return Opening(lambda: _made(client, endpoint, secure, fill, warn=False))

    # ---- its life --------------------------------------------------------------------------

    @property
    def _client(self) -> AsyncSandboxClient:
        client: AsyncSandboxClient = self.client
        return client

    async def start(self) -> AsyncSandbox:
        """Starts it. SandboxError when it runs already."""
        self._info = await self._client.start_sandbox(self.id)
        return self

    async def stop(self) -> AsyncSandbox:
        """Ends its commands; its changes stay. SandboxNotRunningError."""
        self._info = await self._client.stop_sandbox(self.id)
        return self

    async def refresh(self) -> AsyncSandbox:
        """Asks for its present state."""
        self._info = await self._client.get_sandbox(self.id)
        return self

    async def destroy(self, delete_codebase: Optional[bool] = None) -> None:
        """Ends and removes it at once, with the commands that run; again: does nothing.

        delete_codebase: None deletes the codebase that from_local made, and no other.
        A cancellation is raised when it is done.
        """
        if self._destroyed:
            return
        if delete_codebase is None:
            delete_codebase = self._owns_codebase
        await to_the_end(self._destroy(self._client, delete_codebase))

    async def _destroy(self, client: AsyncSandboxClient, delete_codebase: bool) -> None:
        try:
            await client.destroy_sandbox(self.id)
            self._destroyed = True
        except SandboxNotFoundError:
            self._destroyed = True
            raise
        finally:
            if self._destroyed:
                try:
                    if delete_codebase:
                        await client.delete_codebase(self.codebase_id)
                finally:
                    if self._owns_client:
                        await client.close()

    async def __aenter__(self) -> AsyncSandbox:
        return self

    async def __aexit__(self, kind: object, *exc: object) -> None:
        if not self._is_ours:  # a forked process leaves its parent's sandbox alone
            return
        try:
            await self._commands.finish(cancel=kind is not None)
        finally:
            with contextlib.suppress(SandboxNotFoundError, CodebaseNotFoundError):
                await self.destroy()

    # ---- commands --------------------------------------------------------------------------

    def run(
        self,
        command: str,
        timeout: Timeout = 60,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        raise_on_error: bool = False,
    ) -> asyncio.Task[types.ExecResult]:
        """Runs a shell command, from now on; await the result, also after the block.

        timeout: seconds or a timedelta. raise_on_error: CommandExecutionError for another exit
        code than 0. SandboxNotRunningError, CommandTimeoutError. Cancelling the task kills it.
        """
        client = self._client

        async def execute() -> types.ExecResult:
            result = await client.exec(self.id, command, None, env, workdir, timeout)
            return result.raise_on_error() if raise_on_error else result

        return self._commands.start(execute())

    def exec(
        self,
        command: str,
        stdin: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
    ) -> asyncio.Task[types.ExecResult]:
        """Runs a shell command with stdin, from now on; timeout: default 30 s."""
        return self._commands.start(
            self._client.exec(self.id, command, stdin, env, workdir, timeout)
        )

    def exec_stream(
        self,
        command: str,
        stdin: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
    ) -> AsyncExecStream:
        """Runs a command and yields its output, bytes that know their stream, as it comes."""
        return self._client.exec_stream(self.id, command, stdin, env, workdir, timeout)

    def session(
        self, shell: Optional[str] = None, env: Optional[Mapping[str, str]] = None
    ) -> Opening[AsyncSandboxSession]:
        """A shell that keeps its state between commands; await it or use it as a context."""
        return self._client.create_session(self.id, shell, env)

    def process(
        self,
        command: ext.Command = "",
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
        terminal: Terminal = None,
        stdin: bool = True,
    ) -> AsyncSandboxProcess:
        """Runs a command and talks to it; see SandboxClient.process."""
        return self._client.process(self.id, command, env, workdir, timeout, terminal, stdin)

    async def start_process(
        self,
        command: ext.Command,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
        terminal: Terminal = None,
        stdin: bool = False,
    ) -> ext.ProcessInfo:
        """Starts a command in the background; see SandboxClient.start_process."""
        return await self._client.start_process(
            self.id, command, env, workdir, timeout, terminal, stdin
        )

    # ---- files -----------------------------------------------------------------------------

    @property
    def files(self) -> AsyncSandboxFiles:
        """Its files as its agent sees them, rules included; what is below acts on the codebase."""
        return self._client.files(self.id)

    async def read_file(self, path: str, encoding: str = "utf-8", errors: str = "strict") -> str:
        """A file as text. FileNotFoundError; UnicodeDecodeError when it is not text."""
        return (await self.read_file_bytes(path)).decode(encoding, errors)

    async def read_file_bytes(self, path: str) -> bytes:
        """A file's bytes. FileNotFoundError."""
        return await self._client.download_file(self.codebase_id, _calls.codebase_path(path))

    async def write_file(self, path: str, content: _calls.Content) -> None:
        """Adds or replaces a file (text as UTF-8); missing directories are made. UploadError."""
        await self._client.upload_file(self.codebase_id, _calls.codebase_path(path), content)

    async def list_files(self, path: str = "", recursive: bool = False) -> List[str]:
        """Paths of what a directory holds, or of everything below it. FileNotFoundError."""
        listing = await self._client.list_files(
            self.codebase_id, _calls.codebase_path(path), recursive
        )
        return [file.path for file in listing]

    # ---- changes and rules -----------------------------------------------------------------

    async def update_permissions(
        self,
        permissions: Permissions = None,
        preset: Optional[str] = None,
        end_holders: bool = False,
    ) -> int:
        """Replaces the rules, at once: those of the preset, if any, then `permissions`."""
        rules = presets.resolve(preset, permissions)
        return await self._client.update_permissions(self.id, rules, end_holders)

    def watch(self, path: mc.Path = "", denied: bool = False) -> AsyncEvents[ext.WatchEvent]:
        """Changes of its files as they happen; see AsyncSandboxClient.watch."""
        return self._client.watch(self.id, path, denied)

    def trace(self, path: mc.Path = "", denied: bool = False) -> AsyncEvents[ext.TraceEvent]:
        """Its file system's requests with their verdicts; see AsyncSandboxClient.trace."""
        return self._client.trace(self.id, path, denied)

    async def diff(self) -> List[ext.DiffEntry]:
        """What it changed against its base and has not committed."""
        return await self._client.diff(self.id)

    async def commit(self, conflicts: Optional[ext.ConflictPolicy] = None) -> ext.CommitResult:
        """Brings its changes into the codebase now. ConflictError."""
        return await self._client.commit(self.id, conflicts)

    async def rollback(self) -> None:
        """Drops what it changed since the last commit. SandboxError while commands run."""
        await self._client.rollback(self.id)

    async def rebase(self) -> ext.RebaseResult:
        """Brings it onto the codebase's present state; its own changes stay."""
        return await self._client.rebase(self.id)


async def _reused(
    used: AsyncSandboxClient, undo: Undo, name: str, owner: str, what: Any
) -> types.Codebase:
    """The codebase of the last time, or a new one, brought to what the directory holds."""
    key = (used.endpoint, what[0], name, owner)
    known = _manifest.remembered_codebase(*key)
    if known is not None:
        with contextlib.suppress(CodebaseNotFoundError):
            await used.sync_directory(known, *what)
            return await used.get_codebase(known)
    codebase = await _new_codebase(used, undo, name, owner)
    await used.sync_directory(codebase.id, *what)
    _manifest.remember_codebase(codebase.id, *key)
    return codebase


async def _new_codebase(
    used: AsyncSandboxClient, undo: Undo, name: str, owner: str
) -> types.Codebase:
    return await made(
        used.create_codebase(name, owner),
        lambda codebase: undo.append((used.delete_codebase, codebase.id)),
    )


async def _new_sandbox(used: AsyncSandboxClient, undo: Undo, *what: Any) -> types.Sandbox:
    return await made(
        used.create_sandbox(*what), lambda info: undo.append((used.destroy_sandbox, info.id))
    )


async def to_the_end(work: Any) -> None:
    """Awaits work that a cancellation must not leave half done, and raises that afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: Optional[asyncio.CancelledError] = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:
            break  # the task's own; raised below
    if cancelled is not None:
        task.exception()  # seen
        raise cancelled
    task.result()


async def _made(
    client: Optional[AsyncSandboxClient],
    endpoint: Optional[str],
    secure: bool,
    fill: Callable[[AsyncSandboxClient, Undo], Awaitable[AsyncSandbox]],
    warn: bool = True,
) -> AsyncSandbox:
    """Runs `fill` with the client to use, and undoes what it began when it fails."""
    used = client if client is not None else AsyncSandboxClient(endpoint, secure)
    undo: Undo = []
    try:
        sandbox = await fill(used, undo)
        sandbox._warn_unclosed = warn
        return sandbox
    except BaseException:
        await to_the_end(_undone(undo, used if client is None else None))
        raise


async def _undone(undo: Undo, owned: Optional[AsyncSandboxClient]) -> None:
    for call, id_ in reversed(undo):
        with contextlib.suppress(Exception):  # the failure that led here is told
            await call(id_)
    if owned is not None:
        await owned.close()
