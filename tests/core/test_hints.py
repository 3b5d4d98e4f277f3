"""How to obtain a capability, as stated by a 401 for any client."""

from __future__ import annotations

import shlex

import pytest

from chio_core.evaluation.outcomes import capability_required, issue_command, required_scope
from chio_core.request import Requirement
from chio_sidecar.cli import build_parser

TRANSFER = Requirement("payments", "transfer")


@pytest.mark.parametrize(
    ("url", "issuer"),
    [
        ("embedded:chio.sqlite3", "--receipt-store chio.sqlite3"),
        ("embedded:chio.sqlite3?spec=openapi.yaml", "--receipt-store chio.sqlite3"),
        ("embedded:my store.sqlite3", "--receipt-store 'my store.sqlite3'"),
        ("embedded:-store", "--receipt-store=-store"),
        ("embedded:/var/lib/chio.sqlite3", "--receipt-store FILE"),
        ("embedded:../chio.sqlite3", "--receipt-store FILE"),
        ("http://10.0.0.7:9090", "--receipt-store FILE"),
        ("unix:/run/chio.sock", "--receipt-store FILE"),
        ("", "--receipt-store FILE"),
    ],
)
def test_a_store_is_named_only_where_it_is_a_plain_file_name(url: str, issuer: str) -> None:
    expected = f"chio-sidecar capability issue {issuer} --server payments --tool transfer"
    assert issue_command(TRANSFER, url) == expected


@pytest.mark.parametrize(
    "requirement",
    [
        TRANSFER,
        Requirement("a b", "-c"),
        Requirement("$(reboot)", "'"),
        Requirement("s", "t", ("read", "invoke")),
        Requirement("s", "t", ("read",)),
    ],
)
def test_the_command_line_issues_what_is_required_and_nothing_else(requirement: Requirement) -> None:
    words = shlex.split(issue_command(requirement, "embedded:chio.sqlite3"))
    found = build_parser().parse_args(words[1:])
    assert (found.server, found.tool) == (requirement.server, [requirement.tool])
    assert set(found.operation or ("invoke",)) == {"invoke", *requirement.operations}


def test_a_missing_capability_is_refused_with_scope_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIO_TEST_STORE", "configured")  # otherwise the hint is about the fixture of tests
    details = capability_required(TRANSFER, "X-Chio-Capability", None, "embedded:chio.sqlite3").details
    assert details["required_scope"] == "payments/transfer:invoke"
    assert details["hint"] == (
        "chio-sidecar capability issue --receipt-store chio.sqlite3 --server payments --tool transfer"
    )


def test_where_any_capability_will_do_no_scope_is_named() -> None:
    assert required_scope(Requirement()) is None
    assert "required_scope" not in capability_required(Requirement(), "X-Chio-Capability", None).details
    assert "--server SERVER --tool TOOL" in issue_command(Requirement())
