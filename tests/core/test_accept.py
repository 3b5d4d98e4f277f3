"""Accept: `application/problem+json` only for those who would rather have it."""

from __future__ import annotations

import pytest

from chio_core.refusals.problems import prefers_problem

PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    "accept",
    [
        PROBLEM,
        "Application/Problem+JSON",
        f"{PROBLEM}, */*",
        f"*/* , {PROBLEM};q=1.0",
        f"{PROBLEM}, application/json;q=0.9",
        f"application/json;q=0.5,{PROBLEM};q=0.501",
        f"{PROBLEM};q=0.1, text/html",
        f"{PROBLEM}; charset=utf-8 ; Q=0.2",
        f"{PROBLEM}, application/*",
        "application/json;q=0, */*",
        "application/json;q=0, application/*;q=0.1",
        f"text/html, {PROBLEM}, application/json;q=nonsense",
    ],
)
def test_the_problem_type_is_given_to_those_who_prefer_it(accept: str) -> None:
    assert prefers_problem(accept)


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/*",
        "application/json",
        f"application/json, {PROBLEM}",
        f"{PROBLEM}, application/json",
        f"{PROBLEM};q=0.9, application/json",
        f"{PROBLEM};q=0.3, */*",
        f"{PROBLEM};q=0",
        f"{PROBLEM};q=0.000, */*;q=0.1",
        f"*/*;q=0, {PROBLEM};q=0",
        f"{PROBLEM};q=2",
        f"{PROBLEM};q=",
        f"{PROBLEM};q=0.1234",
        f"{PROBLEM};q=-1",
        f"{PROBLEM};q=1e0",
        "text/html",
        "text/html, application/xhtml+xml, */*;q=0.8",
        "application/problem",
        "application/problem+xml",
        ", ,;;q=1,=,",
    ],
)
def test_all_others_are_given_the_published_type(accept: str) -> None:
    assert not prefers_problem(accept)
