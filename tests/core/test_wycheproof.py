"""Ed25519 against the Wycheproof cases: malleable, truncated and misshapen signatures do not verify."""

from __future__ import annotations

import json
from pathlib import Path

from chio_core.signing import verify_signature

CASES = json.loads((Path(__file__).parents[1] / "vectors/wycheproof/ed25519.json").read_text())["cases"]


def test_every_case_comes_out_as_wycheproof_says() -> None:
    wrong = [
        case["case"]
        for case in CASES
        if verify_signature(case["public_key"], bytes.fromhex(case["message"]), case["signature"]) is not case["valid"]
    ]
    assert wrong == []


def test_the_cases_are_all_there() -> None:
    assert sum(case["valid"] for case in CASES) == 88
    assert sum(not case["valid"] for case in CASES) == 63
