"""Address of the sidecar: TCP or a Unix socket."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote, urlsplit

LONGEST_SOCKET_PATH: Final = 107 if sys.platform == "linux" else 103
"""Most bytes of a Unix socket's path: `sun_path` without its closing zero (unix(7))."""


_BETWEEN_URLS: Final = re.compile(r",\s*(?=(?:https?|unix|embedded):)")


def check_socket_path(path: str) -> None:
    """Refuse the path of a Unix socket that no socket can have.

    Raises:
        ValueError: it is too long, has a zero byte, or names an abstract socket, which has no permissions.
    """
    size = len(os.fsencode(path))
    if size > LONGEST_SOCKET_PATH:
        raise ValueError(f"the path of a Unix socket has at most {LONGEST_SOCKET_PATH} bytes, and this one {size}")
    if "\0" in path:
        raise ValueError("the path of a Unix socket has no zero byte")
    if path.startswith("@"):
        raise ValueError(
            "abstract sockets (unix:@NAME) have no permissions, so any user could listen there; write the path of a"
            f" file, or ./{path} for a file of that name"
        )


def split_urls(text: str) -> tuple[str, ...]:
    """Return the URLs of a list; a comma separates two only in front of a scheme, because a path may have commas."""
    return tuple(url.strip() for url in _BETWEEN_URLS.split(text))


def is_this_machine(host: str) -> bool:
    """Return True if a host is this machine: `localhost`, 127.0.0.0/8 or ::1."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A TCP address, or the path of a Unix socket.

    Attributes:
        base: path in front of every request's path, without a slash at its end.
        tls: connect with TLS.
        socket_path: path of the Unix socket; None for TCP.
        authority: value of the `Host` header.
    """

    host: str
    port: int
    base: str = ""
    tls: bool = False
    socket_path: str | None = None
    authority: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        object.__setattr__(self, "authority", self.host if self.socket_path is not None else f"{host}:{self.port}")

    def reason(self, error: BaseException) -> str:
        """Return why no connection could be opened, in a few words."""
        if isinstance(error, TimeoutError):
            return "connecting took too long"
        if isinstance(error, FileNotFoundError) and self.socket_path is not None:
            folder = os.path.dirname(self.socket_path) or "."
            if not os.path.isdir(folder):
                return f"the folder of its socket does not exist: {folder}"
            return f"there is no socket {self.socket_path}; is the sidecar started?"
        return getattr(error, "strerror", None) or type(error).__name__

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read an `http://`, `https://` or `unix:` URL that `ChioSettings.sidecar_url` has checked."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            path = url.partition(":")[2]
            return cls("localhost", 0, socket_path=unquote("/" + path.lstrip("/") if path[:2] == "//" else path))
        tls = parts.scheme == "https"
        return cls(parts.hostname or "", parts.port or (443 if tls else 80), parts.path.rstrip("/"), tls)
