"""Watch and Trace: the calls, and what becomes of their events."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from typing import Any, Union

from . import _convert as cv
from . import _rpc as rpc
from . import extensions as ext
from ._calls import AnyCall, codebase_id, sandbox_id
from ._calls_v1 import _about, _enum
from ._proto import agentfense_monitor_pb2 as mon
from ._proto import agentfense_pb2 as af
from ._rpc import Call
from .exceptions import InvalidConfigurationError
from .types import Permission

Path = Union[str, bytes, "os.PathLike[str]"]


def _path(path: Path) -> bytes:
    """Of /workspace/x, or relative."""
    raw = os.fsencode(path)
    for prefix in (b"/workspace/", b"/workspace"):
        if raw.startswith(prefix) and (prefix.endswith(b"/") or raw == prefix):
            return raw[len(prefix) :]
    return raw


def _watch_event(m: mon.WatchEvent) -> ext.WatchEvent:
    return ext.WatchEvent(
        _enum(ext.WatchKind, mon.WatchEvent.Kind, m.kind, "KIND_"),
        os.fsdecode(m.path),
        os.fsdecode(m.old_path) if m.old_path else None,
        _enum(ext.FileKind, af.FileKind, m.file_kind, "FILE_KIND_"),
        cv.time(m, "at"),
        m.operation or None,
        m.pid or None,
        m.lost,
        m.path_is_cut,
        m.sandbox_id or None,
    )


def _level(number: int) -> Any:
    """None when the rules could not be asked."""
    try:
        return Permission(af.Level.Name(number)[len("LEVEL_") :].lower())
    except (ValueError, InvalidConfigurationError):
        return None


def _trace_event(m: mon.TraceEvent) -> ext.TraceEvent:
    return ext.TraceEvent(
        m.operation,
        os.fsdecode(m.path),
        os.fsdecode(m.new_path) if m.new_path else None,
        errno.errorcode.get(m.error, str(m.error)) if m.error else None,
        m.hidden,
        _level(m.level),
        m.rule if m.rule >= 0 else None,
        m.pattern or None,
        cv.time(m, "at"),
        timedelta(microseconds=m.took.ToNanoseconds() / 1000),
        m.pid or None,
        m.lost,
        m.path_is_cut,
    )


def watch(id_: str, path: Path, denied: bool) -> AnyCall:
    id_ = sandbox_id(id_)
    request = mon.WatchRequest(sandbox_id=id_, path=_path(path), denied=bool(denied))
    return Call(rpc.WATCH, request, _about("watch", id_), _watch_event)


def watch_codebase(id_: Any, path: Path) -> AnyCall:
    id_ = codebase_id(id_)
    request = mon.WatchRequest(codebase_id=id_, path=os.fsencode(path))
    about = rpc.About("watch codebase", "codebase", codebase_id=id_)
    return Call(rpc.WATCH, request, about, _watch_event)


def trace(id_: str, path: Path, denied: bool) -> AnyCall:
    id_ = sandbox_id(id_)
    request = mon.TraceRequest(sandbox_id=id_, path=_path(path), denied=bool(denied))
    return Call(rpc.TRACE, request, _about("trace", id_), _trace_event)
