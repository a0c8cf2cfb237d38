"""Every call of agentfense.v1 that the package makes, built and checked."""

from __future__ import annotations

import os
from typing import Any, Dict, Iterable, List, Mapping, Optional, Union

import grpc

from . import _convert as cv
from . import _errors, presets, types
from . import _rpc as rpc
from . import extensions as ext
from ._calls import AnyCall, sandbox_id, sandbox_request
from ._proto import agentfense_pb2 as af
from ._proto import agentfense_process_pb2 as proc
from ._proto import agentfense_sandbox_pb2 as sbx
from ._proto import sandbox_pb2 as pb
from ._rpc import About, Call
from .exceptions import InvalidConfigurationError

_COMMIT = {p: getattr(sbx, f"COMMIT_POLICY_{p.name}") for p in ext.CommitPolicy}
_CONFLICT = {p: getattr(sbx, f"CONFLICT_POLICY_{p.name}") for p in ext.ConflictPolicy}
_NETWORK = {p: getattr(sbx, f"NETWORK_{p.name}") for p in ext.Network}
_ACCESS = {p: getattr(sbx, f"ACCESS_{p.name}") for p in ext.Access}
_STATUS_CODES: Dict[int, Any] = {code.value[0]: code for code in grpc.StatusCode}


def _member(table: Mapping[Any, Any], number: int, default: Any) -> Any:
    return next((member for member, n in table.items() if n == number), default)


def _count(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be a whole number, not {value!r}")
    if not 0 <= value < 2**64:
        raise InvalidConfigurationError(f"{what} {value} is out of range")
    return value


def _about(operation: str, id_: str, needs_running: bool = False) -> About:
    return About(operation, "sandbox", sandbox_id=id_, needs_running=needs_running)


# ---- creation ----------------------------------------------------------------------------


def spec_of(spec: Any) -> ext.SandboxSpec:
    """A SandboxSpec from one, or from a mapping with its names."""
    if isinstance(spec, ext.SandboxSpec):
        return spec
    if isinstance(spec, Mapping):
        types._check_keys(ext.SandboxSpec, spec)
        if "codebase_id" not in spec:
            raise InvalidConfigurationError("a sandbox needs a codebase_id")
        return ext.SandboxSpec(**spec)
    raise TypeError(f"a sandbox is a SandboxSpec or a mapping, not {type(spec).__name__}")


def create_request(spec: ext.SandboxSpec) -> sbx.CreateRequest:
    """The request of one sandbox."""
    permissions: Any = spec.permissions
    if spec.preset is not None:
        permissions = presets.resolve(spec.preset, spec.permissions)
    request = sbx.CreateRequest(
        sandbox=sandbox_request(
            spec.codebase_id,
            permissions,
            spec.labels,
            spec.expires_in,
            spec.runtime,
            spec.image,
            spec.resources,
        ),
        start=bool(spec.start),
    )
    options = request.options
    if spec.commit_policy is not None:
        options.commit_policy = _COMMIT[ext.CommitPolicy(spec.commit_policy)]
    if spec.conflict_policy is not None:
        options.conflict_policy = _CONFLICT[ext.ConflictPolicy(spec.conflict_policy)]
    if spec.network is not None:
        options.network = _NETWORK[ext.Network(spec.network)]
    if spec.quota_bytes is not None:
        options.quota.bytes = _count(spec.quota_bytes, "quota_bytes")
    if spec.quota_inodes is not None:
        options.quota.inodes = _count(spec.quota_inodes, "quota_inodes")
    if spec.iops is not None:
        options.io_limit.iops = _count(spec.iops, "iops")
    if spec.bandwidth is not None:
        options.io_limit.bandwidth = _count(spec.bandwidth, "bandwidth")
    return request


def create_view(spec: ext.SandboxSpec) -> Call[Any, Any, types.Sandbox]:
    request = create_request(spec)
    about = About("create sandbox", "codebase", codebase_id=request.sandbox.codebase_id)
    return Call(rpc.CREATE_VIEW, request, about, lambda m: cv.sandbox(m.sandbox))


def _batch_error(status: Any, about: About, endpoint: str) -> Any:
    code = _STATUS_CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _errors.to_error(code, status.message, about, endpoint)


def create_sandboxes(specs: Iterable[Any], endpoint: str) -> Call[Any, Any, List[ext.BatchResult]]:
    items = [create_request(spec_of(spec)) for spec in specs]

    def convert(reply: sbx.BatchCreateResponse) -> List[ext.BatchResult]:
        made = []
        for item, asked in zip(reply.items, items):
            if item.status.code == 0:
                made.append(ext.BatchResult(cv.sandbox(item.sandbox)))
            else:
                about = About("create sandbox", "codebase", codebase_id=asked.sandbox.codebase_id)
                made.append(ext.BatchResult(error=_batch_error(item.status, about, endpoint)))
        return made

    request = sbx.BatchCreateRequest(items=items)
    return Call(rpc.BATCH_CREATE, request, About("create sandboxes", "sandbox"), convert)


def destroy_sandboxes(ids: Iterable[Any], endpoint: str) -> Call[Any, Any, List[Any]]:
    names = [sandbox_id(each) for each in ids]

    def convert(reply: sbx.BatchDestroyResponse) -> List[Any]:
        return [
            None if item.code == 0 else _batch_error(item, _about("destroy sandbox", id_), endpoint)
            for item, id_ in zip(reply.items, names)
        ]

    request = sbx.BatchDestroyRequest(sandbox_ids=names)
    return Call(rpc.BATCH_DESTROY, request, About("destroy sandboxes", "sandbox"), convert)


# ---- a living sandbox ----------------------------------------------------------------------


def view(m: sbx.SandboxInfo) -> ext.View:
    """A view from its message."""
    options = m.options
    return ext.View(
        cv.sandbox(m.sandbox),
        _member(_COMMIT, options.commit_policy, ext.CommitPolicy.ON_EXEC),
        _member(_CONFLICT, options.conflict_policy, ext.ConflictPolicy.LAST_WRITER_WINS),
        _member(_NETWORK, options.network, ext.Network.NONE),
        _member(_ACCESS, m.access, ext.Access.NORMAL),
        options.quota.bytes,
        options.quota.inodes,
        m.delta_bytes,
        m.delta_inodes,
        m.owner_id,
        options.io_limit.iops,
        options.io_limit.bandwidth,
    )


def get_view(id_: str) -> Call[Any, Any, ext.View]:
    id_ = sandbox_id(id_)
    return Call(rpc.GET_VIEW, sbx.GetRequest(sandbox_id=id_), _about("get sandbox", id_), view)


def list_views(
    codebase: Optional[str],
    owner_id: Optional[str],
    labels: Optional[Mapping[str, str]],
    status: Optional[types.SandboxStatus],
) -> AnyCall:
    request = sbx.ListRequest(
        codebase_id=cv.text(codebase or "", "codebase_id"),
        owner_id=cv.text(owner_id or "", "owner_id"),
        labels=cv.text_map(labels, "labels"),
    )
    if status is not None:
        name = types.SandboxStatus(status).name
        request.status = getattr(pb, f"SANDBOX_STATUS_{name}", pb.SANDBOX_STATUS_UNSPECIFIED)
    return Call(rpc.LIST_VIEWS, request, About("list sandboxes", "sandbox"), view)


def update_permissions(
    id_: str, permissions: Iterable[types.Rule], end_holders: bool
) -> Call[Any, Any, int]:
    id_ = sandbox_id(id_)
    request = sbx.UpdatePermissionsRequest(
        sandbox_id=id_,
        permissions=cv.rules_messages(presets.as_rules(permissions)),
        end_holders=bool(end_holders),
    )
    about = _about("update permissions", id_)
    return Call(rpc.UPDATE_PERMISSIONS, request, about, lambda m: m.processes_ended)


def set_quota(id_: str, bytes_: int, inodes: int) -> Call[Any, Any, ext.View]:
    id_ = sandbox_id(id_)
    quota = sbx.Quota(bytes=_count(bytes_, "bytes"), inodes=_count(inodes, "inodes"))
    request = sbx.SetQuotaRequest(sandbox_id=id_, quota=quota)
    return Call(rpc.SET_QUOTA, request, _about("set quota", id_), view)


def set_io_limit(id_: str, iops: int, bandwidth: int) -> Call[Any, Any, ext.View]:
    id_ = sandbox_id(id_)
    limit = sbx.IoLimit(iops=_count(iops, "iops"), bandwidth=_count(bandwidth, "bandwidth"))
    request = sbx.SetIoLimitRequest(sandbox_id=id_, io_limit=limit)
    return Call(rpc.SET_IO_LIMIT, request, _about("set limit", id_), view)


def set_access(id_: str, access: ext.Access) -> Call[Any, Any, ext.View]:
    id_ = sandbox_id(id_)
    request = sbx.SetAccessRequest(sandbox_id=id_, access=_ACCESS[ext.Access(access)])
    return Call(rpc.SET_ACCESS, request, _about("set access", id_), view)


def set_expiry(id_: str, expires_in: cv.Timeout) -> Call[Any, Any, ext.View]:
    id_ = sandbox_id(id_)
    request = sbx.SetExpiryRequest(sandbox_id=id_)
    cv.set_duration(request.expires_in, expires_in, "expires_in")
    return Call(rpc.SET_EXPIRY, request, _about("set expiry", id_), view)


def set_commit_policy(
    id_: str, policy: ext.CommitPolicy, conflicts: Optional[ext.ConflictPolicy]
) -> Call[Any, Any, ext.View]:
    id_ = sandbox_id(id_)
    request = sbx.SetCommitPolicyRequest(
        sandbox_id=id_,
        commit_policy=_COMMIT[ext.CommitPolicy(policy)],
        conflict_policy=_conflict(conflicts),
    )
    return Call(rpc.SET_COMMIT_POLICY, request, _about("set commit policy", id_), view)


def _conflict(policy: Optional[ext.ConflictPolicy]) -> Any:
    if policy is None:
        return sbx.CONFLICT_POLICY_UNSPECIFIED
    return _CONFLICT[ext.ConflictPolicy(policy)]


def commit(id_: str, conflicts: Optional[ext.ConflictPolicy]) -> Call[Any, Any, ext.CommitResult]:
    id_ = sandbox_id(id_)
    request = sbx.CommitRequest(sandbox_id=id_, conflict_policy=_conflict(conflicts))
    return Call(
        rpc.COMMIT,
        request,
        _about("commit", id_),
        lambda m: ext.CommitResult(m.entries, m.conflicts, m.merged),
    )


def rollback(id_: str) -> Call[Any, Any, ext.View]:
    id_ = sandbox_id(id_)
    request = sbx.RollbackRequest(sandbox_id=id_)
    return Call(rpc.ROLLBACK, request, _about("roll back", id_), view)


def rebase(id_: str) -> Call[Any, Any, ext.RebaseResult]:
    id_ = sandbox_id(id_)
    request = sbx.RebaseRequest(sandbox_id=id_)
    return Call(
        rpc.REBASE,
        request,
        _about("rebase", id_),
        lambda m: ext.RebaseResult(m.moved, m.conflicts),
    )


def _enum(enum: Any, wrapper: Any, number: int, prefix: str) -> Any:
    try:
        return enum(wrapper.Name(number)[len(prefix) :].lower())
    except (ValueError, InvalidConfigurationError):
        return enum.UNKNOWN


def diff_entry(m: af.DiffEntry) -> ext.DiffEntry:
    """A change from its message."""
    return ext.DiffEntry(
        _enum(ext.Change, af.DiffEntry.Change, m.change, "CHANGE_"),
        os.fsdecode(m.path),
        _enum(ext.FileKind, af.FileKind, m.kind, "FILE_KIND_"),
        os.fsdecode(m.old_path) if m.old_path else None,
        m.size,
        m.mode,
        os.fsdecode(m.symlink_target) if m.symlink_target else None,
        cv.time(m, "modified_at"),
        m.ino,
    )


def diff(id_: str) -> AnyCall:
    id_ = sandbox_id(id_)
    return Call(rpc.DIFF, af.DiffRequest(sandbox_id=id_), _about("diff", id_), diff_entry)


# ---- processes -----------------------------------------------------------------------------


def process_spec(
    id_: str,
    command: ext.Command,
    env: Optional[Mapping[str, str]],
    workdir: Union[None, str, bytes],
    timeout: cv.Timeout,
    terminal: Union[None, bool, ext.TerminalSize],
    stdin: bool,
) -> proc.ProcessSpec:
    """What to run: text is a shell command line, a list an argument vector, () a shell."""
    spec = proc.ProcessSpec(
        sandbox_id=sandbox_id(id_),
        env=cv.text_map(env, "env"),
        workdir=cv.raw(workdir or b"", "workdir"),
        stdin=bool(stdin),
    )
    if isinstance(command, (str, bytes)):
        spec.command = cv.raw(command, "command")
    else:  # an empty one is the root's shell
        spec.argv.extend(cv.raw(word, "an argument") for word in command)
    cv.set_duration(spec.timeout, timeout)
    if terminal:
        size = terminal if isinstance(terminal, ext.TerminalSize) else ext.TerminalSize()
        spec.terminal.CopyFrom(terminal_message(size.rows, size.columns))
    return spec


def terminal_message(rows: int, columns: int) -> proc.Terminal:
    """The size of a terminal as a message."""
    return proc.Terminal(rows=_count(rows, "rows"), columns=_count(columns, "columns"))


def about_process(spec: proc.ProcessSpec) -> About:
    """The subject of a call that starts a process."""
    shown = spec.command or b" ".join(spec.argv)
    return About(
        "run a process",
        "command",
        sandbox_id=spec.sandbox_id,
        command=os.fsdecode(shown),
        needs_running=True,
    )


def process_exit(m: proc.ProcessExit) -> ext.ProcessExit:
    """How a process ended."""
    return ext.ProcessExit(
        m.exit_code, m.signal, cv.duration(m, "duration"), m.timed_out, m.out_of_memory
    )


def process(m: proc.Process) -> ext.ProcessInfo:
    """A process from its message."""
    return ext.ProcessInfo(
        m.id,
        m.sandbox_id,
        list(m.argv),
        os.fsdecode(m.command),
        m.running,
        m.terminal,
        cv.time(m, "started_at"),
        cv.time(m, "ended_at"),
        process_exit(m.exit) if m.HasField("exit") else None,
    )


def _about_id(operation: str, id_: str) -> About:
    return About(operation, "process", path=id_)


def start_process(spec: proc.ProcessSpec) -> Call[Any, Any, ext.ProcessInfo]:
    request = proc.StartProcessRequest(spec=spec)
    return Call(rpc.PROCESS_START, request, about_process(spec), process)


def list_processes(id_: str) -> Call[Any, Any, List[ext.ProcessInfo]]:
    id_ = sandbox_id(id_)
    return Call(
        rpc.PROCESS_LIST,
        proc.ListProcessesRequest(sandbox_id=id_),
        _about("list processes", id_),
        lambda reply: [process(p) for p in reply.processes],
    )


def get_process(id_: str) -> Call[Any, Any, ext.ProcessInfo]:
    request = proc.ProcessRequest(process_id=cv.text(id_, "process_id"))
    return Call(rpc.PROCESS_GET, request, _about_id("get process", id_), process)


def wait_process(id_: str) -> Call[Any, Any, ext.ProcessInfo]:
    request = proc.ProcessRequest(process_id=cv.text(id_, "process_id"))
    return Call(rpc.PROCESS_WAIT, request, _about_id("wait for process", id_), process)


def attach_process(id_: str, follow: bool) -> AnyCall:
    request = proc.AttachProcessRequest(process_id=cv.text(id_, "process_id"), follow=bool(follow))
    return Call(rpc.PROCESS_ATTACH, request, _about_id("attach to process", id_))


def write_process(id_: str, data: Union[str, bytes], eof: bool) -> Call[Any, Any, None]:
    request = proc.WriteStdinRequest(
        process_id=cv.text(id_, "process_id"), data=cv.raw(data, "data"), eof=bool(eof)
    )
    return Call(rpc.PROCESS_WRITE, request, _about_id("write to process", id_), lambda _m: None)


def resize_process(id_: str, rows: int, columns: int) -> Call[Any, Any, ext.ProcessInfo]:
    request = proc.ResizeProcessRequest(
        process_id=cv.text(id_, "process_id"), size=terminal_message(rows, columns)
    )
    return Call(rpc.PROCESS_RESIZE, request, _about_id("resize process", id_), process)


def signal_process(id_: str, signal: int, everything: bool) -> Call[Any, Any, ext.ProcessInfo]:
    request = proc.SignalProcessRequest(
        process_id=cv.text(id_, "process_id"), signal=int(signal), all=bool(everything)
    )
    return Call(rpc.PROCESS_SIGNAL, request, _about_id("signal process", id_), process)
