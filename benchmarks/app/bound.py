"""The lower bound: what governing a request takes without a library, and without most of what makes it safe.

It hashes the body, sends one evaluation over a kept connection, verifies the receipt's signature with libsodium, and
compares the receipt with the request. It knows no routes, limits, retries, hooks or telemetry; what it does not allow
ends in an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import orjson
from nacl.signing import VerifyKey

_SORTED = orjson.OPT_SORT_KEYS
_ANONYMOUS = {"subject": "anonymous", "auth_method": {"method": "anonymous"}, "verified": False}
_SENT = (b"content-type", b"content-length")

Message = MutableMapping[str, Any]


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=_SORTED)).hexdigest()


_CALLER = _digest(_ANONYMOUS)


class _Connection(asyncio.Protocol):
    """One kept connection, which carries one exchange at a time and reads only what states its length."""

    def __init__(self) -> None:
        self.received = b""
        self.response: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found or self.response is None:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length and head[9:12] == b"200":
            self.received = b""
            self.response.set_result(body)


class Bound:
    """The middleware.

    Args:
        app: the application.
        sidecar: URL of the sidecar.
        key: its public key in hex.
    """

    def __init__(self, app: Any, sidecar: str, key: str) -> None:
        end = urlsplit(sidecar)
        self._app, self._host, self._port, self._key = app, str(end.hostname), int(end.port or 80), key
        self._verify = VerifyKey(bytes.fromhex(key)).verify
        self._idle: list[_Connection] = []
        self._head = (
            f"POST /chio/evaluate HTTP/1.1\r\nhost: {end.netloc}\r\ncontent-type: application/json\r\ncontent-length: "
        ).encode()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Govern one request of a caller without a credential."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        request = {
            "request_id": str(uuid.uuid4()),
            "method": scope["method"],
            "route_pattern": scope["path"],
            "path": scope["path"],
            "headers": {name.decode(): value.decode() for name, value in scope["headers"] if name in _SENT},
            "caller": _ANONYMOUS,
            "body_length": len(body),
            "timestamp": int(time.time()),
        }
        if body:
            request["body_hash"] = hashlib.sha256(body).hexdigest()
        receipt = await self._allowed(request)
        replayed = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            return replayed

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-chio-receipt", receipt["id"].encode())]
            await send(message)

        await self._app(scope, replay, tagged)

    async def _allowed(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the verified receipt of a request.

        Raises:
            PermissionError: it is not allowed.
            nacl.exceptions.BadSignatureError: the signature does not verify.
        """
        loop, data = asyncio.get_running_loop(), orjson.dumps(request)
        if self._idle:
            connection = self._idle.pop()
        else:
            _, connection = await loop.create_connection(_Connection, self._host, self._port)
        connection.response = loop.create_future()
        connection.transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(data), data))
        answer = orjson.loads(await connection.response)
        self._idle.append(connection)
        receipt: dict[str, Any] = answer["receipt"]
        signature = receipt.pop("signature")
        self._verify(orjson.dumps(receipt, option=_SORTED), bytes.fromhex(signature))
        bound = {
            "method": request["method"],
            "route_pattern": receipt["route_pattern"],
            "path": request["path"],
            "query": {},
            "body_hash": request.get("body_hash"),
        }
        expected = {
            "request_id": request["request_id"],
            "method": request["method"],
            "route_pattern": request["path"],
            "caller_identity_hash": _CALLER,
            "content_hash": _digest(bound),
            "kernel_key": self._key,
            "verdict": answer["verdict"],
        }
        if answer["verdict"] != {"verdict": "allow"} or expected != {name: receipt[name] for name in expected}:
            raise PermissionError("not allowed")
        return receipt
