"""The application behind the middleware: sends an evaluated request to the upstream, and its response back.

Nothing is buffered on the way back. Redirects, cookies and encodings of the upstream stay as they are.

The final receipt of a request has its decision and the status that the client got. It copies the decision receipt, with
id, time, status and metadata of its own (wire protocol, section 3.2). The real proxy stores it in place of the decision
receipt. Here a decision is durable before the request is forwarded, so both are stored; as a store has one receipt for
each request id, the final one's is `final:` and that of the decision.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chio_core.canonical import compact_json, sha256_hex
from chio_core.errors import ChioError, InvalidDocument
from chio_core.names import RECEIVE_BODY, STATE_DECISION
from chio_core.settings import ChioSettings
from chio_sidecar.http import send_error
from chio_sidecar.proxy.messages import (
    FINAL_HEADER,
    find_fault,
    request_headers,
    response_headers,
    without_token,
)
from chio_sidecar.proxy.tunnel import Tunnel
from chio_sidecar.service.receipts import sign_receipt
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store import NewReceipt, Stored, StoreUnavailable

log = logging.getLogger(__name__)

IDLE = 1.0
"""Seconds that an unused connection to the upstream is kept: less than servers keep theirs, so none ends under a
request."""

CONNECT = 5.0
"""Seconds that opening a connection to the upstream may take."""


class ReverseProxy:
    """An ASGI application in front of one upstream.

    Args:
        sidecar: stores the final receipts.
        upstream: base URL, `http://` or `https://`.
        settings: those of the middleware.
        timeout: seconds until the head of a response, and of a websocket handshake; its body may take any time.

    Attributes:
        governed: this application inside the middleware, which is set after both are made.
    """

    def __init__(self, sidecar: SidecarState, upstream: str, settings: ChioSettings, *, timeout: float) -> None:
        parts = urlsplit(upstream)
        self._sidecar = sidecar
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._host = (b"host", parts.netloc.encode("ascii"))
        self._base = parts.path.rstrip("/").encode("ascii")
        self._settings = settings
        self._timeout = timeout
        tokens = (sidecar.config.control_token, sidecar.config.evaluate_token)
        self._tokens = [token for token in tokens if token is not None]
        self._via = b"chio-" + secrets.token_hex(8).encode()
        # Not a client: that would keep cookies, follow redirects and add headers of its own.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=IDLE)
        self._transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
        self.governed: ASGIApp = self.forward

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what has more than one reading, and let the rest be evaluated."""
        fault = find_fault(scope, self._tokens, self._via)
        if fault is None:
            await self.governed(scope, receive, send)
            return
        self._sidecar.metrics.proxied.add("refused")
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1002, "reason": fault[2]})
        else:
            await send_error(send, *fault, (b"connection", b"close"))

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request or websocket that the middleware has let through; there is no lifespan here."""
        target = self._base + scope["raw_path"]
        if query := without_token(scope["query_string"]):
            target += b"?" + query
        headers = request_headers(scope, self._settings.capability_header, self._via)
        if scope["type"] == "websocket":
            tunnel = Tunnel(self._origin + target.decode("ascii"), headers, self._timeout)
            outcome = await tunnel.run(scope, receive, send, lambda status: self._final(scope, status))
            self._sidecar.metrics.proxied.add(outcome)
            return
        body = _RequestBody(receive)
        working = asyncio.ensure_future(self._exchange(scope, target, headers, body, send))
        watching = asyncio.ensure_future(body.until_the_client_is_gone())
        try:
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
            outcome = working.result() if working.done() else "client gone"
        finally:
            for task in (working, watching):
                task.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)
        self._sidecar.metrics.proxied.add(outcome)

    async def aclose(self) -> None:
        """Close the connections to the upstream."""
        await self._transport.aclose()

    async def _exchange(
        self, scope: Scope, target: bytes, headers: list[tuple[bytes, bytes]], body: _RequestBody, send: Send
    ) -> str:
        """Do one exchange and return its outcome for the metrics."""
        stated = dict(scope["headers"])
        if body.length is not None:  # it was read for its evaluation
            if body.length or b"content-length" in stated or b"transfer-encoding" in stated:
                headers.append((b"content-length", b"%d" % body.length))
        else:
            headers += [(name, stated[name]) for name in (b"content-length", b"transfer-encoding") if name in stated]
        request = httpx.Request(
            scope["method"],
            self._origin,
            headers=[self._host, *headers],
            stream=body,
            # The path goes out byte for byte: the URL above names the server only.
            extensions={"target": target, "timeout": {"connect": CONNECT}},
        )
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._transport.handle_async_request(request)
        except TimeoutError:
            return await self._fail(scope, send, 504, f"no response within {self._timeout:g} s")
        except httpx.TimeoutException:
            return await self._fail(scope, send, 504, f"no connection within {CONNECT:g} s")
        except httpx.ConnectError:
            return await self._fail(scope, send, 502, "it cannot be reached")
        except httpx.HTTPError as exc:
            return await self._fail(scope, send, 502, f"it sent no valid response ({type(exc).__name__})")
        finally:
            body.is_done.set()
        try:
            return await self._respond(scope, response, send)
        finally:
            await response.aclose()

    async def _respond(self, scope: Scope, response: httpx.Response, send: Send) -> str:
        status = response.status_code
        try:
            final = await self._final(scope, status)
        except ChioError as exc:
            log.error("the final receipt of a proxied request was not stored: %s", exc.message)
            await _send_text(send, 500, "failed to persist receipt")
            return "unrecorded"
        head = [*response_headers(response.headers.raw, status), *final]
        await send({"type": "http.response.start", "status": status, "headers": head})
        try:
            async for piece in response.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except httpx.HTTPError as exc:
            # The head is out. Without its end the response is broken for the client too: the server closes the
            # connection when the application returns.
            log.warning("the upstream broke off its response: %s", type(exc).__name__)
            return "interrupted"
        await send({"type": "http.response.body", "body": b""})
        return f"{status // 100}xx"

    async def _fail(self, scope: Scope, send: Send, status: int, text: str) -> str:
        log.warning("upstream error: %s", text)
        try:
            final = await self._final(scope, status)
        except ChioError as exc:
            log.error("the final receipt of a proxied request was not stored: %s", exc.message)
            final = []
        await _send_text(send, status, f"upstream error: {text}", *final)
        return "timeout" if status == 504 else "unreachable"

    async def _final(self, scope: Scope, status: int) -> list[tuple[bytes, bytes]]:
        """Store the final receipt and return the header that names it; nothing for an excluded request."""
        decision: Any = scope.get("state", {}).get(STATE_DECISION)
        if decision is None or decision.receipt is None:
            return []
        receipt_id = await store_outcome(self._sidecar, decision.receipt.raw, status)
        return [(FINAL_HEADER.encode(), receipt_id.encode("ascii"))]


class _RequestBody(httpx.AsyncByteStream):
    """The body of a request as httpx reads it.

    Attributes:
        length: in bytes; None for an excluded request, whose body was not read.
        is_done: nothing more is read from it.
    """

    def __init__(self, receive: Receive) -> None:
        known = getattr(receive, RECEIVE_BODY, None)
        self.length: int | None = None if known is None else known.length
        self._receive = receive
        self.is_done = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message: Message = await self._receive()
            if message["type"] != "http.request":
                raise httpx.WriteError("the client is gone")
            more = message.get("more_body", False)
            if piece := message.get("body", b""):
                yield piece
        self.is_done.set()

    async def until_the_client_is_gone(self) -> None:
        await self.is_done.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass  # what is left of the body


async def _send_text(send: Send, status: int, text: str, *extra: tuple[bytes, bytes]) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)), *extra]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_KEPT = ("chio_kernel_receipt_id", "route_selection")


async def store_outcome(sidecar: SidecarState, decision: Mapping[str, Any] | None, status: int) -> str:
    """Store the final receipt of a request and return its id, once it is durable.

    Args:
        sidecar: its key and store.
        decision: the verified decision receipt, as it was received.
        status: of the response.

    Raises:
        StoreUnavailable: nothing was stored.
        InvalidDocument: there is no decision receipt to copy.
    """
    if decision is None:
        raise InvalidDocument("the decision's receipt is not known as it was received")
    request_id, metadata = f"final:{decision['request_id']}", decision.get("metadata") or {}
    receipt = sign_receipt(
        sidecar.key,
        {
            **decision,
            "id": str(sidecar.ids.new()),
            "request_id": request_id,
            "response_status": status,
            "timestamp": sidecar.now(),
            # An approval, a budget or what observe mode would have refused is recorded once, with the decision.
            "metadata": {
                "chio_http_status_scope": "final",
                "chio_decision_receipt_id": decision["id"],
                **{name: metadata[name] for name in _KEPT if name in metadata},
            },
        },
    )
    text = compact_json(receipt)
    outcome = await sidecar.store.append(NewReceipt(receipt["id"], request_id, sha256_hex(text.encode()), text))
    if not isinstance(outcome, Stored):
        raise StoreUnavailable("this request has a final receipt already")
    return str(receipt["id"])
