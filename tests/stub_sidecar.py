"""The independent double of the sidecar: it signs receipts by the wire protocol alone (sections 1.3 and 3.1 to 3.5).

It was written without chio_core, so that an error there has no equal error here. `tests.support` lets tests choose its
verdicts. As a process, for the benchmarks, it allows everything and does little else:

    python -m tests.stub_sidecar --port 9090 [--receipts full|short]

It speaks just enough HTTP/1.1 (keep-alive, Content-Length), on 127.0.0.1 only. `full` receipts carry the metadata that
a sidecar really writes (section 3.2), `short` ones a single member. `GET /stats` states the number of evaluations.
The signing key is fixed and published here, so nothing outside of tests and benchmarks may trust it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import rfc8785
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair

SEED = bytes(range(32))
PUBLIC_KEY = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
"""The key of the receipts: the public half of `SEED`."""

ALLOW = {"verdict": "allow"}
POLICY_HASH = hashlib.sha256(b"openapi: 3.1.0\n").hexdigest()


def exact(value: Any) -> str:
    """Return RFC 8785 JSON."""
    return rfc8785.dumps(value).decode()


# For text, whole numbers and the keys of receipts this gives the bytes of RFC 8785, and much faster: the
# standard library escapes the same characters in the same way. `check_itself` compares the two.
fast: Callable[[Any], str] = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode

_EVIDENCE = [{"guard_name": "DefaultPolicyGuard", "verdict": True, "details": "safe method, session-scoped allow"}]
_EVIDENCE_TEXT = fast(_EVIDENCE)

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

SAMPLE_REQUEST: dict[str, Any] = {
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
    """Signs receipts with the fixed key.

    Args:
        full: write the metadata of a real sidecar.
        canonical: RFC 8785 for every value that occurs.
    """

    def __init__(self, *, full: bool = True, canonical: Callable[[Any], str] = fast) -> None:
        self._secret = crypto_sign_seed_keypair(SEED)[1]
        self._full = full
        self._canonical = canonical
        self.evaluations = 0

    def evaluate(self, request: Mapping[str, Any]) -> bytes:
        """Return the body of a response that allows.

        Raises:
            KeyError: a required member of the request is missing.
        """
        self.evaluations += 1
        body = self._canonical(self.receipt(request))
        # The receipt is its signed text with one more member: the text is reused.
        return (
            f'{{"verdict":{{"verdict":"allow"}},"receipt":{body[:-1]},"signature":"{self.sign(body)}"}},'
            f'"evidence":{_EVIDENCE_TEXT}}}'
        ).encode()

    def sign(self, text: str) -> str:
        """Return the Ed25519 signature of a text as 128 hex digits."""
        return crypto_sign(text.encode(), self._secret)[:64].hex()

    def receipt(self, request: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
        """Return an unsigned receipt for a request, an allow unless `changes` state another verdict."""
        pattern = changes.get("route_pattern", request["route_pattern"])
        caller = request["caller"]
        identity = {"subject": caller["subject"], "auth_method": caller["auth_method"]}
        identity["verified"] = caller.get("verified", False)
        identity.update((name, caller[name]) for name in ("tenant", "agent_id") if caller.get(name) is not None)
        content = {"method": request["method"], "route_pattern": pattern, "path": request["path"]}
        content |= {"query": request.get("query") or {}, "body_hash": request.get("body_hash")}
        receipt = {
            "id": _time_ordered_id(),
            "request_id": request["request_id"],
            "route_pattern": pattern,
            "method": request["method"],
            "caller_identity_hash": self._digest(identity),
            "verdict": ALLOW,
            "evidence": _EVIDENCE,
            "response_status": 200,
            "timestamp": int(time.time()),
            "content_hash": self._digest(content),
            "policy_hash": POLICY_HASH,
            "metadata": self._metadata(request["request_id"]) if self._full else {"chio_http_status_scope": "decision"},
            "kernel_key": PUBLIC_KEY,
        }
        if request.get("session_id") is not None:
            receipt["session_id"] = request["session_id"]
        return receipt | changes

    def signed(self, receipt: dict[str, Any]) -> dict[str, Any]:
        """Return a receipt with its signature, which replaces any other."""
        receipt = {name: value for name, value in receipt.items() if name != "signature"}
        return {**receipt, "signature": self.sign(self._canonical(receipt))}

    def _metadata(self, request_id: str) -> dict[str, Any]:
        chosen = {**_ROUTE, "requestId": request_id, "governedIntentId": None}
        selection = {**_ROUTE, "routeSelectionId": self._digest(chosen), "candidates": [_CANDIDATE]}
        return {
            "chio_http_status_scope": "decision",
            "chio_kernel_receipt_id": f"rcpt-{_time_ordered_id()}",
            "route_selection": selection,
        }

    def _digest(self, value: Any) -> str:
        return hashlib.sha256(self._canonical(value).encode()).hexdigest()


def _time_ordered_id() -> str:
    """Return a UUID of version 7: 48 bits of milliseconds, the rest random."""
    digits = f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


def check_itself() -> None:
    """Check one response against independent implementations of RFC 8785 and Ed25519.

    Raises:
        RuntimeError: the double would measure something that no client should accept.
    """
    kernel = Kernel()
    receipt = json.loads(kernel.evaluate(SAMPLE_REQUEST))["receipt"]
    signature = bytes.fromhex(receipt.pop("signature"))
    signed = crypto_sign_open(signature + rfc8785.dumps(receipt), bytes.fromhex(PUBLIC_KEY))
    bound = ("method", "route_pattern", "path", "query", "body_hash")
    binding = {name: SAMPLE_REQUEST[name] for name in bound}
    content = hashlib.sha256(rfc8785.dumps(binding)).hexdigest()
    if signed != fast(receipt).encode() or receipt["content_hash"] != content:
        raise RuntimeError("the double's canonical JSON is not that of RFC 8785")


class Connection(asyncio.Protocol):
    """One keep-alive connection; each response is written in the call that received the request.

    Args:
        respond: takes the first line, the headers (names in lower case) and the body of a request; returns the bytes of
            the response.
    """

    def __init__(self, respond: Callable[[str, dict[str, str], bytes], bytes]) -> None:
        self._respond = respond
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (found := split_request(self._received)) is not None:
            first, headers, body, self._received = found
            self._transport.write(self._respond(first, headers, body))


def split_request(data: bytes) -> tuple[str, dict[str, str], bytes, bytes] | None:
    """Return first line, headers, body and the rest, once a whole request has come."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    length = int(headers.get("content-length", "0"))
    return (first, headers, rest[:length], rest[length:]) if len(rest) >= length else None


def http_response(body: bytes, *, status: str = "200 OK", extra: bytes = b"") -> bytes:
    """Return an HTTP response with a JSON body; `extra` is header lines."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n".encode()
    return head + extra + b"\r\n" + body


async def serve(port: int, kernel: Kernel) -> None:
    """Listen on 127.0.0.1 until the process is ended."""

    def respond(first: str, headers: dict[str, str], body: bytes) -> bytes:
        if first.startswith("POST /chio/evaluate "):
            try:
                return http_response(kernel.evaluate(json.loads(body)))
            except (KeyError, TypeError, ValueError):
                text = b'{"error":"chio_bad_request","message":"invalid ChioHttpRequest payload"}'
                return http_response(text, status="400 Bad Request")
        if first.startswith("GET /chio/health "):
            return http_response(b'{"status":"healthy","version":"0.1.0"}')
        if first.startswith("GET /stats "):
            return http_response(b'{"evaluations":%d}' % kernel.evaluations)
        return http_response(b'{"error":"chio_not_found","message":"no such path"}', status="404 Not Found")

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(respond), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    """Run the double from the command line."""
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--receipts", choices=("full", "short"), default="full")
    options = parser.parse_args()
    check_itself()
    uvloop.run(serve(options.port, Kernel(full=options.receipts == "full")))


if __name__ == "__main__":
    main()
