"""What a route asks for beyond a capability: an approval by a person, and a budget.

Both travel as members of the one evaluation and are enforced by the sidecar. A sidecar that does not know them
ignores unknown members, so an allow alone proves nothing: the receipt's evidence must say, word for word, that
the demand was looked at. `approval_evidence` and `budget_evidence` are those words; the sidecar writes them and
`covers` compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from chio_core.errors import ConfigurationError
from chio_core.models.receipt import GuardEvidence

CAPABILITY_GUARD: Final = "CapabilityGuard"
"""`guard_name` of the evidence that a capability was looked at, and the guard of refusals that are about one."""

POLICY_GUARD: Final = "DefaultPolicyGuard"
"""`guard_name` of the evidence that a request needs no capability."""

APPROVAL_GUARD: Final = "ApprovalGuard"
"""`guard_name` of the evidence that an approval was looked at."""

BUDGET_GUARD: Final = "BudgetGuard"
"""`guard_name` of the evidence that a budget was looked at, and spent from."""

MAX_UNITS: Final = 2**63 - 1
"""Largest amount, so that a store can add amounts up in signed 64-bit integers."""


@dataclass(frozen=True, slots=True)
class ApprovalDemand:
    """An approval that one request needs.

    Attributes:
        threshold: amount, in units of `currency`, up to which no approval is needed.
        currency: for example `USD`; a threshold of cents counts cents.
        amount: what this request is about, in the same units; None: unknown, so an approval is always needed.
    """

    threshold: int
    currency: str
    amount: int | None = None

    @property
    def needed(self) -> bool:
        """True when a person has to answer."""
        return self.amount is None or self.amount > self.threshold

    def to_wire(self) -> dict[str, Any]:
        """Return the value of the member `governed_intent` of the evaluate request."""
        intent: dict[str, Any] = {"approval": {"threshold_units": self.threshold, "currency": self.currency}}
        if self.amount is not None:
            intent["amount"] = {"units": self.amount, "currency": self.currency}
        return intent


@dataclass(frozen=True, slots=True)
class BudgetDemand:
    """What one request costs, and how much may be spent on this route with one capability.

    The account belongs to the capability that was presented (without one: to the caller's identity), the method
    and the route pattern.

    Attributes:
        cost: what this invocation costs, in units of `currency`.
        currency: one account has one currency.
        max_invocations, max_cost_per_invocation, max_total_cost: limits; None is without.
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
    """Return how the details of the evidence begin when an approval was looked at."""
    amount = "an unknown amount" if demand.amount is None else f"{demand.amount} {demand.currency}"
    return f"{amount} against a threshold of {demand.threshold} {demand.currency}: "


def budget_evidence(demand: BudgetDemand) -> str:
    """Return how the details of the evidence begin when a budget was looked at."""
    limits = {
        "invocations": demand.max_invocations,
        "each": demand.max_cost_per_invocation,
        "total": demand.max_total_cost,
    }
    stated = ", ".join(f"{name} {value}" for name, value in limits.items() if value is not None) or "no limit"
    return f"cost {demand.cost} {demand.currency} within {stated}: "


def covers(evidence: Iterable[GuardEvidence], approval: ApprovalDemand | None, budget: BudgetDemand | None) -> bool:
    """Tell whether a receipt's evidence says that these very demands were met.

    Args:
        evidence: of the verified receipt.
        approval, budget: what was asked for; None asks for nothing.
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
        ValueError: it has another shape; the text names the member.
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
        ValueError: it has another shape; the text names the member.
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
    """Refuse at the start what is no name of a currency.

    Raises:
        ConfigurationError: not 1 to 16 ASCII letters or digits.
    """
    try:
        _currency(value, place)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None


def is_units(value: object) -> TypeGuard[int]:
    """Tell whether a value is a number of units: an integer from 0 to `MAX_UNITS`; True is none."""
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
"""Beyond the protocol's April state."""
