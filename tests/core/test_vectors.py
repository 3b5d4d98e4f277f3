"""The vectors hold: the protocol's reference vectors, and the project's own, made without the code that they test."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chio_core.canonical import canonical_json, parse_json, sha256_hex
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.models import CallerIdentity, ChioHttpRequest
from chio_core.models.request import content_hash
from chio_core.receipts import Expectation, receipt_id_is_valid, signed_bytes, verify_receipt
from chio_core.signing import SigningKey, normalize_public_key, verify_signature
from tests.core.reference import cases, vectors
from tests.vectors import make


@cases("april/canonical", "newer/canonical")
def test_the_canonical_text_of_both_profiles(case: dict[str, Any]) -> None:
    assert canonical_json(parse_json(case["input_json"])).decode() == case["canonical_json"]


@cases("april/hashing")
def test_a_digest(case: dict[str, Any]) -> None:
    assert sha256_hex(case["input_utf8"].encode()) == case["sha256_hex"]


@cases("april/signing", members=["json_cases", "utf8_cases"])
def test_a_signature_over_json_and_over_text(case: dict[str, Any]) -> None:
    if "input_json" in case:
        message = canonical_json(parse_json(case["input_json"]))
        assert message.decode() == case["canonical_json"]
    else:
        message = case["input_utf8"].encode()
    key = SigningKey.from_seed_hex(vectors("april/signing")["signing_key_seed_hex"])
    assert verify_signature(case["public_key_hex"], message, case["signature_hex"]) is case["expected_verify"]
    if case["expected_verify"]:
        assert key.public_hex == case["public_key_hex"]
        assert key.sign(message) == case["signature_hex"]


@cases("composed/http-binding", members=["content_cases"])
def test_the_hash_of_a_content(case: dict[str, Any]) -> None:
    members = ("method", "route_pattern", "path", "query", "body_hash")
    assert canonical_json({name: case[name] for name in members}).decode() == case["binding_canonical_json"]
    assert content_hash(*(case[name] for name in members)) == case["content_hash"]


@cases("composed/http-binding", members=["caller_cases"])
def test_the_hash_of_a_caller(case: dict[str, Any]) -> None:
    caller = CallerIdentity.model_validate(case["caller"])
    assert canonical_json(caller.to_wire()).decode() == case["caller_canonical_json"]
    assert caller.identity_hash() == case["caller_identity_hash"]


@cases("composed/http-receipt", members=["april_cases", "newer_cases"])
def test_a_receipt_of_both_profiles(case: dict[str, Any]) -> None:
    signer = vectors("composed/http-receipt")
    if "receipt_id_valid" in case["expected"]:
        assert receipt_id_is_valid(case["receipt"]) is case["expected"]["receipt_id_valid"]
    receipt = parse_json(json.dumps(case["receipt"]))
    assert signed_bytes(receipt).decode() == case["receipt_body_canonical_json"]
    if not case["expected"]["signature_valid"]:
        with pytest.raises(ReceiptRejected):
            verify_receipt(receipt)
        return
    assert verify_receipt(receipt, trusted_keys={signer["kernel_key"]}).raw == receipt
    with pytest.raises(ReceiptRejected, match="not trusted"):
        verify_receipt(receipt, trusted_keys=())
    assert SigningKey.from_seed_hex(signer["signing_key_seed_hex"]).sign(signed_bytes(receipt)) == receipt["signature"]


@cases("april/manifest")
def test_a_signed_manifest(case: dict[str, Any]) -> None:
    signed, expected = case["signed_manifest"], case["expected"]
    body = canonical_json(signed["manifest"])
    assert body.decode() == case["manifest_body_canonical_json"]
    assert verify_signature(signed["signer_key"], body, signed["signature"]) is expected["signature_valid"]
    key = signed["manifest"]["public_key"]
    assert (normalize_public_key(key) == key) is expected["embedded_public_key_valid"]
    assert (key == signed["signer_key"]) is expected["embedded_public_key_matches_signer"]


@cases("april/receipt", "april/issued-receipt")
def test_a_tool_receipt_of_the_older_profile(case: dict[str, Any]) -> None:
    body = canonical_json(_tool_body(case["receipt"], newer=False))
    if "receipt_body_canonical_json" in case:
        assert body.decode() == case["receipt_body_canonical_json"]
    _check_tool_receipt(case, body)


@cases("newer/receipt")
def test_a_tool_receipt_of_the_newer_profile(case: dict[str, Any]) -> None:
    receipt, body = case["receipt"], _tool_body(case["receipt"], newer=True)
    assert canonical_json({**body, "id": receipt["id"]}).decode() == case["receipt_body_canonical_json"]
    id_valid = sha256_hex(canonical_json(body)) == receipt["id"]
    assert id_valid is case["expected"]["receipt_id_valid"]
    if case["expected"]["signature_valid"]:  # else the meaning decides too (wire protocol, section 3.8)
        _check_tool_receipt(case, canonical_json({"id": receipt["id"], "body": body}))


def _tool_body(receipt: dict[str, Any], *, newer: bool) -> dict[str, Any]:
    left_out = {"signature", "algorithm"} | ({"id"} if newer else set())
    return {name: value for name, value in receipt.items() if name not in left_out and value not in (None, [])}


def _check_tool_receipt(case: dict[str, Any], signed: bytes) -> None:
    receipt, expected = case["receipt"], case["expected"]
    assert verify_signature(receipt["kernel_key"], signed, receipt["signature"]) is expected["signature_valid"]
    digest = sha256_hex(canonical_json(receipt["action"]["parameters"]))
    assert (digest == receipt["action"]["parameter_hash"]) is expected["parameter_hash_valid"]


# The project's own vectors


@pytest.mark.parametrize("name", make.DOCUMENTS)
def test_a_file_of_own_vectors_is_what_the_script_writes_and_explains_each_case(name: str) -> None:
    assert (make.FOLDER / f"{name}.json").read_text(encoding="ascii") == make.written(name)
    found = vectors(f"core/{name}")["cases"]
    assert len({case["id"] for case in found}) == len(found)
    assert all(case["why"].endswith(".") for case in found)


@cases("core/canonical")
def test_canonical_json(case: dict[str, Any]) -> None:
    if case["canonical"] is not None:
        assert canonical_json(parse_json(case["input"])).decode() == case["canonical"]
        return
    with pytest.raises(InvalidDocument):
        canonical_json(parse_json(case["input"]))


@cases("core/signing")
def test_signatures(case: dict[str, Any]) -> None:
    message = bytes.fromhex(case["message"])
    assert verify_signature(case["public_key"], message, case["signature"]) is case["verifies"]


@cases("core/bindings")
def test_bindings(case: dict[str, Any]) -> None:
    request = ChioHttpRequest.model_validate(case["request"])
    assert request.content_hash(request.route_pattern) == case["content_hash"]
    assert request.caller.identity_hash() == case["caller_hash"]


@cases("core/receipts")
def test_receipts(case: dict[str, Any]) -> None:
    document = vectors("core/receipts")
    request = ChioHttpRequest.model_validate(document["request"])
    expected = Expectation(request, request.caller.identity_hash(), request.route_pattern)
    rule = None
    try:
        verify_receipt(
            parse_json(case["text"]), trusted_keys=document["trusted"], expected=expected, now=document["now"]
        )
    except ReceiptRejected as exc:
        rule = exc.rule
    except InvalidDocument:
        rule = "text"
    assert rule == case["rule"]
    assert (rule is not None) is case["id"].endswith("_fail")
