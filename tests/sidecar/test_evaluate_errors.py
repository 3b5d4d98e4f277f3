"""When there is no decision: malformed calls, repeated ids, a store that fails, too much at once (section 1.8)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chio_core.errors import InvalidDocument
from chio_core.receipts import verify_receipt
from chio_sidecar.app import SidecarApp, create_app
from chio_sidecar.config import SidecarConfig
from chio_sidecar.store import NewReceipt, StoreBusy, StoreUnavailable
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.sidecar.sidecar_tools import (
    KERNEL,
    Clock,
    Response,
    capability,
    decision,
    evaluate,
    evaluate_body,
    grant,
    send,
    sidecar,
)
from tests.support import run

PATH = "/chio/evaluate"


async def post(app: Any, text: str | bytes) -> Response:
    return await send(app, "POST", PATH, text if isinstance(text, bytes) else text.encode())


MALFORMED: dict[str, str | bytes] = {
    "empty": "",
    "no JSON": "{",
    "an array": "[]",
    "null": "null",
    "not UTF-8": b'{"request_id":"\xff"}',
    "a member twice": json.dumps(evaluate_body())[:-1] + ', "method": "POST"}',
    "an inner member twice": json.dumps(evaluate_body(query={"a": "1"})).replace('{"a": "1"}', '{"a": "1", "a": "2"}'),
    "NaN": json.dumps(evaluate_body(arguments=float("nan"))),
    "a number out of range": json.dumps(evaluate_body(arguments=0)).replace('"arguments": 0', '"arguments": 1E400'),
    "half a surrogate pair": json.dumps(evaluate_body(session_id="\ud800")),
    "half a surrogate pair in a key": json.dumps(evaluate_body(query={"\udfff": ""})),
    "half a surrogate pair in an unknown member": json.dumps(evaluate_body(other=["\ud800"])),
    "half a surrogate pair in a token": json.dumps(evaluate_body(headers={"x-chio-capability": "\ud800"})),
    "too deep": json.dumps(evaluate_body(arguments=0)).replace(": 0}", ": " + "[" * 200 + "]" * 200 + "}"),
    "much too deep": "[" * 100_000,
}
for name in ("request_id", "method", "route_pattern", "path", "caller", "timestamp"):
    MALFORMED[f"no {name}"] = json.dumps(evaluate_body(**{name: ...}))
    MALFORMED[f"{name} null"] = json.dumps(evaluate_body(**{name: None}))
WRONG_TYPES: dict[str, list[Any]] = {
    "request_id": [1, ["a"]],
    "method": ["get", "TRACE", "CONNECT", "", "GET ", 1],
    "query": [None, [], {"a": 1}, {"a": None}, {"a": ["b"]}],
    "headers": [None, "x", {"a": 1}],
    "body_length": [None, -1, 1.0, "1", 2**64, True],
    "timestamp": [-1, 1.5, "1", 2**64, True],
    "body_hash": [1],
    "session_id": [1],
    "capability_id": [{}],
    "tool_server": [1],
    "caller": ["anonymous", {"subject": "x"}, {"auth_method": {"method": "anonymous"}}],
    "model_metadata": ["gpt", {}, {"model_id": "m", "safety_tier": "none"}, {"model_id": "m", "provider": 1}],
}
for name, values in WRONG_TYPES.items():
    for value in values:
        MALFORMED[f"{name} is {value!r}"] = json.dumps(evaluate_body(**{name: value}))
AUTH_METHODS: list[dict[str, Any]] = [
    {},
    {"method": "password"},
    {"method": {}},
    {"method": ["bearer"]},
    {"method": "bearer"},
    {"method": "bearer", "token_hash": None},
    {"method": "bearer", "token_hash": 1},
    {"method": "api_key", "key_name": "k"},
]
for method in AUTH_METHODS:
    MALFORMED[f"auth method {method}"] = json.dumps(evaluate_body(caller={"subject": "s", "auth_method": method}))
MALFORMED["verified is a text"] = json.dumps(
    evaluate_body(caller={"subject": "s", "auth_method": {"method": "anonymous"}, "verified": "yes"})
)


@pytest.mark.parametrize("kind", MALFORMED)
async def test_a_malformed_call_is_answered_400_and_leaves_no_receipt(kind: str, app: SidecarApp) -> None:
    answer = await post(app, MALFORMED[kind])
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert answer.document["error"] == "chio_bad_request"
    assert answer.document["message"].startswith("invalid ChioHttpRequest payload: ")
    assert await app.state.sidecar.store.list() == []


def retyped(document: Any) -> Iterator[Any]:
    """Yield a document with one of its parts replaced by a value of each JSON type, for each part."""
    yield from (None, True, 1, -1.5, "", [], {}, [[]], {"": {}})
    if isinstance(document, dict):
        for name, part in document.items():
            yield from (document | {name: other} for other in retyped(part))
    if isinstance(document, list):
        for place, part in enumerate(document):
            yield from ([*document[:place], other, *document[place + 1 :]] for other in retyped(part))


async def test_no_type_of_any_part_of_a_call_or_token_is_a_failure_of_the_sidecar(app: SidecarApp) -> None:
    token = capability(grants=[grant(constraints=[{"type": "max_length", "value": 9}], max_invocations=3)]).to_wire()
    amount = {"units": 5, "currency": "USD"}
    complete = evaluate_body(
        query={"a": "b"}, headers={"c": "d"}, body_hash="e" * 64, body_length=2, session_id="f", further_to=None,
        caller={"subject": "s", "auth_method": {"method": "bearer", "token_hash": "0" * 64}, "tenant": "t"},
        tool_server="s", tool_name="t", arguments={"x": [1]}, capability_id=token["id"], approval_token={"id": "a"},
        model_metadata={"model_id": "m", "safety_tier": "low", "provenance_class": "observed"},
        governed_intent={"approval": {"threshold_units": 9, "currency": "USD"}, "amount": amount},
        budget={"cost": 1, "currency": "USD", "max_total_cost": 7}, enforcement={"mode": "observe", "lacks": ["x"]},
    )  # fmt: skip
    calls = [(one, token) for one in retyped(complete) if isinstance(one, dict)]
    calls += [(evaluate_body(method="POST"), one) for one in retyped(token)]
    for number, (document, presented) in enumerate(calls):
        if document.get("request_id") == "req-1":
            document = document | {"request_id": f"req-{number}"}
        answer = await evaluate(app, json.dumps(presented), **document)
        assert answer.status in (200, 400, 409), (document, presented, answer.body)


ACCEPTED: dict[str, dict[str, Any]] = {
    "optional members null": dict.fromkeys(
        ("body_hash", "session_id", "capability_id", "tool_server", "tool_name", "arguments")
    ),
    "model metadata null": {"model_metadata": None},
    "unknown members": {"execution": {"nonce": 1}, "route": None},
    "the largest numbers": {"timestamp": 2**64 - 1, "body_length": 2**64 - 1},
    "members of another auth method": {
        "caller": {"subject": "s", "auth_method": {"method": "anonymous", "token_hash": 1}, "verified": True}
    },
    "empty texts": {"request_id": "", "route_pattern": "", "path": ""},
}


@pytest.mark.parametrize("kind", ACCEPTED)
async def test_what_the_protocol_allows_is_taken(kind: str, app: SidecarApp) -> None:
    receipt = (await decision(app, **ACCEPTED[kind]))["receipt"]
    verify_receipt(receipt, trusted_keys=[KERNEL.public_hex])


async def test_a_body_over_ten_mebibytes_is_refused_and_one_of_exactly_that_is_read(tmp_path: Path) -> None:
    limit = 10 * 1024 * 1024
    text = json.dumps(evaluate_body()).encode()
    filled = text + b" " * (limit - len(text))
    async with sidecar(tmp_path) as app:
        pieces = [filled[:4_000_000], filled[4_000_000:]]
        assert (await send(app, "POST", PATH, pieces)).status == 200
        for too_long in ([filled, b" "], [filled + b" "]):
            answer = await send(app, "POST", PATH, too_long)
            assert answer.status == 400
            assert answer.document == {"error": "chio_bad_request", "message": "failed to read evaluation body"}


async def test_a_body_that_breaks_off_is_refused(app: SidecarApp) -> None:
    text = json.dumps(evaluate_body()).encode()
    answer = await send(app, "POST", PATH, text, complete=False)
    assert answer.status == 400
    assert answer.document["message"] == "failed to read evaluation body"
    assert await app.state.sidecar.store.list() == []


async def test_a_repeated_request_gets_the_very_same_response(app: SidecarApp) -> None:
    first = await evaluate(app, capability(), method="POST")
    again = await evaluate(app, capability(), method="POST", timestamp=1)
    assert again.body == first.body
    assert len(await app.state.sidecar.store.list()) == 1


@pytest.mark.parametrize(
    "change",
    [{"path": "/other"}, {"query": {"a": ""}}, {"session_id": "s"}, {"arguments": 1}, {"unknown": 1}, {"token": 1}],
    ids=str,
)
async def test_a_request_id_with_other_content_is_a_conflict(change: dict[str, Any], tmp_path: Path) -> None:
    token = capability() if change.pop("token", None) else None
    async with sidecar(tmp_path) as app:
        first = await evaluate(app)
        answer = await evaluate(app, token, **change)
        assert answer.status == 409
        assert answer.document["error"] == "chio_request_id_conflict"
        assert (await evaluate(app)).body == first.body


async def test_the_same_request_a_thousand_times_at_once_has_one_receipt(app: SidecarApp) -> None:
    answers = await asyncio.gather(*(evaluate(app) for _ in range(1000)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len(await app.state.sidecar.store.list()) == 1


async def test_two_requests_with_one_id_at_once_have_one_winner(app: SidecarApp) -> None:
    answers = await asyncio.gather(*(evaluate(app, path=f"/{number % 2}") for number in range(200)))
    assert sorted(answer.status for answer in answers) == [200] * 100 + [409] * 100
    assert len(await app.state.sidecar.store.list()) == 1


class BrokenStore:
    """A store that raises a given exception."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    async def append(self, entry: NewReceipt) -> Any:
        raise self.failure

    async def close(self) -> None:
        """Nothing to do."""


FAILURES = [
    (
        StoreUnavailable("the disk is full"),
        500,
        {"error": "chio_receipt_persistence_failed", "message": "receipt persistence failed: the disk is full"},
    ),
    (StoreBusy("too many wait"), 503, {"error": "chio_overloaded", "message": "too many wait"}),
    (
        InvalidDocument("no canonical form"),
        500,
        {"error": "chio_receipt_sign_failed", "message": "receipt signing failed: no canonical form"},
    ),
    (
        RuntimeError("something private"),
        500,
        {"error": "chio_evaluation_failed", "message": "evaluation failed: RuntimeError"},
    ),
]


@pytest.mark.parametrize(("failure", "status", "document"), FAILURES, ids=lambda value: type(value).__name__)
async def test_a_failure_hands_out_no_decision(
    failure: Exception, status: int, document: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with sidecar(tmp_path, open_store=lambda config: BrokenStore(failure)) as app:
        answer = await evaluate(app)
        assert answer.status == status
        assert answer.document == document
        assert ("retry-after" in answer.headers) == (status == 503)
    assert "something private" not in caplog.text


async def test_a_full_store_answers_500_and_acknowledges_nothing_that_it_has_not(tmp_path: Path) -> None:
    def small(config: SidecarConfig) -> SqliteReceiptStore:
        return SqliteReceiptStore(config.store_path, max_pages=60)

    async with sidecar(tmp_path, open_store=small) as app:
        answers = await asyncio.gather(*(evaluate(app, request_id=f"req-{number}") for number in range(400)))
        stored = {row.request_id for row in await app.state.sidecar.store.list(limit=1000)}
        granted = {answer.document["receipt"]["request_id"] for answer in answers if answer.status == 200}
        refused = [answer.document for answer in answers if answer.status != 200]
        assert granted == stored
        assert refused
        assert {document["error"] for document in refused} == {"chio_receipt_persistence_failed"}
        assert all("verdict" not in document for document in refused)


async def test_a_locked_store_answers_500_and_works_again_once_it_is_free(tmp_path: Path) -> None:
    async with sidecar(tmp_path, busy_seconds=0.1) as app:
        assert (await evaluate(app)).status == 200
        other = sqlite3.connect(tmp_path / "receipts.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answer = await evaluate(app, request_id="req-2")
        assert answer.status == 500
        assert answer.document["message"].endswith(": the receipt store is locked by another process")
        other.execute("ROLLBACK")
        other.close()
        assert (await evaluate(app, request_id="req-2")).status == 200


async def test_beyond_the_limit_of_evaluations_under_way_the_answer_is_503(tmp_path: Path) -> None:
    async with sidecar(tmp_path, max_pending=3) as app:
        answers = await asyncio.gather(*(evaluate(app, request_id=f"req-{number}") for number in range(10)))
        statuses = [answer.status for answer in answers]
        assert statuses.count(200) == 3
        assert statuses.count(503) == 7
        refused = next(answer for answer in answers if answer.status == 503)
        assert refused.headers["retry-after"] == "1"
        assert (await evaluate(app, request_id="later")).status == 200


def longest(name: str) -> str:
    return "/" * 8192 if name in ("path", "route_pattern") else "n" * 512


@pytest.mark.parametrize(
    "name",
    ["path", "route_pattern", "request_id", "session_id", "capability_id", "tool_server", "tool_name", "further_to"],
)
async def test_what_a_receipt_repeats_has_a_limit(name: str, app: SidecarApp) -> None:
    tool = {"tool_server": "s", "tool_name": "t"} if name.startswith("tool") else {}
    assert (await evaluate(app, **(tool | {name: longest(name)}))).status == 200
    refused = await evaluate(app, **({"request_id": "long"} | tool | {name: longest(name) + "x"}))
    assert (refused.status, refused.document["error"]) == (400, "chio_bad_request")
    assert f"{name} is longer than {len(longest(name))} characters" in refused.document["message"]
    assert len(refused.body) < 200


async def test_the_largest_request_of_a_caller_gets_a_receipt_of_limited_size(app: SidecarApp) -> None:
    long = "x" * 100_000
    caller = {"subject": long, "auth_method": {"method": "bearer", "token_hash": long}, "tenant": long}
    stated = {"mode": "observe", "requires": long, "lacks": long, "refused": long, "framework": long}
    more = {"query": {long: long}, "headers": {long: long}, "caller": caller, "body_hash": long, "unknown": long}
    names = ("path", "session_id", "tool_server", "tool_name")
    members = {name: longest(name) for name in names} | more | {"enforcement": stated}
    for number, token in enumerate((None, capability())):
        response = await evaluate(app, token, **(members | {"request_id": str(number) * 512}))
        assert response.status == 200
        assert len(response.body) < 40_000


async def test_beyond_the_rate_nothing_is_stored_until_time_has_passed(tmp_path: Path) -> None:
    clock = Clock()
    async with sidecar(tmp_path, max_per_second=2, clock=clock) as app:

        async def statuses(name: str) -> list[int]:
            return [(await evaluate(app, request_id=f"{name}-{number}")).status for number in range(4)]

        assert await statuses("first") == [200, 200, 503, 503]
        refused = await evaluate(app, request_id="refused")
        assert (refused.document["error"], refused.headers["retry-after"]) == ("chio_overloaded", "1")
        clock.now -= 3600
        assert await statuses("set back") == [503] * 4
        clock.now += 0.5
        assert await statuses("half a second") == [200, 503, 503, 503]
        clock.now += 3600
        assert await statuses("an hour") == [200, 200, 503, 503]
    with contextlib.closing(sqlite3.connect(tmp_path / "receipts.sqlite3")) as store:
        (stored,) = store.execute("SELECT count(*) FROM http_receipts").fetchone()
    assert stored == 5


SPEC = {"openapi": "3.1.0", "info": {"title": "s", "version": "1"}, "paths": {"/pets/{id}": {"get": {"responses": {}}}}}


async def test_unknown_paths_have_a_rate_of_their_own_and_take_nothing_of_the_others(tmp_path: Path) -> None:
    options = {"max_per_second": 3, "max_unknown_per_second": 2, "spec_text": json.dumps(SPEC), "clock": Clock()}
    async with sidecar(tmp_path, **options) as app:

        async def asked(path: str, number: int, method: str = "GET") -> Response:
            return await evaluate(app, path=path, request_id=f"{path}-{number}", method=method)

        scanned = [await asked("/.env", number, "POST") for number in range(20)]
        assert [one.status for one in scanned] == [200] * 2 + [429] * 18
        refused = scanned[-1]
        assert (refused.document["error"], refused.headers["retry-after"]) == ("chio_unknown_path_limit", "1")
        # HEAD of a path that the document has with `get` is a path of the application.
        assert [(await asked("/pets/1", number, "HEAD")).status for number in range(5)] == [200] * 3 + [503] * 2
        assert (await asked("/.env", 99)).document["error"] == "chio_overloaded"  # both are used up
    with contextlib.closing(sqlite3.connect(tmp_path / "receipts.sqlite3")) as store:
        (stored,) = store.execute("SELECT count(*) FROM http_receipts").fetchone()
    assert stored == 5


@pytest.mark.parametrize("more", [{"max_per_second": 2}, {"max_per_second": 2, "max_unknown_per_second": 1}])
async def test_without_a_document_no_path_is_unknown(more: dict[str, int], tmp_path: Path) -> None:
    async with sidecar(tmp_path, clock=Clock(), **more) as app:
        found = [(await evaluate(app, path=f"/{number}", request_id=str(number))).status for number in range(3)]
    assert found == [200, 200, 503]


def test_an_evaluation_works_without_lifespan_and_in_several_loops_one_after_the_other(tmp_path: Path) -> None:
    app = create_app(SidecarConfig(store_path=tmp_path / "r.sqlite3", signing_key=KERNEL))
    for number in range(3):
        assert run(evaluate(app, request_id=f"req-{number}")).status == 200
    run(app.state.close())
    answer = run(evaluate(app, request_id="too late"))
    assert answer.status == 500
    assert answer.document["message"] == "evaluation failed: this sidecar is closed; create a new one"


async def test_threads_with_loops_of_their_own_share_a_sidecar(tmp_path: Path) -> None:
    async def ask(app: SidecarApp, name: int) -> set[str]:
        answers = await asyncio.gather(*(decision(app, request_id=f"{name}-{number}") for number in range(50)))
        return {answer["receipt"]["id"] for answer in answers}

    async with sidecar(tmp_path) as app:
        found = await asyncio.gather(*(asyncio.to_thread(run, ask(app, name)) for name in range(6)))
        assert len(set.union(*found)) == 300
        assert len(await app.state.sidecar.store.list(limit=1000)) == 300


@pytest.mark.parametrize("name", ["query", "headers"])
async def test_a_request_with_very_many_members_is_refused_in_one_sentence(name: str, app: SidecarApp) -> None:
    most = {f"k{number}": "v" for number in range(1000)}
    assert (await evaluate(app, **{name: most})).status == 200
    answer = await evaluate(app, request_id="req-2", **{name: most | {"k": "v"}})
    assert answer.status == 400
    assert answer.document == {
        "error": "chio_bad_request",
        "message": f"invalid ChioHttpRequest payload: {name} has more than 1000 members",
    }


async def test_arguments_have_a_longest_text(app: SidecarApp) -> None:
    longest = "x" * (1024 * 1024 - 2)  # two quotation marks
    assert (await evaluate(app, arguments=longest)).status == 200
    for number, arguments in enumerate((longest + "x", [0] * 600_000, "é" * 600_000)):
        answer = await evaluate(app, request_id=f"req-{number + 2}", arguments=arguments)
        assert answer.status == 400
        assert "arguments are longer than 1048576 bytes" in answer.document["message"]
    other = await evaluate(app, request_id="req-9", body_hash="x" * 1_200_000, arguments="short")
    assert other.status == 200
