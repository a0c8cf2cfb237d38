"""The values that calls take and return. Times are aware datetimes (UTC), durations timedeltas."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Dict, List, Mapping, Optional, Union

from .exceptions import CommandExecutionError, InvalidConfigurationError


class _Name(str, enum.Enum):
    """An enum whose members are strings; unknown values are told with the known ones."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        known = ", ".join(repr(m.value) for m in cls)
        raise InvalidConfigurationError(f"{value!r} is no {cls.__name__}: use one of {known}")


class Permission(_Name):
    """What a rule allows. Each level includes those before it."""

    NONE = "none"  # does not exist for the sandbox
    VIEW = "view"  # listed, with attributes; cannot be opened
    READ = "read"
    WRITE = "write"


class PatternType(_Name):
    """How a rule's pattern matches."""

    GLOB = "glob"
    DIRECTORY = "directory"  # it and everything below it
    FILE = "file"  # exactly this path


class RuntimeType(_Name):
    """What commands run in."""

    BWRAP = "bwrap"
    DOCKER = "docker"


class SandboxStatus(_Name):
    """Where a sandbox is in its life."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    RUNNING = "running"
    STOPPED = "stopped"
    ERROR = "error"


class SessionStatus(_Name):
    """Whether a session takes commands."""

    UNKNOWN = "unknown"
    ACTIVE = "active"
    CLOSED = "closed"


def _check_keys(kind: Any, data: Mapping[str, Any]) -> None:
    known = [f.name for f in dataclasses.fields(kind)]
    unknown = [key for key in data if key not in known]
    if unknown:
        raise InvalidConfigurationError(
            f"{kind.__name__} has no {unknown[0]!r}: it has {', '.join(known)}"
        )


@dataclass
class PermissionRule:
    """One rule: what matches `pattern` has the level `permission`; the highest priority wins."""

    pattern: str
    permission: Permission = Permission.READ
    type: PatternType = PatternType.GLOB
    priority: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str) or not self.pattern:
            raise InvalidConfigurationError(f"a rule's pattern must be text, not {self.pattern!r}")
        self.permission = Permission(self.permission)
        self.type = PatternType(self.type)
        try:
            self.priority = int(self.priority)
        except (TypeError, ValueError):
            raise InvalidConfigurationError(
                f"the priority of {self.pattern!r} must be a whole number, not {self.priority!r}"
            ) from None
        if not -(2**31) <= self.priority < 2**31:
            raise InvalidConfigurationError(f"the priority {self.priority} is out of range")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PermissionRule:
        """From a mapping with the same names; all but `pattern` may be missing."""
        _check_keys(cls, data)
        if "pattern" not in data:
            raise InvalidConfigurationError(f"a rule needs a pattern: {dict(data)!r}")
        return cls(**data)

    def to_dict(self) -> Dict[str, Any]:
        """As a mapping of plain values."""
        return {
            "pattern": self.pattern,
            "permission": self.permission.value,
            "type": self.type.value,
            "priority": self.priority,
        }


Rule = Union[PermissionRule, Mapping[str, Any]]


@dataclass
class ResourceLimits:
    """Limits of a sandbox; None: no limit of its own."""

    memory_bytes: Optional[int] = None
    cpu_quota: Optional[int] = None  # microseconds of CPU time per 100 ms: 50000 is half a core
    cpu_shares: Optional[int] = None  # relative weight; 1024 is usual
    pids_limit: Optional[int] = None  # processes and threads

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidConfigurationError(
                    f"{each.name} must be a whole number, not {value!r}"
                )
            if not 0 <= value < 2**63:
                raise InvalidConfigurationError(f"{each.name} {value} is out of range")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ResourceLimits:
        """From a mapping with the same names."""
        _check_keys(cls, data)
        return cls(**data)

    def to_dict(self) -> Dict[str, int]:
        """As a mapping of the limits that are set."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclass
class Codebase:
    """A named collection of files that sandboxes are made on."""

    id: str
    name: str
    owner_id: str
    size: int = 0  # bytes of all its files
    file_count: int = 0
    created_at: Optional[datetime] = None
    updated_at: Optional[datetime] = None


@dataclass
class Sandbox:
    """What the daemon says of a sandbox (exported as SandboxInfo)."""

    id: str
    codebase_id: str
    status: SandboxStatus
    permissions: List[PermissionRule] = field(default_factory=list)
    labels: Dict[str, str] = field(default_factory=dict)
    runtime: RuntimeType = RuntimeType.BWRAP
    image: Optional[str] = None
    resources: Optional[ResourceLimits] = None
    created_at: Optional[datetime] = None
    started_at: Optional[datetime] = None
    stopped_at: Optional[datetime] = None
    expires_at: Optional[datetime] = None


SandboxInfo = Sandbox


@dataclass
class Session:
    """What the daemon says of a shell session."""

    id: str
    sandbox_id: str
    status: SessionStatus
    shell: str = ""
    created_at: Optional[datetime] = None
    closed_at: Optional[datetime] = None


@dataclass
class ExecResult:
    """How a command ended. Bytes of its output that are not UTF-8 are U+FFFD."""

    stdout: str
    stderr: str
    exit_code: int  # 128 + signal when a signal ended it
    duration: Optional[timedelta] = None
    command: Optional[str] = None

    @property
    def success(self) -> bool:
        """Whether the exit code is 0."""
        return self.exit_code == 0

    @property
    def output(self) -> str:
        """Stdout, then stderr, each beginning on a line of its own."""
        between = "\n" if self.stdout and self.stderr and not self.stdout.endswith("\n") else ""
        return self.stdout + between + self.stderr

    def raise_on_error(self) -> ExecResult:
        """Itself, or CommandExecutionError when the exit code is not 0."""
        if not self.success:
            raise CommandExecutionError(
                self.command or "", self.exit_code, self.stdout, self.stderr
            )
        return self


class OutputChunk(bytes):
    """A piece of a command's output: bytes that know which stream they are from."""

    stream: str  # "stdout" or "stderr"

    def __new__(cls, data: bytes, stream: str = "stdout") -> OutputChunk:
        """Bytes from `stream`: "stdout" or "stderr"."""
        made = super().__new__(cls, data)
        made.stream = stream
        return made

    @property
    def is_stderr(self) -> bool:
        """Whether the command wrote it to its standard error."""
        return self.stream == "stderr"

    def __repr__(self) -> str:
        return f"OutputChunk({bytes(self)!r}, {self.stream!r})"

    def __reduce__(self) -> Any:
        return OutputChunk, (bytes(self), self.stream)


@dataclass
class FileInfo:
    """A file or directory of a codebase; `path` is relative to it, without a leading slash."""

    path: str
    name: str
    is_dir: bool
    size: int  # bytes
    modified_at: Optional[datetime] = None


@dataclass
class UploadResult:
    """What an upload stored."""

    codebase_id: str
    file_path: str
    size: int  # bytes
    checksum: str  # MD5, hexadecimal


@dataclass
class UploadProgress:
    """How far an upload is; handed to progress callbacks."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    path: str = ""  # what is being sent


@dataclass
class ImportResult:
    """What the upload of a directory did."""

    codebase_id: str
    files: int = 0  # sent
    directories: int = 0
    symlinks: int = 0
    bytes: int = 0  # of the files sent
    unchanged: int = 0  # files that the codebase held already
    removed: int = 0  # names that went
    hard_links: int = 0  # names beyond the first of a file
