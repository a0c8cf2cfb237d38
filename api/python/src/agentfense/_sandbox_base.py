"""What Sandbox and AsyncSandbox have in common: identity, state, and the warning when forgotten."""

from __future__ import annotations

import os
import warnings
from typing import Any, Optional

from . import types
from .exceptions import CodebaseNotFoundError, SandboxNotFoundError


class SandboxBase:
    """A sandbox of this process: a process forked from it uses it but does not own it."""

    def __init__(
        self,
        client: Any,
        sandbox_info: types.Sandbox,
        codebase: Optional[types.Codebase] = None,
        owns_client: bool = False,
        owns_codebase: bool = False,
    ) -> None:
        self._info = sandbox_info
        self._codebase = codebase
        self._owns_client = owns_client
        self._owns_codebase = owns_codebase
        self._warn_unclosed = False  # set by what created the sandbox
        self._destroyed = False
        self._pid = os.getpid()
        self._client_or_none: Any = client

    @property
    def id(self) -> str:
        """Its id (sb_...)."""
        return self._info.id

    @property
    def codebase_id(self) -> str:
        """The codebase it was made on (cb_...)."""
        return self._info.codebase_id

    @property
    def codebase(self) -> types.Codebase:
        """Its codebase, as of when the sandbox was made or connected to."""
        if self._codebase is None:
            raise CodebaseNotFoundError(self.codebase_id, "it was deleted before the connect")
        return self._codebase

    @property
    def info(self) -> types.Sandbox:
        """What the daemon said of it last; refresh() asks again."""
        return self._info

    @property
    def status(self) -> types.SandboxStatus:
        """As of the last call; refresh() asks again."""
        return self._info.status

    @property
    def runtime(self) -> types.RuntimeType:
        """What its commands run in."""
        return self._info.runtime

    @property
    def client(self) -> Any:
        """The client that it uses, for calls that it has no method for."""
        if self._destroyed:
            raise SandboxNotFoundError(self.id, "it was destroyed by this program")
        return self._client_or_none

    @property
    def _is_ours(self) -> bool:
        return self._pid == os.getpid()

    def __repr__(self) -> str:
        state = "destroyed" if self._destroyed else self.status.value
        return f"<{type(self).__name__} {self.id} on {self.codebase_id}: {state}>"

    def __del__(self) -> None:
        if not getattr(self, "_warn_unclosed", False) or self._destroyed or not self._is_ours:
            return
        warnings.warn(
            f"{self!r} was never destroyed: use a with block, or destroy()",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )
