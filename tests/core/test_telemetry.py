"""The span of each evaluation: its attributes, its parent, its trace at the sidecar, and that it changes no outcome."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.evaluation.outcomes import Decision
from chio_core.refusals.response import Denial, bad_request
from chio_core.telemetry import Telemetry, server_facts, trace_id_in
from chio_core.testing import ScriptedSidecar, behaviours
from tests.core.spans import Broken, BrokenAtTheEnd, Recorder, facts, traceparent
from tests.core.views import SETTINGS, View, question
from tests.hostile import BEHAVIOURS
from tests.support import run

INCOMING = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def client_of(sidecar: ScriptedSidecar, recorder: Recorder | None, **options: Any) -> ChioClient:
    settings = sidecar.settings(receipt_tolerance=10**9, **options)
    telemetry = Telemetry(settings, recorder.provider if recorder is not None else None)
    return ChioClient(settings, transport=sidecar.transport(), telemetry=telemetry)


def ask(sidecar: ScriptedSidecar, recorder: Recorder | None, *views: View, **options: Any) -> list[Decision]:
    async def main() -> list[Decision]:
        async with client_of(sidecar, recorder, **options) as client:
            return [await client.evaluate(question(view, settings=client.settings)) for view in views or (View(),)]

    return run(main())


def test_the_span_of_an_allow_names_the_request_the_sidecar_and_the_receipt() -> None:
    sidecar, recorder = ScriptedSidecar(), Recorder()
    (decision,) = ask(sidecar, recorder)
    span = recorder.only
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert decision.receipt is not None
    assert facts(span) == {
        "http.request.method": "POST",
        "http.route": "/pets/{id}",
        "url.path": "/pets/7",
        "server.address": "localhost",
        "server.port": 80,
        "chio.request.id": "req-1",
        "chio.verdict": "allow",
        "chio.receipt.id": decision.receipt.id,
        "chio.fail_open": False,
        "chio.observed": False,
    }


def test_a_deny_is_a_decision_and_no_error() -> None:
    recorder = Recorder()
    (decision,) = ask(ScriptedSidecar(behaviours.DENY), recorder)
    span = recorder.only
    assert span.status.status_code is StatusCode.UNSET
    assert decision.denial is not None
    found = facts(span)
    assert (found["chio.verdict"], found["chio.code"], found["chio.status"]) == ("deny", "chio_access_denied", 403)
    assert found["chio.guard"] == decision.denial.guard
    assert "error.type" not in found


@pytest.mark.parametrize("fail_open", [False, True])
@pytest.mark.parametrize("name", ["hang", "refuse_connections", "status_500", "not_json", "bad_signature"])
def test_the_span_is_an_error_only_where_there_was_no_decision(name: str, fail_open: bool) -> None:
    recorder = Recorder()
    (decision,) = ask(ScriptedSidecar(BEHAVIOURS[name]), recorder, fail_open=fail_open, timeout=0.05)
    span = recorder.only
    passed = fail_open and name in ("hang", "refuse_connections")
    assert span.status.status_code is StatusCode.ERROR
    code = decision.passthrough.error if decision.passthrough else decision.denial and decision.denial.code
    assert facts(span)["error.type"] == facts(span)["chio.code"] == code
    assert facts(span)["chio.fail_open"] is passed
    assert facts(span)["chio.verdict"] == ("passthrough" if passed else "error")


def test_an_observed_refusal_is_marked_and_no_error() -> None:
    recorder = Recorder()
    (decision,) = ask(ScriptedSidecar(behaviours.DENY), recorder, observe=True)
    assert decision.observed
    found = facts(recorder.only)
    assert (found["chio.observed"], found["chio.fail_open"], found["chio.verdict"]) == (True, False, "deny")
    assert recorder.only.status.status_code is StatusCode.UNSET


def test_the_sidecar_gets_the_trace_of_this_span_and_not_that_of_the_caller() -> None:
    sidecar, recorder = ScriptedSidecar(), Recorder()
    ask(sidecar, recorder, View(headers=[("traceparent", INCOMING)]))
    assert sidecar.asked[0].headers["traceparent"] == traceparent(recorder.only) != INCOMING


def test_the_caller_is_the_parent_if_no_span_is_current() -> None:
    recorder = Recorder()
    ask(ScriptedSidecar(), recorder, View(headers=[("traceparent", INCOMING)]))
    parent = recorder.only.parent
    assert parent is not None
    assert (f"{parent.trace_id:032x}", f"{parent.span_id:016x}") == tuple(INCOMING.split("-")[1:3])


@pytest.mark.parametrize("broken", ["", "x", "00-0-0-00", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", INCOMING * 9])
def test_an_invalid_traceparent_starts_a_new_trace(broken: str) -> None:
    sidecar, recorder = ScriptedSidecar(), Recorder()
    ask(sidecar, recorder, View(headers=[("traceparent", broken)]))
    assert recorder.only.parent is None
    assert sidecar.asked[0].headers["traceparent"] == traceparent(recorder.only)


async def test_the_span_is_a_child_of_the_current_one_and_is_current_during_the_exchange() -> None:
    recorder = Recorder()
    seen: list[trace.Span] = []

    class Watching(ChioClient):
        async def post(self, path: str, body: bytes, headers: Any = (), **more: Any) -> Any:
            seen.append(trace.get_current_span())
            return await super().post(path, body, headers)

    sidecar = ScriptedSidecar()
    settings = sidecar.settings(receipt_tolerance=10**9)
    telemetry = Telemetry(settings, recorder.provider)
    async with Watching(settings, transport=sidecar.transport(), telemetry=telemetry) as client:
        tracer = recorder.provider.get_tracer("test")
        with tracer.start_as_current_span("request") as outer:
            await client.evaluate(question(View(headers=[("traceparent", INCOMING)])))
            assert trace.get_current_span() is outer
    request = next(span for span in recorder.spans if span.name == "request")
    assert recorder.only.parent == request.get_span_context()
    assert seen[0].get_span_context() == recorder.only.get_span_context()


async def test_fifty_evaluations_at_once_have_a_span_and_a_trace_each() -> None:
    sidecar, recorder = ScriptedSidecar(), Recorder()
    async with client_of(sidecar, recorder) as client:
        await asyncio.gather(*(client.evaluate(question(request_id=f"req-{number}")) for number in range(50)))
    sent = {one.document["request_id"]: one.headers["traceparent"] for one in sidecar.asked}
    assert sent == {str(facts(span)["chio.request.id"]): traceparent(span) for span in recorder.evaluations}
    assert len({span.context.trace_id for span in recorder.evaluations if span.context}) == 50


async def test_an_evaluation_that_is_cancelled_ends_its_span_with_an_error() -> None:
    recorder = Recorder()
    asking = asyncio.Event()

    class Waiting(ChioClient):
        async def post(self, path: str, body: bytes, headers: Any = (), **more: Any) -> Any:
            asking.set()
            await asyncio.Event().wait()

    client = Waiting(SETTINGS, telemetry=Telemetry(SETTINGS, recorder.provider))
    task = asyncio.ensure_future(client.evaluate(question()))
    await asking.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.metrics.decisions.total == 0
    assert recorder.only.status.status_code is StatusCode.ERROR
    assert facts(recorder.only)["error.type"] == "CancelledError"


def test_a_trace_that_is_not_sampled_is_passed_on_as_such() -> None:
    sidecar, recorder = ScriptedSidecar(), Recorder(sampler=ALWAYS_OFF)
    (decision,) = ask(sidecar, recorder)
    assert decision.allowed
    assert recorder.spans == ()
    flags = int(sidecar.asked[0].headers["traceparent"][-2:], 16)
    assert not flags & trace.TraceFlags.SAMPLED


@pytest.mark.parametrize("provider", [None, trace.NoOpTracerProvider()], ids=["no SDK", "switched off"])
async def test_without_an_sdk_the_header_of_the_caller_goes_on_as_it_is(provider: Any) -> None:
    sidecar = ScriptedSidecar()
    settings = sidecar.settings(receipt_tolerance=10**9)
    telemetry = Telemetry(settings, provider)
    async with ChioClient(settings, transport=sidecar.transport(), telemetry=telemetry) as client:
        await client.evaluate(question(View(headers=[("traceparent", INCOMING)])))
        await client.evaluate(question())
    assert sidecar.asked[0].headers["traceparent"] == INCOMING
    assert "traceparent" not in sidecar.asked[1].headers


@pytest.mark.parametrize("processor", [Broken(), BrokenAtTheEnd()], ids=lambda one: type(one).__name__)
def test_a_broken_processor_of_spans_changes_no_outcome(processor: Any, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    recorder.provider.add_span_processor(processor)
    before = trace.get_current_span()
    (decision,) = ask(ScriptedSidecar(), recorder)
    assert decision.allowed
    assert trace.get_current_span() is before
    assert "telemetry failed" in caplog.text


def test_a_handler_of_all_logs_that_fails_changes_no_outcome(caplog: pytest.LogCaptureFixture) -> None:
    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left on device")

    handler = Full()
    logging.getLogger().addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, logger="chio.decision"):
            (decision,) = ask(ScriptedSidecar(), None)
    finally:
        logging.getLogger().removeHandler(handler)
    assert decision.allowed


def test_the_synchronous_client_records_the_same() -> None:
    recorder = Recorder()
    with ScriptedSidecar().serving_in_thread() as sidecar:
        settings = sidecar.settings(receipt_tolerance=10**9)
        with SyncChioClient(settings, telemetry=Telemetry(settings, recorder.provider)) as client:
            decision = client.evaluate(question(View(headers=[("traceparent", INCOMING)])))
            assert client.metrics.decisions.value("allow", "none") == 1
        assert decision.receipt is not None
        assert facts(recorder.only)["chio.receipt.id"] == decision.receipt.id
        assert f"127.0.0.1:{facts(recorder.only)['server.port']}" in sidecar.url
        assert sidecar.asked[0].headers["traceparent"] == traceparent(recorder.only)


def test_a_refusal_without_an_evaluation_is_counted_and_logged_only(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    telemetry = Telemetry(SETTINGS, recorder.provider)
    with caplog.at_level(logging.INFO, logger="chio.decision"):
        telemetry.refused(
            Decision(verdict="refused", denial=bad_request("header host occurs more than once")), "GET", "/"
        )
        limited = Denial(status=429, code="chio_rate_limited", message="too many requests", guard="local/rate_limit")
        telemetry.refused(Decision(verdict="refused", denial=limited), "BREW", "/")
    assert recorder.spans == ()
    assert telemetry.metrics.decisions.value("refused", "chio_bad_request") == 1
    assert telemetry.metrics.decisions.value("refused", "chio_rate_limited") == 1
    assert [record.getMessage() for record in caplog.records] == [
        "chio: refused 400 chio_bad_request: GET /: header host occurs more than once; request none, receipt none",
        "chio: refused 429 chio_rate_limited: _OTHER /: too many requests; request none, receipt none",
    ]


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://10.0.0.7:9090/base", {"server.address": "10.0.0.7", "server.port": 9090}),
        ("https://sidecar.test", {"server.address": "sidecar.test", "server.port": 443}),
        ("unix:/run/chio.sock", {"server.address": "/run/chio.sock"}),
        ("embedded:chio.sqlite3", {}),
    ],
)
def test_the_address_of_the_sidecar_has_the_names_of_opentelemetry(url: str, found: dict[str, Any]) -> None:
    assert server_facts(url) == found


def test_only_a_trace_id_that_is_one_is_taken_out_of_a_header() -> None:
    assert trace_id_in((("traceparent", INCOMING),)) == INCOMING.split("-")[1]
    for broken in ("", "secret", "00-secret", f"00-{'0' * 32}-b7ad6b7169203331-01", INCOMING.upper()):
        assert trace_id_in((("traceparent", broken),)) is None


_WITH_A_GLOBAL_PROVIDER = """
from opentelemetry import trace
from tests.core.spans import Recorder
from tests.core.test_telemetry import ask, ScriptedSidecar
sidecar, recorder = ScriptedSidecar(), Recorder()
ask(sidecar, None)
trace.set_tracer_provider(recorder.provider)
ask(sidecar, None)
print(len(recorder.evaluations), ["traceparent" in one.headers for one in sidecar.asked])
"""

_WITHOUT_OPENTELEMETRY = """
import sys
sys.modules["opentelemetry"] = None  # what is not installed cannot be imported
from chio_core.client.client import ChioClient
from chio_core.settings import ChioSettings
from chio_core.testing import ScriptedSidecar
client = ScriptedSidecar().client()
assert client.telemetry._spans is None
print("fine")
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [(_WITH_A_GLOBAL_PROVIDER, "1 [False, True]"), (_WITHOUT_OPENTELEMETRY, "fine")],
    ids=["global", "none"],
)
def test_a_global_provider_counts_from_when_it_is_set_and_opentelemetry_may_be_missing(code: str, said: str) -> None:
    """In a separate process, because a global provider can be set once."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == (said, "")
