"""AgentFense: sandboxes for AI agents.

    from agentfense import Sandbox

    with Sandbox.from_local("./project") as sandbox:
        print(sandbox.run("ls").stdout)

Sandbox and AsyncSandbox are objects for one sandbox; SandboxClient and AsyncSandboxClient have one
method for each call of the daemon. docs/PYTHON.md is the guide.
"""

from ._endpoint import default_endpoint
from ._files import SandboxFiles
from ._process import Attachment, SandboxProcess
from ._watch import Events
from ._wire import ExecStream
from .aio._files import AsyncSandboxFiles
from .aio._process import AsyncAttachment, AsyncSandboxProcess
from .aio._watch import AsyncEvents
from .aio._wire import AsyncExecStream
from .aio.client import AsyncSandboxClient, AsyncSandboxSession
from .aio.sandbox import AsyncSandbox
from .client import SandboxClient, SandboxSession
from .exceptions import (
    CodebaseError,
    CodebaseNotFoundError,
    CommandExecutionError,
    CommandTimeoutError,
    ConflictError,
    ConnectionError,
    FileNotFoundError,
    InvalidConfigurationError,
    PermissionDeniedError,
    ResourceLimitExceededError,
    SandboxError,
    SandboxNotFoundError,
    SandboxNotRunningError,
    SessionClosedError,
    SessionError,
    SessionNotFoundError,
    UploadError,
)
from .extensions import (
    Access,
    BatchResult,
    Change,
    CommitPolicy,
    CommitResult,
    ConflictPolicy,
    DiffEntry,
    FileEntry,
    FileKind,
    Network,
    ProcessExit,
    ProcessInfo,
    RebaseResult,
    SandboxSpec,
    TerminalSize,
    TraceEvent,
    View,
    WatchEvent,
    WatchKind,
)
from .presets import (
    DEFAULT_PRESET,
    PRESET_AGENT_SAFE,
    PRESET_DEVELOPMENT,
    PRESET_FULL_ACCESS,
    PRESET_READ_ONLY,
    PRESET_VIEW_ONLY,
    PRESETS,
    extend_preset,
    get_preset,
    get_preset_dicts,
    list_presets,
    register_preset,
)
from .sandbox import Sandbox
from .types import (
    Codebase,
    ExecResult,
    FileInfo,
    ImportResult,
    OutputChunk,
    PatternType,
    Permission,
    PermissionRule,
    ResourceLimits,
    RuntimeType,
    SandboxInfo,
    SandboxStatus,
    Session,
    SessionStatus,
    UploadProgress,
    UploadResult,
)

SessionWrapper = SandboxSession  # the published client's names
AsyncSessionWrapper = AsyncSandboxSession

__version__ = "1.0.0"
__all__ = [
    "Access",
    "AsyncAttachment",
    "AsyncEvents",
    "AsyncExecStream",
    "AsyncSandbox",
    "AsyncSandboxClient",
    "AsyncSandboxFiles",
    "AsyncSandboxProcess",
    "AsyncSandboxSession",
    "AsyncSessionWrapper",
    "Attachment",
    "BatchResult",
    "Change",
    "Codebase",
    "CodebaseError",
    "CodebaseNotFoundError",
    "CommandExecutionError",
    "CommandTimeoutError",
    "CommitPolicy",
    "CommitResult",
    "ConflictError",
    "ConflictPolicy",
    "ConnectionError",
    "DEFAULT_PRESET",
    "DiffEntry",
    "Events",
    "ExecResult",
    "ExecStream",
    "FileEntry",
    "FileInfo",
    "FileKind",
    "FileNotFoundError",
    "ImportResult",
    "InvalidConfigurationError",
    "Network",
    "OutputChunk",
    "PRESETS",
    "PRESET_AGENT_SAFE",
    "PRESET_DEVELOPMENT",
    "PRESET_FULL_ACCESS",
    "PRESET_READ_ONLY",
    "PRESET_VIEW_ONLY",
    "PatternType",
    "Permission",
    "PermissionDeniedError",
    "PermissionRule",
    "ProcessExit",
    "ProcessInfo",
    "RebaseResult",
    "ResourceLimitExceededError",
    "ResourceLimits",
    "RuntimeType",
    "Sandbox",
    "SandboxClient",
    "SandboxError",
    "SandboxFiles",
    "SandboxInfo",
    "SandboxNotFoundError",
    "SandboxNotRunningError",
    "SandboxProcess",
    "SandboxSession",
    "SandboxSpec",
    "SandboxStatus",
    "Session",
    "SessionClosedError",
    "SessionError",
    "SessionNotFoundError",
    "SessionStatus",
    "SessionWrapper",
    "TerminalSize",
    "TraceEvent",
    "UploadError",
    "UploadProgress",
    "UploadResult",
    "View",
    "WatchEvent",
    "WatchKind",
    "default_endpoint",
    "extend_preset",
    "get_preset",
    "get_preset_dicts",
    "list_presets",
    "register_preset",
]
