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
from chio_core.models.demands import approval_from, budget_from
from chio_core.models.receipt import explain
from chio_core.models.request import ChioHttpRequest
from chio_core.names import CAPABILITY_HEADER, CAPABILITY_QUERY
from chio_sidecar.policy.engine import PresentedToken

MAX_MEMBERS = 1000
"""Members that `query` and `headers` of a request may have; clients refuse longer queries by themselves."""

MAX_ARGUMENTS = 1024 * 1024
"""Longest `arguments`, as bytes of compact JSON."""

_HEADER = CAPABILITY_HEADER.lower().encode()
_PARAMETER = CAPABILITY_QUERY.encode()
_BODY_HEADERS = (CAPABILITY_HEADER.lower(), CAPABILITY_HEADER)


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """One call of the evaluate endpoint.

    Attributes:
        request: what the client described.
        token: the capability token, read or refused; None when there was none.
        fingerprint: equal for two calls with the same content, the client's time aside.
    """

    request: ChioHttpRequest
    token: PresentedToken
    fingerprint: str

    @property
    def capability_id(self) -> str | None:
        """The id to look up among the revoked ones: the token's, else the one that the request names."""
        if self.token is None or isinstance(self.token, CapabilityRejected):
            return self.request.capability_id
        return self.token.id


def read_call(body: bytes, headers: Iterable[tuple[bytes, bytes]], query_string: bytes) -> EvaluateRequest:
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
    _check_extent(document, len(body))
    try:
        request = ChioHttpRequest.model_validate(document, strict=True)
    except ValidationError as exc:
        raise InvalidDocument(explain(exc)) from None
    _check_demands(request)
    text = _transported(headers, query_string)
    if text is None:
        text = _in_body(request)
    return EvaluateRequest(request, _read_token(text), _fingerprint(document, text))


def _check_extent(document: Mapping[str, Any], length: int) -> None:
    # One loop serves everybody, and what is read here is validated, hashed and matched on it.
    for name in ("query", "headers"):
        members = document.get(name)
        if isinstance(members, dict) and len(members) > MAX_MEMBERS:
            raise InvalidDocument(f"{name} has more than {MAX_MEMBERS} members")
    if length > MAX_ARGUMENTS and "arguments" in document:  # a shorter body cannot hold longer arguments
        text = json.dumps(document["arguments"], ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) > MAX_ARGUMENTS:
            raise InvalidDocument(f"arguments are longer than {MAX_ARGUMENTS} bytes")


def _check_demands(request: ChioHttpRequest) -> None:
    # Whoever demands something in a form that is not understood must not get an answer that ignores it.
    try:
        if request.governed_intent is not None:
            approval_from(request.governed_intent)
        if request.budget is not None:
            budget_from(request.budget)
    except ValueError as exc:
        raise InvalidDocument(str(exc)) from None


def _transported(headers: Iterable[tuple[bytes, bytes]], query_string: bytes) -> str | None:
    for name, value in headers:
        if name == _HEADER:
            return value.decode("utf-8", "replace")
    if _PARAMETER not in query_string and b"%" not in query_string:
        return None
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    return next((value for name, value in pairs if name == CAPABILITY_QUERY), None)


def _in_body(request: ChioHttpRequest) -> str | None:
    for name in _BODY_HEADERS:
        if name in request.headers:
            return request.headers[name]
    return request.query.get(CAPABILITY_QUERY)


def _read_token(text: str | None) -> PresentedToken:
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
