"""The routes of one router, and which of them can match a request, so that not all of them are tried.

A route is left out only if its `matches` is Starlette's or FastAPI's own, which compares the path with the regular
expression of the route, and that expression cannot match (`chio_core.routes.index`). All others are tried, in the
router's order. A router may get other routes at any time: then its table is made again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from chio_asgi.types import Scope
from chio_core.routes.index import PathIndex, uses_only

_FEW = 4
"""So many routes are tried sooner than looked up."""

_FRAMEWORKS = frozenset({"starlette.routing", "fastapi.routing"})
_NAMES = frozenset(
    (  # noqa: SIM905 - one name a line is longer
        "APIRoute FULL Match NONE NotImplementedError PARTIAL _FrontendRouteGroup _get_scope_effective_route_context"
        " app convert dict endpoint frontend_prefix get get_route_path groupdict isinstance items len match matches"
        " matches_with_prefix methods original_route param_convertors path_regex pop starlette_route super update"
    ).split()
)
"""The names in the code of the frameworks' `matches`. Code with another name may match in another way."""


class RouteTable:
    """The routes of a router as they are when the table is made.

    An entry that is replaced by an equal one, which has the same path, methods and endpoint, leaves the table as it is;
    the new entry is tried.

    Args:
        routes: the router's list, in which an included router is one entry.
    """

    def __init__(self, routes: Sequence[Any]) -> None:
        self._routes = list(routes)
        self._included = [(router, list(router.routes)) for router in _included(routes)]
        # By place in the list; beside it the candidate of an included router.
        self._flat = [
            (number, None if one is entry else one) for number, entry in enumerate(routes) for one in flatten([entry])
        ]
        self._few = len(routes) <= _FEW and not self._included
        self._index: PathIndex | None = None
        self._used = False

    def describes(self, routes: Sequence[Any]) -> bool:
        """Return True if a router's list still has these entries, and the routers that it includes have theirs."""
        if self._routes != routes:
            return False
        return not self._included or all(router.routes == known for router, known in self._included)

    def candidates(self, routes: Sequence[Any], scope: Scope) -> Iterable[Any]:
        """Return the routes that can match, in the router's order.

        Args:
            routes: the router's list, which this describes.
            scope: as the router's routes will see it.
        """
        if self._few:
            return routes
        found: Iterable[tuple[int, Any]] = self._flat
        route_path = getattr(sys.modules.get("starlette.routing"), "get_route_path", None)
        # An index is not made for a list that is only seen once: a router may make a new one for each request.
        if self._used and route_path is not None:
            if self._index is None:
                self._index = PathIndex(
                    _pattern_of(routes[number] if one is None else one) for number, one in self._flat
                )
            found = [self._flat[number] for number in self._index.candidates(route_path(scope))]
        self._used = True
        return [routes[number] if one is None else one for number, one in found]


def flatten(routes: Sequence[Any]) -> Iterator[Any]:
    """Yield the routes of a router in the order in which they are tried, those of included routers among them."""
    # A router that FastAPI includes is one entry of the list; its candidates, with their prefixes, replace it. The
    # first match in this order is the first match in the nested order.
    for route in routes:
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is None:
            yield route
        else:
            yield from contexts()


def _included(routes: Sequence[Any]) -> Iterator[Any]:
    """Yield each router that these routes include. FastAPI makes its candidates from the routes of that router."""
    for entry in routes:
        if hasattr(entry, "effective_route_contexts"):
            yield entry.original_router
            yield from _included(entry.original_router.routes)


def _pattern_of(candidate: Any) -> re.Pattern[str] | None:
    """Return the expression without which a route cannot match; None if it has to be asked."""
    original = getattr(candidate, "original_route", None)
    starlette_route = getattr(candidate, "starlette_route", None)
    matching = starlette_route if starlette_route is not None else candidate
    asked = (matching, candidate if original is None else original)
    pattern = getattr(matching, "path_regex", None)
    return pattern if isinstance(pattern, re.Pattern) and all(map(_matches_by_path, asked)) else None


def _matches_by_path(route: Any) -> bool:
    found = [vars(one)["matches"] for one in type(route).__mro__ if "matches" in vars(one)]
    return "matches" not in getattr(route, "__dict__", {}) and all(
        one.__module__ in _FRAMEWORKS and uses_only(one, _NAMES) for one in found
    )
