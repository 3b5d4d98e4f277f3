"""One line for each decision: its level, its fields, that nothing can break or flood it, and that it costs nothing."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from chio_core.evaluation.outcomes import Decision
from chio_core.refusals.response import Denial
from chio_core.telemetry import Telemetry
from chio_core.telemetry.log import MAX_SHOWN, Throttle, extra_of, request_facts, shown
from chio_core.testing import ScriptedSidecar, behaviours
from tests.core.spans import Recorder, facts
from tests.core.test_telemetry import INCOMING, ask
from tests.core.views import SETTINGS, View
from tests.hostile import BEHAVIOURS

LOGGER = "chio.decision"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger=LOGGER)
    return caplog


def only(told: pytest.LogCaptureFixture) -> logging.LogRecord:
    (record,) = [record for record in told.records if record.name == LOGGER]
    return record


def fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name.startswith("chio_")}


@pytest.mark.parametrize(
    ("behaviour", "options", "level", "begins"),
    [
        ("allow", {}, logging.INFO, "chio: allow: POST /pets/{id}; request req-1, receipt "),
        ("deny", {}, logging.INFO, "chio: deny 403 chio_access_denied: POST /pets/{id}; request req-1, receipt "),
        ("approval_required", {}, logging.INFO, "chio: approval_required 403 chio_approval_required: POST /pets/{id}"),
        ("status_500", {}, logging.ERROR, "chio: refused without a decision 502 chio_evaluation_failed: POST /pets"),
        ("hang", {}, logging.ERROR, "chio: refused without a decision 503 chio_timeout: POST /pets/{id}"),
        ("hang", {"fail_open": True}, logging.WARNING, "chio: PASSED WITHOUT A DECISION chio_timeout: POST /pets/{id}"),
        ("deny", {"observe": True}, logging.WARNING, "chio: OBSERVED, NOT REFUSED 403 chio_access_denied: POST /pets"),
        ("hang", {"observe": True}, logging.WARNING, "chio: OBSERVED, NOT REFUSED 503 chio_timeout: POST /pets/{id}"),
    ],
)
def test_a_decision_is_one_line_of_this_level(
    told: pytest.LogCaptureFixture, behaviour: str, options: dict[str, Any], level: int, begins: str
) -> None:
    ask(ScriptedSidecar(BEHAVIOURS[behaviour]), None, timeout=0.05, **options)
    assert only(told).levelno == level
    assert only(told).getMessage().startswith(begins)


@pytest.mark.parametrize("behaviour", ["allow", "approval_required", "deny", "status_500"])
def test_the_fields_are_the_attributes_of_the_span(told: pytest.LogCaptureFixture, behaviour: str) -> None:
    recorder = Recorder()
    ask(ScriptedSidecar(BEHAVIOURS[behaviour]), recorder, View(headers=[("traceparent", INCOMING)]))
    trace_id = {"chio_trace_id": INCOMING.split("-")[1]}
    assert fields(only(told)) == extra_of(facts(recorder.only)) | trace_id


def test_waiting_for_an_approval_is_no_error(told: pytest.LogCaptureFixture) -> None:
    ask(ScriptedSidecar(BEHAVIOURS["approval_required"]), None)
    assert fields(only(told))["chio_verdict"] == "approval_required"
    assert "chio_error_type" not in fields(only(told))


def test_without_opentelemetry_the_trace_id_is_that_of_the_caller(told: pytest.LogCaptureFixture) -> None:
    ask(ScriptedSidecar(), None, View(headers=[("traceparent", INCOMING)]))
    assert fields(only(told))["chio_trace_id"] == INCOMING.split("-")[1]


def test_the_fields_can_be_written_as_json_with_the_standard_library_alone(told: pytest.LogCaptureFixture) -> None:
    ask(ScriptedSidecar(behaviours.DENY), None)
    document = json.loads(json.dumps(fields(only(told))))
    assert document["chio_verdict"] == "deny"
    assert document["chio_http_route"] == "/pets/{id}"
    assert not set(document) & set(vars(logging.makeLogRecord({})))


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/plain/it's", "/plain/it's"),
        ("/a\nchio: allow: GET /", r"/a\nchio: allow: GET /"),
        ("/\x1b[31mred", r"/\x1b[31mred"),
        ("/a\\nb", r"/a\\nb"),
        ("/caf\xe9/\u202egnp", r"/caf\xe9/\u202egnp"),
        ("/\ud800", r"/\ud800"),
        ("/" + "x" * 300, "/" + "x" * (MAX_SHOWN - 2) + "…"),
        ("/" + "\n" * 8000, None),
    ],
)
def test_a_path_cannot_break_a_line_or_make_it_endless(path: str, seen: str | None) -> None:
    found = shown(path)
    assert seen is None or found == seen
    assert found.replace("…", "").isascii()
    assert found.isprintable()
    assert len(found) <= MAX_SHOWN


def test_unknown_methods_are_not_repeated() -> None:
    assert request_facts("GET\r\nx", "/")["http.request.method"] == "_OTHER"


def test_what_a_sidecar_writes_cannot_break_a_line_either(told: pytest.LogCaptureFixture) -> None:
    denial = Denial(message="no\nchio: allow", guard="Guard\x1b[2J", code="co\nde", receipt_id="r\n1")
    Telemetry(SETTINGS).refused(Decision(verdict="de\nny", denial=denial), "GET", "/\n")
    record = only(told)
    assert record.getMessage().isprintable()
    assert all(str(value).isprintable() for value in fields(record).values())


def test_a_failed_guard_is_an_error_and_a_refusal_is_not(told: pytest.LogCaptureFixture) -> None:
    telemetry = Telemetry(SETTINGS)
    for status, level in ((500, logging.ERROR), (429, logging.INFO), (503, logging.INFO)):
        told.clear()
        telemetry.refused(Decision(verdict="refused", denial=Denial(status=status, message="no")), "GET", "/")
        assert only(told).levelno == level


def test_no_line_is_written_where_the_level_is_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger=LOGGER)
    ask(ScriptedSidecar(), None)
    assert caplog.records == []


def test_a_logger_whose_filter_fails_changes_no_outcome(told: pytest.LogCaptureFixture) -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise RuntimeError("broken filter")

    logger = logging.getLogger(LOGGER)
    logger.addFilter(broken)
    try:
        (decision,) = ask(ScriptedSidecar(), None)
    finally:
        logger.removeFilter(broken)
    assert decision.allowed
    assert "telemetry failed" in told.text


def test_a_throttle_lets_a_number_of_lines_through_and_says_how_many_it_did_not() -> None:
    now, out = [0.0], io.StringIO()
    logger = logging.Logger("throttled")
    handler = logging.StreamHandler(out)
    logger.addHandler(handler)
    logger.addFilter(Throttle(lines=2, seconds=60, clock=lambda: now[0]))
    for number in range(5):
        logger.error("line %d of 100%%", number)
    logger.warning("another level")
    now[0] = 60.0
    logger.error("line %d", 5)
    logger.error("line %d", 6)
    assert out.getvalue().splitlines() == [
        "line 0 of 100%",
        "line 1 of 100%",
        "another level",
        "line 5 (3 lines before it were left out)",
        "line 6",
    ]
