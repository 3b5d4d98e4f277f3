"""Reading an evaluate call: its body, and the capability token that came with it (wire protocol, section 1)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError

from chio_core.canonical import parse_json, sha256_hex
from chio_core.capabilities import CapabilityRejected, parse_capability
from chio_core.errors import InvalidDocument
from chio_core.models.receipt import explain
from chio_core.models.request import ChioHttpRequest
from chio_sidecar.engine import Presented

CAPABILITY_HEADER = b"x-chio-capability"
CAPABILITY_PARAMETER = "chio_capability"

_BODY_HEADERS = ("x-chio-capability", "X-Chio-Capability")


@dataclass(frozen=True, slots=True)
class EvaluateCall:
    """One call of the evaluate endpoint.

    Attributes:
        request: what the client described.
        token: the capability token, read or refused; None when there was none.
        fingerprint: equal for two calls with the same content, the client's time aside.
    """

    request: ChioHttpRequest
    token: Presented
    fingerprint: str

    @property
    def capability_id(self) -> str | None:
        """The id to look up among the revoked ones: the token's, else the one that the request names."""
        if self.token is None or isinstance(self.token, CapabilityRejected):
            return self.request.capability_id
        return self.token.id


def read_call(body: bytes, headers: Iterable[tuple[bytes, bytes]], query_string: bytes) -> EvaluateCall:
    """Read a call.

    Args:
        body: the whole body.
        headers: of the call itself, names in lower case.
        query_string: of the call itself, still encoded.

    Raises:
        InvalidDocument: the body is no ChioHttpRequest.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise InvalidDocument("a JSON object is expected")
    try:
        request = ChioHttpRequest.model_validate(document, strict=True)
    except ValidationError as exc:
        raise InvalidDocument(explain(exc)) from None
    text = _transported(headers, query_string)
    if text is None:
        text = _in_body(request)
    return EvaluateCall(request, _read_token(text), _fingerprint(document, text))


def _transported(headers: Iterable[tuple[bytes, bytes]], query_string: bytes) -> str | None:
    for name, value in headers:
        if name == CAPABILITY_HEADER:
            return value.decode("utf-8", "replace")
    if b"chio_capability" not in query_string and b"%" not in query_string:
        return None
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    return next((value for name, value in pairs if name == CAPABILITY_PARAMETER), None)


def _in_body(request: ChioHttpRequest) -> str | None:
    for name in _BODY_HEADERS:
        if name in request.headers:
            return request.headers[name]
    return request.query.get(CAPABILITY_PARAMETER)


def _read_token(text: str | None) -> Presented:
    if text is None:
        return None
    try:
        return parse_capability(text)
    except CapabilityRejected as exc:
        return exc


def _fingerprint(document: Mapping[str, Any], token: str | None) -> str:
    """Return a digest of the content.

    Raises:
        InvalidDocument: a number beyond the range of JSON numbers, or half of a surrogate pair: such a document
            has no canonical form.
    """
    content = {name: value for name, value in document.items() if name != "timestamp"}
    try:
        content = {"request": content, "token": None if token is None else sha256_hex(token.encode())}
        return sha256_hex(_ENCODER.encode(content).encode())
    except UnicodeEncodeError:
        raise InvalidDocument("a text holds half of a surrogate pair") from None
    except ValueError:
        raise InvalidDocument("a number is out of range") from None


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, sort_keys=True, separators=(",", ":")
)
