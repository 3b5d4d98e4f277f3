"""The route table: which template a path belongs to, and which policy that has (wire protocol, section 6).

Matching keeps the protocol's order (templates in byte order, the first one that fits) without trying them one by
one: per method and number of segments, the templates form a tree, and a path follows at each level the branch of
its own segment and the branch of parameters. Each branch knows the smallest rank below it, so a branch that
cannot win any more is not entered.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from chio_core.canonical import sha256_hex
from chio_sidecar.openapi import read_operations

log = logging.getLogger(__name__)

SESSION_ALLOW = "session_allow"
"""Policy: allowed without a capability."""

DENY_BY_DEFAULT = "deny_by_default"
"""Policy: allowed with a valid capability only."""

NO_SPEC_POLICY = "chio_sidecar_policy_by_method"
"""Without an OpenAPI document, the policy hash is the SHA-256 of this ASCII text."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class RouteRule:
    """What the sidecar holds a request for.

    Attributes:
        pattern: the template, or the path itself where no template matched.
        policy: `SESSION_ALLOW` or `DENY_BY_DEFAULT`.
    """

    pattern: str
    policy: str


@dataclass(slots=True)
class _Node:
    rank: int  # the smallest rank at or below this node
    rule: RouteRule | None = None
    literal: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None


class RouteTable:
    """All operations of one OpenAPI document.

    Args:
        operations: (template, upper-case method, policy).
        policy_hash: 64 hex digits.
    """

    def __init__(self, operations: Iterable[tuple[str, str, str]], policy_hash: str) -> None:
        self.policy_hash = policy_hash
        self._roots: dict[tuple[str, int], _Node] = {}
        self._count = 0
        # Python compares texts by code point, which is the order of their UTF-8 bytes.
        for template, method, policy in sorted(operations, key=lambda operation: operation[0]):
            self._add(template, method, RouteRule(template, policy))

    @classmethod
    def from_openapi(cls, text: str) -> RouteTable:
        """Read a document, JSON or YAML.

        Raises:
            ConfigurationError: `failed to parse OpenAPI spec: …`.
        """
        operations = [
            (template, method, operation_policy(method, operation, place=f"{method} {template}"))
            for template, method, operation in read_operations(text)
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

    def _add(self, template: str, method: str, rule: RouteRule) -> None:
        segments = template.split("/")
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


def method_policy(method: str) -> str:
    """Return the policy of a method that no extension speaks about."""
    return SESSION_ALLOW if method in _SAFE_METHODS else DENY_BY_DEFAULT


def operation_policy(method: str, operation: dict[str, Any], *, place: str = "operation") -> str:
    """Return the policy of an operation (section 6.3); `place` names it in warnings."""
    approval = _flag(operation, "x-chio-approval-required", place)
    effects = _flag(operation, "x-chio-side-effects", place)
    if approval:
        return DENY_BY_DEFAULT
    if effects is not None:
        return DENY_BY_DEFAULT if effects else SESSION_ALLOW
    return method_policy(method)


def _flag(operation: dict[str, Any], name: str, place: str) -> bool | None:
    value = operation.get(name)
    if value is not None and not isinstance(value, bool):
        log.warning("%s of %s is neither true nor false and therefore ignored", name, place)
        return None
    return value


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
