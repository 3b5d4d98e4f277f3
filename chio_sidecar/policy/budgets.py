"""Budgets, without any I/O: which limits count for a request, and what it spends from which account.

The application states cost and limits, the document of the routes may state limits, and so may the grant of the
token. All of them count. The account of a route belongs to one holder: the capability that was presented, or
without one the caller's identity. The account of a grant belongs to the capability and counts across routes.
"""

from __future__ import annotations

from dataclasses import replace

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.models.capability import CapabilityToken, MonetaryAmount
from chio_core.models.demands import MAX_UNITS, BudgetDemand
from chio_core.models.request import ChioHttpRequest
from chio_sidecar.policy.routes import RouteRule
from chio_sidecar.store import BudgetExceeded, Charge

OTHER_CURRENCY = "budget is in {stated}, and that of the route in {route}"
GRANT_CURRENCY = "budget is in {currency}, and the limit of {spender} in {limit}"
EACH_EXCEEDED = "budget exceeded: cost {cost} {currency} is above {most} {currency} for one invocation of {spender}"
NO_INVOCATION = "budget exceeded: no invocation left of {most} for {spender}"
TOTAL_EXCEEDED = (
    "budget exceeded: cost {cost} {currency}, and {left} {currency} are left of {most} {currency} for {spender}"
)
LONGEST_NAME = 200
"""Characters of a route or tool that a reason repeats."""

_LONGEST_CURRENCY = 16


class BudgetRefused(Exception):
    """The request is refused whatever was spent before.

    Attributes:
        reason: exact text of the verdict.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def strictest_budget(stated: BudgetDemand | None, route: BudgetDemand | None) -> BudgetDemand | None:
    """Return what the request costs, and the smaller of each two limits.

    Args:
        stated: what the application says.
        route: what the document says about the route.

    Raises:
        BudgetRefused: they are in two currencies, which nobody can compare.
    """
    if stated is None or route is None:
        return stated or route
    if stated.currency != route.currency:
        raise BudgetRefused(OTHER_CURRENCY.format(stated=stated.currency, route=route.currency))
    return replace(
        stated,
        max_invocations=smaller(stated.max_invocations, route.max_invocations),
        max_cost_per_invocation=smaller(stated.max_cost_per_invocation, route.max_cost_per_invocation),
        max_total_cost=smaller(stated.max_total_cost, route.max_total_cost),
    )


def charges(
    budget: BudgetDemand,
    request: ChioHttpRequest,
    rule: RouteRule,
    capability: CapabilityToken | None,
    grant: int | None,
    *,
    further: bool = False,
) -> tuple[Charge, ...]:
    """Return what the request spends: from the account of the route, and from that of a grant with a limit.

    Args:
        budget: cost and limits.
        request: what is to be done.
        rule: its route.
        capability: the valid token, if there is one.
        grant: position of the grant that allows the tool.
        further: another budget of this route was spent from for this very request.

    Raises:
        BudgetRefused: one invocation may not cost this much, or its cost cannot be compared with the grant's limit.
    """
    found = [_route_charge(budget, request, rule, capability, _limits(budget) if further else ())]
    each: list[tuple[int | None, Charge]] = [(budget.max_cost_per_invocation, found[0])]
    if capability is not None and grant is not None:
        limits = capability.scope.grants[grant]
        charge = _grant_charge(budget, capability, grant)
        for limit in (limits.max_total_cost, limits.max_cost_per_invocation):
            if budget.cost and limit is not None and limit.currency != budget.currency:
                raise BudgetRefused(_text(GRANT_CURRENCY, charge, limit=limit.currency[:_LONGEST_CURRENCY]))
        each.append((_units(limits.max_cost_per_invocation, budget.currency), charge))
        if charge.max_total is not None:
            found.append(charge)
    for most, charge in each:
        if most is not None and budget.cost > most:
            raise BudgetRefused(_text(EACH_EXCEEDED, charge, most=most))
    return tuple(found)


def exceeded_reason(exceeded: BudgetExceeded) -> str:
    """Return the exact text of the verdict: it names the limit and what is left."""
    charge = exceeded.charge
    if exceeded.limit == "invocations":
        return _text(NO_INVOCATION, charge, most=charge.max_invocations)
    most = MAX_UNITS if charge.max_total is None else charge.max_total
    return _text(TOTAL_EXCEEDED, charge, left=exceeded.left, most=most)


def smaller(one: int | None, other: int | None) -> int | None:
    """Return the smaller limit; None is without."""
    return min((limit for limit in (one, other) if limit is not None), default=None)


def _route_charge(
    budget: BudgetDemand,
    request: ChioHttpRequest,
    rule: RouteRule,
    capability: CapabilityToken | None,
    which: tuple[str, ...],
) -> Charge:
    holder = ["caller", request.caller.identity_hash()] if capability is None else ["capability", capability.id]
    # Where no template matched, every path would have an account of its own; the application knows its route.
    pattern = rule.pattern if rule.pattern != request.path else request.route_pattern or request.path
    return Charge(
        account=_account("route", *holder, request.method, pattern, budget.currency, *which),
        cost=budget.cost,
        currency=budget.currency,
        spender=f"{request.method} {pattern[:LONGEST_NAME]}",
        max_invocations=budget.max_invocations,
        max_total=budget.max_total_cost,
    )


def _limits(budget: BudgetDemand) -> tuple[str, ...]:
    # Of several budgets of a route only the first is the route's; each other one is known by its limits.
    limits = (budget.max_invocations, budget.max_cost_per_invocation, budget.max_total_cost)
    return ("further", *map(str, limits))


def _grant_charge(budget: BudgetDemand, capability: CapabilityToken, grant: int) -> Charge:
    limits = capability.scope.grants[grant]
    return Charge(
        account=_account("grant", capability.id, str(grant), budget.currency),
        cost=budget.cost,
        currency=budget.currency,
        spender=f"tool {limits.tool_name[:LONGEST_NAME]} on server {limits.server_id[:LONGEST_NAME]}",
        max_total=_units(limits.max_total_cost, budget.currency),
    )


def _units(limit: MonetaryAmount | None, currency: str) -> int | None:
    # A limit in another currency does not bear on what costs nothing.
    return None if limit is None or limit.currency != currency else min(limit.units, MAX_UNITS)


def _account(*parts: str) -> str:
    return sha256_hex(canonical_json(list(parts)))


def _text(template: str, charge: Charge, **more: object) -> str:
    return template.format(cost=charge.cost, currency=charge.currency, spender=charge.spender, **more)
