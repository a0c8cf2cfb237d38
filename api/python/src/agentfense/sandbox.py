"""Sandbox: a sandbox as an object, from a local directory to its end in one with block."""

from __future__ import annotations

import contextlib
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Union

from . import _calls, _manifest, _naming, presets, types
from . import _calls_monitor as mc
from . import extensions as ext
from ._client_v1 import Terminal
from ._convert import Timeout
from ._files import SandboxFiles
from ._interrupts import uninterrupted
from ._process import SandboxProcess
from ._progress import Progress
from ._sandbox_base import SandboxBase
from ._tree import Path, root_of
from ._watch import Events
from ._wire import ExecStream
from .client import SandboxClient, SandboxSession
from .exceptions import CodebaseNotFoundError, SandboxNotFoundError

Resources = Union[None, types.ResourceLimits, Mapping[str, Any]]
Permissions = Optional[Iterable[types.Rule]]


class Sandbox(SandboxBase):
    """A sandbox. Leaving its with block destroys it, and the codebase if from_local made one.

    run/exec, sessions and processes act in the view; read_file, write_file and list_files on the
    codebase, where a command's changes are when it has ended (unless its commit policy is another).
    Paths are as commands see them (/workspace/x), or relative (x).
    """

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
        client: Optional[SandboxClient] = None,
    ) -> Sandbox:
        """Uploads a directory as a new codebase and makes a sandbox on it.

        preset, permissions: the preset's rules, then these; see docs/PYTHON.md.
        ignore_patterns: what else is left out, as lines of a .gitignore. progress: a callback, or
        True for a bar. client: use this one instead of a connection of its own.
        reuse: take the codebase of the last call with reuse for this directory, owner and name, and
        send only what changed (see SandboxClient.sync_directory); it stays when the sandbox goes.
        When it fails, or is interrupted, nothing stays behind. UploadError,
        InvalidConfigurationError, ConnectionError, ResourceLimitExceededError.
        """
        root = root_of(path)
        rules = presets.resolve(preset, permissions)
        with _owned(client, endpoint, secure) as (used, undo):
            name, owner = (
                codebase_name or _naming.codebase_name(root),
                owner_id or _naming.owner_id(),
            )
            what = (root, ignore_patterns, default_ignores, progress)
            if reuse:
                codebase = _reused(used, undo, name, owner, what)
            else:
                codebase = _new_codebase(used, undo, name, owner)
                used.upload_directory(codebase.id, *what)
            what_for = (rules, labels, None, runtime, image, resources)
            info = _new_sandbox(used, undo, codebase.id, *what_for)
            if auto_start:
                info = used.start_sandbox(info.id)
            made = cls(used, info, used.get_codebase(codebase.id), client is None, not reuse)
            made._warn_unclosed = True
            return made

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
        client: Optional[SandboxClient] = None,
    ) -> Sandbox:
        """A sandbox on a codebase that is there already, and that stays. CodebaseNotFoundError."""
        rules = presets.resolve(preset, permissions)
        with _owned(client, endpoint, secure) as (used, undo):
            codebase = used.get_codebase(codebase_id)
            what_for = (rules, labels, None, runtime, image, resources)
            info = _new_sandbox(used, undo, codebase.id, *what_for)
            if auto_start:
                info = used.start_sandbox(info.id)
            made = cls(used, info, codebase, client is None, False)
            made._warn_unclosed = True
            return made

    @classmethod
    def connect(
        cls,
        sandbox_id: str,
        endpoint: Optional[str] = None,
        secure: bool = False,
        *,
        client: Optional[SandboxClient] = None,
    ) -> Sandbox:
        """A sandbox that is there already. SandboxNotFoundError. A with block destroys it."""
        with _owned(client, endpoint, secure) as (used, _undo):
            info = used.get_sandbox(sandbox_id)
            codebase = None
            with contextlib.suppress(CodebaseNotFoundError):
                codebase = used.get_codebase(info.codebase_id)
            return cls(used, info, codebase, client is None, False)

    # ---- its life --------------------------------------------------------------------------

    @property
    def _client(self) -> SandboxClient:
        client: SandboxClient = self.client
        return client

    def start(self) -> Sandbox:
        """Starts it. SandboxError when it runs already."""
        self._info = self._client.start_sandbox(self.id)
        return self

    def stop(self) -> Sandbox:
        """Ends its commands; its changes stay. SandboxNotRunningError."""
        self._info = self._client.stop_sandbox(self.id)
        return self

    def refresh(self) -> Sandbox:
        """Asks for its present state."""
        self._info = self._client.get_sandbox(self.id)
        return self

    def destroy(self, delete_codebase: Optional[bool] = None) -> None:
        """Ends and removes it; calling it again does nothing.

        delete_codebase: None deletes the codebase that from_local made, and no other.
        """
        if self._destroyed:
            return
        if delete_codebase is None:
            delete_codebase = self._owns_codebase
        client = self._client
        try:
            client.destroy_sandbox(self.id)
            self._destroyed = True
        except SandboxNotFoundError:
            self._destroyed = True
            raise
        finally:
            if self._destroyed:
                try:
                    if delete_codebase:
                        client.delete_codebase(self.codebase_id)
                finally:
                    if self._owns_client:
                        client.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._is_ours:  # a forked process leaves its parent's sandbox alone
            with contextlib.suppress(SandboxNotFoundError, CodebaseNotFoundError):
                self.destroy()

    # ---- commands --------------------------------------------------------------------------

    def run(
        self,
        command: str,
        timeout: Timeout = 60,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        raise_on_error: bool = False,
    ) -> types.ExecResult:
        """Runs a shell command to its end.

        timeout: seconds or a timedelta. raise_on_error: CommandExecutionError for another exit
        code than 0. SandboxNotRunningError, CommandTimeoutError.
        """
        result = self._client.exec(self.id, command, None, env, workdir, timeout)
        return result.raise_on_error() if raise_on_error else result

    def exec(
        self,
        command: str,
        stdin: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
    ) -> types.ExecResult:
        """Runs a shell command with stdin; timeout: default 30 s."""
        return self._client.exec(self.id, command, stdin, env, workdir, timeout)

    def exec_stream(
        self,
        command: str,
        stdin: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
    ) -> ExecStream:
        """Runs a command and yields its output, bytes that know their stream, as it comes."""
        return self._client.exec_stream(self.id, command, stdin, env, workdir, timeout)

    def session(
        self, shell: Optional[str] = None, env: Optional[Mapping[str, str]] = None
    ) -> SandboxSession:
        """A shell that keeps its state between commands; a with block closes it."""
        return self._client.create_session(self.id, shell, env)

    def process(
        self,
        command: ext.Command = "",
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
        terminal: Terminal = None,
        stdin: bool = True,
    ) -> SandboxProcess:
        """Runs a command and talks to it; see SandboxClient.process."""
        return self._client.process(self.id, command, env, workdir, timeout, terminal, stdin)

    def start_process(
        self,
        command: ext.Command,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
        terminal: Terminal = None,
        stdin: bool = False,
    ) -> ext.ProcessInfo:
        """Starts a command in the background; see SandboxClient.start_process."""
        return self._client.start_process(self.id, command, env, workdir, timeout, terminal, stdin)

    # ---- files -----------------------------------------------------------------------------

    @property
    def files(self) -> SandboxFiles:
        """Its files as its agent sees them, rules included; what is below acts on the codebase."""
        return self._client.files(self.id)

    def read_file(self, path: str, encoding: str = "utf-8", errors: str = "strict") -> str:
        """A file as text. FileNotFoundError; UnicodeDecodeError when it is not text."""
        return self.read_file_bytes(path).decode(encoding, errors)

    def read_file_bytes(self, path: str) -> bytes:
        """A file's bytes. FileNotFoundError."""
        return self._client.download_file(self.codebase_id, _calls.codebase_path(path))

    def write_file(self, path: str, content: _calls.Content) -> None:
        """Adds or replaces a file (text as UTF-8); missing directories are made. UploadError."""
        self._client.upload_file(self.codebase_id, _calls.codebase_path(path), content)

    def list_files(self, path: str = "", recursive: bool = False) -> List[str]:
        """Paths of what a directory holds, or of everything below it. FileNotFoundError."""
        listing = self._client.list_files(self.codebase_id, _calls.codebase_path(path), recursive)
        return [file.path for file in listing]

    # ---- changes and rules -----------------------------------------------------------------

    def update_permissions(
        self,
        permissions: Permissions = None,
        preset: Optional[str] = None,
        end_holders: bool = False,
    ) -> int:
        """Replaces the rules, at once: those of the preset, if any, then `permissions`."""
        rules = presets.resolve(preset, permissions)
        return self._client.update_permissions(self.id, rules, end_holders)

    def watch(self, path: mc.Path = "", denied: bool = False) -> Events[ext.WatchEvent]:
        """Changes of its files as they happen; see SandboxClient.watch."""
        return self._client.watch(self.id, path, denied)

    def trace(self, path: mc.Path = "", denied: bool = False) -> Events[ext.TraceEvent]:
        """Its file system's requests with their verdicts; see SandboxClient.trace."""
        return self._client.trace(self.id, path, denied)

    def diff(self) -> List[ext.DiffEntry]:
        """What it changed against its base and has not committed."""
        return self._client.diff(self.id)

    def commit(self, conflicts: Optional[ext.ConflictPolicy] = None) -> ext.CommitResult:
        """Brings its changes into the codebase now. ConflictError."""
        return self._client.commit(self.id, conflicts)

    def rollback(self) -> None:
        """Drops what it changed since the last commit. SandboxError while commands run."""
        self._client.rollback(self.id)

    def rebase(self) -> ext.RebaseResult:
        """Brings it onto the codebase's present state; its own changes stay."""
        return self._client.rebase(self.id)


def _reused(used: SandboxClient, undo: Any, name: str, owner: str, what: Any) -> types.Codebase:
    """The codebase of the last time, or a new one, brought to what the directory holds."""
    key = (used.endpoint, what[0], name, owner)
    known = _manifest.remembered_codebase(*key)
    if known is not None:
        with contextlib.suppress(CodebaseNotFoundError):
            used.sync_directory(known, *what)
            return used.get_codebase(known)
    codebase = _new_codebase(used, undo, name, owner)
    used.sync_directory(codebase.id, *what)
    _manifest.remember_codebase(codebase.id, *key)
    return codebase


def _new_codebase(used: SandboxClient, undo: Any, name: str, owner: str) -> types.Codebase:
    with uninterrupted():
        codebase = used.create_codebase(name, owner)
        undo.callback(_quietly, used.delete_codebase, codebase.id)
    return codebase


def _new_sandbox(used: SandboxClient, undo: Any, *what: Any) -> types.Sandbox:
    with uninterrupted():
        info = used.create_sandbox(*what)
        undo.callback(_quietly, used.destroy_sandbox, info.id)
    return info


def _quietly(call: Any, id_: str) -> None:
    """Cleans up after a failure, which is told; what fails here is not."""
    with contextlib.suppress(Exception):
        call(id_)


@contextlib.contextmanager
def _owned(client: Optional[SandboxClient], endpoint: Optional[str], secure: bool) -> Iterator[Any]:
    """The client to use, and a stack of what to undo when the block does not end well."""
    used = client if client is not None else SandboxClient(endpoint, secure)
    with contextlib.ExitStack() as undo:
        if client is None:
            undo.callback(used.close)
        yield used, undo
        undo.pop_all()
