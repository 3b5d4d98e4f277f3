"""What every face lets through, what it refuses, and what a handler reads of it."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest

from chio_core.models.receipt import HttpReceipt
from chio_core.models.request import CallerIdentity
from chio_core.receipts import verify_receipt
from chio_core.testing import EvaluateRequest, Reply, behaviours
from chio_core.testing.behaviours import ALLOW, Behaviour
from chio_core.testing.exchange import compact
from tests.faces.contract import STREAM
from tests.faces.faces import FACES, Face
from tests.faces.wsgi import environ

each_face = pytest.mark.parametrize("face", FACES, ids=str)
ALLOWING, REFUSING = behaviours.ALLOW, behaviours.REFUSE


@each_face
def test_an_allowed_request_reaches_its_handler_with_the_verified_receipt(face: Face) -> None:
    with face.governed() as governed:
        found = governed.get("/hello")
    (seen,) = found.seen
    assert (found.status, seen.decision.verdict, seen.passthrough) == (200, "allow", None)
    assert found.receipt == seen.receipt.id == found.json["receipt"]
    assert verify_receipt(seen.receipt.raw, trusted_keys=[governed.sidecar.public_key]).id == found.receipt
    assert len(governed.asked) == 1


@each_face
def test_a_denied_request_is_answered_in_the_envelope_of_the_face_with_its_receipt(face: Face) -> None:
    with face.governed(behaviours.DENY) as governed:
        found = governed.send("POST", "/anything", body=b"x")
    assert (found.status, found.code, found.seen) == (403, face.code("chio_access_denied"), [])
    assert found.problem["message"] == "side-effect route requires a capability token"
    assert found.receipt == found.problem["receipt_id"]
    assert found.headers["content-type"] == "application/json"
    assert found.headers["cache-control"] == "no-store"
    assert len(governed.asked) == 1


@each_face
@pytest.mark.parametrize("fail_open", [False, True])
def test_a_sidecar_that_is_away_refuses_or_opens_as_configured(face: Face, fail_open: bool) -> None:
    with face.governed(REFUSING, fail_open=fail_open) as governed:
        found = governed.get("/hello")
    assert found.receipt is None
    if fail_open:
        (seen,) = found.seen
        assert (found.status, seen.receipt, seen.passthrough.error) == (200, None, "chio_sidecar_unreachable")
    else:
        assert (found.status, found.code, found.seen) == (503, face.code("chio_sidecar_unreachable"), [])


@each_face
def test_excluded_paths_and_methods_are_not_evaluated(face: Face) -> None:
    told: list[Any] = []
    excluded = {"exclude_paths": ["/healthz"], "exclude_prefixes": ["/static"]}
    with face.governed(REFUSING, on_decision=told.append, **excluded) as governed:
        (seen,) = governed.get("/healthz", [("x-chio-capability", "a"), ("x-chio-capability", "b")]).seen
        assert (seen.decision, seen.receipt) == (None, None)
        assert governed.get("/static/site.css").status == 200
        assert governed.send("OPTIONS", "/hello").status != 503
        assert told == []
        assert governed.get("/healthz/").status == 503
    assert governed.asked == []


@each_face
def test_excluded_methods_are_compared_as_they_are_written_on_the_wire(face: Face) -> None:
    with face.governed(exclude_methods=["get"]) as governed:
        assert governed.get("/hello").seen[0].decision is None
        assert governed.send("get", "/hello").code == face.code("chio_bad_request")
    assert governed.asked == []


@each_face
@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [("GET", "/nowhere", (404,)), ("GET", "/fails", (500,)), ("GET", "/slashed", (301, 307, 308, 404)),
     ("POST", "/hello", (405,))],
)  # fmt: skip
def test_errors_and_redirects_name_the_receipt_too(
    face: Face, method: str, path: str, statuses: tuple[int, ...]
) -> None:
    with face.governed() as governed:
        found = governed.send(method, path)
    assert found.status in statuses
    assert found.receipt
    assert [one["route_pattern"] for one in governed.asked] == [path]


@each_face
def test_a_handler_cannot_claim_a_receipt(face: Face) -> None:
    with face.governed() as governed:
        tagged = governed.get("/claims")
    with face.governed(REFUSING, fail_open=True) as governed:
        passed = governed.get("/claims")
    with face.governed(REFUSING, exclude_paths=["/claims"]) as governed:
        excluded = governed.get("/claims")
    assert tagged.receipt == tagged.seen[0].receipt.id
    assert (passed.status, passed.receipt, excluded.status, excluded.receipt) == (200, None, 200, None)
    assert [found.headers["x-other"] for found in (tagged, passed, excluded)] == ["kept"] * 3


@each_face
def test_repeated_lines_of_a_response_stay(face: Face) -> None:
    with face.governed() as governed:
        cookies = governed.get("/cookies").all("set-cookie")
    assert sorted(line.strip().partition(";")[0] for line in cookies) == ["a=1", "b=1"]


@each_face
def test_the_receipt_header_can_have_another_name(face: Face) -> None:
    with face.governed(receipt_header="X-Decision") as governed:
        found = governed.get("/claims")
    assert found.headers["x-decision"] == found.seen[0].receipt.id
    assert found.receipt == "forged"


@each_face
def test_a_stream_stays_what_it_is(face: Face) -> None:
    with face.governed() as governed:
        found = governed.get("/stream")
    assert found.body == "".join(STREAM).encode()
    assert found.receipt


@each_face
def test_the_capability_token_travels_in_its_header_and_nowhere_else(face: Face) -> None:
    with face.governed() as governed:
        governed.send("POST", "/anything?chio_capability=secret&a=1", {"X-Chio-Capability": "{}"})
    (asked,) = governed.sidecar.asked
    assert (asked.capability_text, asked.document["query"]) == ("{}", {"a": "1"})
    assert b"secret" not in asked.body


@each_face
def test_a_method_that_the_protocol_does_not_know_is_405(face: Face) -> None:
    with face.governed() as governed:
        found = governed.send("TRACE", "/hello")
    assert (found.status, governed.asked) == (405, [])
    assert "GET" in found.headers["allow"]


@each_face
@pytest.mark.parametrize("script", [ALLOWING, behaviours.DENY])
def test_hooks_are_called_once_and_their_failures_change_nothing(
    face: Face, script: Any, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []

    def fails(value: Any) -> None:
        heard.append(value)
        raise RuntimeError("the hook fails")

    with face.governed(script, on_decision=fails, on_receipt=fails) as governed, caplog.at_level(logging.ERROR, "chio"):
        found = governed.get("/hello")
    decision, receipt = heard
    assert found.status == (200 if decision.verdict == "allow" else 403)
    assert decision.allowed is (found.status == 200)
    assert isinstance(receipt, HttpReceipt)
    assert decision.receipt is receipt
    assert receipt.id == found.receipt
    assert sum("the request goes on" in record.getMessage() for record in caplog.records) == 2


@each_face
def test_without_a_receipt_only_the_hook_of_decisions_is_called(face: Face) -> None:
    decisions: list[Any] = []
    receipts: list[Any] = []
    hooks = {"on_decision": decisions.append, "on_receipt": receipts.append}
    with face.governed(REFUSING, max_body_bytes=1, fail_open=True, **hooks) as governed:
        governed.send("POST", "/anything", body=b"too long")
        governed.get("/hello", [("authorization", "a"), ("authorization", "b")])
        governed.send("BREW", "/hello")
        assert governed.get("/hello").status == 200
    assert [decision.verdict for decision in decisions] == ["refused", "refused", "refused", "passthrough"]
    assert [decision.denial.status for decision in decisions[:3]] == [413, 400, 405]
    assert (decisions[3].denial, decisions[3].passthrough.error) == (None, "chio_sidecar_unreachable")
    assert receipts == []


@each_face
def test_what_a_hook_returns_does_not_matter(face: Face) -> None:
    hooks = {"on_decision": lambda decision: False, "on_receipt": lambda receipt: {"verdict": "deny"}}
    with face.governed(**hooks) as governed:
        assert governed.get("/hello").status == 200


@each_face
def test_the_extractor_names_the_caller(face: Face) -> None:
    with face.governed(extractor=lambda view: CallerIdentity.mtls("CN=me", "00")) as governed:
        governed.get("/hello")
    assert governed.asked[0]["caller"]["subject"] == "CN=me"


@each_face
@pytest.mark.parametrize(
    ("headers", "method"),
    [
        ({"Authorization": "Bearer example-token"}, "bearer"),
        ({"X-API-Key": "k"}, "api_key"),
        ({"Cookie": "a=1; session=s"}, "cookie"),
        ({}, "anonymous"),
    ],
)
def test_the_caller_is_found_in_the_request(face: Face, headers: dict[str, str], method: str) -> None:
    with face.governed() as governed:
        governed.get("/hello", headers)
    assert governed.asked[0]["caller"]["auth_method"]["method"] == method


@pytest.mark.parametrize("face", [face for face in FACES if face.threaded], ids=str)
def test_nothing_of_a_request_is_left_when_its_response_is_gone(face: Face) -> None:
    kept: list[weakref.ref[Any]] = []
    with face.governed() as governed:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                environment = environ("POST", "/anything", b"hello")
                kept.append(weakref.ref(environment["wsgi.errors"]))
                governed.wire.call(environment)
                del environment
        finally:
            gc.enable()
    assert [reference() for reference in kept] == [None] * 3


# The reason of a sidecar that gives no decision is in the application's log, and in nothing that a caller sees


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


# A sidecar that evaluates for bearers only: every framework presents the token to it alone


CANARY = "canary-5be1d2"
REFUSAL = {"error": "chio_evaluate_unauthorized", "message": "set CHIO_EVALUATE_TOKEN"}
NO_BEARER = Behaviour("no_bearer", "Refuse a caller without the token.", lambda _: Reply(compact(REFUSAL), 401))


def for_bearers(asked: EvaluateRequest) -> Behaviour:
    return ALLOW if asked.headers.get("authorization") == f"Bearer {CANARY}" else NO_BEARER


@pytest.mark.parametrize("face", FACES, ids=str)
def test_the_token_goes_to_the_sidecar_alone(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), face.governed(for_bearers, evaluate_token=CANARY) as governed:
        found = governed.get("/hello", [("Authorization", "Bearer of-the-caller")])
        assert [asked.headers["authorization"] for asked in governed.sidecar.asked] == [f"Bearer {CANARY}"]
    assert found.receipt
    assert CANARY not in caplog.text + str(found) + str(governed.asked)


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize("options", [{}, {"evaluate_token": "another", "fail_open": True}], ids=["none", "another"])
def test_without_it_every_request_is_refused_and_the_log_says_why(
    face: Face, options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with face.governed(for_bearers, **options) as governed, caplog.at_level(logging.INFO, "chio.decision"):
        found = governed.get("/hello")
    assert (found.status, found.seen) == (502, [])
    assert "Chio sidecar returned 401 chio_evaluate_unauthorized: set CHIO_EVALUATE_TOKEN" in caplog.text
    assert b"TOKEN" not in found.body
