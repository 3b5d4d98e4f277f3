"""What a proxied message may contain, and what of it travels on (RFC 9110, section 7.6; RFC 9112, section 6).

The path is evaluated decoded and forwarded as it was sent. So a spelling is refused if servers could read it as another
path than the one that was evaluated.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

from pydantic import SecretStr
from starlette.types import Scope

from chio_core.names import APPROVAL_HEADER, CAPABILITY_HEADER, CAPABILITY_QUERY

FINAL_HEADER: Final = "x-chio-receipt-id"
"""Response header with the id of the final receipt (wire protocol, section 8)."""

MAX_HEADER_BYTES: Final = 64 * 1024
"""Largest sum of the names and values of a request's headers (wire protocol, section 8)."""

Pairs = list[tuple[bytes, bytes]]
Refusal = tuple[int, str, str]
"""Status, code and message."""

_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_REQUEST: Final = _HOP | {
    b"content-length",
    b"expect",
    b"forwarded",
    b"host",
    b"via",
    b"x-real-ip",
    b"x-chio-execution-nonce",
    CAPABILITY_HEADER.lower().encode(),
    APPROVAL_HEADER.lower().encode(),
}
_RESPONSE: Final = _HOP | {FINAL_HEADER.encode()}
_UNCLEAR: Final = re.compile(rb"%(2f|5c|[01][0-9a-f]|7f)|\\\\", re.IGNORECASE)
_ENCODED: Final = re.compile(rb"%[0-9a-fA-F]{2}")


def find_fault(scope: Scope, tokens: Collection[SecretStr], via: bytes) -> Refusal | None:
    """Return why a request cannot be forwarded; None if it can.

    Args:
        scope: of a request or a websocket handshake, with the server's `raw_path`.
        tokens: bearers of the sidecar's own endpoints, which no upstream may see.
        via: the name of this proxy in `Via`.
    """
    lines: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        lines.setdefault(name.lower(), []).append(value)
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        return 431, "chio_proxy_headers_too_large", f"headers are larger than {MAX_HEADER_BYTES} bytes"

    # Two readers that disagree about the end of a request disagree about which request was evaluated.
    lengths, encodings = lines.get(b"content-length", []), lines.get(b"transfer-encoding", [])
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths) or (lengths and encodings):
        return _bad("the end of the body is stated twice, or cannot be read")
    if encodings and [one.strip().lower() for one in encodings] != [b"chunked"]:
        return _bad("the only transfer coding is chunked")
    if len(lines.get(b"host", [])) > 1:
        return _bad("header host occurs more than once")

    if fault := _find_path_fault(scope["raw_path"]):
        return _bad(fault)
    for value in lines.get(b"authorization", []):
        presented = value.rpartition(b" ")[2]
        if any(hmac.compare_digest(presented, token.get_secret_value().encode()) for token in tokens):
            return 403, "chio_control_credential_wrong_route", "a token of the sidecar is not for the application"
    if any(via in value for value in lines.get(b"via", [])):
        return 508, "chio_proxy_loop", "the request came back to this sidecar; --upstream must name another server"
    return None


def _bad(message: str) -> Refusal:
    return 400, "chio_bad_request", message


def _find_path_fault(raw: bytes) -> str | None:
    path = unquote_to_bytes(raw)
    if not raw.startswith(b"/") or re.search(rb"[^!-~]|#", raw):
        return "the path must begin with / and consist of printable ASCII characters"
    try:
        path.decode()
    except UnicodeDecodeError:
        return "the path is not UTF-8"
    *folders, last = path.split(b"/")[1:]
    if b"" in folders or {b".", b".."} & {*folders, last} or _UNCLEAR.search(raw):
        return "the path has more than one reading: remove empty and dot segments, and encoded separators"
    # Some servers decode what is encoded twice a second time.
    return "the path is encoded twice" if _ENCODED.search(path) else None


def request_headers(scope: Scope, capability_header: str, via: bytes) -> Pairs:
    """Return the headers for the upstream, without `Host` and framing.

    Args:
        scope: of the request.
        capability_header: the header of the capability token, a secret.
        via: the name of this proxy in `Via`.
    """
    removed = _REQUEST | {capability_header.lower().encode()}
    headers = scope["headers"]
    kept = [
        (name, value)
        for name, value in _end_to_end(headers, removed)
        if not _plain(name).startswith(b"x-forwarded-") and not name.lower().startswith(b"sec-websocket-")
    ]
    # What the client claims about earlier hops was removed above, so these three state what was seen here.
    if scope.get("client"):
        kept.append((b"x-forwarded-for", scope["client"][0].encode("latin-1")))
    kept += [(b"x-forwarded-host", value) for name, value in headers if name.lower() == b"host"]
    scheme: str = scope["scheme"].replace("ws", "http", 1)
    return [*kept, (b"x-forwarded-proto", scheme.encode()), (b"via", b"1.1 " + via)]


def response_headers(headers: Iterable[tuple[bytes, bytes]], status: int) -> Pairs:
    """Return the upstream's headers for the client.

    Args:
        headers: as they came, repeated lines included.
        status: of the response; 304 and 204 have no body, so no length is stated for them.
    """
    kept = _end_to_end(headers, _RESPONSE | ({b"content-length"} if status in (204, 304) else set()))
    return [(name.lower(), value) for name, value in kept]


def _end_to_end(headers: Iterable[tuple[bytes, bytes]], removed: Collection[bytes]) -> Pairs:
    pairs = list(headers)
    nominated = {
        name.strip().lower() for key, value in pairs if key.lower() == b"connection" for name in value.split(b",")
    }
    return [(name, value) for name, value in pairs if _plain(name) not in removed and name.lower() not in nominated]


def _plain(name: bytes) -> bytes:
    # WSGI servers read `X_Forwarded_For` and `X-Forwarded-For` as the same variable.
    return name.lower().replace(b"_", b"-")


def without_token(query: bytes) -> bytes:
    """Return a query without the parameter of the capability token; all other bytes stay as they are."""
    parts = query.split(b"&")
    own = CAPABILITY_QUERY.encode()
    return b"&".join(part for part in parts if unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" ")) != own)
