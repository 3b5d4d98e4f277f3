"""Listening on an address, and serving an ASGI application until a signal stops it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from chio_core.endpoint import check_socket_path, is_this_machine
from chio_core.errors import ChioError
from chio_sidecar.cli.terminal import CliError, say
from chio_sidecar.service.connection import EvaluateConnection
from chio_sidecar.service.evaluate_endpoint import EvaluateEndpoint

BACKLOG = 2048
"""Connections that may wait to be accepted."""

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients keep theirs, so they close first."""

DRAIN = 10
"""Seconds that running requests may take after a signal to stop."""

UPLOAD = 2
"""Seconds of these in which a client may send the rest of a request; then its connection ends without a response."""

SOCKET_MODE = 0o660
"""Permissions of the file of a Unix socket: its owner and its group may connect."""

_UNIX = "unix:"


@dataclass(frozen=True)
class Listener:
    """A bound socket; a `with` statement closes it.

    Attributes:
        socket: it listens.
        address: its address as people write it: `127.0.0.1:9090`, `[::1]:9090` or `unix:/path`.
        file: identity of the file of a Unix socket.
    """

    socket: socket.socket
    address: str
    file: tuple[int, int, int] | None = None

    def __enter__(self) -> Listener:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket, and remove the file of a Unix socket, unless a successor has taken its path over."""
        self.socket.close()
        path = self.address.removeprefix(_UNIX)
        with contextlib.suppress(OSError):
            if self.file is not None and self.file == _identity(path):
                os.unlink(path)


def bind(listen: str, *, mode: int = SOCKET_MODE) -> Listener:
    """Bind `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`; port 0 takes any free one.

    Args:
        listen: the address.
        mode: permissions of the file of a Unix socket: who may write to it may connect.

    Raises:
        CliError: the text is not an address, or it cannot be bound; then the message begins with `cannot bind`.
    """
    path = listen.removeprefix(_UNIX) if listen.startswith(_UNIX) else None
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if path is None and colon and host and port.isdecimal() and int(port) > 65535:
        raise CliError(f"--listen {listen} names port {port}", fix="give a port from 0 to 65535; 0 takes any free one")
    if path is None and not (colon and host and port.isdecimal()):
        raise CliError(
            f"--listen {listen} is not an address",
            fix="write HOST:PORT, for example 127.0.0.1:9090, or unix:PATH",
        )
    family = socket.AF_UNIX if path is not None else socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if path is None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, int(port)))
        else:
            check_socket_path(path)
            _remove_dead_socket(path)
            os.fchmod(sock.fileno(), 0o600)  # until it has its mode, only its owner may connect
            sock.bind(path)
            os.chmod(path, mode)
            file = _identity(path)
        sock.listen(BACKLOG)
    except (OSError, ValueError) as exc:
        sock.close()
        fix = f"stop what listens there, or choose another --listen {'address' if path is None else 'path'}"
        if path is None and getattr(exc, "errno", None) != errno.EADDRINUSE:
            fix = (
                "choose another --listen: an address of this machine, for example 127.0.0.1, and a port that is allowed"
            )
        elif isinstance(exc, FileNotFoundError):
            fix = f"create the folder {os.path.dirname(path or '')}, or choose another --listen path"
        elif isinstance(exc, ValueError):
            fix = "choose another --listen path, for example unix:/run/chio.sock"
        raise CliError(f"cannot bind {listen}: {getattr(exc, 'strerror', None) or exc}", fix=fix) from None
    if path is not None:
        return Listener(sock, listen, file)
    host, port = sock.getsockname()[:2]
    if not is_this_machine(host):
        say(
            f"warning: --listen {listen} is reachable from other machines, and this server does not encrypt; listen on"
            " 127.0.0.1 or unix:PATH, or let only a TLS proxy reach the port"
        )
    return Listener(sock, f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}")


def _identity(path: str) -> tuple[int, int, int]:
    # The time too: most file systems give a new file the inode of the one that was just removed.
    found = os.stat(path, follow_symlinks=False)
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _remove_dead_socket(path: str) -> None:
    # A killed process leaves its socket file behind. It is removed only if no process accepts connections on it.
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


@contextlib.contextmanager
def starting(program: str) -> Iterator[None]:
    """Name the program in the error of a server that cannot start.

    Raises:
        CliError: instead of any ChioError of the block.
    """
    try:
        yield
    except ChioError as exc:
        fix = exc.fix if isinstance(exc, CliError) else None
        raise CliError(f"failed to start {program}: {exc.message}", code=exc.code, fix=fix) from None


def serve(
    app: ASGIApp,
    listener: Listener,
    *,
    ready: str,
    close: Callable[[], Awaitable[None]] | None = None,
    forwards: bool = False,
    evaluate: EvaluateEndpoint | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, finish the running requests within `DRAIN`, and return the exit status.

    Args:
        app: the application.
        listener: accepts the connections.
        ready: printed to standard error as soon as requests are served.
        close: called at the end in any case.
        forwards: the application is a proxy: it takes websockets, and responses have the date of their origin.
        evaluate: the endpoint of evaluations, if the application has one: it gets them without ASGI.
    """
    config = uvicorn.Config(
        app,
        http="auto" if evaluate is None else partial(EvaluateConnection, evaluate),  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the peer's own address decides who may use the control plane
        server_header=False,
        date_header=not forwards,
        ws="websockets-sansio" if forwards else "none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=DRAIN,
        backlog=BACKLOG,
    )
    server = _Server(config, ready)

    async def run() -> None:
        try:
            await server.serve(sockets=[listener.socket])
        finally:
            if close is not None:
                await close()

    # uvicorn stops in good order and raises the signal once more; by then nothing is left to stop. A signal that comes
    # before uvicorn handles it must count too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        new_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """A server that prints a line when it is ready, and does not wait long for the rest of a request when it ends."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    def stop(self, *_: object) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # A full collection would walk all modules, which live as long as the process, while every request waits;
            # and a few requests under way are 700 objects, the usual threshold. They leave no cycles behind.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000)
            say(self._ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End connections; uvicorn itself would wait for half a request, and then cancel what reads it."""
        timer = asyncio.get_running_loop().call_later(UPLOAD, self._end_unfinished)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def _end_unfinished(self) -> None:
        for connection in list(self.server_state.connections):
            # Both HTTP protocols of uvicorn have a cycle; it is that of the last request.
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and cycle.more_body:
                cycle.transport.abort()  # the application gets `http.disconnect`
