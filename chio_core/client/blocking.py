"""The pool of connections behind the synchronous client: a stack of sockets, shared by threads.

Every wait is measured against the one deadline of the call: a sidecar that sends a byte now and then delays the caller
no longer than a silent one.
"""

from __future__ import annotations

import queue
import socket
import ssl
import time
import weakref
from contextlib import suppress
from functools import partial

from chio_core.client.carrier import OWN_SHARE, WAITING_SHARE, Late, Pairs, held, no_connection, no_response
from chio_core.client.connection import ResponseReader, request_head
from chio_core.concurrency.processes import PerProcess
from chio_core.endpoint import Endpoint
from chio_core.errors import EvaluationFailed, SidecarUnreachable
from chio_core.evaluation.exchange import RawResponse

MAX_IDLE_SECONDS = 30.0


class _Connection:
    """One keep-alive connection.

    Attributes:
        reader: reads its responses.
        idle_since: time of `time.monotonic()`.
    """

    __slots__ = ("idle_since", "reader", "socket")

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.reader = ResponseReader()
        self.idle_since = 0.0


class _Connections:
    """The connections of one process.

    Attributes:
        slots: an item for each exchange that may still begin. `threading.Semaphore` does the same in Python, and takes
            14 times as long (4.7 µs).
        idle: connections between two exchanges.
    """

    def __init__(self, limit: int) -> None:
        self.slots: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(limit):
            self.slots.put(None)
        self.idle: list[_Connection] = []

    def take_idle(self) -> _Connection | None:
        """Return a connection that can be used, or None."""
        while True:
            try:
                found = self.idle.pop()  # one bytecode step: safe between threads
            except IndexError:
                return None
            connection = found.socket
            if time.monotonic() - found.idle_since < MAX_IDLE_SECONDS:
                # Readable while idle means closed, or bytes outside of an exchange.
                connection.setblocking(False)
                try:
                    connection.recv(1, 0 if isinstance(connection, ssl.SSLSocket) else socket.MSG_PEEK)  # TLS: no peek
                except (BlockingIOError, ssl.SSLWantReadError):
                    return found
                except (OSError, ValueError):
                    pass
            connection.close()

    def close(self) -> None:
        """Close the idle ones; in a child of the process it closes its descriptors only, and ends no connection."""
        while self.idle:
            self.idle.pop().socket.close()


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
        self._own = PerProcess(partial(_Connections, limit), forget=_Connections.close)
        self._tls: ssl.SSLContext | None = None
        self._closed = False
        weakref.finalize(self, _close, self._own)

    @property
    def idle(self) -> int:
        """Number of idle connections."""
        return len(self._own.get().idle)

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `AsyncCarrier.post`. A failed attempt to connect is repeated once."""
        deadline = time.monotonic() + timeout
        data = request_head(self._endpoint, path, len(body), headers) + body
        # A thread that waited behind others, or that did not run, has left the sidecar less than its time.
        late: Late = no_response
        own = self._own.get()
        try:
            own.slots.get_nowait()
        except queue.Empty:
            late = no_connection
            try:
                own.slots.get(timeout=max(0.0, timeout * WAITING_SHARE))
            except queue.Empty:
                raise late() from None
        try:
            connection = own.take_idle()
            if connection is None:
                with suppress(OSError):
                    connection = self._connect(deadline)
            if connection is None:
                try:
                    connection = self._connect(deadline)
                except OSError as exc:
                    if isinstance(exc, TimeoutError) and late is no_connection:
                        raise late() from None
                    reason = self._endpoint.reason(exc)
                    raise SidecarUnreachable(f"cannot connect to the Chio sidecar: {reason}") from None
            if late is no_response and deadline - time.monotonic() < timeout * OWN_SHARE:
                late = held
            return self._exchange(own, connection, data, deadline, late)
        finally:
            own.slots.put(None)

    def close(self) -> None:
        """Close the idle connections, and each of the others after its exchange."""
        self._closed = True
        _close(self._own)

    def _connect(self, deadline: float) -> _Connection:
        end = self._endpoint
        left = max(0.001, min(self._connect_timeout, deadline - time.monotonic()))
        if end.socket_path is not None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            connection = socket.create_connection((end.host, end.port), timeout=left)
        try:
            if end.socket_path is not None:
                connection.settimeout(left)
                connection.connect(end.socket_path)
            else:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if end.tls:
                self._tls = self._tls or ssl.create_default_context()
                connection = self._tls.wrap_socket(connection, server_hostname=end.host)
            connection.setblocking(False)  # as between two exchanges
            return _Connection(connection)
        except BaseException:
            connection.close()
            raise

    def _exchange(
        self, own: _Connections, connection: _Connection, data: bytes, deadline: float, late: Late
    ) -> RawResponse:
        wire, reader = connection.socket, connection.reader
        reader.begin()
        try:
            # The socket does not block yet, and its buffer takes almost every request at once: no wait is prepared.
            try:
                sent = wire.send(data)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                sent = 0
            if sent < len(data):
                wire.settimeout(max(0.001, deadline - time.monotonic()))
                wire.sendall(data[sent:])
            response = None
            while response is None:
                # When the time is over, what has arrived meanwhile still counts: the thread may have run late.
                left = max(0.0, deadline - time.monotonic())
                wire.settimeout(left)
                try:
                    received = wire.recv(65536)
                except (TimeoutError, BlockingIOError, ssl.SSLWantReadError):
                    if left:
                        continue
                    raise late() from None
                if not received:
                    raise EvaluationFailed("Chio sidecar closed the connection before it answered")
                response = reader.feed(received)
            return response
        except TimeoutError:
            raise late() from None
        except OSError as exc:
            raise EvaluationFailed(f"the exchange with the Chio sidecar broke: {type(exc).__name__}") from None
        finally:
            if reader.keep_alive:
                connection.idle_since = time.monotonic()
                own.idle.append(connection)
                if self._closed:
                    own.close()
            else:
                wire.close()


def _close(own: PerProcess[_Connections]) -> None:
    found = own.take()
    if found is not None:
        found.close()
