"""An evaluation by a sidecar in this process is a function call; its decision and its errors are those of HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chio_core.canonical import parse_json
from chio_core.client.client import SyncChioClient
from chio_core.client.in_process import EmbeddedCarrier, InProcessCarrier, check_files, open_sidecar, own_key
from chio_core.errors import ConfigurationError, ReceiptRejected
from chio_core.evaluation.conclude import conclude
from chio_core.evaluation.exchange import EVALUATE_PATH, EvaluateCall, RawResponse
from chio_core.evaluation.outcomes import Decision
from chio_core.receipts import KeyTrust
from chio_core.settings import ChioSettings
from chio_sidecar.embedded import EmbeddedSidecar
from tests.core.views import View, question
from tests.sidecar.control_tools import write_store
from tests.support import run
from tests.viewer.records import receipt

OTHER = "ab" * 32
SETTINGS = ChioSettings(receipt_tolerance=10.0**10)


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[EmbeddedSidecar]:
    opened = open_sidecar(ChioSettings(sidecar_url=f"embedded:{tmp_path}/receipts.sqlite3"))
    yield opened
    run(opened.close())


@pytest.mark.parametrize("start", [check_files, open_sidecar, SyncChioClient], ids=["check", "open", "threads"])
def test_an_embedded_sidecar_with_another_key_than_the_trusted_ones_stops_the_start(
    start: Callable[[ChioSettings], object], tmp_path: Path
) -> None:
    url = f"embedded:{tmp_path}/receipts.sqlite3"
    own = own_key(url).public_hex
    with pytest.raises(ConfigurationError) as caught:
        start(ChioSettings(sidecar_url=url, trusted_kernel_keys=(OTHER,)))
    assert own in caught.value.message
    assert f"names only {OTHER}; leave that setting out" in caught.value.message
    assert not (tmp_path / "receipts.sqlite3").exists()


@pytest.mark.parametrize("start", [open_sidecar, SyncChioClient], ids=["open", "threads"])
def test_an_embedded_sidecar_makes_no_key_where_others_are_trusted(
    start: Callable[[ChioSettings], object], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="a key that it has yet to make"):
        start(ChioSettings(sidecar_url=f"embedded:{tmp_path}/receipts.sqlite3", trusted_kernel_keys=(OTHER,)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", [check_files, open_sidecar], ids=["check", "open"])
def test_a_trusted_key_that_is_lost_is_to_be_restored(start: Callable[[ChioSettings], object], tmp_path: Path) -> None:
    store = write_store(tmp_path / "receipts.sqlite3", [receipt(1)])
    trusted = (receipt(1)["kernel_key"],)
    with pytest.raises(ConfigurationError, match=f"were signed with {trusted[0]}; restore the file"):
        start(ChioSettings(sidecar_url=f"embedded:{store}", trusted_kernel_keys=trusted))


def call(request_id: str = "req-1", view: View | None = None) -> EvaluateCall:
    return question(view or View("GET"), settings=SETTINGS, request_id=request_id)


async def evaluated(sidecar: EmbeddedSidecar, body: bytes) -> RawResponse:
    return await EmbeddedCarrier(sidecar).post(EVALUATE_PATH, body, (), 5)


def decided(response: RawResponse, sidecar: EmbeddedSidecar, about: EvaluateCall | None = None) -> Decision:
    return conclude(response, about or call(), SETTINGS, KeyTrust((sidecar.public_key,)), time.time())


async def test_the_decision_is_the_stored_one_and_that_which_http_gives(sidecar: EmbeddedSidecar) -> None:
    first = await evaluated(sidecar, call().body)
    decision = decided(first, sidecar)
    assert decision.allowed
    assert decision.receipt is not None

    over_http = await InProcessCarrier(sidecar.app).post(EVALUATE_PATH, call().body, (), 5)
    document = parse_json(over_http.body)
    assert {name: document[name] for name in ("verdict", "receipt")} == first.document
    again = decided(over_http, sidecar).receipt
    assert again is not None
    assert again.raw == decision.receipt.raw

    stored = await sidecar.app.state.sidecar.store.get(decision.receipt.id)
    assert parse_json(stored.receipt_json) == decision.receipt.raw


async def test_a_receipt_that_was_stored_before_is_given_and_verified_again(sidecar: EmbeddedSidecar) -> None:
    first, second = [await evaluated(sidecar, call().body) for _ in range(2)]
    assert (first.signed is None, second.signed is None) == (False, True)
    assert second.document == first.document
    assert decided(second, sidecar).allowed


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("member", ["policy_hash", "verdict", "metadata", "unknown"])
async def test_a_receipt_that_changes_on_its_way_is_refused(
    member: str, repeated: bool, sidecar: EmbeddedSidecar
) -> None:
    response = await evaluated(sidecar, call().body)
    if repeated:
        response = await evaluated(sidecar, call().body)
    response.document["receipt"][member] = {"verdict": "allow", "reason": "changed"}
    response.document["verdict"] = response.document["receipt"]["verdict"]
    with pytest.raises(ReceiptRejected):
        decided(response, sidecar)


async def test_a_receipt_of_another_request_is_refused(sidecar: EmbeddedSidecar) -> None:
    response = await evaluated(sidecar, call().body)
    with pytest.raises(ReceiptRejected) as refused:
        decided(response, sidecar, call("req-2"))
    assert refused.value.rule == "request_id"


async def test_what_an_application_does_with_a_receipt_changes_no_other(sidecar: EmbeddedSidecar) -> None:
    def clear(value: Any) -> None:
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            clear(item)
        if isinstance(value, dict | list):
            value.clear()

    first = await evaluated(sidecar, call("req-1").body)
    kept = json.loads(json.dumps(first.document["receipt"]))
    clear(first.document)
    second = (await evaluated(sidecar, call("req-2").body)).document["receipt"]
    assert second["metadata"]["route_selection"]["candidates"] == kept["metadata"]["route_selection"]["candidates"]
    assert (second["verdict"], second["evidence"]) == (kept["verdict"], kept["evidence"])


@pytest.mark.parametrize("body", [b"{", b"[]", b"x" * (10 * 1024 * 1024 + 1), "conflict", "capability"])
async def test_errors_and_denials_are_those_of_http(body: bytes | str, sidecar: EmbeddedSidecar) -> None:
    await evaluated(sidecar, call().body)
    if body == "conflict":
        body = call(view=View("GET", "/other")).body
    elif body == "capability":
        body = call("req-2", View("POST")).body
    direct = await evaluated(sidecar, bytes(body))  # type: ignore[arg-type]
    over_http = await InProcessCarrier(sidecar.app).post(EVALUATE_PATH, bytes(body), (), 5)  # type: ignore[arg-type]
    assert (direct.status, direct.content_type) == (over_http.status, over_http.content_type)
    if direct.status == 200:
        assert direct.document["receipt"]["verdict"] == parse_json(over_http.body)["verdict"]
    else:
        assert direct.body == over_http.body


async def test_other_calls_go_to_the_application(sidecar: EmbeddedSidecar) -> None:
    response = await EmbeddedCarrier(sidecar).get("/chio/health", (), 5)
    assert response.status == 200
    response = await EmbeddedCarrier(sidecar).get(EVALUATE_PATH, (), 5)
    assert response.status == 405
