"""Where the daemon is, and how the channel to it is set up.

Order: what the caller says; AGENTFENSE_ENDPOINT; the local socket when it is there; localhost:9000.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

from .exceptions import InvalidConfigurationError

LOCAL_SOCKET = "/run/agentfense/agentfensed.sock"  # AF_SOCKET_DEFAULT of the daemon
DEFAULT_TCP = "localhost:9000"
MESSAGE_BYTES_MAX = 4 << 20  # the daemon's limit, either way
# A name that only begins like one of these is another machine's.
_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?|::1")
_HOST_PORT = re.compile(r"(?:[^:\[\]]+|\[[^\]]*\]):(\d+)")
_GRPC_NAMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:", "xds:")


def default_endpoint() -> str:
    """The endpoint that is used when none is given."""
    named = os.environ.get("AGENTFENSE_ENDPOINT")
    if named:
        return named
    try:
        if stat.S_ISSOCK(os.stat(LOCAL_SOCKET).st_mode):
            return f"unix:{LOCAL_SOCKET}"
    except OSError:
        pass
    return DEFAULT_TCP


@dataclass(frozen=True)
class Endpoint:
    """A checked endpoint and how to connect to it."""

    target: str
    secure: bool = False
    token: Optional[str] = None
    root_certificates: Optional[bytes] = None

    @property
    def is_unix(self) -> bool:
        """Whether it is a unix socket, that is, on this machine."""
        return self.target.startswith("unix:")

    def options(self) -> List[Tuple[str, Any]]:
        """gRPC channel options."""
        options: List[Tuple[str, Any]] = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", -1),  # the daemon's refusal says more than gRPC's
            # A connection of its own: clients do not slow each other down, and one that is made
            # after the daemon came back does not inherit another's waiting time.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        if self.is_unix or _LOOPBACK.fullmatch(self.target):
            options.append(("grpc.enable_http_proxy", 0))
        return options

    def metadata(self) -> List[Tuple[str, str]]:
        """What goes with every call."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []


def resolve(
    endpoint: Optional[str],
    secure: bool = False,
    token: Optional[str] = None,
    root_certificates: Optional[bytes] = None,
) -> Endpoint:
    """Checks the arguments of a client. InvalidConfigurationError says what is wrong."""
    if endpoint is None:
        endpoint = default_endpoint()
    if not isinstance(endpoint, str):
        raise InvalidConfigurationError(f"an endpoint is text, not {endpoint!r}")
    is_grpc_name = endpoint.startswith(_GRPC_NAMES)
    is_url = "://" in endpoint and not is_grpc_name
    if not endpoint or endpoint != endpoint.strip() or "\0" in endpoint or is_url:
        raise InvalidConfigurationError(
            f"{endpoint!r} is no endpoint: use HOST:PORT or unix:/path/to/socket"
        )
    port = None if is_grpc_name else _HOST_PORT.fullmatch(endpoint)
    if port and not (len(port[1]) <= 5 and 0 < int(port[1]) <= 65535):
        # gRPC would take it modulo 65536.
        raise InvalidConfigurationError(f"{endpoint!r} is no endpoint: a port is 1 to 65535")
    if endpoint.startswith("/"):  # a path alone means the socket there
        endpoint = "unix:" + endpoint
    is_local = endpoint.startswith("unix:") or _LOOPBACK.fullmatch(endpoint)
    if token is not None and not secure and not is_local:
        raise InvalidConfigurationError(
            "a token would go over the network in clear text: use secure=True"
        )
    return Endpoint(endpoint, bool(secure), token, root_certificates)
