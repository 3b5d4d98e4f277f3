"""Unknown approvals, and malformed responses (wire protocol, section 7.7)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sidecar.control_tools import fetch


def test_no_approval_is_pending(app: Any) -> None:
    response = fetch(app, "GET", "/approvals/pending?subject_id=a&limit=5")
    assert response.json() == {"approvals": [], "count": 0}


def test_an_unknown_approval_is_not_found(app: Any) -> None:
    for response in (
        fetch(app, "GET", "/approvals/a-1"),
        fetch(app, "POST", "/approvals/a-1/respond", json={"outcome": "approved"}),
    ):
        expected = {"error": "not_found", "message": "approval a-1 is not known"}
        assert (response.status_code, response.json()) == (404, expected)


def test_every_decision_of_a_batch_is_rejected(app: Any) -> None:
    body = {"decisions": [{"approval_id": "a"}, {"approval_id": "b", "outcome": "approved"}]}
    found = fetch(app, "POST", "/approvals/batch/respond", json=body).json()
    assert [(one["approval_id"], one["status"]) for one in found["results"]] == [("a", "rejected"), ("b", "rejected")]
    assert found["summary"] == {"total": 2, "approved": 0, "denied": 0, "rejected": 2}


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"decisions":1}', b'{"decisions":[{}]}', b" " * (2 * 1024 * 1024 + 1)]
)
def test_a_malformed_batch_is_refused_with_400(app: Any, content: bytes) -> None:
    response = fetch(app, "POST", "/approvals/batch/respond", content=content)
    assert (response.status_code, response.json()["error"]) == (400, "bad_request")
