"""The reason of a sidecar that gives no decision is in the application's log, and in nothing that a caller sees."""

from __future__ import annotations

import logging

import pytest

from chio_core.testing import Reply
from chio_core.testing.behaviours import Behaviour
from chio_core.testing.exchange import compact
from tests.faces.faces import FACES, Face

NO_SPACE = {"error": "chio_receipt_persistence_failed", "message": "receipt persistence failed: the disk is full"}


@pytest.mark.parametrize("face", FACES, ids=str)
def test_a_reason_is_logged_and_not_sent(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    refusing = Behaviour("no_space", "Cannot store the receipt.", lambda _: Reply(compact(NO_SPACE), 500))
    with face.governed(refusing) as governed, caplog.at_level(logging.INFO, "chio.decision"):
        found = governed.get("/hello")
    assert found.status == 502
    assert (
        "Chio sidecar returned 500 chio_receipt_persistence_failed: receipt persistence failed: the disk is full"
        in (caplog.text)
    )
    assert b"disk" not in found.body
    assert b"persistence" not in found.body
    assert "disk" not in str(found.lines)
