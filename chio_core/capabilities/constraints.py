"""What each constraint demands of a tool call (wire protocol, section 5.5, the table).

A constraint that another part of the system decides always holds here (`_ELSEWHERE`). One that is neither there
nor in the table cannot be decided on this path and never holds: `content_review_tier`,
`max_transaction_amount_usd`, `require_dual_approval`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from chio_core.capabilities.arguments import Arguments
from chio_core.capabilities.hosts import host_equals, host_matches, host_of
from chio_core.capabilities.paths import is_path_candidate, path_is_under
from chio_core.capabilities.patterns import Searcher
from chio_core.models.constraint import SAFETY_TIERS, Constraint

_AUDIENCE_KEYS = frozenset({"recipient", "recipients", "audience", "to", "channel", "channels"})
_STORE_KEYS = frozenset({"store", "memory_store", "collection", "namespace"})

_ELSEWHERE = frozenset(
    {
        "governed_intent_required",
        "require_approval_above",
        "seller_exact",
        "minimum_runtime_assurance",
        "minimum_autonomy_tier",
        "table_allowlist",
        "column_denylist",
        "max_rows_returned",
        "operation_class",
    }
)


@dataclass(frozen=True, slots=True)
class Call:
    """The tool call that constraints are held against.

    Attributes:
        arguments: what the tool is given.
        model: `model_id` and `safety_tier` of the model that calls, when it is known.
        searcher: runs the patterns of this evaluation.
    """

    arguments: Arguments
    model: Mapping[str, Any] | None = None
    searcher: Searcher = field(default_factory=Searcher)


def holds(constraint: Constraint, call: Call) -> bool:
    """Tell whether a constraint holds for a call.

    Raises:
        ConstraintError: a pattern does not compile, or needs too much work.
    """
    rule = _RULES.get(constraint.type)
    if rule is None:
        return constraint.type in _ELSEWHERE
    return rule(constraint.value, call)


def _path_prefix(prefix: str, call: Call) -> bool:
    candidates = [text for key, text in call.arguments.leaves if is_path_candidate(key, text)]
    return bool(candidates) and all(path_is_under(prefix, text) for text in candidates)


def _domain_exact(value: str, call: Call) -> bool:
    return _hosts_fit(call, lambda host: host_equals(value, host))


def _domain_glob(glob: str, call: Call) -> bool:
    return _hosts_fit(call, lambda host: host_matches(glob, host))


def _hosts_fit(call: Call, fits: Callable[[str], bool]) -> bool:
    hosts = [host for _, text in call.arguments.leaves if (host := host_of(text)) is not None]
    return bool(hosts) and all(fits(host) for host in hosts)


def _regex_match(text: str, call: Call) -> bool:
    pattern = call.searcher.prepare(text, kind="regex")
    return any(call.searcher.contains(pattern, leaf, undecided=False) for _, leaf in call.arguments.leaves)


def _memory_write_deny_patterns(texts: list[str], call: Call) -> bool:
    # All are compiled before one is run: a broken pattern must not hide behind one that matches.
    patterns = [call.searcher.prepare(text, kind="memory write deny pattern") for text in texts]
    return not any(
        call.searcher.contains(pattern, leaf, undecided=True)
        for pattern in patterns
        for _, leaf in call.arguments.leaves
    )


def _max_length(limit: int, call: Call) -> bool:
    return all(len(text.encode()) <= limit for _, text in call.arguments.leaves)


def _max_args_size(limit: int, call: Call) -> bool:
    return call.arguments.size <= limit


def _custom(value: list[str], call: Call) -> bool:
    key, text = value
    return any(name == key and _is_text(item, text) for name, item in call.arguments.members)


def _is_text(item: Any, text: str) -> bool:
    return isinstance(item, str) and item == text


def _audience_allowlist(allowed: list[str], call: Call) -> bool:
    return _only_listed(_AUDIENCE_KEYS, allowed, call)


def _memory_store_allowlist(allowed: list[str], call: Call) -> bool:
    return _only_listed(_STORE_KEYS, allowed, call)


def _only_listed(keys: frozenset[str], allowed: list[str], call: Call) -> bool:
    listed = frozenset(allowed)
    return all(_is_listed(item, listed) for name, item in call.arguments.members if name.lower() in keys)


def _is_listed(item: Any, listed: frozenset[str]) -> bool:
    texts = item if isinstance(item, (list, tuple)) else (item,)
    return bool(texts) and all(isinstance(text, str) and text in listed for text in texts)


def _model_constraint(value: Mapping[str, Any], call: Call) -> bool:
    allowed, minimum = value.get("allowed_model_ids") or [], value.get("min_safety_tier")
    if not allowed and minimum is None:
        return True
    if call.model is None:
        return False
    if allowed and call.model.get("model_id") not in allowed:
        return False
    return minimum is None or _tier(call.model.get("safety_tier")) >= _tier(minimum)


def _tier(name: Any) -> int:
    return SAFETY_TIERS.index(name) if name in SAFETY_TIERS else -1


_RULES: Mapping[str, Callable[[Any, Call], bool]] = MappingProxyType(
    {
        "path_prefix": _path_prefix,
        "domain_exact": _domain_exact,
        "domain_glob": _domain_glob,
        "regex_match": _regex_match,
        "max_length": _max_length,
        "max_args_size": _max_args_size,
        "custom": _custom,
        "audience_allowlist": _audience_allowlist,
        "memory_store_allowlist": _memory_store_allowlist,
        "memory_write_deny_patterns": _memory_write_deny_patterns,
        "model_constraint": _model_constraint,
    }
)
