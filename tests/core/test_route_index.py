"""An index of patterns leaves out no pattern that matches, whatever its expression is like."""

from __future__ import annotations

import random
import re

import pytest

from chio_core.models.receipt import acceptable_pattern, covers, shape
from chio_core.routes.index import ANY, PathIndex, Shape, shape_of, uses_only

ATOMS = [
    *["a", "b", "ab"],
    *["/", "{}"] * 4,
    r"\.",
    r"\-",
    ".",
    "[ab/]",
    "(a|/)",
    "(?:/b)",
    r"\d",
    r"\Z",
    "$",
    "^",
    r"\b",
    "|",
]
PARAMETERS = [
    "[^/]+",
    "[^/.]+",
    "[0-9]+",
    r"[0-9]+(\.[0-9]+)?",
    r"\d+",
    r"\w+",
    r"[-\w]+",
    ".*",
    ".+",
    "a|b",
    "[^.]+",
    "/?",
]
REPEATED = ["", "", "", "", "?", "*", "+", "{0,2}", "+?"]


def drawn_pattern(chance: random.Random) -> re.Pattern[str]:
    """Draw what a router, or an author of `re_path`, may write."""
    text = chance.choice(["^", "^", "^", "", "^/", "^a/"])
    for number, atom in enumerate(chance.choices(ATOMS, k=chance.randint(0, 6))):
        part = f"(?P<p{number}>{chance.choice(PARAMETERS)})" if atom == "{}" else atom
        text += part + (chance.choice(REPEATED) if atom not in ("^", "$", r"\Z", r"\b", "|") else "")
    text += chance.choice(["$", r"\Z", "", "/$", "/?$"])
    return re.compile(text, chance.choice([0, 0, 0, re.IGNORECASE, re.MULTILINE, re.ASCII]))


def test_no_pattern_that_matches_is_missing() -> None:
    for seed in range(2_000):
        chance = random.Random(seed)
        drawn = [chance.choice([None, drawn_pattern(chance)]) for _ in range(chance.randint(0, 8))]
        index = PathIndex(drawn)
        for _ in range(20):
            path = "".join(chance.choices("aab//1.-\n", k=chance.randint(0, 8)))
            found = list(index.candidates(path))
            assert found == sorted(set(found))
            # A router asks with `match`, `search` or `fullmatch`: `search` finds whatever the others find.
            matching = {number for number, one in enumerate(drawn) if one is None or one.search(path)}
            assert matching <= set(found), (drawn, path)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("^/pets/(?P<pet>[^/]+)/tags$", Shape(("", "pets", None, "tags"), whole=True)),
        (r"^pets/(?P<pet>[0-9]+)\Z", Shape(("pets", None), whole=True)),
        (r"^/a\.b/x\-(?P<y>\d+)\.json$", Shape(("", "a.b", None), whole=True)),
        ("^/files/(?P<rest>.*)$", Shape(("", "files"))),
        ("^/api", Shape(("",))),
        ("^api/v1/", Shape(("api", "v1"))),
        ("^users/?$", ANY),
        ("^users/(?P<pk>[^/.]+)/?$", Shape(("users",))),
        ("^a/b|c$", ANY),
        ("pets/$", ANY),
        ("(?i)^pets/$", ANY),
    ],
)
def test_what_is_read_of_a_pattern(text: str, shape: Shape) -> None:
    assert shape_of(re.compile(text)) == shape


def test_of_a_thousand_patterns_one_is_tried() -> None:
    index = PathIndex(re.compile(f"^/(?P<tenant>[^/]+)/things{number}/(?P<id>[0-9]+)$") for number in range(1_000))
    assert list(index.candidates("/x/things999/7")) == [999]
    assert list(index.candidates("/x/others/7")) == []
    assert len(index.candidates("/x/things999/7\n")) == 1_000


def test_code_with_another_name_is_not_the_code_that_was_read() -> None:
    def read(path: str) -> str:
        return path.lower()

    assert uses_only(read, {"lower", "upper"})
    assert not uses_only(read, {"upper"})
    assert not uses_only(str.lower, {"lower"})


# Path templates: the route of a receipt, and the route that runs


@pytest.mark.parametrize(
    ("template", "segments"),
    [
        ("/", ("", "")),
        ("/pets/{petId}", ("", "pets", "{}")),
        ("/pets/{id:int}", ("", "pets", "{}")),
        ("/pets/{}/", ("", "pets", "{}", "")),
        ("/pets/x{id}", ("", "pets", "x{id}")),
        ("/files/{path:path}", ("", "files", "{}")),
    ],
)
def test_the_shape_of_a_template_has_no_names(template: str, segments: tuple[str, ...]) -> None:
    assert shape(template) == segments


@pytest.mark.parametrize(
    ("template", "path", "covered"),
    [
        ("/pets/{id}", "/pets/7", True),
        ("/pets/{id}", "/pets/", True),
        ("/pets/{id}", "/pets", False),
        ("/pets/{id}", "/pets/7/", False),
        ("/pets/{id}", "/pets/7/tags", False),
        ("/pets/{id}", "/PETS/7", False),
        ("/pets", "/pets", True),
        ("/{a}/{b}", "/x/y", True),
        ("/pets/%7Bid%7D", "/pets/7", False),
        ("", "", True),
    ],
)
def test_a_template_covers_a_path_segment_by_segment(template: str, path: str, covered: bool) -> None:
    assert covers(template, path) is covered


@pytest.mark.parametrize(
    ("pattern", "path", "template", "accepted"),
    [
        ("/pets/{petId}", "/pets/7", "/pets/{id}", True),
        ("/pets/{id}", "/pets/7", "/pets/{id:int}", True),
        ("/pets/7", "/pets/7", "/pets/{id}", True),  # the sidecar does not know the route
        ("/pets/{id}", "/pets/mine", "/pets/mine", False),  # a route of another rule
        ("/{kind}/{id}", "/pets/7", "/pets/{id}", False),
        ("/pets/mine", "/pets/7", "/pets/{id}", False),
        ("/pets/{id}/", "/pets/7", "/pets/{id}", False),
        ("/pets/{id}", "/pets/7", None, True),
        ("/pets/7", "/pets/7", None, True),
        ("/admin/{id}", "/pets/7", None, False),
        ("", "/pets/7", None, False),
        ("", "/pets/7", "/pets/{id}", False),
    ],
)
def test_a_receipt_counts_for_the_route_that_runs(
    pattern: str, path: str, template: str | None, accepted: bool
) -> None:
    assert acceptable_pattern(pattern, path, template) is accepted
