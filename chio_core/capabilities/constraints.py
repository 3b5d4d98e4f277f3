"""What each constraint demands of a tool call (wire protocol, section 5.5, the table).

A constraint that another part of the system decides always holds here (`_ELSEWHERE`). One that is neither there
nor in the table cannot be decided on this path and never holds: `content_review_tier`,
`max_transaction_amount_usd`, `require_dual_approval`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from chio_core.capabilities.patterns import Searcher
from chio_core.errors import InvalidDocument
from chio_core.models.constraint import SAFETY_TIERS, Constraint


class Arguments:
    """Arguments, walked once.

    Only JSON is accepted: a value that the walk cannot see into, such as a path object, would slip past every
    condition.

    Args:
        value: a JSON value: None, bool, int, float, str, list or tuple, or dict with string keys.

    Attributes:
        leaves: every string at any depth with the key that it stands under; an element of an array has the
            key of the array, a bare string has None.
        members: every member of every object at any depth.

    Raises:
        InvalidDocument: the value is not JSON.
    """

    def __init__(self, value: Any) -> None:
        self._value = value
        self._float_excess = 0
        self.leaves: list[tuple[str | None, str]] = []
        self.members: list[tuple[str, Any]] = []
        self._walk(value)

    @property
    def size(self) -> int:
        """Bytes of the compact JSON text, as the protocol counts them."""
        text = json.dumps(self._value, ensure_ascii=False, separators=(",", ":"))
        return len(text.encode()) + self._float_excess

    def _walk(self, value: Any) -> None:
        # A list of what is still to be seen instead of recursion: the caller chooses the depth.
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
            else:
                self._check_scalar(item)

    def _check_scalar(self, item: Any) -> None:
        if item is None or isinstance(item, bool):
            return
        try:
            number = float(item) if isinstance(item, (int, float)) else math.nan
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise InvalidDocument(f"arguments must be JSON; a value of type {type(item).__name__} is not")
        if isinstance(item, float):
            self._float_excess += len(_float_text(item)) - len(repr(item))


def _checked_text(text: Any) -> str:
    if not isinstance(text, str):
        raise InvalidDocument(f"arguments must be JSON; a key of type {type(text).__name__} is not")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidDocument("arguments must be JSON; a lone surrogate is no text") from None
    return text


def _float_text(number: float) -> str:
    # Rust writes 1e16 and 0.00001 where Python writes 1e+16 and 1e-05.
    mantissa, mark, exponent = repr(number).partition("e")
    if not mark:
        return mantissa
    if exponent == "-05":
        sign = "-" if number < 0 else ""
        return f"{sign}0.0000{mantissa.lstrip('-').replace('.', '')}"
    return f"{mantissa}e{int(exponent)}"


AMBIGUOUS = ""
"""Stands for a host that could be read in two ways."""

_HOST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")

# Unicode's White_Space; `str.strip()` alone would also take U+001C to U+001F.
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def host_of(text: str) -> str | None:
    """Return the host that a string of the arguments names, lower-cased; None when it names none."""
    rest = text.strip(_SPACE)
    _, mark, after = rest.partition("://")
    authority = after if mark else rest
    for end in "/?#":
        authority = authority.partition(end)[0]
    raw = authority.rpartition("@")[2].partition(":")[0].strip(".")
    host = raw.lower()
    if host != "localhost" and ("." not in host or not _HOST.issuperset(host)):
        return None
    return AMBIGUOUS if authority.count("@") > 1 or not raw.isascii() else host


def host_equals(value: str, host: str) -> bool:
    """Tell whether a host is the value of a `domain_exact` constraint."""
    return host != AMBIGUOUS and host == _ascii_lower(value.strip(_SPACE).strip("."))


def host_matches(glob: str, host: str) -> bool:
    """Tell whether a host matches the value of a `domain_glob` constraint; `*` is any run, even none."""
    if host == AMBIGUOUS:
        return False
    first, *rest = _ascii_lower(glob).split("*")
    if not rest:
        return host == first
    *middle, last = rest
    if len(host) < len(first) + len(last) or not host.startswith(first) or not host.endswith(last):
        return False
    # Leftmost fits are enough: a later fit of one piece leaves less room for the next ones.
    start, end = len(first), len(host) - len(last)
    for piece in middle:
        found = host.find(piece, start, end)
        if found < 0:
            return False
        start = found + len(piece)
    return True


def _ascii_lower(text: str) -> str:
    # Only ASCII: a value with another letter can never equal a host, and must not become one.
    return text.lower() if text.isascii() else text


_KEYS = frozenset({"file", "filepath", "dir", "directory", "root", "cwd"})


def is_path_candidate(key: str | None, text: str) -> bool:
    """Tell whether a string of the arguments must lie under the prefix, by its key or by its look."""
    if key is not None:
        lowered = key.lower()
        if "path" in lowered or lowered in _KEYS:
            return True
    return "://" not in text and ("/" in text or "\\" in text)


def path_is_under(prefix: str, path: str) -> bool:
    """Tell whether `path` is `prefix` or lies below it, segment by segment.

    A path that climbs above its start lies nowhere; an absolute and a relative path never contain each other.
    """
    above, below = _segments(prefix), _segments(path)
    if above is None or below is None or _is_absolute(prefix) != _is_absolute(path):
        return False
    return below[: len(above)] == above


def _is_absolute(path: str) -> bool:
    return path[:1] in {"/", "\\"}


def _segments(path: str) -> list[str] | None:
    kept: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        if segment in {"", "."}:
            continue
        if segment != "..":
            kept.append(segment)
        elif kept:
            kept.pop()
        else:
            return None
    return kept


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
