"""Check the constraints of a grant against a tool call (wire protocol, section 5.5, the table).

A constraint that is not about the call always holds here, as in the protocol (`ELSEWHERE`): whether something enforces
it is decided in `chio_core.capabilities.restrictions`. Three types never hold on this path (`NEVER`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chio_core.capabilities.patterns import Searcher
from chio_core.capabilities.places import (
    host_equals,
    host_matches,
    host_under,
    is_host_key,
    is_path_candidate,
    path_is_under,
)
from chio_core.errors import InvalidDocument
from chio_core.models.capability import SAFETY_TIERS, Constraint


class Arguments:
    """Arguments of a tool call, walked once.

    Only JSON is accepted: a value that the walk does not see into, such as a path object, would bypass every
    constraint.

    Args:
        value: a JSON value: None, bool, int, float, str, list or tuple, or dict with string keys.

    Attributes:
        leaves: every string at any depth with its key; an element of an array has the key of the array, a bare
            string has None.
        members: every member of every object at any depth.

    Raises:
        InvalidDocument: the value is not JSON.
    """

    def __init__(self, value: Any) -> None:
        self._value = value
        self._float_excess = 0
        self.leaves: list[tuple[str | None, str]] = []
        self.members: list[tuple[str, Any]] = []
        # A stack instead of recursion: the caller chooses the depth.
        waiting: list[tuple[str | None, Any]] = [(None, value)]
        while waiting:
            key, item = waiting.pop()
            if isinstance(item, str):
                self.leaves.append((key, _checked_text(item)))
            elif isinstance(item, dict):
                for name, member in item.items():
                    self.members.append((_checked_text(name), member))
                    waiting.append((name, member))
            elif isinstance(item, (list, tuple)):
                waiting.extend((key, element) for element in item)
            elif item is not None and not isinstance(item, bool):
                try:
                    finite = isinstance(item, (int, float)) and math.isfinite(item)
                except OverflowError:
                    finite = False
                if not finite:
                    raise InvalidDocument(f"arguments must be JSON; a value of type {type(item).__name__} is not")
                if isinstance(item, float):
                    # Rust writes 1e16, 1e-7 and 0.00001 where Python writes 1e+16, 1e-07 and 1e-05.
                    mantissa, mark, exponent = float.__repr__(item).partition("e")
                    if exponent == "-05":
                        self._float_excess += 1 if "." in mantissa else 2
                    elif mark:
                        self._float_excess += len(str(int(exponent))) - len(exponent)

    @property
    def size(self) -> int:
        """Bytes of the compact JSON text, as the protocol counts them."""
        text = json.dumps(self._value, ensure_ascii=False, separators=(",", ":"))
        return len(text.encode()) + self._float_excess


def _checked_text(text: Any) -> str:
    if not isinstance(text, str):
        raise InvalidDocument(f"arguments must be JSON; a key of type {type(text).__name__} is not")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidDocument("arguments must be JSON; a lone surrogate is no text") from None
    return text


_AUDIENCE_KEYS = frozenset({"recipient", "recipients", "audience", "to", "channel", "channels"})
_STORE_KEYS = frozenset({"store", "memory_store", "collection", "namespace"})

ELSEWHERE = frozenset(
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
"""Types that hold for every call."""

HOLDER: Final = "chio_holder"
"""Key of the `custom` constraint that is about the caller, see `chio_core.capabilities.scope`."""

NEVER = frozenset({"content_review_tier", "max_transaction_amount_usd", "require_dual_approval"})
"""Types that hold for no call."""


@dataclass(frozen=True, slots=True)
class Call:
    """The tool call against which constraints are checked.

    Attributes:
        arguments: arguments of the tool.
        model: `model_id` and `safety_tier` of the calling model; None if it is unknown.
        holder: `CallerIdentity.holder` of the caller; None: no capability that is bound to a holder counts.
        searcher: runs the patterns of this evaluation.
    """

    arguments: Arguments
    model: Mapping[str, Any] | None = None
    holder: str | None = None
    searcher: Searcher = field(default_factory=Searcher)


def holds(constraint: Constraint, call: Call) -> bool:
    """Return True if a constraint holds for a call.

    Raises:
        ConstraintError: a pattern does not compile, or needs too much work.
    """
    value, leaves, members = constraint.value, call.arguments.leaves, call.arguments.members
    match constraint.type:
        case "path_prefix":
            paths = [text for key, text in leaves if is_path_candidate(key, text)]
            return bool(paths) and all(path_is_under(value, path) for path in paths)
        case "domain_exact" | "domain_glob":
            matches = host_equals if constraint.type == "domain_exact" else host_matches
            hosts = [host for key, text in leaves if (host := host_under(key, text)) is not None]
            numbers = any(is_host_key(name) and isinstance(item, int | float) for name, item in members)
            return bool(hosts) and not numbers and all(matches(value, host) for host in hosts)
        case "regex_match":
            pattern = call.searcher.prepare(value, kind="regex")
            return any(call.searcher.contains(pattern, text, undecided=False) for _, text in leaves)
        case "memory_write_deny_patterns":
            # Compile all before one is run: a broken pattern must not hide behind one that matches.
            patterns = [call.searcher.prepare(text, kind="memory write deny pattern") for text in value]
            return not any(
                call.searcher.contains(pattern, text, undecided=True) for pattern in patterns for _, text in leaves
            )
        case "max_length":
            return all(len(text.encode()) <= value for _, text in leaves)
        case "max_args_size":
            return call.arguments.size <= int(value)
        case "custom" if value[0] == HOLDER:
            return call.holder is not None and value[1] == call.holder
        case "custom":
            return any(name == value[0] and isinstance(item, str) and item == value[1] for name, item in members)
        case "audience_allowlist":
            return _only_listed(_AUDIENCE_KEYS, value, members)
        case "memory_store_allowlist":
            return _only_listed(_STORE_KEYS, value, members)
        case "model_constraint":
            allowed, minimum = value.get("allowed_model_ids") or [], value.get("min_safety_tier")
            if not allowed and minimum is None:
                return True
            if call.model is None or (allowed and call.model.get("model_id") not in allowed):
                return False
            return minimum is None or _tier(call.model.get("safety_tier")) >= _tier(minimum)
        case _:
            return constraint.type in ELSEWHERE


def _only_listed(keys: frozenset[str], allowed: list[str], members: Sequence[tuple[str, Any]]) -> bool:
    listed = frozenset(allowed)
    for name, item in members:
        if name.lower() in keys:
            texts = item if isinstance(item, (list, tuple)) else (item,)
            if not texts or not all(isinstance(text, str) and text in listed for text in texts):
                return False
    return True


def _tier(name: Any) -> int:
    return SAFETY_TIERS.index(name) if name in SAFETY_TIERS else -1
