"""What SandboxClient has beyond sandbox.v1: trees, many sandboxes at once, changes of a living
sandbox, processes. A mixin: `_wire` is the client's.
"""

from __future__ import annotations

import contextlib
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Union

from . import _calls_files as fc
from . import _calls_monitor as mc
from . import _calls_v1 as v1
from . import _tree, types
from . import extensions as ext
from ._convert import Timeout
from ._files import SandboxFiles
from ._process import Attachment, SandboxProcess
from ._progress import Progress, Reporter
from ._sync import OTHERS_CHANGE_IT, SYNC_TRIES, Sync
from ._upload import Upload
from ._watch import Events
from ._wire import Wire
from .exceptions import ConflictError, SandboxError

Terminal = Union[None, bool, ext.TerminalSize]


class ExtensionCalls:
    """The calls of agentfense.v1."""

    _wire: Wire

    # ---- trees -----------------------------------------------------------------------------

    def upload_directory(
        self,
        codebase_id: str,
        path: _tree.Path,
        ignore_patterns: Optional[Iterable[str]] = None,
        default_ignores: bool = True,
        progress: Progress = None,
    ) -> types.ImportResult:
        """Adds a local directory to a codebase in one stream: all of it, or nothing.

        Modes, mtimes, symbolic links, empty directories and holes are kept. .gitignore and
        .sandboxignore are honoured; see docs/PYTHON.md for what else is left out.
        progress: a callback that gets UploadProgress, or True for a bar.
        UploadError, CodebaseNotFoundError, InvalidConfigurationError (no such directory).
        """
        upload = Upload(path, ignore_patterns, default_ignores)
        report = Reporter(progress)
        upload.scan()
        call = upload.call(codebase_id)
        try:
            return self._wire.send(
                call, lambda: upload.messages(codebase_id), lambda: report(upload.progress)
            )
        finally:
            report.close()

    def sync_directory(
        self,
        codebase_id: str,
        path: _tree.Path,
        ignore_patterns: Optional[Iterable[str]] = None,
        default_ignores: bool = True,
        progress: Progress = None,
    ) -> types.ImportResult:
        """Makes a codebase exactly what a directory holds, and sends only what changed.

        What was sent is remembered in the user's cache folder. When anybody else changed the
        codebase since, a sandbox's commands included, everything is sent again. One stream, all or
        nothing. UploadError, CodebaseNotFoundError; ConflictError when others keep changing it.
        """
        sync = Sync(codebase_id, path, ignore_patterns, default_ignores)
        report = Reporter(progress)
        try:
            for full in SYNC_TRIES:
                sync.prepare(full)
                if sync.has_nothing_to_send and self._wire.call(sync.question()):
                    return sync.result()
                if sync.has_nothing_to_send:
                    continue
                with contextlib.suppress(ConflictError):
                    self._wire.send(
                        sync.call(codebase_id),
                        lambda: sync.messages(codebase_id),
                        lambda: report(sync.progress),
                    )
                    sync.finish()
                    return sync.result()
            raise ConflictError(f"Cannot synchronise {codebase_id}", OTHERS_CHANGE_IT)
        finally:
            report.close()

    # ---- archives --------------------------------------------------------------------------

    def import_archive(
        self,
        codebase_id: str,
        source: fc.Archive,
        path: fc.Path = "",
        merge: bool = False,
        remove: Iterable[fc.Path] = (),
    ) -> types.ImportResult:
        """A tar archive (also gzip, bzip2, xz, zstd) into a codebase: all of it, or nothing.

        source: bytes, a binary file, or an iterable of pieces. path: below this directory, which
        becomes what the archive holds; merge: names that are not in it stay, `remove` go.
        UploadError (no archive, names that leave the tree), CodebaseNotFoundError.
        """
        call = fc.import_archive(codebase_id, source, path, merge, remove)
        return self._wire.send(call, call.request)

    def export_archive(
        self,
        *,
        codebase_id: Optional[str] = None,
        sandbox_id: Optional[str] = None,
        delta_of: Optional[str] = None,
        path: fc.Path = "",
        zstd: bool = False,
        everything: bool = False,
    ) -> Iterator[bytes]:
        """A tar archive, in pieces, of a codebase, of a sandbox as its agent sees it, or of a
        sandbox's changes alone. everything: of a sandbox also what its rules hide.
        """
        return self._wire.stream(
            fc.export_archive(codebase_id, sandbox_id, delta_of, path, zstd, everything)
        )

    def import_directory(
        self,
        codebase_id: str,
        path: _tree.Path,
        exclude: Iterable[fc.Path] = (),
        ignore_files: bool = True,
        merge: bool = False,
    ) -> types.ImportResult:
        """A directory of the daemon's host, which the daemon reads with this process's rights.

        The fastest way in, over the unix socket only; the next time only changes are read
        (`unchanged` of the result). exclude: patterns as in .gitignore; ignore_files: honour
        .gitignore and .sandboxignore. The codebase becomes what the directory holds; merge: other
        names stay. UploadError, PermissionDeniedError, CodebaseNotFoundError.
        """
        return self._wire.call(fc.import_directory(codebase_id, path, exclude, ignore_files, merge))

    # ---- files -----------------------------------------------------------------------------

    def files(self, sandbox_id: str) -> SandboxFiles:
        """The files of a running sandbox as its agent would use them; see SandboxFiles."""
        return SandboxFiles(self._wire, sandbox_id)

    def iter_files(
        self, codebase_id: str, path: fc.Path = "", recursive: bool = False
    ) -> Iterator[ext.FileEntry]:
        """What a codebase's directory holds, in path order, as a stream: no bound on the number."""
        return self._wire.stream(fc.list_codebase(codebase_id, path, recursive))

    # ---- many sandboxes --------------------------------------------------------------------

    def create_sandboxes(
        self, specs: Iterable[Union[ext.SandboxSpec, Mapping[str, Any]]]
    ) -> List[ext.BatchResult]:
        """Many sandboxes in one call; each item of the result has a sandbox or an error."""
        return self._wire.call(v1.create_sandboxes(specs, self._wire.endpoint.target))

    def destroy_sandboxes(self, sandbox_ids: Iterable[str]) -> List[Optional[SandboxError]]:
        """Destroys many side by side; for each None, or the error that it met."""
        return self._wire.call(v1.destroy_sandboxes(sandbox_ids, self._wire.endpoint.target))

    def create_sandbox_from(self, spec: ext.SandboxSpec) -> types.Sandbox:
        """One sandbox with everything a SandboxSpec can say."""
        return self._wire.call(v1.create_view(v1.spec_of(spec)))

    # ---- a living sandbox ------------------------------------------------------------------

    def get_view(self, sandbox_id: str) -> ext.View:
        """A sandbox with its options, access and sizes. SandboxNotFoundError."""
        return self._wire.call(v1.get_view(sandbox_id))

    def list_views(
        self,
        codebase_id: Optional[str] = None,
        owner_id: Optional[str] = None,
        labels: Optional[Mapping[str, str]] = None,
        status: Optional[types.SandboxStatus] = None,
    ) -> Iterator[ext.View]:
        """Sandboxes in id order, as a stream; each condition that is given must hold."""
        return self._wire.stream(v1.list_views(codebase_id, owner_id, labels, status))

    def update_permissions(
        self, sandbox_id: str, permissions: Iterable[types.Rule], end_holders: bool = False
    ) -> int:
        """Replaces the rules, at once.

        end_holders: also end processes that hold a file open which the new rules forbid.
        Returns how many were ended. SandboxNotFoundError, InvalidConfigurationError.
        """
        return self._wire.call(v1.update_permissions(sandbox_id, permissions, end_holders))

    def set_quota(self, sandbox_id: str, bytes: int = 0, inodes: int = 0) -> ext.View:
        """Bounds what the sandbox may add to its base; 0: no bound."""
        return self._wire.call(v1.set_quota(sandbox_id, bytes, inodes))

    def set_io_limit(self, sandbox_id: str, iops: int = 0, bandwidth: int = 0) -> ext.View:
        """Limits its file system requests, and the bytes they move, in a second; 0: no limit.

        What is over the limit waits, also what waits now. Requests that the kernel answers from
        its caches cost nothing. InvalidConfigurationError: above what the daemon allows.
        """
        return self._wire.call(v1.set_io_limit(sandbox_id, iops, bandwidth))

    def set_access(self, sandbox_id: str, access: ext.Access) -> ext.View:
        """Freezes the view, cuts it off, or gives it back."""
        return self._wire.call(v1.set_access(sandbox_id, access))

    def set_expiry(self, sandbox_id: str, expires_in: Timeout) -> ext.View:
        """Moves the time at which it is destroyed, from now; None: never."""
        return self._wire.call(v1.set_expiry(sandbox_id, expires_in))

    def set_commit_policy(
        self,
        sandbox_id: str,
        policy: ext.CommitPolicy,
        conflicts: Optional[ext.ConflictPolicy] = None,
    ) -> ext.View:
        """When its changes reach the codebase."""
        return self._wire.call(v1.set_commit_policy(sandbox_id, policy, conflicts))

    def commit(
        self, sandbox_id: str, conflicts: Optional[ext.ConflictPolicy] = None
    ) -> ext.CommitResult:
        """Brings its changes into the codebase; on the disk when it returns. ConflictError."""
        return self._wire.call(v1.commit(sandbox_id, conflicts))

    def rollback(self, sandbox_id: str) -> ext.View:
        """Drops its changes. SandboxError while commands run."""
        return self._wire.call(v1.rollback(sandbox_id))

    def rebase(self, sandbox_id: str) -> ext.RebaseResult:
        """Brings it onto the codebase's present state; its own changes stay."""
        return self._wire.call(v1.rebase(sandbox_id))

    def diff(self, sandbox_id: str) -> List[ext.DiffEntry]:
        """What the sandbox changed against its base, in path order."""
        return list(self._wire.stream(v1.diff(sandbox_id)))

    # ---- watching --------------------------------------------------------------------------

    def watch(
        self, sandbox_id: str, path: mc.Path = "", denied: bool = False
    ) -> Events[ext.WatchEvent]:
        """Changes of the sandbox's files as they happen; denied: refused accesses, too.

        path: only this and what is below, as commands see it (/workspace/x) or relative.
        Nothing is missed once this has returned. SandboxNotFoundError.
        """
        return Events(self._wire, mc.watch(sandbox_id, path, denied))

    def watch_codebase(self, codebase_id: str, path: mc.Path = "") -> Events[ext.WatchEvent]:
        """What uploads, imports and the commits of sandboxes change in a codebase, as it happens.

        path: only this and what is below. A change is told once it is committed, with the sandbox
        whose commit it was (WatchEvent.sandbox_id). Nothing is missed once this has returned.
        CodebaseNotFoundError.
        """
        return Events(self._wire, mc.watch_codebase(codebase_id, path))

    def trace(
        self, sandbox_id: str, path: mc.Path = "", denied: bool = False
    ) -> Events[ext.TraceEvent]:
        """Every request of the sandbox's file system that reaches the daemon, with the verdict and
        the rule that decides; denied: only what is refused. docs/MONITORING.md says what the kernel
        answers by itself. Otherwise as watch.
        """
        return Events(self._wire, mc.trace(sandbox_id, path, denied))

    # ---- processes -------------------------------------------------------------------------

    def process(
        self,
        sandbox_id: str,
        command: ext.Command = "",
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
        terminal: Terminal = None,
        stdin: bool = True,
    ) -> SandboxProcess:
        """Runs a command in the foreground and talks to it; see SandboxProcess.

        command: text is a shell command line, a list an argument vector, "" the root's shell.
        timeout: seconds or timedelta; None: only the daemon's maximum. terminal: True or a
        TerminalSize for a PTY. stdin: keep it open for write(); False: /dev/null.
        """
        spec = v1.process_spec(sandbox_id, command or (), env, workdir, timeout, terminal, stdin)
        return SandboxProcess(self._wire, spec)

    def start_process(
        self,
        sandbox_id: str,
        command: ext.Command,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        timeout: Timeout = None,
        terminal: Terminal = None,
        stdin: bool = False,
    ) -> ext.ProcessInfo:
        """Starts a command in the background: it lives until it ends, or its sandbox does."""
        spec = v1.process_spec(sandbox_id, command, env, workdir, timeout, terminal, stdin)
        return self._wire.call(v1.start_process(spec))

    def list_processes(self, sandbox_id: str) -> List[ext.ProcessInfo]:
        """The background processes of a sandbox, ended ones too."""
        return self._wire.call(v1.list_processes(sandbox_id))

    def get_process(self, process_id: str) -> ext.ProcessInfo:
        """A background process."""
        return self._wire.call(v1.get_process(process_id))

    def wait_process(self, process_id: str) -> ext.ProcessInfo:
        """Returns at its end."""
        return self._wire.call(v1.wait_process(process_id))

    def attach_process(self, process_id: str, follow: bool = True) -> Attachment:
        """Its kept output, and with `follow` what comes until its end."""
        return Attachment(self._wire, v1.attach_process(process_id, follow))

    def write_process(
        self, process_id: str, data: Union[str, bytes] = b"", eof: bool = False
    ) -> None:
        """Bytes for its stdin, and its end with `eof`."""
        self._wire.call(v1.write_process(process_id, data, eof))

    def resize_process(self, process_id: str, rows: int, columns: int) -> ext.ProcessInfo:
        """A new size of its terminal."""
        return self._wire.call(v1.resize_process(process_id, rows, columns))

    def signal_process(
        self, process_id: str, signal: int, everything: bool = False
    ) -> ext.ProcessInfo:
        """A signal to its leader, or to everything that it started."""
        return self._wire.call(v1.signal_process(process_id, signal, everything))
