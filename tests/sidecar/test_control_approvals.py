"""Approvals that nobody asked for, and bodies that are no answer (wire protocol, section 7.7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sidecar.control_tools import ask, sidecars


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Any]:
    with sidecars() as create:
        yield create(store_path=tmp_path / "receipts.sqlite3")


def test_no_approval_is_pending(app: Any) -> None:
    answer = ask(app, "GET", "/approvals/pending?subject_id=a&limit=5")
    assert answer.json() == {"approvals": [], "count": 0}


def test_an_approval_that_nobody_asked_for_is_not_found(app: Any) -> None:
    for answer in (
        ask(app, "GET", "/approvals/a-1"),
        ask(app, "POST", "/approvals/a-1/respond", json={"outcome": "approved"}),
    ):
        expected = {"error": "not_found", "message": "approval a-1 is not known"}
        assert (answer.status_code, answer.json()) == (404, expected)


def test_every_decision_of_a_batch_is_rejected(app: Any) -> None:
    body = {"decisions": [{"approval_id": "a"}, {"approval_id": "b", "outcome": "approved"}]}
    found = ask(app, "POST", "/approvals/batch/respond", json=body).json()
    assert [(one["approval_id"], one["status"]) for one in found["results"]] == [("a", "rejected"), ("b", "rejected")]
    assert found["summary"] == {"total": 2, "approved": 0, "denied": 0, "rejected": 2}


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"decisions":1}', b'{"decisions":[{}]}', b" " * (2 * 1024 * 1024 + 1)]
)
def test_a_malformed_batch_is_answered_400(app: Any, content: bytes) -> None:
    answer = ask(app, "POST", "/approvals/batch/respond", content=content)
    assert (answer.status_code, answer.json()["error"]) == (400, "bad_request")
