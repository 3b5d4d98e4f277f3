"""A websocket through the proxy: the handshake was evaluated, the messages pass both ways until one side closes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from chio_core.errors import ChioError
from chio_sidecar.proxy.messages import response_headers

MAX_MESSAGE = 16 * 1024 * 1024
"""Largest message in either direction, in bytes: that of the server towards the client."""

Finish = Callable[[int], Awaitable[list[tuple[bytes, bytes]]]]

_OWN = (b"sec-websocket-", b"date", b"server", b"content-length")
_NO_STATUS, _ABNORMAL, _TRY_LATER = 1005, 1006, 1013


class _Connect(connect):
    """A connection attempt that follows no redirect: its target was not evaluated."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Tunnel:
    """One websocket.

    Args:
        url: `http://` or `https://` URL at the upstream.
        headers: for the handshake.
        timeout: seconds that the upstream's handshake may take.
    """

    def __init__(self, url: str, headers: list[tuple[bytes, bytes]], timeout: float) -> None:
        self._url = "ws" + url.removeprefix("http")
        self._headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        self._timeout = timeout

    async def run(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        finish: Finish,
    ) -> str:
        """Serve the websocket to its end and return the outcome for the metrics.

        Args:
            finish: stores the final receipt for a status, and returns the header that names it.
        """
        await receive()  # websocket.connect
        try:
            upstream = await _Connect(
                self._url,
                additional_headers=self._headers,
                subprotocols=[Subprotocol(name) for name in scope.get("subprotocols", ())] or None,
                user_agent_header=None,
                compression=None,
                proxy=None,
                open_timeout=self._timeout,
                ping_interval=None,
                max_size=MAX_MESSAGE,
            )
        except InvalidStatus as exc:
            status = exc.response.status_code
            headers = [
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in exc.response.headers.raw_items()
            ]
            await _refuse(scope, send, status, headers, bytes(exc.response.body or b""), finish)
            return f"{status // 100}xx"
        except TimeoutError:
            await _refuse(scope, send, 504, [], b"upstream error: no response in time", finish)
            return "timeout"
        except (OSError, InvalidHandshake):
            await _refuse(scope, send, 502, [], b"upstream error: it accepts no websocket", finish)
            return "unreachable"
        async with upstream:
            try:
                final = await finish(101)
            except ChioError:
                await send({"type": "websocket.close", "code": _TRY_LATER, "reason": "failed to persist receipt"})
                return "unrecorded"
            sent = [] if upstream.response is None else upstream.response.headers.raw_items()
            headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in sent]
            kept = [pair for pair in response_headers(headers, 101) if not pair[0].startswith(_OWN)]
            await send({"type": "websocket.accept", "subprotocol": upstream.subprotocol, "headers": [*kept, *final]})
            tasks = [
                asyncio.ensure_future(_inbound(receive, upstream)),
                asyncio.ensure_future(_outbound(upstream, send)),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return "1xx"


async def _inbound(receive: Receive, upstream: ClientConnection) -> None:
    """Pass the client's messages on until it is gone."""
    while True:
        message: Message = await receive()
        if message["type"] == "websocket.disconnect":
            code = message.get("code", _NO_STATUS)
            await upstream.close(1000 if code in (_NO_STATUS, _ABNORMAL) else code, message.get("reason") or "")
            return
        text: Any = message.get("text")
        try:
            await upstream.send(message["bytes"] if text is None else text)
        except ConnectionClosed:
            await upstream.wait_closed()
            await asyncio.Event().wait()  # the other direction tells the client why


async def _outbound(upstream: ClientConnection, send: Send) -> None:
    """Pass the upstream's messages on until it closes."""
    try:
        while True:
            message = await upstream.recv()
            kind = "text" if isinstance(message, str) else "bytes"
            await send({"type": "websocket.send", kind: message})
    except ConnectionClosed as exc:
        end = exc.rcvd
        code = end.code if end is not None else 1011
        await send(
            {
                "type": "websocket.close",
                "code": 1000 if code == _NO_STATUS else code,
                "reason": end.reason if end else "",
            }
        )


async def _refuse(
    scope: Scope,
    send: Send,
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    finish: Finish,
) -> None:
    """Pass the refusal of a handshake on, where the server can send one; else the client gets a 403."""
    final = await finish(status)
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        return
    kept = [pair for pair in response_headers(headers, status) if pair[0] != b"content-length"]
    head = [*kept, (b"content-length", b"%d" % len(body)), *final]
    await send({"type": "websocket.http.response.start", "status": status, "headers": head})
    await send({"type": "websocket.http.response.body", "body": body})
