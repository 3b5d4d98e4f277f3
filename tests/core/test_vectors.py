"""The reference vectors hold: we read theirs, and would have written the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chio_core.canonical import canonical_json, parse_json, sha256_hex
from chio_core.errors import ReceiptRejected
from chio_core.models import CallerIdentity
from chio_core.models.request import content_hash
from chio_core.receipts import receipt_id_is_valid, signed_bytes, verify_receipt
from chio_core.signing import SigningKey, normalize_public_key, verify_signature
from tests.core.reference import cases, vectors


@cases("april/canonical")
def test_the_canonical_text_of_the_older_profile(case: dict[str, Any]) -> None:
    assert canonical_json(parse_json(case["input_json"])).decode() == case["canonical_json"]


@cases("newer/canonical")
def test_the_canonical_text_of_the_newer_profile(case: dict[str, Any]) -> None:
    assert canonical_json(parse_json(case["input_json"])).decode() == case["canonical_json"]


@cases("april/hashing")
def test_a_digest(case: dict[str, Any]) -> None:
    assert sha256_hex(case["input_utf8"].encode()) == case["sha256_hex"]


@cases("april/signing", "json_cases")
def test_a_signature_over_json(case: dict[str, Any]) -> None:
    message = canonical_json(parse_json(case["input_json"]))
    assert message.decode() == case["canonical_json"]
    _check_signature(case, message)


@cases("april/signing", "utf8_cases")
def test_a_signature_over_text(case: dict[str, Any]) -> None:
    _check_signature(case, case["input_utf8"].encode())


def _check_signature(case: dict[str, Any], message: bytes) -> None:
    key = SigningKey.from_seed_hex(vectors("april/signing")["signing_key_seed_hex"])
    assert verify_signature(case["public_key_hex"], message, case["signature_hex"]) is case["expected_verify"]
    if case["expected_verify"]:
        assert key.public_hex == case["public_key_hex"]
        assert key.sign(message) == case["signature_hex"]


@cases("composed/http-binding", "content_cases")
def test_the_hash_of_a_content(case: dict[str, Any]) -> None:
    members = ("method", "route_pattern", "path", "query", "body_hash")
    assert canonical_json({name: case[name] for name in members}).decode() == case["binding_canonical_json"]
    assert content_hash(*(case[name] for name in members)) == case["content_hash"]


@cases("composed/http-binding", "caller_cases")
def test_the_hash_of_a_caller(case: dict[str, Any]) -> None:
    caller = CallerIdentity.model_validate(case["caller"])
    assert canonical_json(caller.to_wire()).decode() == case["caller_canonical_json"]
    assert caller.identity_hash() == case["caller_identity_hash"]


@cases("composed/http-receipt", "april_cases")
def test_a_receipt_of_the_older_profile(case: dict[str, Any]) -> None:
    _check_receipt(case)


@cases("composed/http-receipt", "newer_cases")
def test_a_receipt_of_the_newer_profile(case: dict[str, Any]) -> None:
    assert receipt_id_is_valid(case["receipt"]) is case["expected"]["receipt_id_valid"]
    _check_receipt(case)


def _check_receipt(case: dict[str, Any]) -> None:
    receipt = parse_json(json.dumps(case["receipt"]))
    key = vectors("composed/http-receipt")["kernel_key"]
    assert signed_bytes(receipt).decode() == case["receipt_body_canonical_json"]
    if not case["expected"]["signature_valid"]:
        with pytest.raises(ReceiptRejected):
            verify_receipt(receipt)
        return
    assert verify_receipt(receipt, trusted_keys={key}).raw == receipt
    with pytest.raises(ReceiptRejected, match="not trusted"):
        verify_receipt(receipt, trusted_keys=())
    signer = SigningKey.from_seed_hex(vectors("composed/http-receipt")["signing_key_seed_hex"])
    assert signer.sign(signed_bytes(receipt)) == receipt["signature"]


@cases("april/manifest")
def test_a_signed_manifest(case: dict[str, Any]) -> None:
    signed, expected = case["signed_manifest"], case["expected"]
    body = canonical_json(signed["manifest"])
    assert body.decode() == case["manifest_body_canonical_json"]
    assert verify_signature(signed["signer_key"], body, signed["signature"]) is expected["signature_valid"]
    key = signed["manifest"]["public_key"]
    assert (normalize_public_key(key) == key) is expected["embedded_public_key_valid"]
    assert (key == signed["signer_key"]) is expected["embedded_public_key_matches_signer"]


@cases("april/receipt")
def test_a_tool_receipt_of_the_older_profile(case: dict[str, Any]) -> None:
    body = _tool_body(case["receipt"], newer=False)
    assert canonical_json(body).decode() == case["receipt_body_canonical_json"]
    _check_tool_receipt(case, canonical_json(body))


@cases("april/issued-receipt")
def test_a_tool_receipt_that_was_issued_in_the_field(case: dict[str, Any]) -> None:
    _check_tool_receipt(case, canonical_json(_tool_body(case["receipt"], newer=False)))


@cases("newer/receipt")
def test_a_tool_receipt_of_the_newer_profile(case: dict[str, Any]) -> None:
    receipt, body = case["receipt"], _tool_body(case["receipt"], newer=True)
    assert canonical_json({**body, "id": receipt["id"]}).decode() == case["receipt_body_canonical_json"]
    id_valid = sha256_hex(canonical_json(body)) == receipt["id"]
    assert id_valid is case["expected"]["receipt_id_valid"]
    if case["expected"]["signature_valid"]:  # the other way, meaning decides too (wire protocol, section 3.8)
        _check_tool_receipt(case, canonical_json({"id": receipt["id"], "body": body}))


def _tool_body(receipt: dict[str, Any], *, newer: bool) -> dict[str, Any]:
    left_out = {"signature", "algorithm"} | ({"id"} if newer else set())
    return {name: value for name, value in receipt.items() if name not in left_out and value not in (None, [])}


def _check_tool_receipt(case: dict[str, Any], signed: bytes) -> None:
    receipt, expected = case["receipt"], case["expected"]
    assert verify_signature(receipt["kernel_key"], signed, receipt["signature"]) is expected["signature_valid"]
    digest = sha256_hex(canonical_json(receipt["action"]["parameters"]))
    assert (digest == receipt["action"]["parameter_hash"]) is expected["parameter_hash_valid"]
