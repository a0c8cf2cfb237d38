"""The methods of the contract, and what one call is: method, request, conversion, subject.

A `Call` is the same for both clients; only the way it is sent differs (_wire.py, aio/_wire.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Generic, Optional, Type, TypeVar

from ._proto import agentfense_file_pb2 as fil
from ._proto import agentfense_monitor_pb2 as mon
from ._proto import agentfense_pb2 as af
from ._proto import agentfense_process_pb2 as proc
from ._proto import agentfense_sandbox_pb2 as sbx
from ._proto import sandbox_pb2 as pb

Req = TypeVar("Req")
Res = TypeVar("Res")
T = TypeVar("T")


@dataclass(frozen=True)
class Method(Generic[Req, Res]):
    """One RPC. `shape` is gRPC's: u or s for the request, u or s for the reply."""

    path: str
    request: Type[Req]
    response: Type[Res]
    shape: str = "uu"


@dataclass(frozen=True)
class About:
    """What is known of a call; tells which exception a status means (see _errors.py).

    target: codebase, file, sandbox, command, session or session_command.
    """

    operation: str
    target: str
    sandbox_id: str = ""
    codebase_id: str = ""
    session_id: str = ""
    path: str = ""
    command: str = ""
    timeout_s: Optional[float] = None
    needs_running: bool = False  # FAILED_PRECONDITION means that the sandbox is not running
    is_upload: bool = False


def _same(reply: Any) -> Any:
    return reply


@dataclass(frozen=True)
class Call(Generic[Req, Res, T]):
    """A call that is ready to be sent."""

    method: Method[Req, Res]
    request: Req
    about: About
    convert: Callable[[Res], T] = field(default=_same)


_CODEBASES = "/sandbox.v1.CodebaseService/"
_SANDBOXES = "/sandbox.v1.SandboxService/"
_VIEWS = "/agentfense.v1.SandboxService/"
_INSPECT = "/agentfense.v1.InspectService/"
_TREES = "/agentfense.v1.TreeService/"
_EXEC = "/agentfense.v1.ExecService/"
_PROCESSES = "/agentfense.v1.ProcessService/"
_MONITOR = "/agentfense.v1.MonitorService/"
_FILES = "/agentfense.v1.FileService/"
_ARCHIVES = "/agentfense.v1.ArchiveService/"

CREATE_CODEBASE = Method(_CODEBASES + "CreateCodebase", pb.CreateCodebaseRequest, pb.Codebase)
GET_CODEBASE = Method(_CODEBASES + "GetCodebase", pb.GetCodebaseRequest, pb.Codebase)
LIST_CODEBASES = Method(
    _CODEBASES + "ListCodebases", pb.ListCodebasesRequest, pb.ListCodebasesResponse
)
DELETE_CODEBASE = Method(_CODEBASES + "DeleteCodebase", pb.DeleteCodebaseRequest, pb.Empty)
UPLOAD_FILES = Method(_CODEBASES + "UploadFiles", pb.UploadChunk, pb.UploadResult, "su")
DOWNLOAD_FILE = Method(_CODEBASES + "DownloadFile", pb.DownloadFileRequest, pb.FileChunk, "us")
LIST_FILES = Method(_CODEBASES + "ListFiles", pb.ListFilesRequest, pb.ListFilesResponse)

CREATE_SANDBOX = Method(_SANDBOXES + "CreateSandbox", pb.CreateSandboxRequest, pb.Sandbox)
GET_SANDBOX = Method(_SANDBOXES + "GetSandbox", pb.GetSandboxRequest, pb.Sandbox)
LIST_SANDBOXES = Method(
    _SANDBOXES + "ListSandboxes", pb.ListSandboxesRequest, pb.ListSandboxesResponse
)
START_SANDBOX = Method(_SANDBOXES + "StartSandbox", pb.StartSandboxRequest, pb.Sandbox)
STOP_SANDBOX = Method(_SANDBOXES + "StopSandbox", pb.StopSandboxRequest, pb.Sandbox)
DESTROY_SANDBOX = Method(_SANDBOXES + "DestroySandbox", pb.DestroySandboxRequest, pb.Empty)
EXEC = Method(_SANDBOXES + "Exec", pb.ExecRequest, pb.ExecResult)
EXEC_STREAM = Method(_SANDBOXES + "ExecStream", pb.ExecRequest, pb.ExecOutput, "us")
CREATE_SESSION = Method(_SANDBOXES + "CreateSession", pb.CreateSessionRequest, pb.Session)
GET_SESSION = Method(_SANDBOXES + "GetSession", pb.GetSessionRequest, pb.Session)
LIST_SESSIONS = Method(_SANDBOXES + "ListSessions", pb.ListSessionsRequest, pb.ListSessionsResponse)
DESTROY_SESSION = Method(_SANDBOXES + "DestroySession", pb.DestroySessionRequest, pb.Empty)
SESSION_EXEC = Method(_SANDBOXES + "SessionExec", pb.SessionExecRequest, pb.ExecResult)
SESSION_EXEC_STREAM = Method(
    _SANDBOXES + "SessionExecStream", pb.SessionExecRequest, pb.ExecOutput, "us"
)

CREATE_VIEW = Method(_VIEWS + "Create", sbx.CreateRequest, sbx.SandboxInfo)
BATCH_CREATE = Method(_VIEWS + "BatchCreate", sbx.BatchCreateRequest, sbx.BatchCreateResponse)
BATCH_DESTROY = Method(_VIEWS + "BatchDestroy", sbx.BatchDestroyRequest, sbx.BatchDestroyResponse)
GET_VIEW = Method(_VIEWS + "Get", sbx.GetRequest, sbx.SandboxInfo)
LIST_VIEWS = Method(_VIEWS + "List", sbx.ListRequest, sbx.SandboxInfo, "us")
UPDATE_PERMISSIONS = Method(
    _VIEWS + "UpdatePermissions", sbx.UpdatePermissionsRequest, sbx.UpdatePermissionsResponse
)
SET_IO_LIMIT = Method(_VIEWS + "SetIoLimit", sbx.SetIoLimitRequest, sbx.SandboxInfo)
SET_QUOTA = Method(_VIEWS + "SetQuota", sbx.SetQuotaRequest, sbx.SandboxInfo)
SET_ACCESS = Method(_VIEWS + "SetAccess", sbx.SetAccessRequest, sbx.SandboxInfo)
SET_EXPIRY = Method(_VIEWS + "SetExpiry", sbx.SetExpiryRequest, sbx.SandboxInfo)
SET_COMMIT_POLICY = Method(_VIEWS + "SetCommitPolicy", sbx.SetCommitPolicyRequest, sbx.SandboxInfo)
COMMIT = Method(_VIEWS + "Commit", sbx.CommitRequest, sbx.CommitResponse)
ROLLBACK = Method(_VIEWS + "Rollback", sbx.RollbackRequest, sbx.SandboxInfo)
REBASE = Method(_VIEWS + "Rebase", sbx.RebaseRequest, sbx.RebaseResponse)

DIFF = Method(_INSPECT + "Diff", af.DiffRequest, af.DiffEntry, "us")
WATCH = Method(_MONITOR + "Watch", mon.WatchRequest, mon.WatchEvent, "us")
TRACE = Method(_MONITOR + "Trace", mon.TraceRequest, mon.TraceEvent, "us")
IMPORT_TREE = Method(_TREES + "Import", af.ImportRequest, af.ImportResponse, "su")
RUN = Method(_EXEC + "Run", af.RunRequest, af.RunResponse)

FILE_READ = Method(_FILES + "Read", fil.FileReadRequest, fil.FileData, "us")
FILE_WRITE = Method(_FILES + "Write", fil.FileWriteRequest, fil.FileEntry, "su")
FILE_STAT = Method(_FILES + "Stat", fil.FileRequest, fil.FileEntry)
FILE_LIST = Method(_FILES + "List", fil.FileListRequest, fil.FileEntry, "us")
FILE_REMOVE = Method(_FILES + "Remove", fil.FileRemoveRequest, fil.FileRemoveResponse)
FILE_MAKE_DIRECTORY = Method(_FILES + "MakeDirectory", fil.FileRequest, fil.FileEntry)
FILE_LINK = Method(_FILES + "Link", fil.FileLinkRequest, fil.FileEntry)
FILE_RENAME = Method(_FILES + "Rename", fil.FileRenameRequest, fil.FileEntry)

IMPORT_ARCHIVE = Method(
    _ARCHIVES + "ImportArchive", fil.ImportArchiveRequest, fil.ImportArchiveResponse, "su"
)
EXPORT_ARCHIVE = Method(
    _ARCHIVES + "ExportArchive", fil.ExportArchiveRequest, fil.ArchiveChunk, "us"
)
IMPORT_DIRECTORY = Method(
    _ARCHIVES + "ImportDirectory", fil.ImportDirectoryRequest, fil.ImportArchiveResponse
)

PROCESS_RUN = Method(_PROCESSES + "Run", proc.ProcessInput, proc.ProcessOutput, "ss")
PROCESS_START = Method(_PROCESSES + "Start", proc.StartProcessRequest, proc.Process)
PROCESS_LIST = Method(_PROCESSES + "List", proc.ListProcessesRequest, proc.ListProcessesResponse)
PROCESS_GET = Method(_PROCESSES + "Get", proc.ProcessRequest, proc.Process)
PROCESS_ATTACH = Method(_PROCESSES + "Attach", proc.AttachProcessRequest, proc.ProcessOutput, "us")
PROCESS_WRITE = Method(_PROCESSES + "WriteStdin", proc.WriteStdinRequest, proc.WriteStdinResponse)
PROCESS_RESIZE = Method(_PROCESSES + "Resize", proc.ResizeProcessRequest, proc.Process)
PROCESS_SIGNAL = Method(_PROCESSES + "Signal", proc.SignalProcessRequest, proc.Process)
PROCESS_WAIT = Method(_PROCESSES + "Wait", proc.ProcessRequest, proc.Process)
