"""The pool of connections behind the synchronous client: a stack of sockets, shared by threads.

Every wait is measured against the one deadline of the call, so a sidecar that sends a byte now and then holds
nobody up for longer than one that sends nothing.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
import weakref

from chio_core.client.carrier import Pairs, request_head
from chio_core.client.connection import AnswerReader
from chio_core.endpoint import Endpoint
from chio_core.errors import EvaluationFailed, SidecarTimeout, SidecarUnreachable
from chio_core.evaluation.exchange import RawResponse

MAX_IDLE_SECONDS = 30.0


class BlockingPool:
    """A `BlockingCarrier` for `http://`, `https://` and `unix:` URLs.

    Args:
        endpoint: where the sidecar listens.
        limit: most connections at a time; further threads wait.
        connect_timeout: seconds to open one.
    """

    def __init__(self, endpoint: Endpoint, *, limit: int = 64, connect_timeout: float = 2.0) -> None:
        self._endpoint = endpoint
        self._connect_timeout = connect_timeout
        self._slots = threading.BoundedSemaphore(limit)
        self._idle: list[tuple[socket.socket, float]] = []
        self._tls: ssl.SSLContext | None = None
        self._closed = False
        weakref.finalize(self, _close_all, self._idle).atexit = False

    @property
    def idle(self) -> int:
        """Connections that wait for work."""
        return len(self._idle)

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `AsyncCarrier.post`. A failed attempt to connect is made once more."""
        deadline = time.monotonic() + timeout
        data = request_head(self._endpoint, path, len(body), headers) + body
        if not self._slots.acquire(timeout=timeout):
            raise SidecarTimeout("no connection to the Chio sidecar became free in time")
        try:
            connection = self._take_idle() or self._connect_twice(deadline)
            return self._exchange(connection, data, deadline)
        finally:
            self._slots.release()

    def close(self) -> None:
        """Close the idle connections, and from now on each of the others after its exchange."""
        self._closed = True
        _close_all(self._idle)

    def _take_idle(self) -> socket.socket | None:
        while True:
            try:
                connection, since = self._idle.pop()  # one bytecode step: safe between threads
            except IndexError:
                return None
            if time.monotonic() - since < MAX_IDLE_SECONDS and _quiet(connection):
                return connection
            connection.close()

    def _connect_twice(self, deadline: float) -> socket.socket:
        try:
            return self._connect(deadline)
        except OSError:
            pass
        try:
            return self._connect(deadline)
        except OSError as exc:
            reason = exc.strerror or type(exc).__name__
            raise SidecarUnreachable(f"cannot connect to the Chio sidecar: {reason}") from None

    def _connect(self, deadline: float) -> socket.socket:
        end = self._endpoint
        left = max(0.001, min(self._connect_timeout, deadline - time.monotonic()))
        if end.socket_path is not None:
            return _connect_unix(end.socket_path, left)
        connection = socket.create_connection((end.host, end.port), timeout=left)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._with_tls(connection) if end.tls else connection
        except BaseException:
            connection.close()
            raise

    def _with_tls(self, connection: socket.socket) -> ssl.SSLSocket:
        self._tls = self._tls or ssl.create_default_context()
        return self._tls.wrap_socket(connection, server_hostname=self._endpoint.host)

    def _exchange(self, connection: socket.socket, data: bytes, deadline: float) -> RawResponse:
        reader = AnswerReader()
        try:
            connection.settimeout(_left(deadline))
            connection.sendall(data)
            while (answer := reader.feed(_receive(connection, deadline))) is None:
                pass
        except TimeoutError:
            raise SidecarTimeout("Chio sidecar did not answer in time") from None
        except OSError as exc:
            raise EvaluationFailed(f"the exchange with the Chio sidecar broke: {type(exc).__name__}") from None
        finally:
            if reader.keep_alive:
                self._idle.append((connection, time.monotonic()))
                if self._closed:
                    self.close()
            else:
                connection.close()
        return answer


def _connect_unix(path: str, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _receive(connection: socket.socket, deadline: float) -> bytes:
    connection.settimeout(_left(deadline))
    data = connection.recv(65536)
    if not data:
        raise EvaluationFailed("Chio sidecar closed the connection before it answered")
    return data


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _close_all(idle: list[tuple[socket.socket, float]]) -> None:
    while idle:
        idle.pop()[0].close()


def _quiet(connection: socket.socket) -> bool:
    """Tell whether an idle connection is still open: readable while idle means closed or garbage."""
    connection.setblocking(False)
    try:
        if isinstance(connection, ssl.SSLSocket):
            connection.recv(1)  # TLS sockets cannot peek; whatever comes here was not asked for
        else:
            connection.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except (OSError, ValueError):
        return False
    return False
