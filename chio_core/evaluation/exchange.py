"""One exchange with `POST /chio/evaluate`: the call that is sent, and the raw response.

`prepare` is the only function that builds a call. A second evaluation of the same request names the receipt of the
first in `further_to`, so the sidecar spends the document's budget and approval once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from chio_core.capabilities.scope import with_holder
from chio_core.errors import InvalidDocument
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.precheck import Presented, is_observed
from chio_core.evaluation.requirements import check_arguments
from chio_core.models.receipt import HttpReceipt
from chio_core.models.request import CallerIdentity, ChioHttpRequest
from chio_core.names import CAPABILITY_HEADER, TRACEPARENT
from chio_core.receipts import Expectation
from chio_core.refusals.response import Denial
from chio_core.request import RequestView, Requirement, to_chio_request
from chio_core.settings import ChioSettings
from chio_core.signing import Signed

EVALUATE_PATH = "/chio/evaluate"

FURTHER_TO: Final = "chio_further_to"
"""Member of a receipt's metadata: the id of the first evaluation's receipt."""

UNKNOWN_PATH_LIMIT: Final = "chio_unknown_path_limit"
"""Code, with status 429, of a sidecar that evaluates no more paths now that its document does not describe."""


def new_request_id() -> str:
    """Return a random UUID (RFC 9562, version 4) as text; `str(uuid.uuid4())` takes three times as long."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


@dataclass(slots=True)
class RawResponse:
    """What the sidecar sent.

    Attributes:
        document: the JSON object of a sidecar in this process, which makes no text of it; `body` is then empty.
        signed: what that sidecar has just signed for the receipt; None if the receipt is an earlier one.
    """

    status: int
    content_type: str
    body: bytes
    document: Any = None
    signed: Signed | None = None


@dataclass(slots=True)
class EvaluateCall:
    """What to send to `POST /chio/evaluate`, and what its receipt has to match.

    Attributes:
        presented: what the request presents, a secret; the `repr` leaves it out, as it does the headers that carry it.
        observe: a refusal is recorded only, see `chio_core.evaluation.precheck.is_observed`.
        fault: in observe mode why the request would not have been evaluated.
        of_another: the token states another holder than the caller, so it allows nothing.
        unread: the body was not read: the request is refused whatever it says (`chio_core.evaluation.precheck`).
    """

    request: ChioHttpRequest
    body: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    expectation: Expectation
    presented: Presented = field(repr=False)
    requirement: Requirement | None
    observe: bool = False
    fault: Denial | None = None
    of_another: bool = False
    unread: bool = False

    @property
    def lacks_token(self) -> bool:
        """True if the route requires a capability and the request presents none: it ends in 401."""
        return self.requirement is not None and self.requirement.capability and self.presented.token is None


def prepare(
    view: RequestView,
    settings: ChioSettings,
    *,
    request_id: str,
    now: float,
    caller: CallerIdentity,
    presented: Presented,
    template: str | None = None,
    body_hash: str | None = None,
    body_length: int = 0,
    unread: bool = False,
    requirement: Requirement | None = None,
    observe: bool | None = None,
    fault: Denial | None = None,
    place: Mapping[str, str] | None = None,
    earlier: Iterable[Decision] = (),
    presents: bool = True,
) -> EvaluateCall:
    """Return the call that evaluates a request.

    Args:
        now: seconds since 1970.
        presented: what `chio_core.evaluation.precheck.precheck` returned for this view.
        template: path template of the route that will run; None if unknown.
        body_hash: SHA-256 hex over the body, None for an empty one; `body_length` is its length in bytes.
        unread: the body was not read, so the call can only end in a refusal.
        requirement: what the route requires.
        observe: only record a refusal; None: as the settings say for this path, and the requirement for the route.
        fault: in observe mode the refusal of a request that would not have been evaluated.
        place: in observe mode the framework and the view of the route, for the report.
        earlier: decisions about the same incoming request, oldest first.
        presents: False if the approval in the request is meant for another sidecar (an outgoing request).

    Raises:
        ConfigurationError: the requirement's arguments are no JSON.
    """
    if observe is None:
        observe = is_observed(settings, view.route_path, requirement)
    token, approval, sent = presented.token, presented.approval if presents else None, requirement
    holders = presented.holders
    if of_another := bool(holders and holders - {caller.holder}):  # the holder is a hash, made only where it counts
        approval = None
    if requirement is not None:
        check_arguments(requirement.arguments, template or view.route_path)
        if (requirement.capability and token is None) or of_another or unread:
            # The request is refused: it must not use an approval or spend a budget.
            sent, approval = replace(requirement, approval=None, budget=None), None
        if sent is not None and sent.server is not None and holders and caller.holder in holders:
            sent = replace(sent, arguments=with_holder(sent.arguments, str(caller.holder)))
    request = to_chio_request(
        view,
        request_id=request_id,
        timestamp=int(now),
        caller=caller,
        template=template,
        query=presented.query,
        body_hash=body_hash,
        body_length=body_length,
        requirement=sent,
        observe=observe,
        lacking=_lacking(requirement, token, caller.holder) if observe else (),
        refused=None if fault is None else f"{fault.status} {fault.message}",
        place=place,
        approval_token=approval,
    )
    for decision in earlier:
        if is_first_evaluation(decision, request, requirement):
            request = request.model_copy(update={"further_to": decision.receipt.id if decision.receipt else None})
            break
    headers: tuple[tuple[str, str], ...] = ((CAPABILITY_HEADER, token),) if token is not None else ()
    trace = view.header_values(TRACEPARENT)
    if len(trace) == 1 and trace[0].isascii() and trace[0].isprintable():
        headers = (*headers, (TRACEPARENT, trace[0]))
    expectation = Expectation(request, caller.identity_hash(), template)
    return EvaluateCall(
        request, request.encode(), headers, expectation, presented, requirement, observe, fault, of_another, unread
    )


def _lacking(requirement: Requirement | None, token: str | None, holder: str | None = None) -> tuple[str, ...]:
    """Return the operations that a route requires and the presented token does not grant, sorted.

    A sidecar checks `invoke` only, so it allows such a request and this side refuses it. The result is empty without
    a token, or if none of its grants fits: then the sidecar's own verdict refuses.

    Args:
        holder: `CallerIdentity.holder` of the caller.
    """
    if requirement is None or token is None or requirement.server is None or requirement.tool is None:
        return ()
    if set(requirement.operations) <= {"invoke"}:
        return ()
    from chio_core.capabilities import match_grant, parse_capability

    try:
        scope = parse_capability(token).scope
        index = match_grant(scope, requirement.server, requirement.tool, requirement.arguments, holder=holder)
    except InvalidDocument:
        return ()
    return () if index is None else tuple(scope.grants[index].lacks(requirement.operations))


def is_first_evaluation(decision: Decision, request: ChioHttpRequest, requirement: Requirement | None) -> bool:
    """Return True if a decision is the evaluation that a further one about `request` can name.

    It allowed this very request (a handler may hand another request to the application), is not itself a follow-up,
    and has spent a cost if the further evaluation states one: the document's limits were not checked against a cost
    that only the further evaluation carries.
    """
    receipt = decision.receipt
    if receipt is None or decision.verdict != "allow" or is_follow_up(receipt):
        return False
    if requirement is not None and requirement.budget is not None:
        first = decision.requirement
        if first is None or first.budget is None:
            return False
    return receipt.content_hash == request.content_hash(receipt.route_pattern)


def is_follow_up(receipt: HttpReceipt) -> bool:
    """Return True if a receipt belongs to a further evaluation."""
    return isinstance(receipt.metadata, dict) and FURTHER_TO in receipt.metadata
