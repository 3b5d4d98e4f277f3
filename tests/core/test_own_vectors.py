"""The project's own vectors hold; they were made without the code that they test."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chio_core.canonical import canonical_json, parse_json
from chio_core.errors import InvalidDocument
from chio_core.models import ChioHttpRequest
from chio_core.receipts import Expectation, ReceiptRejected, verify_receipt
from chio_core.signing import verify_signature
from tests.vectors import make


def _load(name: str) -> dict[str, Any]:
    return dict(json.loads((make.FOLDER / f"{name}.json").read_text(encoding="ascii")))


def cases(name: str) -> pytest.MarkDecorator:
    found = _load(name)["cases"]
    return pytest.mark.parametrize("case", found, ids=[case["id"] for case in found])


@pytest.mark.parametrize("name", make.DOCUMENTS)
def test_the_files_are_what_the_script_writes(name: str) -> None:
    assert (make.FOLDER / f"{name}.json").read_text(encoding="ascii") == make.written(name)


@pytest.mark.parametrize("name", make.DOCUMENTS)
def test_each_case_has_a_name_of_its_own_and_one_sentence(name: str) -> None:
    found = _load(name)["cases"]
    assert len({case["id"] for case in found}) == len(found)
    assert all(case["why"].endswith(".") for case in found)


@cases("canonical")
def test_canonical_json(case: dict[str, Any]) -> None:
    if case["canonical"] is not None:
        assert canonical_json(parse_json(case["input"])).decode() == case["canonical"]
        return
    with pytest.raises(InvalidDocument):
        canonical_json(parse_json(case["input"]))


@cases("signing")
def test_signatures(case: dict[str, Any]) -> None:
    message = bytes.fromhex(case["message"])
    assert verify_signature(case["public_key"], message, case["signature"]) is case["verifies"]


@cases("bindings")
def test_bindings(case: dict[str, Any]) -> None:
    request = ChioHttpRequest.model_validate(case["request"])
    assert request.content_hash(request.route_pattern) == case["content_hash"]
    assert request.caller.identity_hash() == case["caller_hash"]


@cases("receipts")
def test_receipts(case: dict[str, Any]) -> None:
    assert _rule(_load("receipts"), case["text"]) == case["rule"]
    assert (case["rule"] is not None) is case["id"].endswith("_fail")


def _rule(about: dict[str, Any], text: str) -> str | None:
    request = ChioHttpRequest.model_validate(about["request"])
    expected = Expectation(request, request.caller.identity_hash(), request.route_pattern)
    try:
        document = parse_json(text)
        verify_receipt(document, trusted_keys=about["trusted"], expected=expected, now=about["now"])
    except ReceiptRejected as exc:
        return exc.rule
    except InvalidDocument:
        return "text"
    return None
