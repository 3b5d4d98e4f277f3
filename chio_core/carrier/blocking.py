"""The pool of connections behind the synchronous client: a stack of `http.client` connections, shared by threads."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time

from chio_core.carrier.base import MAX_ANSWER_BYTES, Endpoint, Pairs
from chio_core.decide import Answer
from chio_core.errors import EvaluationFailed, SidecarTimeout, SidecarUnreachable

MAX_IDLE_SECONDS = 30.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


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
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []
        self._tls: ssl.SSLContext | None = None

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> Answer:
        """See `AsyncCarrier.post`. A failed attempt to connect is made once more."""
        deadline = time.monotonic() + timeout
        if not self._slots.acquire(timeout=timeout):
            raise SidecarTimeout("no connection to the Chio sidecar became free in time")
        try:
            connection = self._take_idle() or self._connect_twice(deadline)
            return self._exchange(connection, path, body, headers, deadline)
        finally:
            self._slots.release()

    def close(self) -> None:
        """Close the idle connections; those in use close when they come back and find no place."""
        while self._idle:
            self._idle.pop()[0].close()

    def _take_idle(self) -> http.client.HTTPConnection | None:
        while True:
            try:
                connection, since = self._idle.pop()  # one bytecode step: safe between threads
            except IndexError:
                return None
            if time.monotonic() - since < MAX_IDLE_SECONDS and _quiet(connection):
                return connection
            connection.close()

    def _connect_twice(self, deadline: float) -> http.client.HTTPConnection:
        try:
            return self._connect(deadline)
        except OSError:
            pass
        try:
            return self._connect(deadline)
        except OSError as exc:
            reason = exc.strerror or type(exc).__name__
            raise SidecarUnreachable(f"cannot connect to the Chio sidecar: {reason}") from None

    def _connect(self, deadline: float) -> http.client.HTTPConnection:
        end = self._endpoint
        left = max(0.001, min(self._connect_timeout, deadline - time.monotonic()))
        connection: http.client.HTTPConnection
        if end.socket_path is not None:
            connection = _UnixConnection(end.socket_path, left)
        elif end.tls:
            self._tls = self._tls or ssl.create_default_context()
            connection = http.client.HTTPSConnection(end.host, end.port, timeout=left, context=self._tls)
        else:
            connection = http.client.HTTPConnection(end.host, end.port, timeout=left)
        connection.connect()
        if end.socket_path is None:
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _exchange(
        self, connection: http.client.HTTPConnection, path: str, body: bytes, headers: Pairs, deadline: float
    ) -> Answer:
        done = False
        try:
            connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
            sent = {"Host": self._endpoint.authority, "Content-Type": "application/json", **dict(headers)}
            connection.request("POST", self._endpoint.base + path, body, sent)
            answer, done = self._read(connection, deadline)
        except TimeoutError:
            raise SidecarTimeout("Chio sidecar did not answer in time") from None
        except (OSError, http.client.HTTPException) as exc:
            raise EvaluationFailed(f"the exchange with the Chio sidecar broke: {type(exc).__name__}") from None
        finally:
            if done:
                self._idle.append((connection, time.monotonic()))
            else:
                connection.close()
        return answer

    def _read(self, connection: http.client.HTTPConnection, deadline: float) -> tuple[Answer, bool]:
        response = connection.getresponse()
        parts: list[bytes] = []
        size = 0
        while chunk := response.read1(65536):
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise EvaluationFailed("Chio sidecar's answer is too long")
            parts.append(chunk)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if connection.sock is not None:
                connection.sock.settimeout(left)
        answer = Answer(response.status, response.headers.get("content-type", ""), b"".join(parts))
        if response.length:  # the connection ended before the announced length
            raise http.client.IncompleteRead(b"", response.length)
        return answer, not response.will_close


def _quiet(connection: http.client.HTTPConnection) -> bool:
    """Tell whether an idle connection is still open: readable while idle means closed or garbage."""
    if connection.sock is None:
        return False
    connection.sock.setblocking(False)
    try:
        connection.sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except (OSError, ValueError):
        return False
    return False
