"""Unusual verdicts, each with a receipt that is good."""

from __future__ import annotations

from chio_core.testing.behaviours import Behaviour, Reply, deny, verdict
from chio_core.testing.exchange import ALLOW, DENY, EvaluateRequest


def _route_unknown(request: EvaluateRequest) -> Reply:
    # A sidecar without this route states the plain path (wire protocol, section 6.2).
    return Reply(request.response_bytes(route_pattern=request.path))


def _parameter_names(request: EvaluateRequest) -> Reply:
    pattern = str(request.document["route_pattern"]).replace("{", "{other_")
    return Reply(request.response_bytes(route_pattern=pattern))


def _without_capability(request: EvaluateRequest) -> Reply:
    return Reply(request.response_bytes(capability_id=None))


BEHAVIOURS = (
    verdict("allow_newer", "Allows, in the newer profile.", ALLOW, newer=True),
    verdict("allow_unknown_members", "Allows; the receipt has signed members of a time to come.", ALLOW,
            hash_tree={"root": None, "size": 2**60, "ratio": 0.1}, jurisdiction="EU"),
    verdict("allow_without_evidence", "Allows; the receipt has no evidence.", ALLOW, evidence=None),
    Behaviour("allow_route_unknown", "Allows; it knows no such route and judged the plain path.", _route_unknown),
    Behaviour("allow_parameter_names", "Allows; the route's parameters have other names there.", _parameter_names),
    Behaviour("allow_without_capability", "Allows, but names no capability in the receipt.", _without_capability),
    verdict("allow_capability_of_another", "Allows, but names a capability that was not presented.", ALLOW,
            capability_id="cap-of-another"),
    verdict("deny_newer", "Denies, in the newer profile.", DENY, newer=True),
    deny("slow down", status=429, guard="VelocityGuard"),
    deny("no such thing", status=404),
    deny("the policy is broken", status=599),
    deny("success cannot be a refusal", status=200),
    deny("elsewhere", status=302),
    deny("out of range", status=600),
    verdict("deny_without_status", "Denies and states no status.", {"verdict": "deny", "reason": "no", "guard": "G"}),
    verdict("deny_without_words", "Denies and says nothing else.", {"verdict": "deny"}),
    verdict("deny_with_details", "Denies and explains.", {
        **DENY, "details": {"required_scope": "payments/transfer", "hint": "ask the treasurer", "more": [1]}}),
    verdict("verdict_in_capitals", "Gives the verdict ALLOW, which is not allow.", {"verdict": "ALLOW"}),
    verdict("verdict_with_a_space", "Gives a verdict that only looks like allow.", {"verdict": "allow "}),
    verdict("verdict_empty", "Gives an empty verdict.", {"verdict": ""}),
)  # fmt: skip
