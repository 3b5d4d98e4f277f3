"""The answers of the published sidecar, recorded from its releases 0.1.0 and 0.1.2: 230 evaluate requests each.

The recorded text of the document has no `info`, which both sidecars require, so policy hashes are not compared.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from chio_core.models.request import ChioHttpRequest
from chio_core.receipts import Expectation, verify_receipt
from tests.sidecar.sidecar_tools import Clock, send, sidecar, vectors

VERSIONS = ("0.1.0", "0.1.2")

STRICTER = {
    "token dpop": "proof of possession is not enforced, so a capability that needs it grants nothing",
    "token cost": "the same for a cost that no route states",
    "token delegated broken": "the signatures of a delegation chain are verified",
    'extra {"governed_intent": {}}': "a member that has another type is not a request",
    'extra {"approval_tokens": []}': "fields of an authorization that is not supported are refused, as by 0.1.2",
    'extra {"threshold_approval_proposal": {}}': "the same",
    'extra {"supplemental_authorization": {}}': "the same",
}
"""Cases, by a part of their name, that 0.1.0 allows and this sidecar does not."""

WIDER = {"token newer form": "tokens of the newer form are verified as 0.1.2 does"}
"""Cases that 0.1.0 refuses and this sidecar allows."""

PREFIXES = ("invalid capability token: ", "failed to evaluate capability scope: ")
"""Reasons that end in the words of a parser."""


def recorded(version: str) -> Any:
    return vectors("real", f"evaluate-{version}.json")


def why(reasons: dict[str, str], case: str) -> str | None:
    return next((reason for part, reason in reasons.items() if part in case), None)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_of_its_receipts_verifies_and_is_bound_to_its_request(version: str) -> None:
    document = recorded(version)
    found = 0
    for case in document["cases"]:
        if case["status"] != 200:
            continue
        request = ChioHttpRequest.model_validate(json.loads(case["request_text"]))
        receipt = case["answer"]["receipt"]
        verify_receipt(
            receipt,
            trusted_keys={document["kernel_key"]},
            expected=Expectation(request, request.caller.identity_hash()),
            now=receipt["timestamp"],
        )
        found += 1
    assert found >= 182


def plain(stated: dict[str, Any]) -> dict[str, Any]:
    """A verdict or a piece of evidence without the words of a parser."""
    texts = {name: text for name, text in stated.items() if isinstance(text, str)}
    cut = {name: prefix for name, text in texts.items() for prefix in PREFIXES if text.startswith(prefix)}
    return {**stated, **cut}


def bound(receipt: dict[str, Any]) -> dict[str, Any]:
    """What a receipt says about its request."""
    names = ("request_id", "method", "route_pattern", "caller_identity_hash", "content_hash", "capability_id")
    return {name: receipt.get(name) for name in names}


def test_this_sidecar_gives_the_same_answers_as_0_1_0_and_is_wider_only_where_0_1_2_is(tmp_path: Path) -> None:
    document = recorded("0.1.0")
    spec = {**json.loads(document["document"]), "info": {"title": "recorded", "version": "1"}}
    clock = Clock()
    departed: dict[str, set[str]] = {"stricter": set(), "wider": set()}

    async def compare() -> None:
        options = {"trusted_issuers": {document["trusted_issuer"]}, "spec_text": json.dumps(spec), "clock": clock}
        async with sidecar(tmp_path, **options) as app:
            for case in document["cases"]:
                name, answer = case["case"], case["answer"]
                clock.now = answer["receipt"]["timestamp"] if case["status"] == 200 else clock.now
                headers = [] if case["token"] is None else [("X-Chio-Capability", case["token"])]
                found = await send(app, "POST", "/chio/evaluate", case["request_text"].encode(), headers=headers)

                # What is allowed to differ differs in one direction.
                was, now = allows(case["status"], answer), allows(found.status, found.document)
                if was and not now:
                    assert why(STRICTER, name), f"{name} was allowed"
                    departed["stricter"].add(str(why(STRICTER, name)))
                    continue
                if now and not was:
                    assert why(WIDER, name), f"{name} was refused"
                    departed["wider"].add(str(why(WIDER, name)))
                    continue

                # Everything else is equal: status, verdict, evidence, and what the receipt is bound to.
                assert found.status == case["status"], name
                if case["status"] != 200:
                    assert found.document["error"] == answer["error"], name
                    continue
                assert plain(found.document["verdict"]) == plain(answer["verdict"]), name
                assert list(map(plain, found.document["evidence"])) == list(map(plain, answer["evidence"])), name
                assert bound(found.document["receipt"]) == bound(answer["receipt"]), name

    asyncio.run(compare())
    assert departed == {"stricter": set(STRICTER.values()), "wider": set(WIDER.values())}


def allows(status: int, answer: Any) -> bool:
    return status == 200 and answer["verdict"]["verdict"] == "allow"
