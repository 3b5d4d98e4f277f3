"""What restricts the use of a grant besides the call itself, and what enforces each restriction.

`chio_core.capabilities.scope` decides which grants allow a call. Such a grant may state more restrictions:

* Limits of uses and costs, and `require_approval_above` (`BY_SIDECAR`): only a sidecar can enforce them, because it
  counts and knows the approvals. A sidecar of this distribution states in its receipt which it has enforced (`GRANT`).
* The attenuations of the delegation chain: the grant must not allow what they took away.
* Everything else (`dpop_required`, the types in `REFUSED`, unknown members): nothing here enforces it. Such a grant is
  void: it allows nothing.

The sidecar and the middleware both decide by these functions, so a sidecar that ignores a restriction opens no route.
The table in docs/security.md lists every member.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from chio_core.capabilities.constraints import ELSEWHERE, NEVER
from chio_core.capabilities.scope import amount_within
from chio_core.capabilities.tokens import CapabilityRejected
from chio_core.errors import InvalidDocument
from chio_core.models.capability import (
    Attenuation,
    CapabilityToken,
    ChioScope,
    DelegationLink,
    MonetaryAmount,
    PromptGrant,
    ResourceGrant,
    ToolGrant,
)
from chio_core.models.demands import NOT_ENFORCED

GRANT: Final = "chio_grant"
"""Member of a receipt's metadata: `{"index": 0, "enforced": ["max_invocations"]}`, the grant that was used and the
restrictions of it that the sidecar has enforced; left out if the grant has none of `BY_SIDECAR`."""

BY_SIDECAR: Final = ("max_cost_per_invocation", "max_invocations", "max_total_cost", "require_approval_above")
"""Restrictions that only a sidecar can enforce."""

REFUSED: Final = (ELSEWHERE | NEVER) - {"require_approval_above"}
"""Types of constraints that nothing here enforces."""

UNKNOWN: Final = "a member that is not known"
"""Name of a restriction in messages; the member's own name is not signed, so it is not repeated."""

UNLIMITED: Final = 2**32 - 1
"""`max_invocations` of a `reduce_budget` that states no limit."""

UNLIMITED_COST: Final = 2**63 - 1
"""`units`, from which on a `reduce_total_cost` states no limit."""

NO_CURRENCY: Final = "XXX"
"""The currency of an amount that is no limit (ISO 4217)."""


class NotEnforced(InvalidDocument):
    """A capability with restrictions that are not enforced for this request.

    Attributes:
        reason: names them.
    """

    code = "chio_invalid_capability"

    def __init__(self, members: Iterable[str]) -> None:
        self.reason = NOT_ENFORCED.format(members=", ".join(members))
        super().__init__(self.reason)


@dataclass(frozen=True, slots=True)
class Enforced:
    """What a sidecar enforces for one request.

    Attributes:
        costs: the request states its cost, and the limits of the grant are checked against it.
        approval_from: above this amount a person approves the request; None: no approval is demanded.
    """

    costs: bool = False
    approval_from: int | None = None


def void_because(grant: ToolGrant | ResourceGrant | PromptGrant) -> list[str]:
    """Return the restrictions of a grant that nothing here enforces, sorted; a grant with any allows nothing."""
    found = {UNKNOWN} if grant.has_unknown_members() else set()
    if isinstance(grant, ToolGrant):
        found |= {constraint.type for constraint in grant.constraints if constraint.type in REFUSED}
        if grant.dpop_required:
            found.add("dpop_required")
    return sorted(found)


def by_sidecar(grant: ToolGrant) -> list[str]:
    """Return the restrictions of a grant that only a sidecar can enforce, sorted."""
    stated = {name for name, value in vars(grant).items() if value is not None}
    stated |= {constraint.type for constraint in grant.constraints}
    return [name for name in BY_SIDECAR if name in stated]


def not_enforced(grant: ToolGrant, enforced: Enforced) -> list[str]:
    """Return the restrictions of a grant that are not enforced for a request, sorted."""

    def holds(name: str) -> bool:
        if name == "max_invocations":
            return True  # every sidecar that calls this counts uses
        if name != "require_approval_above":
            return enforced.costs
        allowed = [one.value["threshold_units"] for one in grant.constraints if one.type == name]
        return enforced.approval_from is not None and enforced.approval_from <= min(allowed)

    return sorted([*void_because(grant), *(name for name in by_sidecar(grant) if not holds(name))])


def void_scope(token: CapabilityToken) -> list[str]:
    """Return why no grant of a token counts where any valid capability is enough, sorted; empty if one counts.

    Such a route names no tool, so no grant is used, no cost is charged to one, and no approval is demanded for one.
    Uses are not counted either, as in the protocol. An empty scope restricts nothing: the protocol accepts it there.
    """
    scope = token.scope
    if _is_void(scope):
        return [UNKNOWN]
    reasons = [{*void_because(one), *by_sidecar(one)} - {"max_invocations"} for one in scope.grants]
    reasons += [set(void_because(one)) for one in scope.resource_grants]
    reasons += [set(void_because(one)) for one in scope.prompt_grants]
    return sorted({name for reason in reasons for name in reason}) if all(reasons) else []


def _is_void(scope: ChioScope) -> bool:
    return any(value is not None for value in (scope.model_extra or {}).values())


def choose_grant(token: CapabilityToken, matching: Sequence[int], enforced: Enforced) -> int | list[str]:
    """Return the first grant all of whose restrictions are enforced, or those of the first one that are not.

    Args:
        token: a verified token.
        matching: indexes of the grants that allow the call, at least one.
        enforced: what is enforced for this request.
    """
    if _is_void(token.scope):
        return [UNKNOWN]
    open_ones = [(index, not_enforced(token.scope.grants[index], enforced)) for index in matching]
    return next((index for index, missing in open_ones if not missing), open_ones[0][1])


def accepted_grant(token: CapabilityToken, matching: Sequence[int], metadata: Any) -> int | list[str]:
    """Return the grant by which the application accepts a sidecar's allow, or the restrictions that are not enforced.

    Args:
        token: the presented token.
        matching: indexes of the grants that allow the call, at least one.
        metadata: of the verified receipt. A receipt that states nothing proves no restriction of `BY_SIDECAR`.
    """
    if _is_void(token.scope):
        return [UNKNOWN]
    stated = metadata.get(GRANT) if isinstance(metadata, Mapping) else None
    used, names = (stated.get("index"), stated.get("enforced")) if isinstance(stated, Mapping) else (None, None)
    proven = {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
    for index in matching:
        grant = token.scope.grants[index]
        wanted = set(by_sidecar(grant))
        if not void_because(grant) and (not wanted or (used == index and wanted <= proven)):
            return index
    first = token.scope.grants[matching[0]]
    return sorted({*void_because(first), *by_sidecar(first)})


def statement(grant: ToolGrant, index: int) -> dict[str, Any] | None:
    """Return the value of `GRANT` after a sidecar has enforced every restriction of a grant; None if it has none."""
    names = by_sidecar(grant)
    return {"index": index, "enforced": names} if names else None


def usable_grant(token: CapabilityToken, matching: Sequence[int], server: str, tool: str, enforced: Enforced) -> int:
    """Return the grant that a sidecar uses for one tool, see `choose_grant`; what the delegation took away is left out.

    Raises:
        CapabilityRejected: every grant contradicts the delegation chain.
        NotEnforced: no grant is left.
    """
    kept = [index for index in matching if taken_away(token, index, server, tool) is None]
    if not kept:
        contradicted = taken_away(token, matching[0], server, tool)
        raise CapabilityRejected(f"delegation chain broken: the grant contradicts {contradicted}", rule="delegation")
    grant = choose_grant(token, kept, enforced)
    if isinstance(grant, list):
        raise NotEnforced(grant)
    return grant


# Delegation: what the links take away, and the limits that all tokens of one descent share.


def taken_away(token: CapabilityToken, index: int, server: str, tool: str) -> str | None:
    """Return which attenuation a grant contradicts for one tool, for example `remove_tool of link 0`; None if none."""
    grant = token.scope.grants[index]
    for position, link in enumerate(token.delegation_chain):
        for one in _about(link, server, tool):
            limit, total = one.max_invocations, one.max_total_cost
            broken = {
                "remove_tool": True,
                "remove_operation": one.operation in grant.operations,
                "add_constraint": one.constraint is not None
                and not any(own.same_as(one.constraint) for own in grant.constraints),
                "reduce_budget": limit is not None
                and limit != UNLIMITED
                and (grant.max_invocations is None or grant.max_invocations > limit),
                "reduce_cost_per_invocation": not amount_within(
                    grant.max_cost_per_invocation, one.max_cost_per_invocation
                ),
                "reduce_total_cost": total is not None
                and total.units < UNLIMITED_COST
                and not amount_within(grant.max_total_cost, total),
            }
            if broken.get(one.type, False):
                return f"{one.type} of link {position}"
    return None


@dataclass(frozen=True, slots=True)
class SharedLimit:
    """A limit that a capability shares with every token that was derived from it.

    Attributes:
        capability_id: the capability.
        server, tool: as its grant names them, also `*`.
        limit: uses, or units of the currency of the used grant's own limit.
    """

    capability_id: str
    server: str
    tool: str
    limit: int

    @property
    def account(self) -> tuple[str, str, str]:
        """What is counted, without the limit."""
        return self.capability_id, self.server, self.tool


def shared_uses(token: CapabilityToken, index: int, server: str, tool: str) -> list[SharedLimit]:
    """Return the limits of uses that count for a grant besides its own: its descendants' and its ancestors'."""
    grants = token.scope.grants
    return list(
        _shared(token, index, server, tool, "reduce_budget", [one.max_invocations for one in grants], UNLIMITED)
    )


def shared_costs(token: CapabilityToken, index: int, server: str, tool: str) -> list[SharedLimit]:
    """Return the same for `max_total_cost`."""
    units = [None if one.max_total_cost is None else one.max_total_cost.units for one in token.scope.grants]
    return list(_shared(token, index, server, tool, "reduce_total_cost", units, UNLIMITED_COST))


def _shared(
    token: CapabilityToken,
    index: int,
    server: str,
    tool: str,
    kind: str,
    limits: Sequence[int | None],
    unlimited: int,
) -> Iterator[SharedLimit]:
    grant, own = token.scope.grants[index], limits[index]
    if own is None:
        return
    yield SharedLimit(token.id, grant.server_id, grant.tool_name, _total(token.scope.grants, grant, limits))
    seen = {token.id}
    for link in token.delegation_chain:
        if link.capability_id in seen:
            continue
        seen.add(link.capability_id)
        stated = [one for one in _about(link, server, tool) if one.type == kind]
        for one in stated:
            limit = one.max_invocations if one.max_total_cost is None else one.max_total_cost.units
            if limit is not None and limit < unlimited:
                yield SharedLimit(link.capability_id, str(one.server_id), str(one.tool_name), limit)
        if not stated:
            # The link does not say what its capability allows: at least as much as this token, and perhaps no more.
            yield SharedLimit(link.capability_id, grant.server_id, grant.tool_name, own)


def _total(grants: Sequence[ToolGrant], named: ToolGrant, limits: Sequence[int | None]) -> int:
    """Return the sum of the limits of the grants with the same server and tool as `named`; 0 if none has a limit."""
    same = (named.server_id, named.tool_name)
    found = zip(grants, limits, strict=True)
    return sum(limit for one, limit in found if (one.server_id, one.tool_name) == same and limit is not None)


def _about(link: DelegationLink, server: str, tool: str) -> Iterator[Attenuation]:
    for one in link.attenuations:
        if one.server_id in {"*", server} and one.tool_name in {"*", tool}:
            yield one


def limits_of(grants: Sequence[ToolGrant], used: Sequence[ToolGrant]) -> list[Attenuation]:
    """Return attenuations that state the limits of a capability in the link by which it is delegated.

    Sidecars count the uses and costs of all tokens of one descent against them (`shared_uses`, `shared_costs`). That a
    grant has no limit is stated too: a link that says nothing is taken for the narrowest.

    Args:
        grants: of the capability that is delegated.
        used: those of them that the new token's grants are part of.
    """
    uses = [one.max_invocations for one in grants]
    units = [None if one.max_total_cost is None else one.max_total_cost.units for one in grants]
    stated: list[Attenuation] = []
    for grant in dict.fromkeys((one.server_id, one.tool_name) for one in used):
        names = {"server_id": grant[0], "tool_name": grant[1]}
        same = [one for one in used if (one.server_id, one.tool_name) == grant]
        # Of two grants of one tool the one with a limit counts for both.
        limited = next((one for one in same if one.max_invocations is not None), None)
        priced = next((one.max_total_cost for one in same if one.max_total_cost is not None), None)
        count = UNLIMITED if limited is None else min(_total(grants, limited, uses), UNLIMITED)
        cost = UNLIMITED_COST if priced is None else min(_total(grants, same[0], units), UNLIMITED_COST)
        amount = MonetaryAmount(units=cost, currency=NO_CURRENCY if priced is None else priced.currency)
        stated.append(Attenuation(type="reduce_budget", **names, max_invocations=count))
        stated.append(Attenuation(type="reduce_total_cost", **names, max_total_cost=amount))
    return stated
