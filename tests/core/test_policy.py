"""Approvals and budgets on the wire: what is sent, what a response has to state, and what an amount is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chio_core.errors import ApprovalRequired, ConfigurationError, EvaluationFailed, SidecarTimeout, SidecarUnreachable
from chio_core.evaluation.amounts import Facts, RequestRefused, from_body, from_path, from_query, read_amount
from chio_core.evaluation.conclude import conclude, conclude_error
from chio_core.evaluation.exchange import EvaluateCall, RawResponse
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.precheck import presented_approval
from chio_core.evaluation.requirements import includes, merged
from chio_core.models.demands import (
    MAX_UNITS,
    ApprovalDemand,
    BudgetDemand,
    approval_evidence,
    approval_from,
    budget_evidence,
    budget_from,
    demands_met,
)
from chio_core.models.receipt import GuardEvidence
from chio_core.receipts import KeyTrust
from chio_core.request import Requirement
from chio_core.settings import ChioSettings
from chio_core.testing import KEY, behaviours
from tests.core.views import NOW, SETTINGS, View, answered, asked, question, refusal_of
from tests.tokens import token

APPROVAL = ApprovalDemand(10_000, "USD", 12_000)
BUDGET = BudgetDemand(cost=3, max_invocations=10, max_total_cost=100)
WITH_TOKEN = ("x-chio-capability", token(("pay", "out"), now=NOW))
ALL = Requirement("pay", "out", approval=APPROVAL, budget=BUDGET)


def ask(requirement: Requirement, *headers: tuple[str, str], **more: Any) -> EvaluateCall:
    return question(View(headers=headers), requirement=requirement, **more)


def sent(about: EvaluateCall) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(about.body)
    return found


def decided(about: EvaluateCall, behaviour: Any = behaviours.ALLOW) -> Decision:
    reply = behaviour.reply(asked(about))
    return conclude(answered(reply.body, reply.status), about, SETTINGS, KeyTrust((KEY.public_hex,)), NOW)


# What is sent


def test_capability_approval_and_budget_travel_in_one_question() -> None:
    wire = sent(ask(ALL, WITH_TOKEN, ("x-chio-approval", "appr-1")))
    assert (wire["tool_server"], wire["tool_name"], wire["approval_token"]) == ("pay", "out", "appr-1")
    assert approval_from(wire["governed_intent"]) == APPROVAL
    assert budget_from(wire["budget"]) == BUDGET


@pytest.mark.parametrize("requirement", [Requirement("pay", "out"), Requirement(capability=False), None])
def test_an_approval_is_sent_also_where_only_the_sidecars_document_may_demand_one(requirement: Any) -> None:
    wire = sent(ask(requirement, WITH_TOKEN, ("x-chio-approval", "appr-1")))
    assert wire["approval_token"] == "appr-1"
    assert not {"governed_intent", "budget", "enforcement"} & wire.keys()
    assert "approval_token" not in sent(ask(requirement, WITH_TOKEN))


def test_an_approval_is_not_used_up_by_a_request_that_ends_in_401() -> None:
    assert "approval_token" not in sent(ask(Requirement("pay", "out"), ("x-chio-approval", "appr-1")))


def test_nobody_is_asked_to_approve_and_nothing_is_spent_for_a_request_that_ends_in_401() -> None:
    about = ask(ALL, ("x-chio-approval", "appr-1"))
    assert not {"approval_token", "governed_intent", "budget"} & sent(about).keys()
    denial = decided(about).denial
    assert denial is not None
    assert (denial.status, denial.code) == (401, "chio_capability_required")


def test_a_budget_needs_no_capability() -> None:
    about = ask(Requirement(capability=False, budget=BUDGET))
    assert sent(about)["budget"]["max_invocations"] == 10
    assert decided(about).denial is None


@pytest.mark.parametrize("text", ["appr-1", "  appr-1  ", "01J9Z.a:b_c-d", "a" * 128])
def test_an_approval_is_presented_by_its_id(text: str) -> None:
    assert presented_approval(View(headers=[("X-Chio-Approval", text)])) == text.strip()


def test_an_approval_is_presented_as_a_token() -> None:
    token = {"id": "t", "request_id": "appr-1", "issued_at": 1, "nested": {"a": [1, None]}}
    wire = sent(ask(ALL, WITH_TOKEN, ("x-chio-approval", json.dumps(token))))
    assert wire["approval_token"] == token


@pytest.mark.parametrize("text", ["", "   "])
def test_a_blank_approval_counts_as_none(text: str) -> None:
    assert presented_approval(View(headers=[("x-chio-approval", text)])) is None


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "a,b",
        "[1]",
        '"x"',
        "a" * 129,
        "é",
        "a\tb",
        "{",
        '{"a":1,"a":2}',
        '{"a":NaN}',
        '{"a":"é"}',
        '{"a":"\\ud800"}',
        '{"a":"' + "x" * 9000 + '"}',
        '{"a":' + "[" * 200 + "]" * 200 + "}",
    ],
)
def test_what_is_no_approval_is_refused_before_anybody_is_asked(text: str) -> None:
    denial = refusal_of(View(headers=[("x-chio-approval", text)]), SETTINGS)
    assert denial is not None
    assert (denial.status, denial.code) == (400, "chio_bad_request")
    assert "X-Chio-Approval" in denial.message
    assert text not in denial.message or text == "{"


def test_an_approval_that_stands_there_twice_is_refused() -> None:
    view = View(headers=[("x-chio-approval", "a"), ("X-Chio-Approval", "a")])
    denial = refusal_of(view, SETTINGS)
    assert denial is not None
    assert denial.message == "header x-chio-approval occurs more than once"


# What an answer has to say


def test_an_allow_that_shows_the_demands_was_made_is_an_allow() -> None:
    decision = decided(ask(ALL, WITH_TOKEN))
    assert (decision.denial, decision.allowed, decision.requirement) == (None, True, ALL)


@pytest.mark.parametrize(
    ("requirement", "what"),
    [
        (ALL, "approval and budget"),
        (Requirement(approval=APPROVAL), "approval"),
        (Requirement(capability=False, budget=BUDGET), "budget"),
        (Requirement(approval=ApprovalDemand(10, "USD", 3)), "approval"),
    ],
)
def test_an_allow_of_a_sidecar_that_ignores_demands_is_refused(requirement: Requirement, what: str) -> None:
    denial = decided(ask(requirement, WITH_TOKEN), behaviours.IGNORES_DEMANDS).denial
    assert denial is not None
    assert (denial.status, denial.code) == (502, "chio_policy_not_enforced")
    assert denial.message == f"Chio sidecar did not enforce the {what} of this route"
    assert denial.receipt_id is not None


@pytest.mark.parametrize(
    "said",
    [
        [],
        [("ApprovalGuard", False, approval_evidence(APPROVAL))],
        [("BudgetGuard", True, approval_evidence(APPROVAL))],
        [("ApprovalGuard", True, None)],
        [("ApprovalGuard", True, " " + approval_evidence(APPROVAL))],
        [("ApprovalGuard", True, approval_evidence(ApprovalDemand(10_000, "USD", 1)))],
        [("ApprovalGuard", True, approval_evidence(ApprovalDemand(10_001, "USD", 12_000)))],
        [("ApprovalGuard", True, approval_evidence(ApprovalDemand(10_000, "EUR", 12_000)))],
        [("ApprovalGuard", True, approval_evidence(ApprovalDemand(10_000, "USD")))],
    ],
)
def test_evidence_counts_for_the_very_demand_only(said: list[tuple[str, bool, str | None]]) -> None:
    evidence = [GuardEvidence(guard_name=guard, verdict=ok, details=details) for guard, ok, details in said]
    assert not demands_met(evidence, APPROVAL, None)
    good = GuardEvidence(guard_name="ApprovalGuard", verdict=True, details=approval_evidence(APPROVAL) + "approved")
    assert demands_met([*evidence, good], APPROVAL, None)
    assert not demands_met([good], APPROVAL, BUDGET)


def test_two_budgets_are_never_the_same_evidence() -> None:
    demands = [
        BudgetDemand(),
        BudgetDemand(cost=1),
        BudgetDemand(currency="EUR"),
        BudgetDemand(max_invocations=1),
        BudgetDemand(max_cost_per_invocation=1),
        BudgetDemand(max_total_cost=1),
        BudgetDemand(max_invocations=1, max_total_cost=1),
        BudgetDemand(max_invocations=11),
        BudgetDemand(cost=11),
    ]
    texts = [budget_evidence(demand) for demand in demands]
    assert not any(one != other and one.startswith(other) for one in texts for other in texts)
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("error", [SidecarUnreachable("x"), SidecarTimeout("x")])
@pytest.mark.parametrize(
    ("requirement", "passes"),
    [
        (Requirement(capability=False, budget=BUDGET), False),
        (Requirement(approval=APPROVAL), False),
        (Requirement(), False),
        (Requirement(capability=False), True),
        (Requirement(capability=False, observe=True), True),
    ],
)
def test_a_route_with_demands_never_fails_open(requirement: Requirement, error: Any, passes: bool) -> None:
    settings = ChioSettings(trusted_kernel_keys=[KEY.public_hex], fail_open=True)
    decision = conclude_error(error, ask(requirement, settings=settings), settings)
    assert decision.allowed is passes
    assert (decision.passthrough is not None) is passes


# The answer 409


def required(**members: Any) -> ApprovalRequired:
    document = {"error": "chio_approval_required", "message": "wait", **members}
    about = ask(ALL, WITH_TOKEN)
    with pytest.raises(ApprovalRequired) as caught:
        conclude(answered(json.dumps(document).encode(), 409), about, SETTINGS, KeyTrust(()), NOW)
    return caught.value


def test_a_needed_approval_is_a_403_that_says_how_to_go_on() -> None:
    error = required(kernel_receipt_id="rcpt-1", approval_id="appr-1", resume_path="/approvals/appr-1/respond")
    denial = conclude_error(error, ask(ALL, WITH_TOKEN), SETTINGS).denial
    assert denial is not None
    assert (denial.status, denial.code, denial.receipt_id) == (403, "chio_approval_required", "rcpt-1")
    assert denial.details == {
        "approval_id": "appr-1",
        "resume_path": "/approvals/appr-1/respond",
        "threshold": 10_000,
        "currency": "USD",
    }
    assert denial.suggestion == (
        "repeat the same request with X-Chio-Approval: appr-1 once an operator has approved it"
    )


@pytest.mark.parametrize(
    "text", ["a\r\nset-cookie: x", "a b", "é", "", "x" * 200, "<b>", "a\x1b[8m", 7, None, ["a"], {"a": 1}, True]
)
def test_nothing_odd_that_the_sidecar_says_is_repeated(text: Any) -> None:
    error = required(kernel_receipt_id=text, approval_id=text, resume_path=text)
    denial = conclude_error(error, ask(ALL, WITH_TOKEN), SETTINGS).denial
    assert denial is not None
    assert (denial.receipt_id, denial.suggestion) == (None, None)
    assert denial.details == {"threshold": 10_000, "currency": "USD"}


def test_an_approval_that_only_the_sidecars_document_demands_is_answered_in_the_same_way() -> None:
    error = required(approval_id="appr-1")
    denial = conclude_error(error, ask(Requirement(), WITH_TOKEN), SETTINGS).denial
    assert denial is not None
    assert denial.suggestion == "repeat the same request with X-Chio-Approval: appr-1 once an operator has approved it"
    assert denial.details == {"approval_id": "appr-1"}


def test_another_409_is_no_approval() -> None:
    answer = RawResponse(409, "application/json", b'{"error":"chio_conflict","approval_id":"appr-1"}')
    with pytest.raises(EvaluationFailed) as caught:
        conclude(answer, ask(ALL, WITH_TOKEN), SETTINGS, KeyTrust(()), NOW)
    assert not isinstance(caught.value, ApprovalRequired)


# Several demands


def test_of_each_kind_the_first_counts_and_a_named_capability_goes_first() -> None:
    second = ApprovalDemand(1, "EUR")
    demands = [
        Requirement(),
        Requirement(approval=APPROVAL),
        Requirement("pay", "out"),
        Requirement("audit", "write"),
        Requirement(capability=False, budget=BUDGET),
        Requirement(approval=second),
        Requirement(capability=False, observe=True),
    ]
    assert merged(demands) == Requirement("pay", "out", approval=APPROVAL, budget=BUDGET, observe=True)
    assert merged([]) is None
    assert merged([Requirement(capability=False)]) is None
    assert merged([Requirement(capability=False, budget=BUDGET)] * 2) == Requirement(capability=False, budget=BUDGET)


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        (Requirement(), True),
        (Requirement("pay", "out"), True),
        (Requirement("pay", "in"), False),
        (Requirement("pay", "out", ("read",)), False),
        (Requirement("pay", "out", arguments={"n": 1}), False),
        (Requirement(approval=APPROVAL), True),
        (Requirement(approval=ApprovalDemand(10_000, "USD", 12_001)), False),
        (Requirement(capability=False, budget=BUDGET), True),
        (Requirement(capability=False, budget=BudgetDemand(cost=4)), False),
    ],
)
def test_a_decision_counts_for_what_was_part_of_it(wanted: Requirement, part: bool) -> None:
    assert includes(ALL, wanted) is part
    assert not includes(None, wanted)


def test_arguments_that_python_calls_equal_are_not_the_same_demand() -> None:
    one, true = (Requirement("pay", "out", arguments={"n": value}) for value in (1, True))
    assert one == true
    assert not includes(one, true)


def test_a_budget_alone_stands_for_no_capability() -> None:
    assert not includes(Requirement(capability=False, budget=BUDGET), Requirement())


# Amounts


def facts(body: bytes = b"", *headers: tuple[str, str], query: str = "", **params: Any) -> Facts:
    lines = headers or (("content-type", "application/json"),)
    return Facts(params, View(query=query, headers=lines), body)


def read(source: Any, known: Facts) -> int | None:
    return read_amount(source, known, "Budget(cost=…)")


@pytest.mark.parametrize(
    ("source", "known", "amount"),
    [
        (5, facts(), 5),
        (None, facts(), None),
        (from_path("n"), facts(n=7), 7),
        (from_path("n"), facts(n="007"), 7),
        (from_query("n"), facts(query="a=1&n=12"), 12),
        (from_query("n"), facts(query="%6E=%31"), 1),
        (from_body("n"), facts(b'{"n":12}'), 12),
        (from_body("a.b.c"), facts(b'{"a":{"b":{"c":0,"d":"x"}}}'), 0),
        (from_body("n"), facts(b'{"n":9223372036854775807}'), MAX_UNITS),
        (from_body("n"), facts(b'{"n":1}', ("content-type", "application/vnd.pay+json; charset=UTF-8")), 1),
        (from_body("n"), facts(b'{"n":1}', ("content-type", "application/json;charset=utf-8;x=y")), 1),
        (lambda params: params["n"] * 2, facts(n=4), 8),
    ],
)
def test_an_amount_is_read_from_its_place(source: Any, known: Facts, amount: int | None) -> None:
    assert read(source, known) == amount


@pytest.mark.parametrize(
    "text", ["-1", "+1", "1.0", "1e3", "1_000", "1_0", " 1", "0x1", "", "٣", "abc", "9223372036854775808"]
)
def test_text_that_is_no_plain_number_is_refused(text: str) -> None:
    with pytest.raises(RequestRefused, match="path parameter n must be a whole number"):
        read(from_path("n"), facts(n=text))
    with pytest.raises(RequestRefused, match="query parameter n must be a whole number"):
        read(from_query("n"), facts(query="n=" + text.replace("+", "%2B")))


@pytest.mark.parametrize("value", ["true", "null", "-1", "1.0", "1e3", '"12"', "[1]", '{"a":1}', "9223372036854775808"])
def test_a_member_that_is_no_whole_number_is_refused(value: str) -> None:
    with pytest.raises(RequestRefused, match=r"body member a\.n must be a whole number") as caught:
        read(from_body("a.n"), facts(b'{"a":{"n":' + value.encode() + b"}}"))
    assert caught.value.denial.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"n":1}x',
        b'{"n":1,"n":2}',
        b'{"n":1,"a":{"b":1,"b":1}}',
        b'{"n":1,"a":NaN}',
        b"\xef\xbb\xbf" + b'{"n":1}',
        '{"n":1}'.encode("utf-16"),
        b'{"n":1,"\xff":1}',
        b"[" * 5000,
    ],
)
def test_a_body_that_two_readers_could_read_differently_is_refused(body: bytes) -> None:
    with pytest.raises(RequestRefused, match="body is no JSON document with one reading, but n is needed"):
        read(from_body("n"), facts(body))


@pytest.mark.parametrize("body", [b"{}", b"[]", b"1", b"null", b'{"a":1}', b'{"a":[{"n":1}]}', b'{"a":{"N":1}}'])
def test_a_missing_member_is_named(body: bytes) -> None:
    with pytest.raises(RequestRefused, match=r"body member a\.n is missing"):
        read(from_body("a.n"), facts(body))


@pytest.mark.parametrize(
    "headers",
    [
        [("content-type", "text/plain")],
        [("content-type", "application/x-www-form-urlencoded")],
        [("content-type", "multipart/form-data; boundary=json")],
        [("content-type", "application/jsonx")],
        [("content-type", "application/json, text/plain")],
        [("content-type", "application/json; charset=utf-16")],
        [("content-type", "application/json; charset=utf-8; charset=utf-16")],
        [("content-type", "")],
        [("x", "y")],
        [("content-type", "application/json"), ("content-encoding", "gzip")],
    ],
)
def test_a_body_of_another_kind_is_refused(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(RequestRefused) as caught:
        read(from_body("n"), facts(b'{"n":1}', *headers))
    assert caught.value.denial.status == 415


@pytest.mark.parametrize(("query", "how"), [("", "is missing"), ("m=1", "is missing"), ("n=1&n=1", "more than once")])
def test_a_query_parameter_must_stand_there_once(query: str, how: str) -> None:
    with pytest.raises(RequestRefused, match=f"query parameter n .*{how}"):
        read(from_query("n"), facts(query=query))


def test_what_a_function_returns_must_be_an_int() -> None:
    for value in ("5", 5.0, True, None):
        with pytest.raises(ConfigurationError, match=rf"Budget\(cost=…\) returned a {type(value).__name__}"):
            read(lambda params, value=value: value, facts())
    with pytest.raises(RequestRefused):
        read(lambda params: -1, facts())


def test_a_source_that_cannot_be_used_here_says_so() -> None:
    for source in (from_query("n"), from_body("n")):
        with pytest.raises(ConfigurationError, match="n"):
            read(source, Facts({}))
    with pytest.raises(ConfigurationError, match="websocket"):
        read(from_body("n"), Facts({}, View()))
    with pytest.raises(ConfigurationError, match="no path parameter"):
        read(from_path("n"), facts(m=1))


@pytest.mark.parametrize(
    ("make", "name"),
    [(from_path, ""), (from_query, ""), (from_body, ""), (from_body, "a..b"), (from_body, ".a"), (from_body, None)],
)
def test_a_source_without_a_name_is_refused_at_the_start(make: Any, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        make(name)


def test_without_the_capability_a_needed_approval_is_a_401() -> None:
    error = required(kernel_receipt_id="rcpt-1", approval_id="appr-1")
    denial = conclude_error(error, ask(Requirement("pay", "out")), SETTINGS).denial
    assert denial is not None
    assert (denial.status, denial.code, denial.receipt_id) == (401, "chio_capability_required", "rcpt-1")
