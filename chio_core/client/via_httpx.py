"""Carriers over httpx: for whoever passes a transport of his own, and for the sidecar in this process.

Slower than `ConnectionPool` by far, and correct with anything that httpx can speak to.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx

from chio_core.client.carrier import MAX_ANSWER_BYTES, Pairs
from chio_core.errors import EvaluationFailed, SidecarError, SidecarTimeout, SidecarUnreachable
from chio_core.evaluation.exchange import RawResponse
from chio_core.names import LOGGER

log = logging.getLogger(LOGGER)


class HttpxCarrier:
    """An `AsyncCarrier` over any httpx transport.

    Each exchange is a task of its own. Whoever waits is shielded from it: a cancelled wait must not cancel a
    request in httpcore, where that can leave a slot of the pool held by nobody (encode/httpcore #1093).

    Args:
        base_url: what the paths are appended to.
        transport: what carries the requests.
        patience: seconds that closing waits for exchanges under way. Some transports know no timeout, and an
            answer that nobody waits for any more must not hold up the end of the application.
    """

    def __init__(self, base_url: str, transport: httpx.AsyncBaseTransport, *, patience: float = 5.0) -> None:
        self._patience = patience
        self._client = httpx.AsyncClient(base_url=base_url, transport=transport, trust_env=False)
        self._running: set[asyncio.Task[RawResponse]] = set()

    async def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `AsyncCarrier.post`."""
        task = asyncio.ensure_future(self._exchange(path, body, headers, timeout))
        self._running.add(task)
        task.add_done_callback(self._finished)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(task)
        except TimeoutError:
            raise SidecarTimeout("Chio sidecar did not answer in time") from None

    async def aclose(self) -> None:
        """Wait for what is under way, but not for ever, then close."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=self._patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._client.aclose()

    def _finished(self, task: asyncio.Task[RawResponse]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen, also when nobody waits any more

    async def _exchange(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        try:
            try:
                return await self._once(path, body, headers, timeout)
            except httpx.ConnectError:
                return await self._once(path, body, headers, timeout)
        except httpx.HTTPError as exc:
            raise mapped(exc) from None
        except SidecarError:
            raise
        except Exception as exc:
            # A transport that is not ours, or the sidecar in this process: what breaks there is no answer.
            log.exception("chio: the transport to the sidecar failed")
            raise EvaluationFailed(f"the exchange with the Chio sidecar broke: {type(exc).__name__}") from None

    async def _once(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        sent = [("content-type", "application/json"), ("accept", "application/json"), ("accept-encoding", "identity")]
        sent.extend(headers)
        async with self._client.stream("POST", path, content=body, headers=sent, timeout=timeout) as response:
            return RawResponse(
                response.status_code,
                response.headers.get("content-type", ""),
                await _limited(response.aiter_bytes()),
            )


async def _limited(chunks: Any) -> bytes:
    parts, size = [], 0
    async for chunk in chunks:
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise EvaluationFailed("Chio sidecar's answer is too long")
        parts.append(chunk)
    return b"".join(parts)


def mapped(exc: httpx.HTTPError) -> SidecarUnreachable | SidecarTimeout | EvaluationFailed:
    """Return our error for one of httpx."""
    if isinstance(exc, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
        return SidecarUnreachable(f"cannot connect to the Chio sidecar: {type(exc).__name__}")
    if isinstance(exc, httpx.TimeoutException):
        return SidecarTimeout("Chio sidecar did not answer in time")
    return EvaluationFailed(f"the exchange with the Chio sidecar broke: {type(exc).__name__}")
