"""What the `x-chio-*` members of an operation come to (wire protocol, section 6.3).

Values of another type count as absent where the protocol defines the member. Of this project's own members a
malformed value stops the start: nobody else has defined what it would mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from chio_core.errors import ConfigurationError
from chio_core.models.openapi import (
    APPROVAL,
    BUDGET,
    BUDGET_LIMIT,
    CAPABILITY,
    LEVELS,
    OBSERVE,
    SENSITIVITY,
    needs_capability,
)
from chio_core.models.capability import Operation
from chio_core.models.demands import MAX_UNITS, ApprovalDemand, BudgetDemand, approval_from, budget_from

SESSION_ALLOW = "session_allow"
"""Policy: allowed without a capability."""

DENY_BY_DEFAULT = "deny_by_default"
"""Policy: allowed with a valid capability only."""

_LIMITS = frozenset({"currency", "max_invocations", "max_cost_per_invocation", "max_total_cost"})


@dataclass(frozen=True, slots=True)
class RouteRule:
    """What the sidecar holds a request for.

    Attributes:
        pattern: the template, or the path itself where no template matched.
        policy: `SESSION_ALLOW` or `DENY_BY_DEFAULT`.
        approval: the approval that the document demands; its amount is not known from there.
        budget: the limits that the document sets; it knows no cost.
        budget_in_any: the document names no currency, so that of the request's own budget counts; see `budget_for`.
        sensitivity: `public`, `internal`, `sensitive` or `restricted`.
        observe: the document wants decisions about this route recorded, not enforced.
    """

    pattern: str
    policy: str
    approval: ApprovalDemand | None = None
    budget: BudgetDemand | None = None
    sensitivity: str | None = None
    observe: bool = False
    budget_in_any: bool = False

    def budget_for(self, stated: BudgetDemand | None) -> BudgetDemand | None:
        """Return the limits that the document sets for a request which states this budget itself."""
        if self.budget is None or stated is None or not self.budget_in_any:
            return self.budget
        return replace(self.budget, currency=stated.currency)


def method_policy(method: str) -> str:
    """Return the policy of a method that no extension speaks about."""
    return _policy(method, {})


def operation_rule(method: str, template: str, operation: Mapping[str, Any]) -> RouteRule:
    """Return the rule of one operation.

    Args:
        method: upper case.
        template: the key of its path item.
        operation: the operation object.

    Raises:
        ConfigurationError: `x-chio-approval`, `x-chio-budget` or `x-chio-capability` is malformed.
    """
    place = f"{method} {template}"
    level = operation.get(SENSITIVITY)
    _check_capability(operation, place)
    budget = _budget(operation, place)
    return RouteRule(
        pattern=template,
        policy=_policy(method, operation),
        approval=_approval(operation, place),
        budget=budget,
        sensitivity=level if isinstance(level, str) and level in LEVELS else None,
        observe=operation.get(OBSERVE) is True,
        budget_in_any=budget is not None and operation.get(BUDGET) is None,
    )


def _policy(method: str, members: Mapping[str, Any]) -> str:
    return DENY_BY_DEFAULT if needs_capability(method, members) else SESSION_ALLOW


def _check_capability(operation: Mapping[str, Any], place: str) -> None:
    wanted = operation.get(CAPABILITY)
    if wanted is not None and (not isinstance(wanted, list) or not all(map(_is_capability, wanted))):
        raise _malformed(
            CAPABILITY, place, 'it must be a list of {"server": text, "tool": text, "operations": [text]}, or [{}]'
        )


def _is_capability(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if not value:
        return True
    operations = value.get("operations", ["invoke"])
    names = [value.get("server"), value.get("tool")]
    return (
        set(value) <= {"server", "tool", "operations"}
        and all(isinstance(name, str) and name for name in names)
        and isinstance(operations, list)
        and all(isinstance(one, str) and one in get_args(Operation) for one in operations)
    )


def _approval(operation: Mapping[str, Any], place: str) -> ApprovalDemand | None:
    wanted = operation.get(APPROVAL)
    if wanted is None:
        return None
    if not isinstance(wanted, dict) or set(wanted) != {"threshold", "currency"}:
        raise _malformed(APPROVAL, place, 'it must be {"threshold": whole number, "currency": text}')
    try:
        return approval_from({"approval": {"threshold_units": wanted["threshold"], "currency": wanted["currency"]}})
    except ValueError as exc:
        reason = str(exc).replace("governed_intent.approval.threshold_units", "threshold")
        raise _malformed(APPROVAL, place, reason.replace("governed_intent.approval.", "")) from None


def _budget(operation: Mapping[str, Any], place: str) -> BudgetDemand | None:
    limit = operation.get(BUDGET_LIMIT)
    total = min(limit, MAX_UNITS) if type(limit) is int and limit >= 0 else None
    wanted = operation.get(BUDGET)
    if wanted is None:
        return None if total is None else BudgetDemand(max_total_cost=total)
    if not isinstance(wanted, dict) or not set(wanted) <= _LIMITS:
        raise _malformed(BUDGET, place, f"it must be an object of {', '.join(sorted(_LIMITS))}")
    try:
        budget = budget_from(wanted)
    except ValueError as exc:
        raise _malformed(BUDGET, place, str(exc).replace("budget.", "")) from None
    totals = [one for one in (total, budget.max_total_cost) if one is not None]
    return replace(budget, max_total_cost=min(totals)) if totals else budget


def _malformed(name: str, place: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"failed to parse OpenAPI spec: {name} of {place}: {reason}")
