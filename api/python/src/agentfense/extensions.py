"""Values of what this project adds to the reference contract (agentfense.v1)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Iterable, Mapping, Optional, Sequence, Union

from .exceptions import SandboxError
from .types import Permission, ResourceLimits, Rule, RuntimeType, Sandbox, _Name


class CommitPolicy(_Name):
    """When a sandbox's changes reach its codebase."""

    ON_EXEC = "on_exec"  # when its last running command ends; the default
    MANUAL = "manual"  # when asked to, by commit()
    ON_DESTROY = "on_destroy"


class ConflictPolicy(_Name):
    """What a commit does with files that others changed meanwhile."""

    LAST_WRITER_WINS = "last_writer_wins"
    REFUSE = "refuse"  # ConflictError, nothing is changed


class Network(_Name):
    """Which network commands see."""

    NONE = "none"
    HOST = "host"  # only where the daemon's configuration allows it


class Access(_Name):
    """What a view allows at all, above its rules."""

    NORMAL = "normal"
    READ_ONLY = "read_only"
    CUT_OFF = "cut_off"


class FileKind(_Name):
    """What a path is."""

    REGULAR = "regular"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    UNKNOWN = "unspecified"


class Change(_Name):
    """What happened to a path."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"
    METADATA = "metadata"  # mode, owner or times alone
    RENAMED = "renamed"
    UNKNOWN = "unspecified"


class WatchKind(_Name):
    """What happened in a sandbox."""

    CREATED = "created"
    MODIFIED = "modified"  # content or attributes
    DELETED = "deleted"
    RENAMED = "renamed"
    DENIED = "denied"
    LOST = "lost"  # events that came faster than they were taken: `lost` of them
    READY = "ready"
    UNKNOWN = "unspecified"


@dataclass
class SandboxSpec:
    """One sandbox of `create_sandboxes`; None: as `create_sandbox` does."""

    codebase_id: str
    permissions: Optional[Sequence[Rule]] = None
    preset: Optional[str] = None
    labels: Optional[Mapping[str, str]] = None
    expires_in: Union[None, float, timedelta] = None
    runtime: Optional[RuntimeType] = None
    image: Optional[str] = None
    resources: Union[None, ResourceLimits, Mapping[str, Any]] = None
    commit_policy: Optional[CommitPolicy] = None
    conflict_policy: Optional[ConflictPolicy] = None
    quota_bytes: Optional[int] = None  # of what it adds to its base
    quota_inodes: Optional[int] = None
    iops: Optional[int] = None  # file system requests a second; what is over it waits
    bandwidth: Optional[int] = None  # bytes a second that they read and write, 65536 at least
    network: Optional[Network] = None
    start: bool = False


@dataclass
class BatchResult:
    """What became of one item: a sandbox, or the error that it alone met."""

    sandbox: Optional[Sandbox] = None
    error: Optional[SandboxError] = None

    def unwrap(self) -> Sandbox:
        """The sandbox; raises the error when there is one."""
        if self.error is not None:
            raise self.error
        assert self.sandbox is not None
        return self.sandbox


@dataclass
class View:
    """A sandbox with what agentfense.v1 knows of it."""

    sandbox: Sandbox
    commit_policy: CommitPolicy
    conflict_policy: ConflictPolicy
    network: Network
    access: Access
    quota_bytes: int  # 0: none
    quota_inodes: int
    delta_bytes: int  # what the sandbox added so far, charged to the quota
    delta_inodes: int
    owner_id: str
    iops: int = 0  # requests a second that it asked for, 0: no limit of its own
    bandwidth: int = 0  # bytes a second, likewise


@dataclass
class CommitResult:
    """What a commit did."""

    entries: int  # names added, changed or removed in the codebase
    conflicts: int  # of these, changed by others as well
    merged: bool  # the codebase had moved on


@dataclass
class RebaseResult:
    """What a rebase did."""

    moved: bool  # the codebase had a newer head
    conflicts: int


@dataclass
class WatchEvent:
    """One change of a sandbox's or codebase's files, or a denied access. Paths as in DiffEntry."""

    kind: WatchKind
    path: str
    old_path: Optional[str] = None  # of a rename
    file_kind: FileKind = FileKind.UNKNOWN
    at: Optional[datetime] = None
    operation: Optional[str] = None  # of a denied access: "lookup", "create"
    pid: Optional[int] = None  # on the daemon's host
    lost: int = 0
    path_is_cut: bool = False  # its beginning is missing: it is too long or too deep
    sandbox_id: Optional[str] = None  # of a codebase: whose commit it was; None: upload, import


@dataclass
class TraceEvent:
    """One request of a sandbox's file system, with what the rules say of its path."""

    operation: str
    path: str
    new_path: Optional[str] = None  # of a rename
    error: Optional[str] = None  # "EACCES"; None: done
    hidden: bool = False  # a rule says that the name is not there
    level: Optional[Permission] = None
    rule: Optional[int] = None  # index of the deciding rule; None: none matches
    pattern: Optional[str] = None
    at: Optional[datetime] = None
    took: timedelta = timedelta()  # from the request's arrival in the daemon
    pid: Optional[int] = None
    lost: int = 0  # so many before this one
    path_is_cut: bool = False


@dataclass
class DiffEntry:
    """One change of a sandbox against its base.

    Paths are relative; bytes that are not UTF-8 are surrogate escapes, as in os.fsdecode.
    """

    change: Change
    path: str
    kind: FileKind
    old_path: Optional[str] = None  # of a rename
    size: int = 0
    mode: int = 0  # permission bits
    symlink_target: Optional[str] = None
    modified_at: Optional[datetime] = None
    ino: int = 0  # the same for all names of a file; as os.stat has it in the sandbox


@dataclass
class FileEntry:
    """A file of a sandbox as its agent sees it, or of a codebase."""

    path: str  # relative; surrogate escapes as in os.fsdecode
    kind: FileKind
    size: int  # bytes
    mode: int  # permission bits
    modified_at: Optional[datetime] = None
    symlink_target: Optional[str] = None
    level: Optional[Permission] = None  # what the rules say of it; None in a codebase


@dataclass
class ProcessExit:
    """How a process ended."""

    exit_code: int  # 128 + signal when a signal ended it
    signal: int = 0
    duration: Optional[timedelta] = None
    timed_out: bool = False
    out_of_memory: bool = False

    @property
    def success(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0


@dataclass
class ProcessInfo:
    """What the daemon says of a background process."""

    id: str
    sandbox_id: str
    argv: Sequence[bytes]
    command: str
    running: bool
    terminal: bool
    started_at: Optional[datetime] = None
    ended_at: Optional[datetime] = None
    exit: Optional[ProcessExit] = None


@dataclass
class TerminalSize:
    """Rows and columns of a terminal."""

    rows: int = 24
    columns: int = 80


Command = Union[str, bytes, Iterable[Union[str, bytes]]]
