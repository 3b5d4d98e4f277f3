"""A sidecar that evaluates for bearers only: every framework presents the token to it alone."""

from __future__ import annotations

import logging

import pytest

from chio_core.testing import EvaluateRequest, Reply
from chio_core.testing.behaviours import ALLOW, Behaviour
from chio_core.testing.exchange import compact
from tests.faces.faces import FACES, Face

CANARY = "canary-5be1d2"
REFUSAL = {"error": "chio_evaluate_unauthorized", "message": "set CHIO_EVALUATE_TOKEN"}
REFUSING = Behaviour("no_bearer", "Refuse a caller without the token.", lambda _: Reply(compact(REFUSAL), 401))


def for_bearers(asked: EvaluateRequest) -> Behaviour:
    return ALLOW if asked.headers.get("authorization") == f"Bearer {CANARY}" else REFUSING


@pytest.mark.parametrize("face", FACES, ids=str)
def test_the_token_goes_to_the_sidecar_alone(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), face.governed(for_bearers, evaluate_token=CANARY) as governed:
        found = governed.get("/hello", [("Authorization", "Bearer of-the-caller")])
        assert [asked.headers["authorization"] for asked in governed.sidecar.asked] == [f"Bearer {CANARY}"]
    assert found.receipt
    assert CANARY not in caplog.text + str(found) + str(governed.asked)


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize("options", [{}, {"evaluate_token": "another", "fail_open": True}], ids=["none", "another"])
def test_without_it_every_request_is_refused_and_the_log_says_why(
    face: Face, options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with face.governed(for_bearers, **options) as governed, caplog.at_level(logging.INFO, "chio.decision"):
        found = governed.get("/hello")
    assert (found.status, found.seen) == (502, [])
    assert "Chio sidecar returned 401 chio_evaluate_unauthorized: set CHIO_EVALUATE_TOKEN" in caplog.text
    assert b"TOKEN" not in found.body
