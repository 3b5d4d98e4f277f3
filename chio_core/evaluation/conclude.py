"""Asking and understanding, without I/O: `precheck`, `prepare`, then (elsewhere) one POST, then `conclude`.

Only an explicit, verified allow opens the door. `conclude` goes through these rules, and the first that does
not hold refuses:

1. the answer is a 200 with a JSON document of the right shape;
2. its receipt passes `chio_core.receipts.verify_receipt` for this very question;
3. the verdict of the answer and the verdict inside the receipt are the same;
4. that verdict is exactly `allow`;
5. where the route requires a capability: one was presented, it is the one that the receipt names, and its
   scope covers the requirement;
6. where the route demands an approval or has a budget: the receipt's evidence says that these were looked at
   (`chio_core.models.demands`), because a sidecar that does not know them ignores them; and a budget
   is that of a route, not of each of its paths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from chio_core.canonical import parse_json
from chio_core.errors import (
    ApprovalRequired,
    EvaluationFailed,
    InvalidDocument,
    ReceiptRejected,
    SidecarError,
)
from chio_core.evaluation import outcomes as outcome
from chio_core.evaluation.exchange import EVALUATE_PATH, EvaluateCall, RawResponse, as_further
from chio_core.evaluation.observe import is_observed, lacking
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.precheck import APPROVAL_ID, approval_of, capability_of, precheck, singleton_headers
from chio_core.evaluation.requirements import check_arguments
from chio_core.models.caller import CallerIdentity
from chio_core.models.demands import demands_met
from chio_core.models.receipt import HttpReceipt, Verdict, explain
from chio_core.names import CAPABILITY_HEADER, TRACEPARENT
from chio_core.receipts import Expectation, KeyTrust, verify_receipt
from chio_core.refusals.problems import explain_link
from chio_core.refusals.response import Denial
from chio_core.request import RequestView, Requirement, to_chio_request
from chio_core.settings import ChioSettings

__all__ = [
    "EVALUATE_PATH",
    "EvaluateCall",
    "RawResponse",
    "capability_of",
    "conclude",
    "conclude_error",
    "precheck",
    "prepare",
    "singleton_headers",
]

_RESUME_PATH = re.compile(r"/[A-Za-z0-9._:~/-]{1,255}")


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
    observe: bool | None = None,
    earlier: Iterable[Decision] = (),
    presents: bool = True,
) -> EvaluateCall:
    """Return the question about a request.

    Args:
        now: seconds since 1970.
        template: path template of the route that will run, None when unknown.
        requirement: what this route asks for.
        observe: a refusal is to be recorded only; None: as the settings say for this path and the route for itself.
        earlier: decisions made for the same incoming request, oldest first; see `chio_core.evaluation.exchange`.
        presents: the approval that the request carries is for our sidecar, whose document may demand one too; that of
            an outgoing request is for the other side.
    """
    token = capability_of(view, settings)
    if observe is None:
        observe = is_observed(settings, view.route_path, requirement)
    request = to_chio_request(
        view,
        request_id=request_id,
        timestamp=int(now),
        caller=caller,
        template=template,
        body_hash=body_hash,
        body_length=body_length,
        requirement=_sent(requirement, token, template or view.route_path),
        observe=observe,
        lacking=lacking(requirement, token) if observe else (),
        approval_token=approval_of(view) if presents and not _ends_in_401(requirement, token) else None,
    )
    request = as_further(request, requirement, earlier)
    headers = [(CAPABILITY_HEADER, token)] if token is not None else []
    trace = view.header_values(TRACEPARENT)
    if len(trace) == 1 and trace[0].isascii() and trace[0].isprintable():
        headers.append((TRACEPARENT, trace[0]))
    body = json.dumps(request.to_wire(), separators=(",", ":")).encode()
    expectation = Expectation(request, caller.identity_hash(), template)
    return EvaluateCall(request, body, tuple(headers), expectation, token, requirement, observe)


def _sent(requirement: Requirement | None, token: str | None, route: str) -> Requirement | None:
    """Return what the sidecar is asked for: nobody approves, and nothing is spent, for a request that ends in 401."""
    if requirement is None:
        return None
    check_arguments(requirement.arguments, route)
    if _ends_in_401(requirement, token):
        return replace(requirement, approval=None, budget=None)
    return requirement


def _ends_in_401(requirement: Requirement | None, token: str | None) -> bool:
    return requirement is not None and requirement.capability and token is None


def conclude(
    answer: RawResponse, question: EvaluateCall, settings: ChioSettings, trust: KeyTrust, now: float
) -> Decision:
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
    denial = _traced(_judge(verdict, receipt, question, settings), question, settings)
    return Decision(
        verdict=verdict.verdict if denial is None or not verdict.is_allow else "refused",
        request_id=receipt.request_id,
        receipt=receipt,
        denial=denial,
        requirement=question.requirement,
        caller=question.request.caller,
        evidence=tuple(receipt.evidence or ()),
    )


def conclude_error(error: SidecarError, question: EvaluateCall, settings: ChioSettings) -> Decision:
    """Return the decision when the sidecar could not be asked or gave no usable answer."""
    passthrough = outcome.passthrough_for(error) if settings.fail_open else None
    if question.requirement is not None and question.requirement.binding:
        passthrough = None  # a requirement is met by a receipt or not at all
    denial = None if passthrough else _denial_for_error(error, question, settings)
    return Decision(
        verdict="passthrough" if passthrough else "error",
        request_id=question.request.request_id,
        denial=_traced(denial, question, settings),
        passthrough=passthrough,
        requirement=question.requirement,
        caller=question.request.caller,
    )


def _denial_for_error(error: SidecarError, question: EvaluateCall, settings: ChioSettings) -> Denial:
    if isinstance(error, ApprovalRequired):
        # Where no capability came, only the sidecar's document can have demanded it; an approval alone would not do.
        missing = _capability_missing(question, error.receipt_id, settings)
        if missing is not None:
            return missing
    return outcome.denial_for_error(error, question.requirement)


def _capability_missing(question: EvaluateCall, receipt_id: str | None, settings: ChioSettings) -> Denial | None:
    requirement = question.requirement
    if requirement is None or not _ends_in_401(requirement, question.capability):
        return None
    return outcome.capability_required(requirement, settings.capability_header, receipt_id, settings.sidecar_url)


def _traced(denial: Denial | None, question: EvaluateCall, settings: ChioSettings) -> Denial | None:
    """Return a refusal with what leads to its record."""
    if denial is None:
        return None
    link = explain_link(settings.explain_url, denial.receipt_id)
    return replace(denial, request_id=question.request.request_id, explain_url=link)


def _document(answer: RawResponse) -> Mapping[str, Any]:
    if answer.status != 200:
        raise _refused(answer)
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


def _refused(answer: RawResponse) -> EvaluationFailed:
    try:
        document = parse_json(answer.body)
    except InvalidDocument:
        document = None
    said = document if isinstance(document, dict) else {}
    code = said.get("error")
    if answer.status == 409 and code == "chio_approval_required":
        return ApprovalRequired(
            _plain(said.get("approval_id"), APPROVAL_ID),
            _plain(said.get("resume_path"), _RESUME_PATH),
            _plain(said.get("kernel_receipt_id"), APPROVAL_ID),
        )
    detail = code if isinstance(code, str) else None
    return EvaluationFailed(f"Chio sidecar returned {answer.status}", status=answer.status, detail=detail)


def _plain(value: Any, pattern: re.Pattern[str]) -> str | None:
    # Nobody has signed this, and it goes into headers, documents and terminals.
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


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


def _judge(verdict: Verdict, receipt: HttpReceipt, question: EvaluateCall, settings: ChioSettings) -> Denial | None:
    requirement = question.requirement
    missing = _capability_missing(question, receipt.id, settings)
    if missing is not None:
        return missing
    if not verdict.is_allow:
        denial = outcome.denial_for_verdict(verdict, receipt.id, settings.capability_header)
        presented = question.capability is not None
        return denial if presented else outcome.with_way_in(denial, requirement, settings.sidecar_url)
    if requirement is None:
        return None
    if requirement.capability and not _covers(requirement, question, receipt):
        return outcome.capability_insufficient(requirement, receipt.id)
    if not demands_met(receipt.evidence or (), requirement.approval, requirement.budget):
        return outcome.policy_not_enforced(requirement, receipt.id)
    if requirement.budget is not None and _is_plain_path(question, receipt):
        return outcome.budget_of_each_path(receipt.id)
    return None


def _is_plain_path(question: EvaluateCall, receipt: HttpReceipt) -> bool:
    # Inside of a mount with parameters the application cannot name its route, and here the sidecar could not either.
    return question.expectation.template is None and receipt.route_pattern == question.request.path


def _covers(requirement: Requirement, question: EvaluateCall, receipt: HttpReceipt) -> bool:
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
    return index is not None and not token.scope.grants[index].lacks(requirement.operations)
