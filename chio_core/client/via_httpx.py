"""The carrier over a given httpx transport: for tests and special networks.

Far slower than `ConnectionPool`, and correct with anything that httpx can speak to.
"""

from __future__ import annotations

from typing import Final

import httpx

from chio_core.client.carrier import MAX_RESPONSE_BYTES, WAITING_SHARE, Pairs, TaskCarrier, no_connection, no_response
from chio_core.errors import EvaluationFailed, SidecarError, SidecarUnreachable
from chio_core.evaluation.exchange import RawResponse

TIMEOUT: Final = "chio_timeout"
"""Extension of a request: seconds until its caller goes away."""


class HttpxCarrier(TaskCarrier):
    """An `AsyncCarrier` over any httpx transport.

    Args:
        base_url: prefix of all paths.
        transport: carries the requests.
        patience: see `TaskCarrier`.
    """

    def __init__(self, base_url: str, transport: httpx.AsyncBaseTransport, *, patience: float = 5.0) -> None:
        super().__init__(patience)
        self._base = base_url.rstrip("/")
        # Called directly and not through an httpx client, which libraries for tests patch to record what is sent.
        self._transport = transport

    async def aclose(self) -> None:
        """Wait for the running exchanges, then close the transport."""
        await super().aclose()
        await self._transport.aclose()

    async def exchange(self, path: str, body: bytes | None, headers: Pairs, timeout: float) -> RawResponse:
        """Send one request; a failed attempt to connect is repeated once."""
        sent = [("accept", "application/json"), ("accept-encoding", "identity"), *headers]
        if body is not None:
            sent.append(("content-type", "application/json"))
        # The caller's deadline comes first: timers of a transport do not look again when the loop was held. But a full
        # pool must report itself before that deadline, which counts for the sidecar.
        limits = httpx.Timeout(2 * timeout, pool=timeout * WAITING_SHARE)
        extensions = {"timeout": limits.as_dict(), TIMEOUT: timeout}
        method = "GET" if body is None else "POST"
        request = httpx.Request(method, self._base + path, headers=sent, content=body, extensions=extensions)
        try:
            try:
                response = await self._transport.handle_async_request(request)
            except httpx.ConnectError:
                response = await self._transport.handle_async_request(request)
            try:
                chunks, size = [], 0
                async for chunk in response.aiter_bytes():
                    size += len(chunk)
                    if size > MAX_RESPONSE_BYTES:
                        raise EvaluationFailed("Chio sidecar's response is too long")
                    chunks.append(chunk)
            finally:
                await response.aclose()
        except httpx.HTTPError as exc:
            raise mapped(exc) from None
        return RawResponse(response.status_code, response.headers.get("content-type", ""), b"".join(chunks))


def mapped(exc: httpx.HTTPError) -> SidecarError:
    """Return the `SidecarError` for an error of httpx."""
    if isinstance(exc, httpx.PoolTimeout):
        return no_connection()
    if isinstance(exc, (httpx.ConnectError, httpx.ConnectTimeout)):
        return SidecarUnreachable(f"cannot connect to the Chio sidecar: {type(exc).__name__}")
    if isinstance(exc, httpx.TimeoutException):
        return no_response()
    return EvaluationFailed(f"the exchange with the Chio sidecar broke: {type(exc).__name__}")
