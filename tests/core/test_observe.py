"""Observe mode: for which requests, and what a refusal becomes."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx
import pytest

from chio_core import ChioSettings, ConfigurationError
from chio_core.client.client import ChioClient
from chio_core.errors import ReceiptRejected, SidecarTimeout, SidecarUnreachable
from chio_core.evaluation.conclude import conclude, conclude_error
from chio_core.evaluation.hooks import refused_by_guard
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.precheck import is_observed
from chio_core.models.demands import ApprovalDemand
from chio_core.outbound import OutboundDenied, decision_of, receipt_of
from chio_core.outbound.govern import GovernOutbound
from chio_core.outbound.transport import ChioTransport
from chio_core.receipts import KeyTrust
from chio_core.refusals.response import Denial
from chio_core.request import Requirement
from chio_core.settings_report import report_settings, unsafe_options
from chio_core.telemetry import Telemetry
from chio_core.testing import KEY, ScriptedSidecar, behaviours
from tests.core.views import NOW, View, answered, asked, question
from tests.support import run

PINNED: dict[str, Any] = {"trusted_kernel_keys": [KEY.public_hex]}
PAY = Requirement("payments", "transfer")
TRUST = KeyTrust((KEY.public_hex,))


def observing(**options: Any) -> ChioSettings:
    return ChioSettings(**PINNED, **({"observe": True} | options))


# For which requests


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/reports", True),
        ("/reports/", False),
        ("/reports/7", False),
        ("/Reports", False),
        ("/v2", True),
        ("/v2/", True),
        ("/v2/pets/7", True),
        ("/v20", False),
        ("/V2/pets", False),
        ("/v1/v2", False),
        ("/%76%32", False),
        ("", False),
    ],
)
def test_a_path_is_observed_when_the_router_sees_it_as_it_is_written(path: str, wanted: bool) -> None:
    settings = ChioSettings(**PINNED, observe_paths=["/reports"], observe_prefixes=["/v2"])
    assert is_observed(settings, path) is wanted
    assert question(View(path=path), settings=settings).observe is wanted


def test_nothing_is_observed_unless_it_was_asked_for() -> None:
    assert not is_observed(ChioSettings(**PINNED), "/", PAY)
    assert not question(requirement=PAY).observe


def test_the_whole_application_or_one_route_may_be_observed() -> None:
    assert is_observed(observing(), "/anything")
    assert is_observed(ChioSettings(**PINNED), "/anything", Requirement(capability=False, observe=True))


# Settings


@pytest.mark.parametrize("option", ["observe_paths", "observe_prefixes"])
def test_paths_are_written_as_those_of_exclusions(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"CHIO_{option.upper()}", "/a, /b")
    assert getattr(ChioSettings(), option) == {"/a", "/b"}
    with pytest.raises(ConfigurationError, match="must start with /"):
        ChioSettings(**{option: ["a"]})


def test_a_prefix_of_everything_is_a_mistake_and_the_remedy_is_named() -> None:
    with pytest.raises(ConfigurationError, match="switch observe on"):
        ChioSettings(observe_prefixes="/")
    assert ChioSettings(observe_prefixes="/v2/").observe_prefixes == {"/v2"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"observe": True}, "on every path"),
        ({"observe": True, "observe_paths": ["/a"]}, "on every path"),
        ({"observe_paths": ["/b", "/a"]}, "on /a, /b"),
        ({"observe_prefixes": ["/v2"]}, "on /v2/…"),
    ],
)
def test_it_is_said_aloud_at_the_start(options: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = ChioSettings(**PINNED, **options)
    with caplog.at_level(logging.WARNING, logger="chio"):
        report_settings(settings, environ={})
    assert unsafe_options(settings).keys() == {"observe"}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "observe mode" in record.getMessage()
    assert record.getMessage().endswith(said)


# The question


@pytest.mark.parametrize(
    ("requirement", "wanted"),
    [
        (None, {"mode": "observe"}),
        (PAY, {"mode": "observe", "requires": "payments/transfer"}),
        (Requirement(), {"mode": "observe", "requires": "any"}),
        (Requirement(capability=False, observe=True), {"mode": "observe"}),
        (Requirement(capability=False, approval=ApprovalDemand(5, "USD")), {"mode": "observe"}),
    ],
)
def test_the_question_says_that_nothing_is_enforced_and_what_would_be(
    requirement: Requirement | None, wanted: dict[str, str]
) -> None:
    assert json.loads(question(requirement=requirement, settings=observing()).body)["enforcement"] == wanted
    if requirement is None or not requirement.observe:
        assert "enforcement" not in json.loads(question(requirement=requirement).body)


# What a refusal becomes


def refused(requirement: Requirement | None = None, **options: Any) -> Decision:
    settings = observing(**options)
    about = question(settings=settings, requirement=requirement)
    answer = answered(behaviours.DENY.reply(asked(about)).body)
    return conclude(answer, about, settings, TRUST, NOW)


def test_a_refusal_becomes_a_mark_and_everything_else_of_it_stays() -> None:
    decision = refused()
    assert decision.allowed
    assert decision.observed
    assert decision.denial is None
    assert decision.verdict == "deny"
    assert decision.receipt is not None
    assert decision.handler_receipt is None
    assert decision.withheld is not None
    assert decision.withheld.receipt_id == decision.receipt.id
    assert decision.passthrough is not None
    assert decision.passthrough.mode == "observe"
    assert decision.passthrough.error == "chio_access_denied"
    assert decision.passthrough.message == decision.withheld.message


def test_an_allow_stays_an_allow() -> None:
    about = question(settings=observing())
    answer = answered(behaviours.ALLOW.reply(asked(about)).body)
    decision = conclude(answer, about, observing(), TRUST, NOW)
    assert not decision.observed
    assert decision.passthrough is None
    assert decision.handler_receipt is decision.receipt is not None


def test_where_a_capability_was_not_presented_no_allow_of_the_sidecar_is_handed_out() -> None:
    about = question(settings=observing(), requirement=PAY)
    answer = answered(behaviours.ALLOW.reply(asked(about)).body)
    decision = conclude(answer, about, observing(), TRUST, NOW)
    assert decision.receipt is not None
    assert decision.receipt.verdict.is_allow
    assert decision.handler_receipt is None
    assert decision.withheld is not None
    assert decision.withheld.status == 401


@pytest.mark.parametrize("requirement", [None, PAY])
@pytest.mark.parametrize("error", [SidecarUnreachable("x"), SidecarTimeout("x"), ReceiptRejected("signature", "x")])
def test_a_sidecar_that_gives_no_decision_is_observed_too_and_the_mark_says_why(
    error: Any, requirement: Requirement | None
) -> None:
    about = question(settings=observing(), requirement=requirement)
    decision = conclude_error(error, about, observing())
    assert decision.allowed
    assert (decision.verdict, decision.receipt) == ("error", None)
    assert decision.passthrough is not None
    assert (decision.passthrough.mode, decision.passthrough.error) == ("observe", error.code)


def test_fail_open_comes_first_where_it_applies() -> None:
    settings = observing(fail_open=True)
    about = question(settings=settings)
    decision = conclude_error(SidecarTimeout("x"), about, settings)
    assert not decision.observed
    assert decision.passthrough is not None
    assert decision.passthrough.mode == "allow_without_receipt"


def test_a_decision_that_is_not_observed_is_not_touched() -> None:
    about = question()
    decision = conclude(answered(behaviours.DENY.reply(asked(about)).body), about, ChioSettings(**PINNED), TRUST, NOW)
    assert decision.denial is not None
    assert not decision.observed


@pytest.mark.parametrize("observe", [True, False], ids=["observe", "fail open"])
def test_a_guard_that_refuses_afterwards_still_refuses_and_nothing_says_that_the_request_ran(observe: bool) -> None:
    before = refused() if observe else conclude_error(SidecarTimeout("x"), question(), ChioSettings(fail_open=True))
    assert (before.allowed, before.observed) == (True, observe)
    decision = refused_by_guard(before, Denial(status=429, message="too many"), [])
    assert decision is not None
    assert not decision.allowed
    assert (decision.observed, decision.withheld, decision.passthrough) == (False, None, None)
    assert (decision.verdict, decision.receipt) == ("refused", before.receipt)
    assert decision.denial is not None
    assert decision.denial.status == 429


def test_a_refusal_by_a_guard_is_neither_counted_nor_logged_as_observed(caplog: pytest.LogCaptureFixture) -> None:
    decision = refused_by_guard(refused(), Denial(status=429, code="too_many", message="too many"), [])
    assert decision is not None
    telemetry = Telemetry(ChioSettings())
    with caplog.at_level(logging.INFO, logger="chio"):
        telemetry.refused(decision, "GET", "/")
    (record,) = caplog.records
    assert record.getMessage().startswith("chio: refused 429 too_many: GET /: too many; ")
    assert record.__dict__["chio_observed"] is False
    page = telemetry.metrics.render()
    assert 'chio_decisions_total{code="too_many",verdict="refused"} 1.0' in page
    assert 'chio_observed_refusals_total{code="too_many"}' not in page


# Clients


def test_each_observed_refusal_is_one_warning_with_its_facts(caplog: pytest.LogCaptureFixture) -> None:
    sidecar = ScriptedSidecar(behaviours.DENY)
    with caplog.at_level(logging.WARNING, logger="chio"):
        decision = run(_decided(sidecar.client(observe=True)))
    assert decision.observed
    (record,) = caplog.records
    text = record.getMessage()
    assert record.name.startswith("chio")
    assert "OBSERVED, NOT REFUSED" in text
    assert decision.receipt is not None
    assert decision.receipt.id in text
    assert record.__dict__["chio_observed"] is True
    assert record.__dict__["chio_code"] == "chio_access_denied"


async def _decided(client: ChioClient, view: View | None = None) -> Decision:
    async with client:
        return await client.evaluate(question(view, settings=client.settings))


def test_a_path_that_strangers_wrote_breaks_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    sidecar = ScriptedSidecar(behaviours.DENY)
    client = sidecar.client(observe=True)
    about = question(View(path="/a\nforged\x1b[2J"), settings=client.settings, template=None)

    async def main() -> None:
        async with client:
            await client.evaluate(about)

    with caplog.at_level(logging.WARNING, logger="chio"):
        run(main())
    assert "\n" not in caplog.records[0].getMessage()
    assert "\x1b" not in caplog.records[0].getMessage()


# Outgoing calls


def _fetched(**options: Any) -> httpx.Response:
    """Send one request through the transport, under a sidecar that denies."""

    async def main() -> httpx.Response:
        async with ScriptedSidecar(behaviours.DENY).client(**options) as client:
            inner = httpx.MockTransport(lambda request: httpx.Response(200, text="sent"))
            async with httpx.AsyncClient(transport=ChioTransport(inner, GovernOutbound(client))) as http:
                return await http.get("https://partner.example/v2/pets")

    return run(main())


def test_the_calls_of_an_application_that_is_observed_as_a_whole_are_observed_too() -> None:
    response = _fetched(observe=True)
    assert response.text == "sent"
    assert receipt_of(response) is None
    decision = decision_of(response)
    assert decision is not None
    assert decision.observed


def test_paths_are_those_of_the_application_and_never_those_of_somebody_elses() -> None:
    with pytest.raises(OutboundDenied):
        _fetched(observe_prefixes=["/v2"], observe_paths=["/v2/pets"])
