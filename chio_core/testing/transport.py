"""Calls of a scripted sidecar without sockets and without waiting, for asynchronous code and for threads."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from chio_core.client.carrier import Pairs
from chio_core.client.connection import ResponseReader
from chio_core.client.via_httpx import TIMEOUT
from chio_core.errors import EvaluationFailed, SidecarTimeout, SidecarUnreachable
from chio_core.evaluation.exchange import RawResponse
from chio_core.testing.behaviours import Behaviour, Ending, Pause, Reply


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to the sidecar.

    Attributes:
        headers: names in lower case; the first of repeated names.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Behave = Callable[[Call], tuple[Behaviour, Reply]]
"""Takes a call; returns how the sidecar behaves and its response."""


def head_of(reply: Reply) -> bytes:
    """Return the head of an HTTP/1.1 response, its length announced."""
    reason = http.client.responses.get(reply.status, "Scripted")
    lines = [f"HTTP/1.1 {reply.status} {reason}", *(f"{name}: {value}" for name, value in reply.headers)]
    lines.append(f"content-length: {len(reply.body)}\r\n\r\n")
    return "\r\n".join(lines).encode("latin-1")


def received(behaviour: Behaviour, reply: Reply, timeout: float | None) -> RawResponse:
    """Return what a client of our own would receive over a socket.

    Pauses are added up instead of waited for: a response that would come too late is a timeout at once.

    Args:
        timeout: seconds for the whole response; None for no limit.

    Raises:
        SidecarError: what the client would raise.
    """
    if behaviour.refuses:
        raise SidecarUnreachable("cannot connect to the Chio sidecar: connection refused")
    reader, waited = ResponseReader(), 0.0
    for step in behaviour.delivery(head_of(reply), reply.body):
        if isinstance(step, Pause):
            waited += step.seconds
        if step is Ending.HANG or (timeout is not None and waited >= timeout):
            raise SidecarTimeout("Chio sidecar did not answer in time")
        if isinstance(step, Ending):
            break
        if isinstance(step, bytes) and (response := reader.feed(step)) is not None:
            return response
    raise EvaluationFailed("Chio sidecar closed the connection before it answered")


class ScriptedTransport(httpx.AsyncBaseTransport):
    """An httpx transport for `ChioClient`.

    The extension `chio_timeout` of a request is the limit for its whole response.
    """

    def __init__(self, behave: Behave) -> None:
        self._behave = behave

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response; raises `SidecarError` instead of the errors of httpx."""
        headers = {name.lower(): value for name, value in reversed(request.headers.multi_items())}
        path = request.url.raw_path.decode("ascii")
        behaviour, reply = self._behave(Call(request.method, path, headers, await request.aread()))
        response = received(behaviour, reply, request.extensions.get(TIMEOUT))
        return httpx.Response(
            response.status, headers={"content-type": response.content_type}, stream=httpx.ByteStream(response.body)
        )


class ScriptedCarrier:
    """A `BlockingCarrier` for `SyncChioClient`."""

    def __init__(self, behave: Behave) -> None:
        self._behave = behave

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `chio_core.client.carrier.AsyncCarrier.post`."""
        sent = {name.lower(): value for name, value in reversed(headers)}
        behaviour, reply = self._behave(Call("POST", path, {"content-type": "application/json", **sent}, body))
        return received(behaviour, reply, timeout)

    def close(self) -> None:
        """Do nothing: no connection is open."""
