"""Demands of a route beyond a capability, an approval and a budget, and the protocol's texts about them.

Both demands are members of the one evaluation and enforced by the sidecar. A sidecar that does not know them
ignores unknown members, so an allow alone proves nothing: the receipt's evidence must say, word for word, that
the demand was checked. `approval_evidence` and `budget_evidence` are those words: the sidecar writes them, and
`demands_met` compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from chio_core.errors import ConfigurationError
from chio_core.models.receipt import GuardEvidence

OTHER_HOLDER: Final = "capability is bound to another holder"
"""Reason of a refusal: the caller is not the holder that the capability states."""

CAPABILITY_GUARD: Final = "CapabilityGuard"
"""`guard_name` of the evidence that a capability was checked; guard of refusals because of a capability."""

POLICY_GUARD: Final = "DefaultPolicyGuard"
"""`guard_name` of the evidence that a request needs no capability."""

APPROVAL_GUARD: Final = "ApprovalGuard"
"""`guard_name` of the evidence that an approval was checked."""

BUDGET_GUARD: Final = "BudgetGuard"
"""`guard_name` of the evidence that a budget was checked and the cost spent."""

MAX_UNITS: Final = 2**63 - 1
"""Largest amount: a store adds amounts up in signed 64-bit integers."""


@dataclass(frozen=True, slots=True)
class ApprovalDemand:
    """An approval that one request needs.

    Attributes:
        threshold: largest amount, in units of `currency`, that needs no approval.
        currency: for example `USD`; the units may be cents.
        amount: amount of this request, in the same units; None: unknown, so an approval is always needed.
    """

    threshold: int
    currency: str
    amount: int | None = None

    @property
    def needed(self) -> bool:
        """True if a person has to decide."""
        return self.amount is None or self.amount > self.threshold

    def to_wire(self) -> dict[str, Any]:
        """Return the value of the member `governed_intent` of the evaluate request."""
        intent: dict[str, Any] = {"approval": {"threshold_units": self.threshold, "currency": self.currency}}
        if self.amount is not None:
            intent["amount"] = {"units": self.amount, "currency": self.currency}
        return intent


@dataclass(frozen=True, slots=True)
class BudgetDemand:
    """The cost of one request, and how much may be spent on this route with one capability.

    There is one account for each capability (without one: each caller's identity), method and route pattern.

    Attributes:
        cost: cost of this invocation, in units of `currency`.
        currency: one account has one currency.
        max_invocations, max_cost_per_invocation, max_total_cost: limits; None without limit.
    """

    cost: int = 0
    currency: str = "USD"
    max_invocations: int | None = None
    max_cost_per_invocation: int | None = None
    max_total_cost: int | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the value of the member `budget` of the evaluate request; limits that are None are left out."""
        wire = {
            "cost": self.cost,
            "currency": self.currency,
            "max_invocations": self.max_invocations,
            "max_cost_per_invocation": self.max_cost_per_invocation,
            "max_total_cost": self.max_total_cost,
        }
        return {name: value for name, value in wire.items() if value is not None}


def approval_evidence(demand: ApprovalDemand) -> str:
    """Return the start of the evidence's details after an approval was checked."""
    amount = "an unknown amount" if demand.amount is None else f"{demand.amount} {demand.currency}"
    return f"{amount} against a threshold of {demand.threshold} {demand.currency}: "


def budget_evidence(demand: BudgetDemand) -> str:
    """Return the start of the evidence's details after a budget was checked."""
    limits = {
        "invocations": demand.max_invocations,
        "each": demand.max_cost_per_invocation,
        "total": demand.max_total_cost,
    }
    stated = ", ".join(f"{name} {value}" for name, value in limits.items() if value is not None) or "no limit"
    return f"cost {demand.cost} {demand.currency} within {stated}: "


def demands_met(
    evidence: Iterable[GuardEvidence], approval: ApprovalDemand | None, budget: BudgetDemand | None
) -> bool:
    """Return True if a receipt's evidence says that exactly these demands were met.

    Args:
        evidence: evidence of the verified receipt.
        approval, budget: the demands of the request; None without one.
    """
    said = [(one.guard_name, one.details or "") for one in evidence if one.verdict]
    wanted = []
    if approval is not None:
        wanted.append((APPROVAL_GUARD, approval_evidence(approval)))
    if budget is not None:
        wanted.append((BUDGET_GUARD, budget_evidence(budget)))
    return all(any(guard == name and text.startswith(start) for guard, text in said) for name, start in wanted)


def approval_from(intent: Mapping[str, Any]) -> ApprovalDemand:
    """Read the member `governed_intent`.

    Raises:
        ValueError: it has another shape; the message names the member.
    """
    approval = intent.get("approval")
    if not isinstance(approval, Mapping):
        raise ValueError("governed_intent.approval must be an object")
    currency = _currency(approval.get("currency"), "governed_intent.approval.currency")
    threshold = _units(approval.get("threshold_units"), "governed_intent.approval.threshold_units")
    amount = intent.get("amount")
    if amount is None:
        return ApprovalDemand(threshold, currency)
    if not isinstance(amount, Mapping) or amount.get("currency") != currency:
        raise ValueError("governed_intent.amount must be an object with the currency of the threshold")
    return ApprovalDemand(threshold, currency, _units(amount.get("units"), "governed_intent.amount.units"))


def budget_from(wire: Mapping[str, Any]) -> BudgetDemand:
    """Read the member `budget`.

    Raises:
        ValueError: it has another shape; the message names the member.
    """

    def limit(name: str) -> int | None:
        return None if wire.get(name) is None else _units(wire[name], f"budget.{name}")

    return BudgetDemand(
        cost=_units(wire.get("cost", 0), "budget.cost"),
        currency=_currency(wire.get("currency"), "budget.currency"),
        max_invocations=limit("max_invocations"),
        max_cost_per_invocation=limit("max_cost_per_invocation"),
        max_total_cost=limit("max_total_cost"),
    )


def check_currency(value: object, place: str) -> None:
    """Check at the start that a value is the name of a currency.

    Args:
        value: from the application.
        place: name of the option, for the message.

    Raises:
        ConfigurationError: not 1 to 16 ASCII letters or digits.
    """
    try:
        _currency(value, place)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None


def is_units(value: object) -> TypeGuard[int]:
    """Return True if a value is an amount: an integer (not a bool) from 0 to `MAX_UNITS`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_UNITS


def _units(value: object, place: str) -> int:
    if not is_units(value):
        raise ValueError(f"{place} must be a whole number from 0 to {MAX_UNITS}")
    return value


def _currency(value: object, place: str) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isalnum() or len(value) > 16:
        raise ValueError(f"{place} must be 1 to 16 letters or digits, for example USD")
    return value


BOTH_TOOL_FIELDS: Final = "tool-call evaluation requires both tool_server and tool_name"
NOT_GRANTED: Final = "capability does not authorize tool {tool} on server {server}"
OTHER_CAPABILITY: Final = "capability_id does not match the presented capability token"
NO_CAPABILITY: Final = "side-effect route requires a capability token"
NO_CAPABILITY_EVIDENCE: Final = "side-effect route requires a valid capability token"
SAFE_EVIDENCE: Final = "safe method, session-scoped allow"
CAPABILITY_EVIDENCE: Final = "valid capability token presented"
REVOKED: Final = "capability token has been revoked"
NEEDS_APPROVAL: Final = "request requires human approval before it can proceed"

EXHAUSTED: Final = "capability has no invocation left of the {limit} granted for tool {tool} on server {server}"
"""Not in the protocol's April state."""

NOT_ENFORCED: Final = "capability is restricted by {members}, which is not enforced for this route"
"""Not in the protocol: a restriction that nothing enforces must not be ignored."""
