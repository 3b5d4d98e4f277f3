"""InstantCarrier: the scripted sidecar for threads, without sockets and without waiting."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import httpx

from chio_core.client.carrier import MAX_RESPONSE_BYTES, Pairs
from chio_core.client.via_httpx import mapped
from chio_core.errors import EvaluationFailed
from chio_core.evaluation.exchange import RawResponse
from chio_core.testing.transport import Behave, ScriptedTransport

T = TypeVar("T")


class InstantCarrier:
    """A `BlockingCarrier` to a scripted sidecar.

    Args:
        behave: says what to do with a call.
    """

    def __init__(self, behave: Behave) -> None:
        self._transport = ScriptedTransport(behave, instant=True)

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `chio_core.client.carrier.AsyncCarrier.post`."""
        request = httpx.Request(
            "POST",
            f"http://localhost{path}",
            content=body,
            headers=[("content-type", "application/json"), *headers],
            extensions={"timeout": {"read": timeout}},
        )
        try:
            response = _stepped(self._answer(request))
        except httpx.HTTPError as exc:
            raise mapped(exc) from None
        if len(response.content) > MAX_RESPONSE_BYTES:
            raise EvaluationFailed("Chio sidecar's response is too long")
        return RawResponse(response.status_code, response.headers.get("content-type", ""), response.content)

    def close(self) -> None:
        """Nothing is open."""

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        await response.aread()
        return response


def _stepped(work: Coroutine[Any, Any, T]) -> T:
    # Nothing in it waits, so no event loop is needed; one may be running in this thread.
    try:
        work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    work.close()
    raise RuntimeError("the transport of a scripted sidecar has waited for something")
