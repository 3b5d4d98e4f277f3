"""Asking and understanding, without I/O: `inspect`, `prepare`, then (elsewhere) one POST, then `conclude`.

Only an explicit, verified allow opens the door. `conclude` goes through these rules, and the first that does
not hold refuses:

1. the answer is a 200 with a JSON document of the right shape;
2. its receipt passes `chio_core.receipts.verify_receipt` for this very question;
3. the verdict of the answer and the verdict inside the receipt are the same;
4. that verdict is exactly `allow`;
5. where the route requires a capability: one was presented, it is the one that the receipt names, and its
   scope covers the requirement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from chio_core import decision as outcome
from chio_core.canonical import parse_json
from chio_core.decision import Decision
from chio_core.errors import EvaluationFailed, InvalidDocument, ReceiptRejected, SidecarError
from chio_core.models.caller import CallerIdentity
from chio_core.models.receipt import HttpReceipt, explain
from chio_core.models.request import ChioHttpRequest
from chio_core.models.verdict import Verdict
from chio_core.names import CAPABILITY_HEADER, CAPABILITY_QUERY, TRACEPARENT
from chio_core.receipts import Expectation, verify_receipt
from chio_core.request import METHODS, RequestView, Requirement, query_map, to_chio_request
from chio_core.response import Denial
from chio_core.settings import ChioSettings
from chio_core.trust import KeyTrust

MAX_HEADER_BYTES = 64 * 1024
MAX_PATH_CHARACTERS = 8 * 1024
"""A path is stored in the receipt for good; servers accept eight times as much."""

EVALUATE_PATH = "/chio/evaluate"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over the wire."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Question:
    """What to send to `POST /chio/evaluate`, and what the receipt will have to match.

    Attributes:
        capability: the token's text, a secret; like the headers that carry it, it is left out of the `repr`.
    """

    request: ChioHttpRequest
    body: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    expectation: Expectation
    capability: str | None = field(repr=False)
    requirement: Requirement | None


def singleton_headers(settings: ChioSettings) -> frozenset[str]:
    """Return the headers, in lower case, that may stand only once in a request."""
    own = frozenset({settings.capability_header.lower(), settings.api_key_header.lower()})
    return own | frozenset({"authorization", "content-length", "content-type", "host"})


def inspect(view: RequestView, settings: ChioSettings, singletons: frozenset[str]) -> Denial | None:
    """Return the refusal of a request that could mean two things, before its body is read; None if it is fine.

    Args:
        singletons: `singleton_headers(settings)`, computed once by the caller.
    """
    if view.method not in METHODS:
        allow = (("allow", ", ".join(sorted(METHODS))),)
        return outcome.bad_request("request method is none that Chio can judge", 405, allow)
    twice = singletons.intersection(view.repeated_headers())
    if twice:
        return outcome.bad_request(f"header {min(twice)} occurs more than once")
    if len(view.route_path) > MAX_PATH_CHARACTERS:
        return outcome.bad_request(f"path is longer than {MAX_PATH_CHARACTERS} characters", 414)
    return _inspect_capability(view, settings) or _inspect_query(view)


def _inspect_capability(view: RequestView, settings: ChioSettings) -> Denial | None:
    token = capability_of(view, settings)
    if token is None:
        return None
    if len(token) > MAX_HEADER_BYTES:
        return outcome.bad_request(f"capability token is longer than {MAX_HEADER_BYTES} bytes")
    if not token.isascii() or not token.isprintable():
        return outcome.bad_request("capability token must be printable ASCII; escape other characters in its JSON")
    return None


def _inspect_query(view: RequestView) -> Denial | None:
    try:
        query_map(view.query_string)
        view.route_path.encode()
    except ValueError:
        return outcome.bad_request("query or path cannot be decoded, or has too many fields")
    return None


def capability_of(view: RequestView, settings: ChioSettings) -> str | None:
    """Return the text of the capability token that the caller presented, or None; blank counts as none."""
    values = view.header_values(settings.capability_header.lower())
    token = values[0] if values else None
    if token is None and settings.capability_in_query:
        token = view.query_params.get(CAPABILITY_QUERY)
    return token.strip() or None if token is not None else None


def prepare(
    view: RequestView,
    settings: ChioSettings,
    *,
    request_id: str,
    now: float,
    caller: CallerIdentity,
    template: str | None = None,
    body_hash: str | None = None,
    body_length: int = 0,
    requirement: Requirement | None = None,
) -> Question:
    """Return the question about a request.

    Args:
        now: seconds since 1970.
        template: path template of the route that will run, None when unknown.
        requirement: the capability that this route asks for.
    """
    request = to_chio_request(
        view,
        request_id=request_id,
        timestamp=int(now),
        caller=caller,
        template=template,
        body_hash=body_hash,
        body_length=body_length,
        requirement=requirement,
    )
    token = capability_of(view, settings)
    headers = [(CAPABILITY_HEADER, token)] if token is not None else []
    trace = view.header_values(TRACEPARENT)
    if len(trace) == 1 and trace[0].isascii() and trace[0].isprintable():
        headers.append((TRACEPARENT, trace[0]))
    body = json.dumps(request.to_wire(), separators=(",", ":")).encode()
    expectation = Expectation(request, caller.identity_hash(), template)
    return Question(request, body, tuple(headers), expectation, token, requirement)


def conclude(answer: Answer, question: Question, settings: ChioSettings, trust: KeyTrust, now: float) -> Decision:
    """Return the decision that an answer amounts to; see the rules at the top of this module.

    Args:
        trust: the kernel keys that count; a first key is remembered there.
        now: seconds since 1970.

    Raises:
        EvaluationFailed: rule 1.
        ReceiptRejected: rules 2 and 3.
    """
    document = _document(answer)
    receipt = verify_receipt(
        document["receipt"],
        trusted_keys=trust.keys(),
        expected=question.expectation,
        now=now,
        tolerance=settings.receipt_tolerance,
    )
    verdict = _same_verdict(document, receipt)
    trust.remember(receipt.kernel_key)
    trust.note_route(receipt.route_pattern, question.expectation)
    denial = _judge(verdict, receipt, question, settings)
    return Decision(
        verdict=verdict.verdict if denial is None or not verdict.is_allow else "refused",
        request_id=receipt.request_id,
        receipt=receipt,
        denial=denial,
        requirement=question.requirement,
        caller=question.request.caller,
        evidence=tuple(receipt.evidence or ()),
    )


def conclude_error(error: SidecarError, question: Question, settings: ChioSettings) -> Decision:
    """Return the decision when the sidecar could not be asked or gave no usable answer."""
    passthrough = outcome.passthrough_for(error) if settings.fail_open else None
    if question.requirement is not None:
        passthrough = None  # a requirement is met by a receipt or not at all
    return Decision(
        verdict="passthrough" if passthrough else "error",
        request_id=question.request.request_id,
        denial=None if passthrough else outcome.denial_for_error(error),
        passthrough=passthrough,
        requirement=question.requirement,
        caller=question.request.caller,
    )


def _document(answer: Answer) -> Mapping[str, Any]:
    if answer.status != 200:
        raise EvaluationFailed(
            f"Chio sidecar returned {answer.status}", status=answer.status, detail=_error_code(answer)
        )
    if answer.content_type.partition(";")[0].strip().lower() != "application/json":
        raise EvaluationFailed("Chio sidecar answered with something that is not JSON", status=200)
    try:
        document = parse_json(answer.body)
    except InvalidDocument as exc:
        raise EvaluationFailed(f"Chio sidecar's answer: {exc.message}", status=200) from None
    if not isinstance(document, dict) or not isinstance(document.get("verdict"), dict):
        raise EvaluationFailed("Chio sidecar's answer has no verdict", status=200)
    if not isinstance(document.get("receipt"), dict):
        raise EvaluationFailed("Chio sidecar's answer has no receipt", status=200)
    return document


def _error_code(answer: Answer) -> str | None:
    try:
        document = parse_json(answer.body)
    except InvalidDocument:
        return None
    code = document.get("error") if isinstance(document, dict) else None
    return code if isinstance(code, str) else None


def _same_verdict(document: Mapping[str, Any], receipt: HttpReceipt) -> Verdict:
    stated = document["verdict"]
    if stated == document["receipt"]["verdict"]:
        return receipt.verdict
    try:
        verdict = Verdict.model_validate(stated)
    except ValidationError as exc:
        raise EvaluationFailed(f"Chio sidecar's verdict: {explain(exc)}", status=200) from None
    if verdict.to_wire() != receipt.verdict.to_wire():
        raise ReceiptRejected("verdict", "the answer and its receipt do not give the same verdict")
    return verdict


def _judge(verdict: Verdict, receipt: HttpReceipt, question: Question, settings: ChioSettings) -> Denial | None:
    header = settings.capability_header
    requirement = question.requirement
    if requirement is not None and question.capability is None:
        return outcome.capability_required(requirement, header, receipt.id)
    if not verdict.is_allow:
        return outcome.denial_for_verdict(verdict, receipt.id, header)
    if requirement is not None and not _covers(requirement, question, receipt):
        return outcome.capability_insufficient(requirement, receipt.id)
    return None


def _covers(requirement: Requirement, question: Question, receipt: HttpReceipt) -> bool:
    # The receipt names a capability only if the sidecar found the token valid. What it grants is looked at here
    # once more, because a newer sidecar ignores tool fields on ordinary routes (wire protocol, section 5.8).
    from chio_core.capabilities import match_grant, parse_capability

    try:
        token = parse_capability(question.capability or "")
    except InvalidDocument:
        return False
    if receipt.capability_id is None or token.id != receipt.capability_id:
        return False
    server, tool = requirement.server, requirement.tool
    if server is None or tool is None:
        return True
    try:
        # The first grant that allows the call is the one whose uses the sidecar counts, so it must be that one.
        index = match_grant(token.scope, server, tool, requirement.arguments)
    except InvalidDocument:
        return False
    return index is not None and set(requirement.operations) <= set(token.scope.grants[index].operations)


Clock = Callable[[], float]
"""Returns seconds since 1970."""
