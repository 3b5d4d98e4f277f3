"""Observe mode on every face: all runs, what was withheld is marked, and nothing is passed off as allowed."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from chio_core import Chain
from chio_core.evaluation.outcomes import Decision
from chio_core.refusals.response import Denial
from chio_core.request import GuardRequest
from chio_core.testing import behaviours
from tests.faces.faces import ALONE, FACES, Face, Observation
from tests.tokens import with_token

each_face = pytest.mark.parametrize("face", FACES, ids=str)
each_way = pytest.mark.parametrize("face", [*(face for face in FACES if face.asks), *ALONE], ids=str)

ROUTES = [("POST", "/accounts/7/transfer"), ("GET", "/needs/two"), ("GET", "/needs/any")]


def mark_of(found: Observation) -> tuple[str, str]:
    """Return mode and code of the mark that the one handler saw, without a receipt."""
    (seen,) = found.seen
    assert seen.receipt is None
    assert seen.decision is None or seen.decision.observed
    return (seen.passthrough.mode, seen.passthrough.error)


@each_way
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_handler_runs_without_the_capability_that_its_route_requires(face: Face, method: str, path: str) -> None:
    with face.governed(observe=True) as governed:
        found = governed.send(method, path)
    assert found.status == 200
    assert found.seen[0].receipt is None
    if face in FACES:
        assert mark_of(found) == ("observe", "chio_capability_required")
        assert found.receipt
    requires = "any" if path == "/needs/any" else "payments/transfer"
    stated = dict(governed.asked[0]["enforcement"])
    framework = stated.pop("framework")  # the report says what to write for it
    assert face.name.startswith(framework)
    assert bool(stated.pop("view", None)) is (framework in ("django", "flask"))
    assert stated == {"mode": "observe", "requires": requires}
    assert [asked["enforcement"]["mode"] for asked in governed.asked] == ["observe"] * len(governed.asked)


@each_way
@pytest.mark.parametrize(("method", "path"), [("POST", "/accounts/7/transfer"), ("GET", "/needs/any")])
def test_with_the_capability_it_has_its_receipt(face: Face, method: str, path: str) -> None:
    with face.governed(observe=True) as governed:
        found = governed.send(method, path, with_token(("payments", "transfer")))
    (seen,) = found.seen
    assert (seen.receipt.id, seen.passthrough) == (found.json["receipt"], None)
    assert seen.decision is None or not seen.decision.observed
    assert len(governed.asked) == 1


@each_face
def test_a_denied_request_runs_with_its_body_and_names_the_receipt_of_the_refusal(face: Face) -> None:
    told: list[Any] = []
    hooks = {"on_decision": told.append, "on_receipt": told.append}
    with face.governed(behaviours.DENY, observe=True, **hooks) as governed:
        found = governed.send("POST", "/anything", body=[b"a", b"b"])
    assert (found.status, found.seen[0].body) == (200, b"ab")
    assert mark_of(found) == ("observe", "chio_access_denied")
    assert found.seen[0].passthrough.message == "side-effect route requires a capability token"
    decision, receipt = told
    assert (decision.observed, receipt.id) == (True, found.receipt)
    assert decision.receipt is receipt


@each_face
@pytest.mark.parametrize(
    ("path", "status"), [("/hello", 200), ("/anything", 403), ("/files/a", 200), ("/filesx", 403), ("/hello/", 403)]
)
def test_only_the_paths_that_were_named_are_observed(face: Face, path: str, status: int) -> None:
    with face.governed(behaviours.DENY, observe_paths=["/hello"], observe_prefixes=["/files"]) as governed:
        assert governed.get(path).status == status
    assert ["enforcement" in asked for asked in governed.asked] == [status == 200]


@each_face
def test_an_excluded_path_is_not_even_observed(face: Face) -> None:
    with face.governed(observe=True, exclude_paths=["/healthz"]) as governed:
        assert governed.get("/healthz").seen[0].decision is None
    assert governed.asked == []


@each_face
@pytest.mark.parametrize("path", ["/hello", "/needs/any"])
def test_a_sidecar_that_is_down_lets_requests_run_and_the_mark_says_so(face: Face, path: str) -> None:
    with face.governed(behaviours.REFUSE, observe=True) as governed:
        found = governed.get(path)
    assert (found.status, found.receipt) == (200, None)
    assert mark_of(found) == ("observe", "chio_sidecar_unreachable")


LARGE = b"x" * 100_000
MALFORMED = pytest.mark.parametrize(
    ("request_", "status"),
    [
        (("BREW", "/hello"), 405),
        (("POST", "/anything", [("authorization", "a"), ("authorization", "b")]), 400),
        (("POST", "/anything", [("x-chio-capability", "x" * 70_000)]), 400),
        (("POST", "/anything", [("x-chio-approval", "{")]), 400),
        (("GET", "/hello?" + "a&" * 1100), 400),
        (("POST", "/anything", (), LARGE), 413),
        (("POST", "/anything", (), [LARGE[:50_000], LARGE[50_000:]]), 413),
        (("GET", "/" + "a" * 9000), 414),
    ],
    ids=["method", "headers", "token", "approval", "query", "body", "chunks", "path"],
)


@each_face
@MALFORMED
@pytest.mark.parametrize("where", ["everywhere", "on this path"])
def test_what_is_refused_without_an_evaluation_runs_in_observe_mode_and_is_recorded(
    face: Face, request_: Any, status: int, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Decision] = []
    options: dict[str, Any] = {"max_body_bytes": 10, "spool_bytes": 1000, "max_spooled_bytes": 50_000}
    options |= {"observe": True} if where == "everywhere" else {"observe_paths": [request_[1].partition("?")[0]]}
    with face.governed(behaviours.DENY, on_decision=told.append, **options) as governed:
        found = governed.send(*request_)
    (decision,) = told
    assert (decision.denial, decision.observed) == (None, True)
    assert found.status in (200, 404, 405)  # the application's own answer
    assert "OBSERVED, NOT REFUSED" in caplog.text
    if status in (405, 414):
        assert (found.seen, governed.asked) == ([], [])
        return
    (seen,), (asked,) = found.seen, governed.asked
    assert (seen.body or b"", seen.receipt) == (LARGE if status in (411, 413) else b"", None)
    assert asked["enforcement"]["refused"] == f"{decision.withheld.status} {decision.withheld.message}"
    assert decision.withheld.status in (status, 411)
    assert "capability_id" not in asked


@each_face
@MALFORMED
@pytest.mark.parametrize("options", [{}, {"observe_paths": ["/elsewhere"]}, {"fail_open": True}], ids=str)
def test_no_other_request_passes_because_some_are_observed(
    face: Face, request_: Any, status: int, options: dict[str, Any]
) -> None:
    with face.governed(max_body_bytes=10, **options) as governed:
        found = governed.send(*request_)
    assert (found.status in (status, 411), found.seen, governed.asked) == (True, [], [])


@each_face
@pytest.mark.parametrize("priority", [-1, 1], ids=["before the decision", "after it"])
def test_a_guard_of_the_application_refuses_in_observe_mode_too(face: Face, priority: int) -> None:
    class Closed:
        """Refuses everything."""

        def __init__(self) -> None:
            self.priority = priority

        async def __call__(self, request: GuardRequest) -> Denial:
            return Denial(status=429, message="closed")

    decisions: list[Decision] = []
    receipts: list[Any] = []
    hooks = {"on_decision": decisions.append, "on_receipt": receipts.append}
    with face.governed(behaviours.DENY, observe=True, guards=[Closed()], **hooks) as governed:
        found = governed.get("/hello")
    assert (found.status, found.seen) == (429, [])
    assert [decision.allowed for decision in decisions] == ([False] if priority < 0 else [True, False])
    assert len(receipts) == (1 if priority > 0 else 0)


@each_face
def test_a_guard_behind_the_decision_sees_that_nothing_was_allowed(face: Face) -> None:
    seen: list[Any] = []

    async def looks(request: GuardRequest) -> None:
        receipt = getattr(request.state, "chio_receipt", None)  # in an event loop; threads have the decision alone
        seen.append((request.state.chio_decision.handler_receipt, receipt))

    with face.governed(behaviours.DENY, observe=True, guards=Chain().add(looks, priority=1)) as governed:
        assert governed.get("/pets/7").status == 200
    assert seen == [(None, None)]


@each_face
def test_it_is_logged_at_the_start_and_once_for_each_refusal(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="chio"), face.governed(behaviours.DENY, observe=True) as governed:
        governed.get("/hello")
        assert "observe mode" in caplog.text
        caplog.clear()
        governed.get("/pets/7")
        (record,) = [one for one in caplog.records if one.name.startswith("chio")]
    assert record.levelno == logging.WARNING
    assert "OBSERVED, NOT REFUSED" in record.getMessage()
    assert ("/pets/{pet}" if face.knows_routes else "/pets/7") in record.getMessage()
