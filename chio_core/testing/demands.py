"""Demands: approvals and budgets of the sidecar of a test, kept in memory.

The rules are those of `chio_core.models.demands`; the words of the evidence are what a client looks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.errors import ConfigurationError
from chio_core.models.demands import (
    APPROVAL_GUARD,
    BUDGET_GUARD,
    NEEDS_APPROVAL,
    ApprovalDemand,
    BudgetDemand,
    approval_evidence,
    approval_from,
    budget_evidence,
    budget_from,
)
from chio_core.testing.question import Asked

_INTENT = (
    "method", "route_pattern", "path", "query", "body_hash", "tool_server", "tool_name", "arguments", "governed_intent",
)  # fmt: skip


class Refused(Exception):
    """A request that is denied.

    Args:
        reason: the verdict's reason.
        guard: who refuses.
        details: of the evidence; the reason by default. None: the receipt has no evidence.

    Attributes:
        capability_id: as the receipt states it.
        before: evidence of what was met before.
    """

    def __init__(self, reason: str, guard: str, *, details: str | None = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.guard = guard
        self.details = reason if details == "" else details
        self.capability_id: str | None = None
        self.before: list[dict[str, Any]] = []


@dataclass(slots=True)
class Approval:
    """An approval that a request waits for, or has got.

    Attributes:
        id: what the request is repeated with, in `X-Chio-Approval`.
        asked: the request that needed it.
        demand: amount, threshold and currency.
        intent: stands for everything that was approved; another request does not fit.
        state: `pending`, then what the operator answered, then `used`.
    """

    id: str
    asked: Asked
    demand: ApprovalDemand
    intent: str
    state: Literal["pending", "approved", "denied", "used"] = "pending"


class ApprovalPending(Refused):
    """A request that waits for an operator."""

    def __init__(self, approval: Approval) -> None:
        super().__init__(NEEDS_APPROVAL, APPROVAL_GUARD)
        self.approval = approval


class Demands:
    """What approvals there are, and what has been spent.

    Attributes:
        approvals: every approval that was needed so far, in order.
    """

    def __init__(self) -> None:
        self.approvals: list[Approval] = []
        self._spent: dict[tuple[Any, ...], tuple[int, int]] = {}

    def meet(self, asked: Asked, capability_id: str | None) -> list[dict[str, Any]]:
        """Return the evidence that the demands of a request are met; approvals are used up and budgets spent by it.

        Raises:
            Refused: one is not met.
            ApprovalPending: an operator has to answer first.
        """
        intent, limits = asked.document.get("governed_intent"), asked.document.get("budget")
        evidence: list[dict[str, Any]] = []
        approval: Approval | None = None
        if intent is not None:
            demand = approval_from(intent)
            approval = self._approval(asked, demand, capability_id) if demand.needed else None
            how = "below it" if approval is None else f"approved as {approval.id}"
            evidence.append(_evidence(APPROVAL_GUARD, approval_evidence(demand) + how))
        if limits is not None:
            evidence.append(self._spend(asked, budget_from(limits), capability_id))
        if approval is not None:
            approval.state = "used"
        return evidence

    def answer(self, approval_id: str | None, state: Literal["approved", "denied"]) -> Approval:
        """Answer for the operator.

        Args:
            approval_id: None: the one that was needed last.

        Raises:
            ConfigurationError: nothing waits under that id.
        """
        waiting = [one for one in self.approvals if one.state == "pending" and approval_id in (None, one.id)]
        if not waiting:
            raise ConfigurationError("no request waits for an approval" + (f" {approval_id}" if approval_id else ""))
        waiting[-1].state = state
        return waiting[-1]

    def _approval(self, asked: Asked, demand: ApprovalDemand, capability_id: str | None) -> Approval:
        intent = _intent(asked, capability_id)
        presented = asked.document.get("approval_token")
        if presented is None:
            raise ApprovalPending(self._pending(asked, demand, intent))
        # The id of an approval; tokens that operators sign are for sidecars with approvers of their own.
        presented_id = presented if isinstance(presented, str) else "as a token"
        found = next((one for one in self.approvals if one.id == presented_id), None)
        why = "is not known" if found is None else _obstacle(found, intent)
        if found is None or why is not None:
            raise Refused(f"approval {presented_id} {why}", APPROVAL_GUARD)
        return found

    def _pending(self, asked: Asked, demand: ApprovalDemand, intent: str) -> Approval:
        for one in self.approvals:
            if one.intent == intent and one.state == "pending":
                return one
        made = Approval(f"approval-{len(self.approvals) + 1}", asked, demand, intent)
        self.approvals.append(made)
        return made

    def _spend(self, asked: Asked, demand: BudgetDemand, capability_id: str | None) -> dict[str, Any]:
        # Of several budgets of a route only the first is the route's; each other one is known by its limits.
        limits = (demand.max_invocations, demand.max_cost_per_invocation, demand.max_total_cost)
        which = None if asked.document.get("further_to") is None else limits
        account = (capability_id or asked.caller_hash(), asked.method, asked.route, demand.currency, which)
        invocations, total = self._spent.get(account, (0, 0))
        obstacle = _exceeded(demand, invocations, total)
        if obstacle is not None:
            raise Refused(f"budget exceeded: {obstacle} {asked.method} {asked.route}", BUDGET_GUARD)
        self._spent[account] = (invocations + 1, total + demand.cost)
        return _evidence(BUDGET_GUARD, f"{budget_evidence(demand)}spent {total + demand.cost}")


def _obstacle(approval: Approval, intent: str) -> str | None:
    if approval.intent != intent:
        return "is for another request"
    return {"pending": "is pending", "denied": "was denied", "used": "was used already"}.get(approval.state)


def _exceeded(demand: BudgetDemand, invocations: int, total: int) -> str | None:
    """Return which limit one more invocation would break, after so many that have cost so much."""
    cost, each, most = f"cost {demand.cost} {demand.currency}", demand.max_cost_per_invocation, demand.max_total_cost
    if each is not None and demand.cost > each:
        return f"{cost} is above {each} {demand.currency} for one invocation of"
    if demand.max_invocations is not None and invocations >= demand.max_invocations:
        return f"no invocation left of {demand.max_invocations} for"
    if most is not None and total + demand.cost > most:
        return f"{cost}, and {most - total} {demand.currency} are left of {most} {demand.currency} for"
    return None


def _evidence(guard: str, details: str) -> dict[str, Any]:
    return {"guard_name": guard, "verdict": True, "details": details}


def _intent(asked: Asked, capability_id: str | None) -> str:
    content = {name: asked.document.get(name) for name in _INTENT}
    return sha256_hex(canonical_json({**content, "caller": asked.caller_hash(), "capability": capability_id}))
