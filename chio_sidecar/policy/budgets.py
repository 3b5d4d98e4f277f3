"""Budgets, without any I/O: which limits count for a request, and what it spends from which account.

The application states cost and limits, the document may state limits for the route, and so may the grant of the token.
All of them count. The account of a route belongs to one holder: the capability, or without one the caller's identity.
The account of a grant belongs to the capability and counts across routes.
"""

from __future__ import annotations

from dataclasses import replace

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.capabilities.restrictions import shared_costs
from chio_core.models.capability import CapabilityToken, MonetaryAmount
from chio_core.models.demands import MAX_UNITS, BudgetDemand
from chio_core.models.request import ChioHttpRequest
from chio_sidecar.policy.routes import RouteRule, smaller
from chio_sidecar.policy.rules import Refused, Rule
from chio_sidecar.store import BudgetExceeded, Charge

LONGEST_NAME = 200
"""Characters of a route or tool that a reason repeats."""

_LONGEST_CURRENCY = 16


def strictest_budget(stated: BudgetDemand | None, route: BudgetDemand | None) -> BudgetDemand | None:
    """Return what the request costs, and the smaller of each two limits.

    Args:
        stated: the application's demand.
        route: the document's demand for the route.

    Raises:
        Refused: they are in two currencies, which cannot be compared.
    """
    if stated is None or route is None:
        return stated or route
    if stated.currency != route.currency:
        raise Refused(Rule.BUDGET_CURRENCY, stated=stated.currency, route=route.currency)
    return replace(
        stated,
        max_invocations=smaller(stated.max_invocations, route.max_invocations),
        max_cost_per_invocation=smaller(stated.max_cost_per_invocation, route.max_cost_per_invocation),
        max_total_cost=smaller(stated.max_total_cost, route.max_total_cost),
    )


def charges(
    budget: BudgetDemand,
    request: ChioHttpRequest,
    route: RouteRule,
    capability: CapabilityToken | None,
    grant: int | None,
    *,
    follow_up: bool = False,
) -> list[Charge]:
    """Return what the request spends: from the account of the route, and from that of a grant with a limit.

    Args:
        budget: cost and limits.
        request: the request.
        route: its route.
        capability: the valid token, if there is one.
        grant: position of the grant that allows the tool.
        follow_up: an earlier evaluation of this request has spent from the route's account.

    Raises:
        Refused: one invocation may not cost this much, or its cost cannot be compared with the grant's limit.
    """
    holder = ["caller", request.caller.identity_hash()] if capability is None else ["capability", capability.id]
    # Without a template every path would have its own account: count the route that the application names.
    pattern = route.pattern if route.pattern != request.path else request.route_pattern or request.path
    # A route's first budget uses the route account; further budgets get their own account, keyed by their limits.
    limits = (budget.max_invocations, budget.max_cost_per_invocation, budget.max_total_cost)
    key = ("further", *map(str, limits)) if follow_up else ()
    of_route = Charge(
        account=_account("route", *holder, request.method, pattern, budget.currency, *key),
        cost=budget.cost,
        currency=budget.currency,
        spender=f"{request.method} {pattern[:LONGEST_NAME]}",
        max_invocations=budget.max_invocations,
        max_total=budget.max_total_cost,
    )
    found, each = [of_route], [(budget.max_cost_per_invocation, of_route)]
    if capability is not None and grant is not None:
        limited = capability.scope.grants[grant]
        of_grant = Charge(
            account=_account("grant", capability.id, str(grant), budget.currency),
            cost=budget.cost,
            currency=budget.currency,
            spender=f"tool {limited.tool_name[:LONGEST_NAME]} on server {limited.server_id[:LONGEST_NAME]}",
            max_total=_units(limited.max_total_cost, budget.currency),
        )
        for limit in (limited.max_total_cost, limited.max_cost_per_invocation):
            if budget.cost and limit is not None and limit.currency != budget.currency:
                raise _refused(Rule.GRANT_CURRENCY, of_grant, limit=limit.currency[:_LONGEST_CURRENCY])
        each.append((_units(limited.max_cost_per_invocation, budget.currency), of_grant))
        if of_grant.max_total is not None:
            found.append(of_grant)
            # What all tokens of one descent may cost together: those derived from this one, and its ancestors.
            tool = (request.tool_server or "", request.tool_name or "")
            for one in shared_costs(capability, grant, *tool):
                account = _account("shared", one.capability_id, one.server, one.tool, budget.currency)
                found.append(replace(of_grant, account=account, max_total=min(one.limit, MAX_UNITS)))
    for most, charge in each:
        if most is not None and budget.cost > most:
            raise _refused(Rule.COST_TOO_HIGH, charge, most=most)
    return found


def budget_refusal(exceeded: BudgetExceeded) -> Refused:
    """Return the refusal that follows from what the store found: it names the limit and what is left."""
    charge = exceeded.charge
    if exceeded.limit == "invocations":
        return _refused(Rule.NO_INVOCATION, charge, most=charge.max_invocations)
    most = MAX_UNITS if charge.max_total is None else charge.max_total
    return _refused(Rule.TOTAL_EXCEEDED, charge, left=exceeded.left, most=most)


def _units(limit: MonetaryAmount | None, currency: str) -> int | None:
    # A limit in another currency does not apply to what costs nothing.
    return None if limit is None or limit.currency != currency else min(limit.units, MAX_UNITS)


def shared_index(server: str, tool: str) -> int:
    """Return the number under which the store counts uses of a tool by all tokens of one descent; it is negative.

    Grants of one token have the numbers from 0.
    """
    return -1 - (int(_account("uses", server, tool), 16) >> 194)


def _account(*parts: str) -> str:
    return sha256_hex(canonical_json(list(parts)))


def _refused(rule: Rule, charge: Charge, **more: object) -> Refused:
    return Refused(rule, None, cost=charge.cost, currency=charge.currency, spender=charge.spender, **more)
