"""Running an ASGI application until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from chio_sidecar.cli.options import CliError, say

BACKLOG = 2048
"""Connections that may wait to be accepted."""

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs, so they close first."""

DRAIN = 10
"""Seconds that running requests may take after a request to stop."""


@dataclass(frozen=True)
class Listener:
    """A bound socket; as a context it is closed at the end.

    Attributes:
        address: how people write it: `127.0.0.1:9090`, `[::1]:9090` or `unix:/path`.
    """

    socket: socket.socket
    address: str

    def __enter__(self) -> Listener:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket, and remove the file of a Unix socket."""
        self.socket.close()
        if self.address.startswith("unix:"):
            with contextlib.suppress(OSError):
                os.unlink(self.address.removeprefix("unix:"))


def bind(listen: str) -> Listener:
    """Bind `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`; port 0 takes any free one.

    Raises:
        CliError: the text is no address, or it cannot be bound; the message begins with `cannot bind`.
    """
    if listen.startswith("unix:"):
        return _bind_unix(listen.removeprefix("unix:"))
    host, port = _split(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise CliError(
            f"cannot bind {listen}: {exc.strerror or exc}",
            fix="stop what listens there, or choose another --listen address",
        ) from None
    bound = sock.getsockname()
    shown = f"[{bound[0]}]" if family == socket.AF_INET6 else bound[0]
    return Listener(sock, f"{shown}:{bound[1]}")


def _split(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise CliError(
            f"--listen {listen} is no address",
            fix="write HOST:PORT, for example 127.0.0.1:9090, or unix:PATH",
        )
    return host, int(port)


def _bind_unix(path: str) -> Listener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead_socket(path)
        sock.bind(path)
        os.chmod(path, 0o660)
        sock.listen(BACKLOG)
    except (OSError, ValueError) as exc:
        sock.close()
        raise CliError(
            f"cannot bind unix:{path}: {getattr(exc, 'strerror', None) or exc}",
            fix="stop what listens there, or choose another --listen path",
        ) from None
    return Listener(sock, f"unix:{path}")


def _remove_dead_socket(path: str) -> None:
    # A killed process leaves its socket file behind. It is removed only when nobody answers there.
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def serve(app: ASGIApp, listener: Listener, *, ready: str, close: Callable[[], Awaitable[None]] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, finish what is under way, and return the exit status.

    Args:
        app: the application.
        listener: where to listen.
        ready: line for standard error once requests are answered.
        close: called at the end, whatever happened.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the peer's own address decides who may use the control plane
        server_header=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=DRAIN,
        backlog=BACKLOG,
    )
    server = _Server(config, ready)
    # uvicorn stops in good order and then raises the signal once more; by then there is nothing left to stop.
    # A signal that comes before uvicorn listens for it must count too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(server, listener, close))
    return 0 if server.started else 1


async def _run(server: uvicorn.Server, listener: Listener, close: Callable[[], Awaitable[None]] | None) -> None:
    try:
        await server.serve(sockets=[listener.socket])
    finally:
        if close is not None:
            await close()


class _Server(uvicorn.Server):
    """A server that says when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    def stop(self, *_: object) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            say(self._ready)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
