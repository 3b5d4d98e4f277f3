"""`x-chio-*` members of several sources: the stricter one wins."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from chio_core.models.openapi import KNOWN, PREFIX, chio_members, merge_members, needs_capability

ANY: dict[str, Any] = {"x-chio-capability": [{}]}
PAY: dict[str, Any] = {"x-chio-capability": [{"server": "payments", "tool": "pay", "operations": ["invoke"]}]}
READ: dict[str, Any] = {"x-chio-capability": [{"server": "files", "tool": "read", "operations": ["read"]}]}

IN_ANY_ORDER: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    ([{"x-chio-side-effects": False}, {"x-chio-side-effects": True}], {"x-chio-side-effects": True}),
    ([{"x-chio-side-effects": False}, {}], {"x-chio-side-effects": False}),
    ([{"x-chio-approval-required": True}, {"x-chio-approval-required": False}], {"x-chio-approval-required": True}),
    ([{"x-chio-observe": True}, {"x-chio-observe": False}], {"x-chio-observe": False}),
    ([{"x-chio-observe": True}, {}], {"x-chio-observe": True}),
    ([{"x-chio-budget-limit": 5}, {"x-chio-budget-limit": 3}], {"x-chio-budget-limit": 3}),
    ([{"x-chio-sensitivity": "internal"}, {"x-chio-sensitivity": "restricted"}], {"x-chio-sensitivity": "restricted"}),
    ([ANY, PAY], PAY),
    ([ANY, ANY], ANY),
    ([{"x-chio-side-effects": True}, {"x-chio-sensitivity": "public"}], {
        "x-chio-side-effects": True, "x-chio-sensitivity": "public",
    }),
]  # fmt: skip


@pytest.mark.parametrize(("sources", "expected"), IN_ANY_ORDER)
def test_the_stricter_of_two_sources_wins_in_any_order(sources: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    for order in itertools.permutations(sources):
        assert merge_members(order) == expected


def test_each_named_capability_is_kept_once() -> None:
    both = [*PAY["x-chio-capability"], *READ["x-chio-capability"]]
    assert merge_members([PAY, READ, PAY, ANY]) == {"x-chio-capability": both}


def test_of_values_that_cannot_be_compared_the_first_wins() -> None:
    first = {"x-chio-approval": {"threshold": 5, "currency": "USD"}, "x-chio-budget": {"currency": "USD"}}
    second = {"x-chio-approval": {"threshold": 1, "currency": "EUR"}, "x-chio-budget": {"currency": "EUR"}}
    assert merge_members([first, second]) == first
    for name, one, other in (("x-chio-sensitivity", "secret", "public"), ("x-chio-side-effects", True, "no")):
        assert merge_members([{name: one}, {name: other}]) == {name: one}


def test_the_limit_of_a_second_budget_does_not_limit_the_first() -> None:
    first = {"x-chio-budget": {"currency": "EUR", "max_invocations": 9}}
    second = {"x-chio-budget": {"currency": "USD", "max_total_cost": 5}, "x-chio-budget-limit": 5}
    assert merge_members([first, second]) == first
    assert merge_members([first, {"x-chio-budget-limit": 5}]) == {**first, "x-chio-budget-limit": 5}


def test_sources_are_not_changed() -> None:
    one, other = {"x-chio-capability": [{}]}, {"x-chio-capability": [PAY["x-chio-capability"][0]]}
    merge_members([one, other])
    assert (one, other) == ({"x-chio-capability": [{}]}, {"x-chio-capability": [PAY["x-chio-capability"][0]]})


@pytest.mark.parametrize(
    ("method", "members", "needed"),
    [
        ("GET", {}, False),
        ("HEAD", {}, False),
        ("OPTIONS", {}, False),
        ("POST", {}, True),
        ("DELETE", {}, True),
        ("POST", {"x-chio-side-effects": False}, False),
        ("GET", {"x-chio-side-effects": True}, True),
        ("GET", {"x-chio-side-effects": "true"}, False),
        ("GET", {"x-chio-approval-required": True}, True),
        ("GET", {"x-chio-approval-required": "true"}, False),
        ("GET", ANY, True),
        ("POST", {"x-chio-side-effects": False, **PAY}, True),
        ("GET", {"x-chio-capability": []}, False),
    ],
)
def test_which_operations_need_a_capability(method: str, members: dict[str, Any], needed: bool) -> None:
    assert needs_capability(method, members) is needed


def test_only_members_of_chio_are_read_from_an_operation() -> None:
    operation = {"summary": "s", "x-logo": 1, "x-chio-side-effects": True, "x-chio-typo": 1}
    assert chio_members(operation) == {"x-chio-side-effects": True, "x-chio-typo": 1}
    assert all(name.startswith(PREFIX) for name in KNOWN)
