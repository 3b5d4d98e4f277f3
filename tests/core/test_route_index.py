"""An index of patterns leaves out no pattern that matches, whatever its expression is like."""

from __future__ import annotations

import re
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from chio_core.routes.index import ANY, PathIndex, Shape, shape_of, uses_only

ATOMS = [
    "a",
    "b",
    "ab",
    "/",
    "/",
    r"\.",
    r"\-",
    "{}",
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

atoms = st.tuples(st.sampled_from(ATOMS), st.sampled_from(PARAMETERS), st.sampled_from(REPEATED))
paths = st.text(alphabet="aab//1.-\n", max_size=8)


@st.composite
def patterns(draw: Any) -> re.Pattern[str]:
    """Draw what a router, or an author of `re_path`, may write."""
    text = draw(st.sampled_from(["^", "^", "^", "", "^/", "^a/"]))
    for number, (atom, parameter, repeated) in enumerate(draw(st.lists(atoms, max_size=6))):
        part = f"(?P<p{number}>{parameter})" if atom == "{}" else atom
        text += part + (repeated if atom not in ("^", "$", r"\Z", r"\b", "|") else "")
    text += draw(st.sampled_from(["$", r"\Z", "", "/$", "/?$"]))
    return re.compile(text, draw(st.sampled_from([0, 0, 0, re.IGNORECASE, re.MULTILINE, re.ASCII])))


@hypothesis.settings(max_examples=2_000, deadline=None, derandomize=True, database=None)
@hypothesis.given(st.lists(st.none() | patterns(), max_size=8), st.lists(paths, min_size=1, max_size=20))
def test_no_pattern_that_matches_is_missing(drawn: list[re.Pattern[str] | None], asked: list[str]) -> None:
    index = PathIndex(drawn)
    for path in asked:
        found = list(index.candidates(path))
        assert found == sorted(set(found))
        # A router asks with `match`, `search` or `fullmatch`: `search` finds whatever the others find.
        matching = {number for number, one in enumerate(drawn) if one is None or one.search(path)}
        assert matching <= set(found)


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
