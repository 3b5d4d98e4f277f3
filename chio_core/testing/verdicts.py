"""Behaviours of an honest sidecar: every verdict, with a receipt that is good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chio_core.models.demands import CAPABILITY_GUARD
from chio_core.testing.behaviour import Behaviour, Reply, allow_reply
from chio_core.testing.question import ALLOW as ALLOW_VERDICT
from chio_core.testing.question import DENY as DENY_VERDICT
from chio_core.testing.question import SCRIPTED, Asked


def verdict(name: str, summary: str, document: Mapping[str, Any], **changes: Any) -> Behaviour:
    """Return a behaviour that gives this verdict, in the answer and in a good receipt.

    Args:
        document: the verdict object.
        changes: passed to `Asked.answer`, for example `newer=True`.
    """
    return Behaviour(name, summary, lambda asked: Reply(asked.answer_bytes(document, **changes)))


def deny(reason: str = DENY_VERDICT["reason"], *, status: int = 403, guard: str = CAPABILITY_GUARD) -> Behaviour:
    """Return a behaviour that denies with this reason, status and guard."""
    document = {"verdict": "deny", "reason": reason, "guard": guard, "http_status": status}
    return verdict(f"deny_{status}", f"Denies with status {status}.", document)


def _route_unknown(asked: Asked) -> Reply:
    # A sidecar that knows no such route states the plain path (wire protocol, section 6.2).
    return Reply(asked.answer_bytes(route_pattern=asked.path))


def _parameter_names(asked: Asked) -> Reply:
    pattern = str(asked.document["route_pattern"]).replace("{", "{other_")
    return Reply(asked.answer_bytes(route_pattern=pattern))


def _without_capability(asked: Asked) -> Reply:
    return Reply(asked.answer_bytes(capability_id=None))


ALLOW = Behaviour("allow", "Allows, with a good receipt.", allow_reply)
DENY = verdict("deny", "Denies with status 403.", DENY_VERDICT)
IGNORES_DEMANDS = verdict("allow_ignoring_demands", "Allows, and says nothing about approvals and budgets.",
                          ALLOW_VERDICT, evidence=[dict(SCRIPTED)])  # fmt: skip
CANCEL = verdict("cancel", "Gives up on the request.", {"verdict": "cancel", "reason": "the kernel is stopping"})
INCOMPLETE = verdict("incomplete", "Wants more.", {"verdict": "incomplete", "reason": "a nonce must be presented"})
UNKNOWN_VERDICT = verdict("unknown_verdict", "Gives a verdict that nobody knows.", {"verdict": "permit"})

BEHAVIOURS = (
    ALLOW,
    verdict("allow_newer", "Allows, in the newer profile.", ALLOW_VERDICT, newer=True),
    verdict("allow_unknown_members", "Allows; the receipt has signed members of a time to come.", ALLOW_VERDICT,
            hash_tree={"root": None, "size": 2**60, "ratio": 0.1}, jurisdiction="EU"),
    verdict("allow_without_evidence", "Allows; the receipt has no evidence.", ALLOW_VERDICT, evidence=None),
    Behaviour("allow_route_unknown", "Allows; it knows no such route and judged the plain path.", _route_unknown),
    Behaviour("allow_parameter_names", "Allows; the route's parameters have other names there.", _parameter_names),
    Behaviour("allow_without_capability", "Allows, but names no capability in the receipt.", _without_capability),
    verdict("allow_capability_of_another", "Allows, but names a capability that was not presented.", ALLOW_VERDICT,
            capability_id="cap-of-somebody-else"),
    IGNORES_DEMANDS,
    DENY,
    verdict("deny_newer", "Denies, in the newer profile.", DENY_VERDICT, newer=True),
    deny("slow down", status=429, guard="VelocityGuard"),
    deny("no such thing", status=404),
    deny("the policy is broken", status=599),
    deny("success cannot be a refusal", status=200),
    deny("elsewhere", status=302),
    deny("out of range", status=600),
    verdict("deny_without_status", "Denies and states no status.", {"verdict": "deny", "reason": "no", "guard": "G"}),
    verdict("deny_without_words", "Denies and says nothing else.", {"verdict": "deny"}),
    verdict("deny_with_details", "Denies and explains.", {
        **DENY_VERDICT, "details": {"required_scope": "payments/transfer", "hint": "ask the treasurer", "more": [1]}}),
    CANCEL,
    INCOMPLETE,
    UNKNOWN_VERDICT,
    verdict("verdict_in_capitals", "Gives the verdict ALLOW, which is not allow.", {"verdict": "ALLOW"}),
    verdict("verdict_with_a_space", "Gives a verdict that only looks like allow.", {"verdict": "allow "}),
    verdict("verdict_empty", "Gives an empty verdict.", {"verdict": ""}),
)  # fmt: skip
