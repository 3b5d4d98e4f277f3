"""The route table: which template a path belongs to, and which policy that has (wire protocol, section 6).

Matching keeps the protocol's order (templates in byte order, the first one that fits) without trying them one by
one: per method and number of segments, the templates form a tree, and a path follows at each level the branch of
its own segment and the branch of parameters. Each branch knows the smallest rank below it, so a branch that
cannot win any more is not entered.
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
from chio_sidecar.policy.openapi import doubts, load, operations_of

__all__ = ["DENY_BY_DEFAULT", "NO_SPEC_POLICY", "SESSION_ALLOW", "RouteRule", "RouteTable", "method_policy"]


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


log = logging.getLogger(__name__)


NO_SPEC_POLICY = "chio_sidecar_policy_by_method"
"""Without an OpenAPI document, the policy hash is the SHA-256 of this ASCII text."""


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
            self._add(method, rule)

    @classmethod
    def from_openapi(cls, text: str, *, strict: bool = False) -> RouteTable:
        """Read a document, JSON or YAML. What its author may have meant otherwise is warned about.

        Args:
            text: the document as it was loaded.
            strict: refuse the document instead of warning.

        Raises:
            ConfigurationError: `failed to parse OpenAPI spec: …`.
        """
        document = load(text)
        found = doubts(document)
        if found and strict:
            raise ConfigurationError(f"failed to parse OpenAPI spec: {'; '.join(found)}")
        for doubt in found:
            log.warning("OpenAPI spec: %s", doubt)
        operations = [
            (method, operation_rule(method, template, operation))
            for template, method, operation in operations_of(document)
        ]
        return cls(operations, sha256_hex(text.encode()))

    @classmethod
    def by_method(cls) -> RouteTable:
        """Return the table without templates: every path stands for itself, the method decides."""
        return cls((), sha256_hex(NO_SPEC_POLICY.encode()))

    def __len__(self) -> int:
        return self._count

    def match(self, method: str, path: str) -> RouteRule:
        """Return the rule for a request; the path is taken as it is, without decoding or normalising.

        Args:
            method: upper case.
            path: without the query.
        """
        segments = path.split("/")
        root = self._roots.get((method, len(segments)))
        found = _search(root, segments, 0, self._count) if root is not None else None
        if found is not None and found.rule is not None:
            return found.rule
        return RouteRule(path, method_policy(method))

    def _add(self, method: str, rule: RouteRule) -> None:
        segments = rule.pattern.split("/")
        rank = self._count
        node = self._roots.setdefault((method, len(segments)), _Node(rank))
        for segment in segments:
            if _is_parameter(segment):
                if node.parameter is None:
                    node.parameter = _Node(rank)
                node = node.parameter
            else:
                node = node.literal.setdefault(segment, _Node(rank))
        if node.rule is None:  # the same template in another spelling of its parameters comes later and never wins
            node.rule = rule
        self._count += 1


def _is_parameter(segment: str) -> bool:
    return segment.startswith("{") and segment.endswith("}")


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
