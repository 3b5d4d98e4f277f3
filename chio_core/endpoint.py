"""Address of the sidecar: TCP or a Unix socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit


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

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read an `http://`, `https://` or `unix:` URL that `ChioSettings.sidecar_url` has checked."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            path = url.partition(":")[2]
            return cls("localhost", 0, socket_path=unquote("/" + path.lstrip("/") if path[:2] == "//" else path))
        tls = parts.scheme == "https"
        return cls(parts.hostname or "", parts.port or (443 if tls else 80), parts.path.rstrip("/"), tls)
