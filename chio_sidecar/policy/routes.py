"""The route table: which template a path matches, and which policy that has (wire protocol, section 6).

The first matching template in byte order wins, as in the protocol, but the templates are not tried one by one: per
method and number of segments they form a tree, and a path follows at each level the branch of that segment and the
branch of parameters. Each branch knows the smallest rank below it, so a branch that can no longer win is skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from chio_core.canonical import sha256_hex
from chio_core.errors import ConfigurationError
from chio_core.models.capability import Operation
from chio_core.models.demands import MAX_UNITS, ApprovalDemand, BudgetDemand, approval_from, budget_from
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
from chio_core.models.request import METHODS
from chio_sidecar.policy.doubts import doubts
from chio_sidecar.policy.openapi import load, operations_of

log = logging.getLogger(__name__)

SESSION_ALLOW = "session_allow"
"""Policy: allowed without a capability."""

DENY_BY_DEFAULT = "deny_by_default"
"""Policy: allowed with a valid capability only."""

NO_SPEC_POLICY = "chio_sidecar_policy_by_method"
"""Without an OpenAPI document, the policy hash is the SHA-256 of this ASCII text."""

_LIMITS = frozenset({"currency", "max_invocations", "max_cost_per_invocation", "max_total_cost"})


@dataclass(frozen=True, slots=True)
class RouteRule:
    """A route and its policy.

    Attributes:
        pattern: the template, or the path itself if no template matches.
        policy: `SESSION_ALLOW` or `DENY_BY_DEFAULT`.
        approval: the approval that the document demands; it states no amount.
        budget: the limits that the document sets; it states no cost.
        budget_in_any: the document names no currency, so that of the request's own budget counts; see `budget_for`.
        sensitivity: `public`, `internal`, `sensitive` or `restricted`.
        observe: decisions about this route are to be recorded, not enforced.
    """

    pattern: str
    policy: str
    approval: ApprovalDemand | None = None
    budget: BudgetDemand | None = None
    sensitivity: str | None = None
    observe: bool = False
    budget_in_any: bool = False

    def budget_for(self, stated: BudgetDemand | None) -> BudgetDemand | None:
        """Return the document's limits for a request that itself states the budget `stated`."""
        if self.budget is None or stated is None or not self.budget_in_any:
            return self.budget
        return replace(self.budget, currency=stated.currency)


def method_policy(method: str) -> str:
    """Return the policy of a method without any extension of the document."""
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
    required = operation.get(CAPABILITY)
    if required is not None and (not isinstance(required, list) or not all(map(_is_capability, required))):
        raise _malformed(
            CAPABILITY, place, 'it must be a list of {"server": text, "tool": text, "operations": [text]}, or [{}]'
        )
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


def _is_capability(value: Any) -> bool:
    if value == {}:
        return True  # any capability
    operations = value.get("operations", ["invoke"]) if isinstance(value, dict) else None
    return (
        isinstance(operations, list)
        and set(value) <= {"server", "tool", "operations"}
        and all(isinstance(name, str) and name for name in (value.get("server"), value.get("tool")))
        and all(isinstance(one, str) and one in get_args(Operation) for one in operations)
    )


def _approval(operation: Mapping[str, Any], place: str) -> ApprovalDemand | None:
    demand = operation.get(APPROVAL)
    if demand is None:
        return None
    if not isinstance(demand, dict) or set(demand) != {"threshold", "currency"}:
        raise _malformed(APPROVAL, place, 'it must be {"threshold": whole number, "currency": text}')
    try:
        return approval_from({"approval": {"threshold_units": demand["threshold"], "currency": demand["currency"]}})
    except ValueError as exc:
        reason = str(exc).replace("governed_intent.approval.threshold_units", "threshold")
        raise _malformed(APPROVAL, place, reason.replace("governed_intent.approval.", "")) from None


def _budget(operation: Mapping[str, Any], place: str) -> BudgetDemand | None:
    limit = operation.get(BUDGET_LIMIT)
    total = min(limit, MAX_UNITS) if type(limit) is int and limit >= 0 else None
    demand = operation.get(BUDGET)
    if demand is None:
        return None if total is None else BudgetDemand(max_total_cost=total)
    if not isinstance(demand, dict) or not set(demand) <= _LIMITS:
        raise _malformed(BUDGET, place, f"it must be an object of {', '.join(sorted(_LIMITS))}")
    try:
        budget = budget_from(demand)
    except ValueError as exc:
        raise _malformed(BUDGET, place, str(exc).replace("budget.", "")) from None
    return replace(budget, max_total_cost=smaller(total, budget.max_total_cost))


def smaller(one: int | None, other: int | None) -> int | None:
    """Return the smaller of two limits; None is without limit."""
    return min((limit for limit in (one, other) if limit is not None), default=None)


def _malformed(name: str, place: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"failed to parse OpenAPI spec: {name} of {place}: {reason}")


@dataclass(slots=True)
class _Node:
    rank: int  # the smallest rank at or below this node
    rule: RouteRule | None = None
    literal: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None


class RouteTable:
    """All operations of one OpenAPI document.

    Args:
        operations: (upper-case method, rule); a rule's pattern is its template.
        policy_hash: 64 hex digits.
    """

    def __init__(self, operations: Iterable[tuple[str, RouteRule]], policy_hash: str) -> None:
        self.policy_hash = policy_hash
        self._roots: dict[tuple[str, int], _Node] = {}
        self._count = 0
        # Python compares texts by code point, which is the order of their UTF-8 bytes.
        for method, rule in sorted(operations, key=lambda operation: operation[1].pattern):
            segments, rank = rule.pattern.split("/"), self._count
            node = self._roots.setdefault((method, len(segments)), _Node(rank))
            for segment in segments:
                if segment.startswith("{") and segment.endswith("}"):
                    node.parameter = node.parameter or _Node(rank)
                    node = node.parameter
                else:
                    node = node.literal.setdefault(segment, _Node(rank))
            if node.rule is None:  # the same template with other names of parameters comes later and never wins
                node.rule = rule
            self._count += 1

    @classmethod
    def from_openapi(cls, text: str, *, strict: bool = False) -> RouteTable:
        """Read a document, JSON or YAML, and warn about policy that is ignored or can never apply.

        Args:
            text: the text of the document.
            strict: refuse such a document instead of warning.

        Raises:
            ConfigurationError: `failed to parse OpenAPI spec: …`.
        """
        document = load(text)
        operations = [
            (method, operation_rule(method, template, operation))
            for template, method, operation in operations_of(document)
        ]
        table = cls(operations, sha256_hex(text.encode()))
        found = doubts(document, table.chosen)
        if found and strict:
            raise ConfigurationError(f"failed to parse OpenAPI spec: {'; '.join(found)}")
        for doubt in found:
            log.warning("OpenAPI spec: %s", doubt)
        return table

    @classmethod
    def by_method(cls) -> RouteTable:
        """Return the table without templates: every path is its own pattern, and the method decides."""
        return cls((), sha256_hex(NO_SPEC_POLICY.encode()))

    def __len__(self) -> int:
        return self._count

    def chosen(self, method: str, path: str) -> tuple[str, bool]:
        """Return the pattern that a request matches, and whether it needs a capability."""
        rule = self.match(method, path)
        return rule.pattern, rule.policy == DENY_BY_DEFAULT

    def match(self, method: str, path: str) -> RouteRule:
        """Return the rule for a request; the path is neither decoded nor normalised.

        Args:
            method: upper case.
            path: without the query.
        """
        return self._find(method, path.split("/")) or RouteRule(path, method_policy(method))

    def covers(self, path: str) -> bool:
        """Return True if a template of any method matches a path, so that HEAD of a known `get` is no unknown path."""
        segments = path.split("/")
        return any(self._find(method, segments) is not None for method in METHODS)

    def _find(self, method: str, segments: list[str]) -> RouteRule | None:
        root = self._roots.get((method, len(segments)))
        found = _search(root, segments, 0, self._count) if root is not None else None
        return None if found is None else found.rule


def _search(node: _Node, segments: list[str], depth: int, better_than: int) -> _Node | None:
    """Return the leaf of smallest rank that matches, if that rank is below `better_than`."""
    if node.rank >= better_than:
        return None
    if depth == len(segments):
        return node
    best = None
    for child in (node.literal.get(segments[depth]), node.parameter):
        if child is not None:
            found = _search(child, segments, depth + 1, better_than)
            if found is not None:
                best, better_than = found, found.rank
    return best
