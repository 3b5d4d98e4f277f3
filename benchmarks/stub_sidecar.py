"""A replacement of the sidecar: it allows everything, signs each receipt, and does little else.

It speaks just enough HTTP/1.1 (keep-alive, Content-Length) for the clients of the benchmarks, on 127.0.0.1
only. Its signing key is fixed and published here, so nothing outside a benchmark may trust it. Its responses
follow sections 1.3 and 3.1 to 3.5 of the wire protocol. It was written without chio_core, so that an error there has no
equal error here.

    python -m benchmarks.stub_sidecar --port 9090 [--receipts full|short]

`full` receipts carry the metadata that a sidecar really writes (section 3.2), `short` ones a single member.
`GET /stats` states the number of evaluations.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

import rfc8785
import uvloop
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair

SEED = bytes(range(32))
PUBLIC_KEY = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
"""The key of the receipts: the public half of `SEED`."""

POLICY_HASH = hashlib.sha256(b"openapi: 3.1.0\n").hexdigest()

# For text, whole numbers and the keys of receipts this gives the bytes of RFC 8785, and much faster: the
# standard library escapes the same characters in the same way. `check_itself` compares the two.
_canonical: Callable[[Any], str] = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode

_EVIDENCE = [{"guard_name": "DefaultPolicyGuard", "verdict": True, "details": "safe method, session-scoped allow"}]
_EVIDENCE_TEXT = _canonical(_EVIDENCE)

_ROUTE = {
    "sourceProtocol": "http",
    "requestedTargetProtocol": "native",
    "selectedRouteId": "native-route",
    "selectedTargetProtocol": "native",
    "selectedProtocols": ["http", "native"],
    "decision": "select",
}
_CANDIDATE = {
    "routeId": "native-route",
    "targetProtocol": "native",
    "selectedProtocols": ["http", "native"],
    "available": True,
}

SAMPLE_QUESTION: dict[str, Any] = {
    "request_id": "6a5f0c52-33c4-4a3c-9a4e-6a7d5d3a8c11",
    "method": "POST",
    "route_pattern": "/echo",
    "path": "/echo",
    "query": {"q": "ä\u2028\x01/"},
    "headers": {"content-type": "application/json", "content-length": "34"},
    "caller": {"subject": "anonymous", "auth_method": {"method": "anonymous"}, "verified": False},
    "body_hash": hashlib.sha256(b"body").hexdigest(),
    "body_length": 34,
    "timestamp": 1776272775,
}
"""An evaluation request as clients send it; the query holds characters that are special in canonical JSON."""


class Kernel:
    """Turns evaluation requests into signed responses and counts them."""

    def __init__(self, *, full: bool = True) -> None:
        """Take the fixed key; `full` chooses the metadata."""
        public, self._secret = crypto_sign_seed_keypair(SEED)
        self.public_key = public.hex()
        self.full = full
        self.evaluations = 0

    def evaluate(self, question: dict[str, Any]) -> bytes:
        """Return the body of the response: an allow with its receipt.

        Raises:
            KeyError: a required member of the request is missing.
        """
        self.evaluations += 1
        body = _canonical(self._receipt(question))
        signature = self.sign(body.encode())
        # The receipt is its signed text with one more member: the text is reused.
        return (
            f'{{"verdict":{{"verdict":"allow"}},"receipt":{body[:-1]},"signature":"{signature}"}},'
            f'"evidence":{_EVIDENCE_TEXT}}}'
        ).encode()

    def sign(self, message: bytes) -> str:
        """Return the Ed25519 signature of `message` as 128 hex digits."""
        return crypto_sign(message, self._secret)[:64].hex()

    def _receipt(self, question: dict[str, Any]) -> dict[str, Any]:
        receipt = {
            "id": _time_ordered_id(),
            "request_id": question["request_id"],
            "route_pattern": question["route_pattern"],
            "method": question["method"],
            "caller_identity_hash": _caller_hash(question["caller"]),
            "verdict": {"verdict": "allow"},
            "evidence": _EVIDENCE,
            "response_status": 200,
            "timestamp": int(time.time()),
            "content_hash": _content_hash(question),
            "policy_hash": POLICY_HASH,
            "metadata": self._metadata(question["request_id"]),
            "kernel_key": self.public_key,
        }
        if question.get("session_id") is not None:
            receipt["session_id"] = question["session_id"]
        return receipt

    def _metadata(self, request_id: str) -> dict[str, Any]:
        if not self.full:
            return {"chio_http_status_scope": "decision"}
        chosen = {**_ROUTE, "requestId": request_id, "governedIntentId": None}
        selection = {**_ROUTE, "routeSelectionId": _digest(chosen), "candidates": [_CANDIDATE]}
        return {
            "chio_http_status_scope": "decision",
            "chio_kernel_receipt_id": f"rcpt-{_time_ordered_id()}",
            "route_selection": selection,
        }


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _content_hash(question: dict[str, Any]) -> str:
    return _digest(
        {
            "method": question["method"],
            "route_pattern": question["route_pattern"],
            "path": question["path"],
            "query": question.get("query") or {},
            "body_hash": question.get("body_hash"),
        }
    )


def _caller_hash(caller: dict[str, Any]) -> str:
    known = {"subject": caller["subject"], "auth_method": caller["auth_method"]}
    known["verified"] = caller.get("verified", False)
    known.update((name, caller[name]) for name in ("tenant", "agent_id") if caller.get(name) is not None)
    return _digest(known)


def _time_ordered_id() -> str:
    """Return a UUID of version 7: 48 bits of milliseconds, the rest random."""
    digits = f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


def check_itself() -> None:
    """Check one response against independent implementations of RFC 8785 and Ed25519.

    Raises:
        RuntimeError: the stub would measure something that no client should accept.
    """
    kernel = Kernel()
    receipt = json.loads(kernel.evaluate(SAMPLE_QUESTION))["receipt"]
    signature = bytes.fromhex(receipt.pop("signature"))
    signed = crypto_sign_open(signature + rfc8785.dumps(receipt), bytes.fromhex(PUBLIC_KEY))
    bound = ("method", "route_pattern", "path", "query", "body_hash")
    binding = {name: SAMPLE_QUESTION[name] for name in bound}
    content = hashlib.sha256(rfc8785.dumps(binding)).hexdigest()
    if signed != _canonical(receipt).encode() or receipt["content_hash"] != content:
        raise RuntimeError("the stub's canonical JSON is not that of RFC 8785")


class Connection(asyncio.Protocol):
    """One keep-alive connection; each response is written in the call that received the request."""

    def __init__(self, kernel: Kernel) -> None:
        """Respond with `kernel`."""
        self._kernel = kernel
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Respond to every complete request."""
        self._received += data
        while True:
            head, found, rest = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            length = _content_length(head)
            if len(rest) < length:
                return
            self._received = rest[length:]
            self._transport.write(self._answer(head, rest[:length]))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"POST /chio/evaluate "):
            try:
                return _response(b"200 OK", self._kernel.evaluate(json.loads(body)))
            except (KeyError, TypeError, ValueError):
                text = b'{"error":"chio_bad_request","message":"invalid ChioHttpRequest payload"}'
                return _response(b"400 Bad Request", text)
        if head.startswith(b"GET /chio/health "):
            return _response(b"200 OK", b'{"status":"healthy","version":"0.1.0"}')
        if head.startswith(b"GET /stats "):
            return _response(b"200 OK", b'{"evaluations":%d}' % self._kernel.evaluations)
        return _response(b"404 Not Found", b'{"error":"chio_not_found","message":"no such path"}')


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _response(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


async def serve(port: int, kernel: Kernel) -> None:
    """Listen on 127.0.0.1 until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(kernel), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    """Run the stub from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--receipts", choices=("full", "short"), default="full")
    options = parser.parse_args()
    check_itself()
    uvloop.run(serve(options.port, Kernel(full=options.receipts == "full")))


if __name__ == "__main__":
    main()
