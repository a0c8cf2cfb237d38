"""Between the protobuf messages and the package's types, with checks of what callers hand in."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Iterable, List, Mapping, Optional, Union

from . import types
from ._proto import sandbox_pb2 as pb
from .exceptions import InvalidConfigurationError

Timeout = Union[None, int, float, timedelta]
_DURATION_S_MAX = 315_576_000_000  # of google.protobuf.Duration

_PERMISSIONS = {p: getattr(pb, f"PERMISSION_{p.name}") for p in types.Permission}
_PATTERN_TYPES = {t: getattr(pb, f"PATTERN_TYPE_{t.name}") for t in types.PatternType}
_RUNTIMES = {r: getattr(pb, f"RUNTIME_TYPE_{r.name}") for r in types.RuntimeType}


def text(value: Any, what: str) -> str:
    """A `str` that protobuf can carry; TypeError or InvalidConfigurationError."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidConfigurationError(
            f"{what} {value!r} is not UTF-8, which this call cannot carry"
        ) from None
    return str(value)


def raw(value: Any, what: str) -> bytes:
    """Bytes from bytes or text (surrogate escapes stand for the bytes they came from)."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{what} must be text or bytes, not {type(value).__name__}")


def text_map(value: Optional[Mapping[str, str]], what: str) -> Dict[str, str]:
    """A mapping of text to text."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be a mapping of names to text, not {type(value).__name__}")
    return {
        text(k, f"a name in {what}"): text(v, f"the value of {k!r} in {what}")
        for k, v in value.items()
    }


def seconds(value: Timeout, what: str = "timeout") -> Optional[float]:
    """Seconds from a number or a timedelta; None stays None."""
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} must be seconds or a timedelta, not {type(value).__name__}")
    if not 0 <= value <= _DURATION_S_MAX:  # NaN fails as well
        raise InvalidConfigurationError(f"{what} {value!r} is out of range")
    return float(value)


def set_duration(field: Any, value: Timeout, what: str = "timeout") -> None:
    """Fills a Duration field; None leaves it absent."""
    number = seconds(value, what)
    if number is not None:
        whole = int(number)
        field.seconds = whole
        field.nanos = min(round((number - whole) * 1e9), 999_999_999)
        field.SetInParent()


def duration(message: Any, name: str) -> Optional[timedelta]:
    """The timedelta in a field; None when absent."""
    if not message.HasField(name):
        return None
    value = getattr(message, name)
    return timedelta(seconds=value.seconds, microseconds=value.nanos / 1000)


def time(message: Any, name: str) -> Optional[datetime]:
    """The aware datetime in a Timestamp field; None when absent or beyond datetime's range."""
    if not message.HasField(name):
        return None
    value = getattr(message, name)
    try:
        made = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=value.seconds)
    except OverflowError:
        return None
    return made.replace(microsecond=value.nanos // 1000)


def _named(enum: Any, wrapper: Any, number: int, prefix: str, default: Any) -> Any:
    try:
        return enum(wrapper.Name(number)[len(prefix) :].lower())
    except (ValueError, InvalidConfigurationError):  # a value that this version does not know
        return default


def rule_message(rule: types.PermissionRule) -> pb.PermissionRule:
    """The message of a rule."""
    return pb.PermissionRule(
        pattern=text(rule.pattern, "a rule's pattern"),
        type=_PATTERN_TYPES[rule.type],
        permission=_PERMISSIONS[rule.permission],
        priority=rule.priority,
    )


def rules_messages(rules: Iterable[types.PermissionRule]) -> List[pb.PermissionRule]:
    """The messages of rules."""
    return [rule_message(rule) for rule in rules]


def rule(message: pb.PermissionRule) -> types.PermissionRule:
    """A rule from its message."""
    kind = types.PatternType
    return types.PermissionRule(
        message.pattern,
        _named(
            types.Permission,
            pb.Permission,
            message.permission,
            "PERMISSION_",
            types.Permission.NONE,
        ),
        _named(kind, pb.PatternType, message.type, "PATTERN_TYPE_", kind.GLOB),
        message.priority,
    )


def runtime_number(runtime: Union[None, str, types.RuntimeType]) -> Any:
    """The enum value of a runtime; None: the daemon's default."""
    if runtime is None:
        return pb.RUNTIME_TYPE_UNSPECIFIED
    return _RUNTIMES[types.RuntimeType(runtime)]


def set_resources(message: pb.ResourceLimits, limits: Any) -> None:
    """Fills the resource limits from ResourceLimits or a mapping."""
    if isinstance(limits, Mapping):
        limits = types.ResourceLimits.from_dict(limits)
    if not isinstance(limits, types.ResourceLimits):
        raise TypeError(f"resources must be ResourceLimits, not {type(limits).__name__}")
    for name, value in limits.to_dict().items():
        setattr(message, name, value)
    message.SetInParent()


def codebase(m: pb.Codebase) -> types.Codebase:
    """A codebase from its message."""
    return types.Codebase(
        m.id,
        m.name,
        m.owner_id,
        m.size,
        m.file_count,
        time(m, "created_at"),
        time(m, "updated_at"),
    )


def sandbox(m: pb.Sandbox) -> types.Sandbox:
    """A sandbox from its message."""
    status, runtime = types.SandboxStatus, types.RuntimeType
    resources = None
    if m.HasField("resources"):
        fields = ("memory_bytes", "cpu_quota", "cpu_shares", "pids_limit")
        resources = types.ResourceLimits(**{f: getattr(m.resources, f) or None for f in fields})
    return types.Sandbox(
        id=m.id,
        codebase_id=m.codebase_id,
        status=_named(status, pb.SandboxStatus, m.status, "SANDBOX_STATUS_", status.UNKNOWN),
        permissions=[rule(r) for r in m.permissions],
        labels=dict(m.labels),
        runtime=_named(runtime, pb.RuntimeType, m.runtime, "RUNTIME_TYPE_", runtime.BWRAP),
        image=m.image or None,
        resources=resources,
        created_at=time(m, "created_at"),
        started_at=time(m, "started_at"),
        stopped_at=time(m, "stopped_at"),
        expires_at=time(m, "expires_at"),
    )


def session(m: pb.Session) -> types.Session:
    """A session from its message."""
    status = types.SessionStatus
    return types.Session(
        m.id,
        m.sandbox_id,
        _named(status, pb.SessionStatus, m.status, "SESSION_STATUS_", status.UNKNOWN),
        m.shell,
        time(m, "created_at"),
        time(m, "closed_at"),
    )


def result(m: pb.ExecResult, command: str) -> types.ExecResult:
    """How a command ended."""
    return types.ExecResult(m.stdout, m.stderr, m.exit_code, duration(m, "duration"), command)


def chunk(m: pb.ExecOutput) -> types.OutputChunk:
    """A piece of output."""
    is_err = m.type == pb.ExecOutput.OUTPUT_TYPE_STDERR
    return types.OutputChunk(m.data, "stderr" if is_err else "stdout")


def file_info(m: pb.FileInfo) -> types.FileInfo:
    """A file of a listing."""
    return types.FileInfo(m.path, m.name, m.is_dir, m.size, time(m, "modified_at"))


def upload_result(m: pb.UploadResult) -> types.UploadResult:
    """What an upload stored."""
    return types.UploadResult(m.codebase_id, m.file_path, m.size, m.checksum)
