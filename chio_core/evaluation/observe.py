"""Observe mode: every decision is asked for, verified and recorded, and a refusal of it is not carried out.

`is_observed` says for which requests, `settle` is the one place where a refusal becomes a mark. What a request is
refused for before anybody is asked (400, 405, 413, 414) stays refused, because there is no decision to observe; so
does what a guard of the application refuses. An observed refusal is never a receipt: handlers get none. Each is one
warning in the log of decisions (`chio_core.telemetry.log`) and one count (`chio_core.telemetry.metrics`).

| | fail-open | observe |
|---|---|---|
| is for | a sidecar that is down | finding out what enforcing would do |
| lets pass | no connection, no answer in time | every refusal |
| where a capability is required | never | too |
| mark (`chio_passthrough.mode`) | `allow_without_receipt` | `observe` |
"""

from __future__ import annotations

from dataclasses import replace

from chio_core.errors import InvalidDocument
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.precheck import is_among
from chio_core.models.receipt import ChioPassthrough
from chio_core.request import Requirement
from chio_core.settings import ChioSettings


def is_observed(settings: ChioSettings, path: str, requirement: Requirement | None = None) -> bool:
    """Tell whether a refusal of a request is recorded only.

    Args:
        path: the very string that the router matches.
        requirement: what the route asks for.
    """
    if settings.observe or (requirement is not None and requirement.observe):
        return True
    if not settings.observe_paths and not settings.observe_prefixes:
        return False
    return is_among(path, settings.observe_paths, settings.observe_prefixes)


def lacking(requirement: Requirement | None, token: str | None) -> tuple[str, ...]:
    """Return the operations that a route asks for and the presented token does not grant, sorted.

    A sidecar looks for `invoke` only, so it allows such a request and this side refuses it. Where there is no token,
    or none of its grants fits, the sidecar's own verdict says enough, and nothing is returned.
    """
    if requirement is None or token is None or requirement.server is None or requirement.tool is None:
        return ()
    if set(requirement.operations) <= {"invoke"}:
        return ()
    from chio_core.capabilities import match_grant, parse_capability

    try:
        scope = parse_capability(token).scope
        index = match_grant(scope, requirement.server, requirement.tool, requirement.arguments)
    except InvalidDocument:
        return ()
    return () if index is None else tuple(scope.grants[index].lacks(requirement.operations))


def settle(decision: Decision, question: EvaluateCall) -> Decision:
    """Return what a decision comes to: itself, or in observe mode a passage that is marked instead of a refusal.

    `verdict`, `receipt` and `evidence` stay those of the refusal; `Decision.handler_receipt` is None.
    """
    denial = decision.denial
    if not question.observe or denial is None:
        return decision
    mark = ChioPassthrough(mode="observe", error=denial.code, message=denial.message)
    return replace(decision, denial=None, withheld=denial, passthrough=mark)
