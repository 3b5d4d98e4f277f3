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

from chio_core.canonical import sha256_hex
from chio_core.errors import ConfigurationError
from chio_sidecar.policy.openapi import load, operations_of
from chio_sidecar.rules import DENY_BY_DEFAULT, SESSION_ALLOW, RouteRule, method_policy, operation_rule
from chio_sidecar.strictness import doubts

log = logging.getLogger(__name__)

__all__ = ["DENY_BY_DEFAULT", "NO_SPEC_POLICY", "SESSION_ALLOW", "RouteRule", "RouteTable", "method_policy"]

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
