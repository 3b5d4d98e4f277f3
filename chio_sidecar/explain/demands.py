"""Refusals that are about a person's approval, or about a budget."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from chio_core.models.demands import APPROVAL_GUARD, NEEDS_APPROVAL
from chio_sidecar.explain.reasons import Known
from chio_sidecar.explain.refusal import Refusal
from chio_sidecar.policy.rules import Rule

_PLAIN = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.:-]*", re.ASCII)
_ASK_ANEW = "repeat the request without an approval to have a person asked"
_REPEAT = (
    "have an operator answer, then repeat exactly the same request with the approval's id in the X-Chio-Approval header"
)
_SPEND_LESS = "ask for less, or ask the authority for a capability with a larger budget"


def approval_command(refusal: Refusal, issuer: Sequence[str]) -> str | None:
    """Return the command with which an operator goes on; None for a refusal that is not about an approval.

    Args:
        refusal: what is known of it.
        issuer: the option that names the sidecar's store, when it is known.
    """
    if refusal.code != "chio_approval_required" and refusal.guard != APPROVAL_GUARD and not refusal.waits:
        return None
    place = f" --receipt-store {shlex.quote(issuer[1])}" if issuer[0] in _STORES and issuer[1] != "FILE" else ""
    approval_id = refusal.details.get("approval_id", "")
    if not _PLAIN.fullmatch(approval_id) or (refusal.verdict == "deny"):
        return f"chio-sidecar approval list{place}"
    return f"chio-sidecar approval respond {approval_id} --approve{place}"


_STORES: Final = ("--embedded", "--receipt-store")

POLICY_REASONS: Final = (
    Known("approval", NEEDS_APPROVAL, "A person has to approve this very request, and nobody has yet.", _REPEAT),
    Known("approval", Rule.APPROVAL_DENIED.text, "A person was asked, and said no (approval {id}).", _ASK_ANEW),
    Known("approval", Rule.APPROVAL_UNKNOWN.text, "No question has the id {id} in this store.", _ASK_ANEW),
    Known(
        "approval",
        Rule.APPROVAL_OTHER.text,
        "Approval {id} was given for a request that differs: in method, route, path, query, body, caller, capability,"
        " arguments or amount.",
        "repeat exactly the request that was approved, or have a person asked about this one",
    ),
    Known("approval", Rule.APPROVAL_EXPIRED.text, "Approval {id} counts for an hour at most; it is over.", _ASK_ANEW),
    Known("approval", Rule.APPROVAL_USED.text, "An approval counts once, and {id} was used.", _ASK_ANEW),
    Known(
        "approval",
        Rule.APPROVAL_REPLAYED.text,
        "An approver's token counts for one question, and this one was used.",
        "have the approver sign a new one",
    ),
    Known(
        "approval",
        Rule.TOO_MANY_OWN.text,
        "This caller has {limit} questions that wait for a person, and may have no more.",
        "have them answered, or wait until they expire",
    ),
    Known(
        "approval",
        Rule.TOO_MANY.text,
        "There are {limit} questions that wait for a person already.",
        "have them answered, or wait until they expire",
    ),
    Known(
        "approval token",
        Rule.APPROVER_UNTRUSTED.text,
        "The key that signed the approval is none that may approve here.",
        "name it in CHIO_TRUSTED_APPROVERS of the sidecar, or have somebody approve who may",
    ),
    Known(
        "approval token",
        Rule.APPROVAL_TOKEN_SIGNATURE.text,
        "The approval was changed after it was signed.",
        "send it exactly as it was signed",
    ),
    Known(
        "approval token",
        Rule.APPROVAL_TOKEN_OTHER.text,
        "The approval was signed for a request that differs from this one.",
        "repeat exactly the request that was approved",
    ),
    Known(
        "approval token",
        Rule.APPROVAL_TOKEN_SUBJECT.text,
        "The approval was signed for the holder of another capability.",
        "present the capability for which it was signed",
    ),
    Known(
        "approval token",
        Rule.APPROVAL_TOKEN_TOO_LONG.text,
        "An approval may count for an hour at most, and this one states more.",
        "have the approver sign a shorter one",
    ),
    Known(
        "approval token",
        Rule.APPROVAL_TOKEN_NOT_YET.text,
        "The approval counts from {issued_at_time} on, and the sidecar's clock is not there yet.",
        "wait until then, or set the clocks right",
    ),
    Known(
        "approval token",
        Rule.APPROVAL_TOKEN_EXPIRED.text,
        "The approval counted until {expires_at_time}; it is over.",
        "have the approver sign a new one",
    ),
    Known(
        "approval token",
        Rule.APPROVAL_TOKEN_UNREADABLE.text,
        "What stood in the X-Chio-Approval header is neither the id of an approval nor a token: {why}.",
        "send the id, or the token as one line of JSON",
    ),
    Known(
        "further question",
        Rule.FOLLOW_UP_UNKNOWN.text,
        "The application asked a second question about one request, and this store has no receipt {id} of the first.",
        "let all sidecars that one application asks share one store, and repeat the request",
    ),
    Known(
        "further question",
        Rule.FOLLOW_UP_NO_ALLOW.text,
        "Receipt {id} records a refusal, answers a further question itself, or was signed with another key.",
        "repeat the request",
    ),
    Known(
        "further question",
        Rule.FOLLOW_UP_OTHER.text,
        "Receipt {id} differs from this question in method, route, path, query, body, caller, capability or document.",
        "repeat the request",
    ),
    Known(
        "further question",
        Rule.FOLLOW_UP_TOO_OLD.text,
        "The second question about one request came more than {within} s after {id}, the receipt of the first.",
        "look for what takes so long between the checks of one route, and repeat the request",
    ),
    Known(
        "budget",
        Rule.BUDGET_CURRENCY.text,
        "The application counts in {stated} and the sidecar's document in {route}; nobody can compare them.",
        "state one currency in both places",
    ),
    Known(
        "budget",
        Rule.GRANT_CURRENCY.text,
        "The application counts in {currency}, and the capability limits {spender} in {limit}; none can compare them.",
        "ask the authority for a capability whose limits are in {currency}",
    ),
    Known(
        "budget",
        Rule.COST_TOO_HIGH.text,
        "One invocation of {spender} may cost {most} {currency}, and this one costs {cost}.",
        _SPEND_LESS,
    ),
    Known(
        "budget",
        Rule.NO_INVOCATION.text,
        "{spender} may be invoked {most} times with this capability (without one: by this caller), and was.",
        _SPEND_LESS,
    ),
    Known(
        "budget",
        Rule.TOTAL_EXCEEDED.text,
        "{spender} may cost {most} {currency} in all; {left} are left, and this request costs {cost}.",
        _SPEND_LESS,
    ),
)
"""The reasons about approvals and budgets, and about questions that leave those of the document to an earlier one."""
