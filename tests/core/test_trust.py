"""The trusted kernel keys: the pinned ones, or that of the first valid receipt."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from chio_core.errors import ReceiptRejected, SidecarError
from chio_core.evaluation.conclude import conclude
from chio_core.receipts import KeyTrust
from chio_core.settings import ChioSettings
from chio_core.signing import SigningKey
from chio_core.testing import KEY, seal
from chio_core.testing.question import compact
from tests.core.views import NOW, View, answered, asked, question
from tests.hostile import BEHAVIOURS

OTHER = SigningKey(b"o" * 32)
UNPINNED = ChioSettings(trusted_kernel_keys=())


def test_only_pinned_keys_are_trusted() -> None:
    trust = KeyTrust([KEY.public_hex])
    assert trust.keys() == frozenset({KEY.public_hex})
    trust.remember(KEY.public_hex)
    with pytest.raises(ReceiptRejected, match="another kernel key"):
        trust.remember(OTHER.public_hex)


def test_the_first_key_is_trusted_with_one_warning_and_another_is_refused_from_then_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trust = KeyTrust()
    one = question()
    with caplog.at_level(logging.WARNING, logger="chio"):
        for _ in range(3):
            assert conclude(answered(asked(one).answer_bytes()), one, UNPINNED, trust, NOW).allowed
    assert len([record for record in caplog.records if KEY.public_hex in record.getMessage()]) == 1
    other = compact(asked(one).answer(receipt=seal(asked(one).receipt(), OTHER)))
    with pytest.raises(ReceiptRejected, match="not trusted"):
        conclude(answered(other), one, UNPINNED, trust, NOW)


def test_an_unusable_response_leaves_no_trust_behind() -> None:
    trust = KeyTrust()
    one = question()
    refused = 0
    for behaviour in BEHAVIOURS.values():
        reply = behaviour.reply(asked(one))
        try:
            conclude(answered(reply.body, reply.status, dict(reply.headers).get("content-type", "")), one, UNPINNED,
                     trust, NOW)  # fmt: skip
        except SidecarError:
            refused += 1
            assert trust.keys() is None, behaviour.name
        else:
            trust = KeyTrust()
    assert refused > 80


def test_of_several_first_keys_at_once_one_wins() -> None:
    for _ in range(50):
        trust = KeyTrust()
        keys = [SigningKey.generate().public_hex for _ in range(4)]
        start = threading.Barrier(len(keys))
        with ThreadPoolExecutor(len(keys)) as threads:
            refused = list(threads.map(partial(_is_refused, trust, start), keys))
        assert trust.keys() == frozenset(key for key, no in zip(keys, refused, strict=True) if not no)
        assert sum(refused) == 3


def _is_refused(trust: KeyTrust, start: threading.Barrier, key: str) -> bool:
    start.wait()
    try:
        trust.remember(key)
    except ReceiptRejected:
        return True
    return False


def test_a_route_unknown_to_the_sidecar_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    trust = KeyTrust([KEY.public_hex])
    with caplog.at_level(logging.WARNING, logger="chio"):
        for number in range(3):
            one = question(View(path=f"/pets/{number}"))
            trust.note_route(one.request.path, one.expectation)
            trust.note_route("/pets/{petId}", one.expectation)
        plain = question(View(path="/pets"), template="/pets")
        trust.note_route("/pets", plain.expectation)
    assert [record.getMessage() for record in caplog.records] == [
        "chio: the sidecar does not know route /pets/{id} and evaluated the plain path; give it the OpenAPI document"
    ]
