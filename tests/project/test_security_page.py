"""The table of members in docs/security.md is complete, and what it names exists."""

from __future__ import annotations

import re
from typing import get_args

from chio_core.capabilities.constraints import NEVER
from chio_core.capabilities.restrictions import BY_SIDECAR, REFUSED
from chio_core.capabilities.tokens import NARROWING
from chio_core.models.capability import (
    CONSTRAINT_TYPES,
    Attenuation,
    CapabilityToken,
    ChioScope,
    DelegationLink,
    PromptGrant,
    ResourceGrant,
    ToolGrant,
)
from chio_sidecar.policy.rules import Rule
from tests.project.tree import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
GRANTS = (ToolGrant, ResourceGrant, PromptGrant)
OTHER = "any other"
MEMBERS = {
    "token": {*CapabilityToken.model_fields, *NARROWING, "schema", OTHER},
    "scope": {*ChioScope.model_fields, OTHER},
    "grant": {*(name for one in GRANTS for name in one.model_fields), OTHER},
    "constraint": {*CONSTRAINT_TYPES, OTHER},
    "amount": {OTHER},
    "link": {*DelegationLink.model_fields, "scope_hash", OTHER},
    "attenuation": {*get_args(Attenuation.model_fields["type"].annotation)},
}


def rows() -> list[list[str]]:
    table = re.search(r"<!-- members -->\n(.*?)<!-- /members -->", TEXT, re.DOTALL)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:]]


def named(cell: str) -> list[tuple[str, str]]:
    """Return the members that a row is about, each with the object that has it."""
    kinds, _, members = cell.partition(":")
    names = re.findall(r"`(\w+)`", members) + ([OTHER] if OTHER in members else [])
    return [(kind.strip(), name) for kind in kinds.split(",") for name in names]


def test_every_member_has_one_row() -> None:
    found = [member for row in rows() for member in named(row[0])]
    assert len(found) == len(set(found))
    assert set(found) == {(kind, name) for kind, names in MEMBERS.items() for name in names}


def test_every_rule_exists_and_every_test_knows_the_member() -> None:
    vectors = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests/vectors/capability").glob("*.*"))
    for members, _, rules, test in rows():
        for rule in re.findall(r"`([^`]+)`", rules):
            Rule.by_id(rule)
        text = (ROOT / test.strip("`")).read_text(encoding="utf-8") + vectors
        for _, name in named(members):
            assert name == OTHER or re.search(rf"\b{name}\b", text), f"{test} does not know {name}"


def test_the_page_says_refused_of_what_the_code_refuses() -> None:
    said = {name: row[1] for row in rows() for kind, name in named(row[0]) if kind in {"grant", "constraint"}}
    for name, text in said.items():
        if name != OTHER:
            assert text.startswith("refused") is (name in REFUSED | {"dpop_required"}), name
            assert ("as in the protocol" in text) is (name in NEVER), name
    assert all("refused elsewhere" in said[name] or name == "max_invocations" for name in BY_SIDECAR)
