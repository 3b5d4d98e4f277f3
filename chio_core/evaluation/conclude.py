"""From the sidecar's response to a decision, without I/O.

Only an explicit, verified allow lets a request run. `conclude` checks these rules in order, and the first that fails
refuses:

1. the response is a 200 with a JSON document of the right shape;
2. its receipt passes `chio_core.receipts.verify_receipt` for this very call;
3. the verdict of the response and the verdict inside the receipt are the same;
4. that verdict is exactly `allow`;
5. a capability that was presented states no other holder than the caller (`chio_core.capabilities.scope`). If the
   route requires a capability: one was presented, the receipt names it, and its scope covers the requirement.
   Every restriction of the grant is enforced: here, or by the sidecar, which the receipt then states. Wherever a
   capability opened the route, one of its grants must not be void (`chio_core.capabilities.restrictions`);
6. the body was read: an evaluation without it only makes the receipt of a refusal (`chio_core.evaluation.precheck`);
7. if the route demands an approval or has a budget: the receipt's evidence says that the sidecar enforced them
   (`chio_core.models.demands`), because a sidecar that does not know them ignores them; and a budget belongs to a
   route, not to each of its paths.

In observe mode a refusal becomes a mark, see `chio_core.evaluation.precheck.is_observed`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from chio_core.canonical import parse_json
from chio_core.errors import (
    ApprovalRequired,
    EvaluationFailed,
    InvalidDocument,
    Overloaded,
    ReceiptRejected,
    SidecarError,
)
from chio_core.evaluation import outcomes
from chio_core.evaluation.exchange import UNKNOWN_PATH_LIMIT, EvaluateCall, RawResponse
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.precheck import APPROVAL_ID
from chio_core.models.demands import CAPABILITY_GUARD, POLICY_GUARD, demands_met
from chio_core.models.receipt import HttpReceipt, Verdict, explain
from chio_core.models.request import SAFE_METHODS
from chio_core.receipts import KeyTrust, verify_receipt
from chio_core.refusals.problems import explain_link
from chio_core.refusals.response import Denial
from chio_core.request import NO_REQUIREMENT, Requirement
from chio_core.settings import ChioSettings

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_WORD = re.compile(r"\w{4,}")
_LONG_RUN = re.compile(r"[\w+/=-]{40,}")
_MOST_READ, _MOST_SHOWN = 2000, 200  # characters of a sidecar's reason

_RESUME_PATH = re.compile(r"/[A-Za-z0-9._:~/-]{1,255}")


def conclude(
    response: RawResponse, call: EvaluateCall, settings: ChioSettings, trust: KeyTrust, now: float
) -> Decision:
    """Return the decision for a response; see the rules at the top of this module.

    Args:
        trust: the kernel keys that count; the first key seen is remembered there.
        now: seconds since 1970.

    Raises:
        EvaluationFailed, Overloaded: rule 1.
        ReceiptRejected: rules 2 and 3.
    """
    # 1. the document
    if response.status != 200:
        raise _error_of(response, call, settings)
    kind = response.content_type
    if kind != "application/json" and kind.partition(";")[0].strip().lower() != "application/json":
        raise EvaluationFailed("Chio sidecar answered with something that is not JSON", status=200)
    document = response.document
    if document is None:
        try:
            document = parse_json(response.body)
        except InvalidDocument as exc:
            raise EvaluationFailed(f"Chio sidecar's answer: {exc.message}", status=200) from None
    if not isinstance(document, dict) or not isinstance(document.get("verdict"), dict):
        raise EvaluationFailed("Chio sidecar's answer has no verdict", status=200)
    if not isinstance(document.get("receipt"), dict):
        raise EvaluationFailed("Chio sidecar's answer has no receipt", status=200)

    # 2. the receipt
    trusted = trust.keys()
    receipt = verify_receipt(
        document["receipt"],
        trusted_keys=trusted,
        expected=call.expectation,
        now=now,
        tolerance=settings.receipt_tolerance,
        signed=response.signed,
    )

    # 3. the two verdicts; the stated one may only leave out defaults
    verdict = receipt.verdict
    if document["verdict"] != document["receipt"]["verdict"]:
        try:
            verdict = Verdict.model_validate(document["verdict"])
        except ValidationError as exc:
            raise EvaluationFailed(f"Chio sidecar's verdict: {explain(exc)}", status=200) from None
        if verdict.to_wire() != receipt.verdict.to_wire():
            raise ReceiptRejected("verdict", "the answer and its receipt do not give the same verdict")
    if trusted is None:
        trust.remember(receipt.kernel_key)
    if call.expectation.template is not None:
        trust.note_route(receipt.route_pattern, call.expectation)

    denial = call.fault or _denial_of(verdict, receipt, call, settings)
    decision = Decision(
        verdict=verdict.verdict if denial is None or not verdict.is_allow else "refused",
        request_id=receipt.request_id,
        receipt=receipt,
        requirement=call.requirement,
        caller=call.request.caller,
        evidence=tuple(receipt.evidence or ()),
    )
    return decision if denial is None else _refused(decision, denial, call, settings)


def conclude_error(error: SidecarError, call: EvaluateCall, settings: ChioSettings) -> Decision:
    """Return the decision for a failed evaluation: a refusal, or a pass-through under `fail_open`."""
    decision = Decision(
        verdict="error",
        request_id=call.request.request_id,
        requirement=call.requirement,
        caller=call.request.caller,
    )
    # A requirement is met by a receipt or not at all, so its route never fails open.
    passthrough = outcomes.passthrough_for(error) if settings.fail_open and call.fault is None else None
    binding = call.of_another or call.unread or (call.requirement is not None and call.requirement.binding)
    if passthrough is not None and not binding:
        return replace(decision, verdict="passthrough", passthrough=passthrough)
    if call.fault is not None:
        denial = call.fault
    elif isinstance(error, ApprovalRequired) and call.of_another:
        denial = outcomes.capability_of_another(error.receipt_id)
    elif isinstance(error, ApprovalRequired) and call.lacks_token:
        # Only the sidecar's document can have demanded it, and an approval alone would not be enough.
        denial = _capability_required(call, error.receipt_id, settings)
    else:
        denial = outcomes.denial_for_error(error, call.requirement)
    return _refused(decision, denial, call, settings)


def _refused(decision: Decision, denial: Denial, call: EvaluateCall, settings: ChioSettings) -> Decision:
    """Return a decision that refuses, or in observe mode one that is marked instead.

    In observe mode `verdict`, `receipt` and `evidence` stay those of the refusal, and handlers get no receipt.
    """
    link = explain_link(settings.explain_url, denial.receipt_id)
    denial = replace(denial, request_id=call.request.request_id, explain_url=link)
    return decision.withhold(denial) if call.observe else replace(decision, denial=denial)


def _denial_of(verdict: Verdict, receipt: HttpReceipt, call: EvaluateCall, settings: ChioSettings) -> Denial | None:
    """Return the refusal by rules 4 to 7, or None."""
    requirement = call.requirement
    if call.lacks_token:
        hint = (verdict.details or {}).get("hint") if verdict.is_allow or verdict.guard == CAPABILITY_GUARD else None
        return _capability_required(call, receipt.id, settings, hint if isinstance(hint, str) else None)
    if not verdict.is_allow:
        denial = outcomes.denial_for_verdict(verdict, receipt.id, settings.capability_header)
        presents = call.presented.token is not None
        return denial if presents else outcomes.with_way_in(denial, requirement, settings.sidecar_url)
    if requirement is None and call.presented.token is None:
        return None  # nothing is required, and nothing was presented
    if call.of_another:
        return outcomes.capability_of_another(receipt.id)
    refusal = _capability_denial(requirement or NO_REQUIREMENT, call, receipt)
    if refusal is None and call.unread:
        refusal = outcomes.capability_insufficient(requirement or Requirement(), receipt.id)
    if refusal is not None or requirement is None:
        return refusal
    demands = requirement.approval, requirement.budget
    if demands != (None, None) and not demands_met(receipt.evidence or (), *demands):
        return outcomes.policy_not_enforced(requirement, receipt.id)
    # Inside a mount with parameters the application cannot name its route; here the sidecar could not either.
    unnamed = call.expectation.template is None and receipt.route_pattern == call.request.path
    if requirement.budget is not None and unnamed:
        return outcomes.budget_of_each_path(receipt.id)
    return None


def _capability_required(
    call: EvaluateCall, receipt_id: str | None, settings: ChioSettings, hint: str | None = None
) -> Denial:
    requirement, header = call.requirement or Requirement(), settings.capability_header
    return outcomes.capability_required(requirement, header, receipt_id, settings.sidecar_url, hint)


def _capability_denial(requirement: Requirement, call: EvaluateCall, receipt: HttpReceipt) -> Denial | None:
    # The receipt names a capability only if the sidecar found the token valid. Its grants are checked here again: a
    # newer sidecar ignores tool fields on ordinary routes (wire protocol, section 5.8), and no other sidecar knows
    # all restrictions.
    server, tool = requirement.server, requirement.tool
    if not requirement.capability and not _opened_by_capability(call, receipt):
        return None
    from chio_core.capabilities import CapabilityRejected, matching_grants, verify_token_chain
    from chio_core.capabilities.restrictions import accepted_grant, taken_away, void_scope

    insufficient = partial(outcomes.capability_insufficient, requirement, receipt.id)
    token = call.presented.capability
    # Where the route requires nothing, the sidecar alone decides whether it can read a token.
    if token is None or receipt.capability_id is None or token.id != receipt.capability_id:
        return insufficient() if requirement.capability else None
    try:
        verify_token_chain(token)
        if server is None or tool is None:
            void = void_scope(token)
            return outcomes.capability_restricted(void, receipt.id) if void else None
        holder = call.request.caller.holder
        matching = matching_grants(token, server, tool, requirement.arguments, holder=holder)
        kept = [index for index in matching if taken_away(token, index, server, tool) is None]
        if not kept:
            return insufficient()
        index = accepted_grant(token, kept, receipt.metadata)
    except InvalidDocument as exc:
        refusal = insufficient()
        return replace(refusal, message=exc.reason) if isinstance(exc, CapabilityRejected) else refusal
    if isinstance(index, list):
        return outcomes.capability_restricted(index, receipt.id)
    # The grant by which the request is accepted is the one whose uses the sidecar counts.
    return insufficient() if token.scope.grants[index].lacks(requirement.operations) else None


def _opened_by_capability(call: EvaluateCall, receipt: HttpReceipt) -> bool:
    if call.presented.token is None or receipt.capability_id is None:
        return False
    guards = {one.guard_name for one in receipt.evidence or () if one.verdict}
    if guards & {CAPABILITY_GUARD, POLICY_GUARD}:
        return POLICY_GUARD not in guards
    return call.request.method not in SAFE_METHODS  # a sidecar that gives no reason


def _error_of(response: RawResponse, call: EvaluateCall, settings: ChioSettings) -> SidecarError:
    """Return the error for a status other than 200. Its members are unsigned, so only plain text is taken over."""
    try:
        document = parse_json(response.body)
    except InvalidDocument:
        document = None
    stated: dict[str, Any] = document if isinstance(document, dict) else {}

    def plain(name: str, pattern: re.Pattern[str]) -> str | None:
        # The value goes into headers, documents and terminals.
        value = stated.get(name)
        return value if isinstance(value, str) and pattern.fullmatch(value) else None

    code = stated.get("error")
    if response.status == 409 and code == "chio_approval_required":
        return ApprovalRequired(
            plain("approval_id", APPROVAL_ID),
            plain("resume_path", _RESUME_PATH),
            plain("kernel_receipt_id", APPROVAL_ID),
        )
    if (response.status, code) in ((503, Overloaded.code), (429, UNKNOWN_PATH_LIMIT)):
        return Overloaded(f"Chio sidecar is overloaded{_reason(stated, call, settings)}")
    named = plain("error", _CODE)
    message = f"Chio sidecar returned {response.status}{' ' + named if named else ''}{_reason(stated, call, settings)}"
    if response.status == 404:  # a sidecar has something there, so another program listens, or the path is wrong
        message += "; does CHIO_SIDECAR_URL name a sidecar? /chio/evaluate is added to it"
    return EvaluationFailed(message, status=response.status, detail=code if isinstance(code, str) else None)


def _reason(stated: Mapping[str, Any], call: EvaluateCall, settings: ChioSettings) -> str:
    """Return the sidecar's own reason for the log, `: …`; empty without one.

    It is unsigned, and a foreign sidecar may repeat what it was sent. So it is short and printable, and everything that
    is secret in the call, and every long run of letters and digits, is replaced by `…`.
    """
    text = stated.get("message")
    if not isinstance(text, str):
        return ""
    request = call.request
    secret = [call.presented.token, request.query, request.headers, request.caller.to_wire(), request.arguments]
    secret += [request.approval_token, request.governed_intent, request.budget]
    secret += [settings.evaluate_token.get_secret_value()] if settings.evaluate_token is not None else []
    text = _LONG_RUN.sub("…", text[:_MOST_READ])
    for word in sorted(set(_WORD.findall(json.dumps(secret, ensure_ascii=False, default=str))), key=len, reverse=True):
        text = text.replace(word, "…")
    text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return f": {text[:_MOST_SHOWN]}" if text else ""
