"""Django's resolver for one path, without those of its patterns that cannot match the path.

What remains is tried by Django's own code in the same order. A pattern is left out only if Django's own `match`
compares the path with the pattern's regular expression, and that expression cannot match (`chio_core.routes.index`).
"""

from __future__ import annotations

import re
from typing import Any

from django.urls import URLPattern, URLResolver
from django.urls.resolvers import RegexPattern, RoutePattern

from chio_core.routes.index import PathIndex, uses_only

_FEW = 8
"""So many patterns are tried sooner than looked up."""

_MAX_KNOWN = 4096
_NAMES = frozenset(
    (  # noqa: SIM905 - one name a line is longer
        "ValueError _is_endpoint _route converters end endswith fullmatch groupdict groups items len pattern regex"
        " search startswith to_python"
    ).split()
)
"""The names in the code of Django's `match`. Code with another name may match in another way."""

_indexes: dict[int, tuple[URLResolver, list[Any], PathIndex | None]] = {}


def narrowed(resolver: URLResolver, path: str) -> URLResolver:
    """Return a resolver that resolves `path` as `resolver` does, and no other path.

    Args:
        resolver: of a URLconf, or one that it includes.
        path: what `resolver` would be given.
    """
    # Another class may resolve in another way, and a converter may ask a database: it is called once.
    if type(resolver) is not URLResolver or resolver.pattern.converters:
        return resolver
    found, patterns = resolver.pattern.match(path), resolver.url_patterns
    index = _index_of(resolver, patterns) if found and isinstance(patterns, list) else None
    if found is None or index is None:
        return resolver
    rest = found[0]
    copy = URLResolver.__new__(URLResolver)
    copy.__dict__.update(resolver.__dict__)
    copy.__dict__["url_patterns"] = [
        narrowed(one, rest) if isinstance(one, URLResolver) else one
        for one in (patterns[number] for number in index.candidates(rest))
    ]
    return copy


def _index_of(resolver: URLResolver, patterns: list[Any]) -> PathIndex | None:
    """Return the index of a resolver's patterns; None if they are few, and none of them includes others."""
    known = _indexes.get(id(resolver))
    if known is None or known[1] != patterns:
        if len(_indexes) >= _MAX_KNOWN:
            _indexes.clear()
        many = len(patterns) > _FEW or any(isinstance(one, URLResolver) for one in patterns)
        index = PathIndex(map(_pattern_of, patterns)) if many else None
        # The resolver is kept beside its index, so that its id cannot be reused for another one.
        known = _indexes[id(resolver)] = (resolver, list(patterns), index)
    return known[2]


def _pattern_of(entry: Any) -> re.Pattern[str] | None:
    """Return the expression without which an entry cannot match; None if it has to be asked."""
    if type(entry) not in (URLPattern, URLResolver):
        return None
    pattern: Any = entry.pattern
    text = {RoutePattern: "_route", RegexPattern: "_regex"}.get(type(pattern), "")
    # A translated pattern is no `str`, and has another expression for each language.
    plain = isinstance(getattr(pattern, text, None), str) and uses_only(type(pattern).match, _NAMES)
    return pattern.regex if plain and isinstance(pattern.regex, re.Pattern) else None
