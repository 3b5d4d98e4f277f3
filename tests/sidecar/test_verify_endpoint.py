"""`POST /chio/verify` and its report (wire protocol, section 2.1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chio_core.receipts import signed_bytes
from chio_core.signing import SigningKey
from chio_sidecar.app import SidecarApp
from chio_sidecar.service.receipts import sign_receipt
from tests.sidecar.sidecar_tools import KERNEL, STRANGER, Response, decision, send, sidecar, vectors
from tests.support import run

VECTORS = vectors("composed", "http-receipt", "v1.json")


async def verify(app: Any, receipt: Any) -> Response:
    text = receipt if isinstance(receipt, bytes) else json.dumps(receipt).encode()
    return await send(app, "POST", "/chio/verify", text)


def report(receipt: Any, tmp_path: Path) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with sidecar(tmp_path, signing_key=SigningKey.from_seed_hex(VECTORS["signing_key_seed_hex"])) as app:
            answer = await verify(app, receipt)
            assert answer.status == 200, answer.body
            document: dict[str, Any] = answer.document
            return document

    return run(ask())


@pytest.mark.parametrize("case", VECTORS["april_cases"], ids=lambda case: case["id"])
def test_the_report_on_an_april_receipt_is_that_of_the_vectors(case: dict[str, Any], tmp_path: Path) -> None:
    found = report(case["receipt"], tmp_path)
    assert found["valid"] is case["expected"]["signature_valid"]
    assert found["signature_valid"] is found["valid"]
    assert found["ok"] is found["valid"]
    assert found["receipt_kind"] is None


@pytest.mark.parametrize("case", VECTORS["newer_cases"], ids=lambda case: case["id"])
def test_the_report_on_a_newer_receipt_is_that_of_the_vectors(case: dict[str, Any], tmp_path: Path) -> None:
    found, expected = report(case["receipt"], tmp_path), case["expected"]
    for name in ("signature_valid", "receipt_id_valid", "parameter_hash_valid", "result"):
        assert found[name] == expected[name], name
    good = expected["signature_valid"] and expected["semantic_valid"] and expected["receipt_id_valid"]
    assert found["ok"] is (good and expected["parameter_hash_valid"])
    assert found["authorized"] is (found["ok"] and expected["result"] == "allow")
    for name in ("receipt_kind", "boundary_class", "trust_level"):
        assert found[name] == case["receipt"][name]
    assert found["signer_key_hex"] == VECTORS["kernel_key"]


async def test_our_own_receipts_are_ok(app: SidecarApp) -> None:
    for method, authorized in (("GET", True), ("POST", False)):
        receipt = (await decision(app, method=method, request_id=method))["receipt"]
        found = (await verify(app, receipt)).document
        assert (found["valid"], found["ok"], found["authorized"]) == (True, True, authorized)
        assert found["signer_trusted"] is True


def _by(key: SigningKey) -> dict[str, Any]:
    body = dict(VECTORS["april_cases"][0]["receipt"])
    return sign_receipt(key, body)


def test_a_receipt_of_another_signer_is_valid_but_not_ok(tmp_path: Path) -> None:
    found = report(_by(STRANGER), tmp_path)
    assert (found["valid"], found["signer_trusted"], found["ok"], found["authorized"]) == (True, False, False, False)


def test_an_unsigned_unknown_member_is_ignored_as_in_the_protocol(tmp_path: Path) -> None:
    assert report(_by(KERNEL) | {"unknown": 1}, tmp_path)["valid"] is True
    assert report(_by(KERNEL) | {"session_id": "other"}, tmp_path)["valid"] is False


def test_a_signed_unknown_member_is_part_of_the_receipt(tmp_path: Path) -> None:
    receipt = {name: value for name, value in _by(KERNEL).items() if name != "signature"} | {"later": [1]}
    receipt["signature"] = KERNEL.sign(signed_bytes(receipt))
    assert report(receipt, tmp_path)["valid"] is True
    assert report(receipt | {"later": [2]}, tmp_path)["valid"] is False


@pytest.mark.parametrize("member", sorted(VECTORS["april_cases"][0]["receipt"]))
def test_every_member_is_covered(member: str, tmp_path: Path) -> None:
    original = VECTORS["april_cases"][0]["receipt"]
    changed: Any = {"verdict": {"verdict": "deny"}, "evidence": [], "metadata": {}, "response_status": 201}.get(member)
    if changed is None:
        changed = original[member] + (1 if member == "timestamp" else "0")
    assert report(original | {member: changed}, tmp_path)["valid"] is False


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b"{}", b'{"id":"a","id":"b"}', json.dumps({"id": "\ud800"}).encode()],
    ids=["empty", "array", "broken", "no members", "twice", "half a surrogate pair"],
)
async def test_what_is_no_receipt_is_answered_400(text: bytes, app: SidecarApp) -> None:
    answer = await verify(app, text)
    assert answer.status == 400
    assert answer.document["error"] == "chio_bad_request"
    assert answer.document["message"].startswith("invalid HttpReceipt payload: ")


async def test_a_body_over_one_mebibyte_is_refused(app: SidecarApp) -> None:
    answer = await verify(app, b" " * (1024 * 1024 + 1))
    assert answer.status == 400
    assert answer.document == {"error": "chio_bad_request", "message": "failed to read receipt verification body"}


def test_a_receipt_with_an_integer_beyond_doubles_has_a_report(tmp_path: Path) -> None:
    body = dict(VECTORS["april_cases"][0]["receipt"]) | {"metadata": {"big": 2**64 - 1, "small": -(2**63)}}
    assert report(sign_receipt(KERNEL, body), tmp_path)["valid"] is True
