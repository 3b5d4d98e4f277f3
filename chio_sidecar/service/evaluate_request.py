"""Reading an evaluate request: its body, and the capability token that came with it (wire protocol, section 1)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from pydantic import ValidationError

from chio_core.canonical import compact_json, parse_json, sha256_hex
from chio_core.capabilities import CapabilityRejected, parse_capability
from chio_core.errors import InvalidDocument
from chio_core.evaluation.precheck import MAX_PATH_CHARACTERS
from chio_core.models.demands import approval_from, budget_from
from chio_core.models.receipt import explain
from chio_core.models.request import ChioHttpRequest
from chio_core.names import CAPABILITY_HEADER, CAPABILITY_QUERY
from chio_sidecar.policy.engine import PresentedToken

MAX_MEMBERS = 1000
"""Members that `query` and `headers` of a request may have; clients refuse longer queries themselves."""

MAX_ARGUMENTS = 1024 * 1024
"""Longest `arguments`, as bytes of compact JSON."""

MAX_NAME_CHARACTERS = 512
"""Longest name or id of a request that its receipt repeats."""

# What a receipt repeats is stored for ever. Of query, headers, caller, body and arguments it has hashes only.
_REPEATED = {"path": MAX_PATH_CHARACTERS, "route_pattern": MAX_PATH_CHARACTERS} | dict.fromkeys(
    ("request_id", "session_id", "capability_id", "tool_server", "tool_name", "further_to"), MAX_NAME_CHARACTERS
)

_HEADER = CAPABILITY_HEADER.lower()
_HEADER_NAME, _QUERY_NAME = _HEADER.encode(), CAPABILITY_QUERY.encode()


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """One request to the evaluate endpoint.

    Attributes:
        request: the request that the client described.
        token: the capability token, read or refused; None without one.
        fingerprint: equal for two evaluate requests with the same content, the client's time aside.
    """

    request: ChioHttpRequest
    token: PresentedToken
    fingerprint: str

    @property
    def capability_id(self) -> str | None:
        """The id that must not be revoked: the token's, else the one that the request names."""
        if self.token is None or isinstance(self.token, CapabilityRejected):
            return self.request.capability_id
        return self.token.id


def read_evaluate_request(body: bytes, headers: Iterable[tuple[bytes, bytes]], query_string: bytes) -> EvaluateRequest:
    """Read an evaluate request.

    Args:
        body: the whole body.
        headers: of the evaluate request itself, names in lower case.
        query_string: of the evaluate request itself, still encoded.

    Raises:
        InvalidDocument: the body is no ChioHttpRequest, or a member of it is too long.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise InvalidDocument("a JSON object is expected")

    # One event loop serves all clients, and validates, hashes and matches every member.
    for name in ("query", "headers"):
        members = document.get(name)
        if isinstance(members, dict) and len(members) > MAX_MEMBERS:
            raise InvalidDocument(f"{name} has more than {MAX_MEMBERS} members")
    if len(body) > MAX_ARGUMENTS and "arguments" in document:  # a shorter body cannot hold longer arguments
        arguments = json.dumps(document["arguments"], ensure_ascii=False, separators=(",", ":"))
        if len(arguments.encode()) > MAX_ARGUMENTS:
            raise InvalidDocument(f"arguments are longer than {MAX_ARGUMENTS} bytes")

    try:
        request = ChioHttpRequest.model_validate(document, strict=True)
    except ValidationError as exc:
        raise InvalidDocument(explain(exc)) from None
    for name, limit in _REPEATED.items():
        if len(getattr(request, name) or "") > limit:
            raise InvalidDocument(f"{name} is longer than {limit} characters")
    # A demand that cannot be read must not be ignored: the client would take an allow for its fulfilment.
    try:
        if request.governed_intent is not None:
            approval_from(request.governed_intent)
        if request.budget is not None:
            budget_from(request.budget)
    except ValueError as exc:
        raise InvalidDocument(str(exc)) from None

    text = _token_text(request, headers, query_string)
    # A number beyond the range of JSON numbers, or half of a surrogate pair, has no canonical form.
    content = {name: value for name, value in document.items() if name != "timestamp"}
    try:
        hashed = {"request": content, "token": None if text is None else sha256_hex(text.encode())}
        fingerprint = sha256_hex(compact_json(hashed, sort_keys=True).encode())
    except UnicodeEncodeError:
        raise InvalidDocument("a text holds half of a surrogate pair") from None
    except ValueError:
        raise InvalidDocument("a number is out of range") from None

    token: PresentedToken
    try:
        token = None if text is None else parse_capability(text)
    except CapabilityRejected as exc:
        token = exc
    return EvaluateRequest(request, token, fingerprint)


def _token_text(request: ChioHttpRequest, headers: Iterable[tuple[bytes, bytes]], query_string: bytes) -> str | None:
    """Return the token from the first of its four places (wire protocol, section 1.2), or None."""
    for name, value in headers:
        if name == _HEADER_NAME:
            return value.decode("utf-8", "replace")
    if _QUERY_NAME in query_string or b"%" in query_string:
        for parameter, text in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
            if parameter == CAPABILITY_QUERY:
                return text
    for header in (_HEADER, CAPABILITY_HEADER):
        if header in request.headers:
            return request.headers[header]
    return request.query.get(CAPABILITY_QUERY)
