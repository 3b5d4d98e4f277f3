"""A resolver that is narrowed to one path resolves it as Django's own does, with every kind of pattern."""

from __future__ import annotations

import random
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, URLPattern, URLResolver, include, path, re_path
from django.urls.resolvers import RegexPattern, RoutePattern
from django.utils.functional import lazystr
from django.utils.translation import gettext_lazy

from chio_django.routing import narrowed

PLAIN = ["a/", "a", "b/<int:n>/", "<x>/", "<slug:s>", "<path:p>", "a/<uuid:u>/", "", "pre<x>/b", "a.b/", "a|b/"]
REGULAR = [
    "^a/$",
    "^a/(?P<y>[^/.]+)/$",
    r"^a\.(?P<f>[a-z]+)/?$",
    "^(a|b)/$",
    "a/$",
    r"^b/(\d+)/",
    "^(?i:A)/",
    "^",
    ".*",
]
VALUES = ["a", "b", "A", "1", "a.b", "a.json", "prea", "", "a|b", "\n", "x"]


def drawn_tree(chance: random.Random, depth: int = 3) -> list[Any]:
    """Draw entries of a URLconf; includes are nested up to `depth` deep."""
    return [_drawn_entry(chance, depth) for _ in range(chance.randint(9, 25) if depth == 3 else chance.randint(0, 12))]


def _drawn_entry(chance: random.Random, depth: int) -> Any:
    kind = chance.choice(
        ["path", "re_path", "path", "re_path", "include", "re_include"] if depth else ["path", "re_path"]
    )
    if kind in ("include", "re_include"):
        return kind, chance.choice(["a/", "<x>/", "", "b"]), drawn_tree(chance, depth - 1)
    return kind, chance.choice(PLAIN if kind == "path" else REGULAR)


def patterns(tree: Any) -> list[Any]:
    """Return the patterns of a drawn tree; each view is another function."""
    made = []
    for kind, text, *inner in tree:

        def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            return HttpResponse()

        if kind == "include":
            made.append(path(text, include((patterns(inner[0]), "app"), namespace="n")))
        elif kind == "re_include":
            made.append(re_path("^" + text.replace("<x>", "(?P<x>[^/]+)"), include(patterns(inner[0])), {"extra": 1}))
        else:
            made.append({"path": path, "re_path": re_path}[kind](text, view, name=text or None))
    return made


def root(made: list[Any]) -> URLResolver:
    """Return the resolver of a URLconf."""
    return URLResolver(RegexPattern(r"^/"), made)


def resolved(resolver: URLResolver, asked: str) -> Any:
    """Return everything that counts of what a path resolves to; None if it does not."""
    try:
        match = resolver.resolve(asked)
    except Resolver404:
        return None
    names = match.url_name, match.app_names, match.namespaces, match.view_name
    return match.func, match.args, match.kwargs, match.captured_kwargs, match.extra_kwargs, match.route, names


def test_every_path_resolves_as_without_narrowing() -> None:
    for seed in range(150):
        chance = random.Random(seed)
        tree = drawn_tree(chance)
        resolver = root(patterns(tree))
        for _ in range(40):
            asked = "/" + "/".join(chance.choices(VALUES, k=chance.randrange(1, 5)))
            assert resolved(narrowed(resolver, asked), asked) == resolved(resolver, asked), (asked, tree)


def many(*last: Any) -> list[Any]:
    """Return more patterns than are simply tried, and these behind them."""
    return [path(f"r{number}/<int:n>", lambda request, n: HttpResponse()) for number in range(1_000)] + list(last)


def test_of_a_thousand_patterns_few_are_tried() -> None:
    assert len(narrowed(root(many()), "/r999/1").url_patterns) == 1
    (api,) = narrowed(root([path("api/", include(many()))]), "/api/r999/1").url_patterns
    assert len(api.url_patterns) == 1


def test_a_pattern_that_is_added_in_front_wins_at_once() -> None:
    made = many()
    resolver = root(made)
    assert resolved(narrowed(resolver, "/r5/1"), "/r5/1")
    first = path("<path:rest>", lambda request, rest: HttpResponse())
    made.insert(0, first)
    assert narrowed(resolver, "/r5/1").resolve("/r5/1").func is first.callback


class AnyCase(RoutePattern):
    """A pattern that matches in a way of its own."""

    def match(self, path: str) -> Any:
        """Match in any case of letters."""
        return super().match(path.lower())


class Everything(URLPattern):
    """An entry that resolves in a way of its own."""

    def resolve(self, path: str) -> Any:
        """Match everything."""
        return super().resolve("special/")


def test_a_pattern_with_a_match_of_its_own_is_always_asked() -> None:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    for entry in (
        URLPattern(AnyCase("special/", is_endpoint=True), view),
        Everything(RoutePattern("special/", is_endpoint=True), view),
        path(lazystr("SPECIAL/"), view),
        re_path(gettext_lazy("^SPECIAL/$"), view),
    ):
        assert narrowed(root(many(entry)), "/SPECIAL/").resolve("/SPECIAL/").func is view


def test_the_converter_of_an_included_prefix_is_called_once() -> None:
    class Counting(RoutePattern):
        calls = 0

        def match(self, path: str) -> Any:
            Counting.calls += 1
            return super().match(path)

    resolver = root([*many(), URLResolver(Counting("<slug:shop>/"), many())])
    assert narrowed(resolver, "/north/r9/1").resolve("/north/r9/1").kwargs == {"shop": "north", "n": 1}
    assert Counting.calls == 1
