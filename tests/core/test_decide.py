"""Deciding without I/O: refusals before the evaluation, the evaluate request, and the decision of a response."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import SecretStr

from chio_core.canonical import parse_json
from chio_core.errors import (
    EvaluationFailed,
    Overloaded,
    ReceiptRejected,
    SidecarError,
    SidecarTimeout,
    SidecarUnreachable,
)
from chio_core.evaluation.conclude import conclude, conclude_error
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.precheck import MAX_HEADER_BYTES, presented_token
from chio_core.receipts import KeyTrust
from chio_core.request import Requirement
from chio_core.settings import ChioSettings
from chio_core.testing import KEY
from chio_core.testing.exchange import ALLOW, DENY
from tests import tokens
from tests.core.views import NOW, SETTINGS, View, answered, asked, question, refusal_of
from tests.hostile import BEHAVIOURS

TRANSFER = Requirement("payments", "transfer")


def token(*grants: tuple[str, str, list[str]], constraints: Any = (), **options: Any) -> str:
    objects = [
        {"server_id": server, "tool_name": tool, "operations": operations, "constraints": list(constraints)}
        for server, tool, operations in grants
    ]
    return tokens.token(*objects, now=NOW, **options)


def with_token(text: str) -> View:
    return View(headers=[("x-chio-capability", text)])


def conclusion(
    one: EvaluateCall, answer: bytes, *, settings: ChioSettings = SETTINGS, trust: KeyTrust | None = None
) -> Decision:
    trust = trust if trust is not None else KeyTrust(settings.trusted_kernel_keys)
    return conclude(answered(answer), one, settings, trust, NOW)


# Before anybody is asked


def refusal(view: View, settings: ChioSettings = SETTINGS) -> tuple[int, str] | None:
    denial = refusal_of(view, settings)
    return None if denial is None else (denial.status, denial.code)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
def test_an_ordinary_request_is_put_to_the_sidecar(method: str) -> None:
    headers = [("host", "h"), ("authorization", "Bearer t"), ("accept", "a"), ("accept", "b"), ("cookie", "a"),
               ("cookie", "b"), ("traceparent", "x"), ("traceparent", "y")]  # fmt: skip
    assert refusal(View(method, headers=headers)) is None


@pytest.mark.parametrize("method", ["get", "Get", "TRACE", "CONNECT", "FOO", "", "GET\n"])
def test_a_method_that_the_protocol_does_not_know_is_405_and_names_those_that_it_does(method: str) -> None:
    denial = refusal_of(View(method), SETTINGS)
    assert denial is not None
    assert (denial.status, denial.code) == (405, "chio_bad_request")
    assert denial.header("allow") == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


@pytest.mark.parametrize(
    "name", ["Authorization", "X-Chio-Capability", "x-api-key", "Content-Length", "Content-Type", "Host"]
)
def test_a_security_header_that_stands_twice_is_refused_even_with_the_same_value(name: str) -> None:
    assert refusal(View(headers=[(name, "a"), (name.lower(), "a")])) == (400, "chio_bad_request")


def test_the_singletons_follow_the_settings() -> None:
    settings = ChioSettings(capability_header="X-Cap", api_key_header="X-Key")
    for name in ("X-Cap", "x-key"):
        assert refusal(View(headers=[(name, "a"), (name, "a")]), settings) == (400, "chio_bad_request")
    assert refusal(View(headers=[("x-api-key", "a"), ("x-api-key", "b")]), settings) is None


@pytest.mark.parametrize("text", ["é", "a\tb", "a\nb", "\x00", "x" * (MAX_HEADER_BYTES + 1)], ids=repr)
def test_a_token_that_no_header_can_carry_is_refused(text: str) -> None:
    assert refusal(with_token(f"a{text}a")) == (400, "chio_bad_request")


def test_a_query_that_cannot_be_read_is_refused() -> None:
    assert refusal(View(query="&".join("a" for _ in range(1001)))) == (400, "chio_bad_request")
    assert refusal(View(path="/\udcff")) == (400, "chio_bad_request")


def test_a_refusal_does_not_repeat_what_it_refuses() -> None:
    for view in (View("HUNTER2"), with_token("hunter2\nx"), View(path="/hunter2\udcff")):
        denial = refusal_of(view, SETTINGS)
        assert denial is not None
        assert "hunter2" not in denial.message.lower()


# The question


def test_the_token_travels_in_one_header_and_nowhere_else() -> None:
    text = token(("payments", "transfer", ["invoke"]))
    one = question(with_token(f" {text} "))
    assert one.headers == (("X-Chio-Capability", text),)
    assert one.presented.token == text
    assert text.encode() not in one.body


@pytest.mark.parametrize("value", ["", "   "])
def test_a_blank_token_is_none(value: str) -> None:
    assert question(with_token(value)).headers == ()
    assert presented_token(with_token(value), SETTINGS) is None


def test_a_token_in_the_query_counts_only_where_that_is_switched_on() -> None:
    view = View(query="a=1&chio_capability=%7B%22id%22%3A1%7D")
    assert presented_token(view, SETTINGS) is None
    settings = ChioSettings(trusted_kernel_keys=[KEY.public_hex], capability_in_query=True)
    assert presented_token(view, settings) == '{"id":1}'
    one = question(view, settings=settings)
    assert one.headers == (("X-Chio-Capability", '{"id":1}'),)
    assert parse_json(one.body)["query"] == {"a": "1"}


def test_a_token_in_another_header_travels_under_the_name_of_the_protocol() -> None:
    settings = ChioSettings(trusted_kernel_keys=[KEY.public_hex], capability_header="X-Cap")
    one = question(View(headers=[("x-cap", "t"), ("x-chio-capability", "ignored")]), settings=settings)
    assert one.headers == (("X-Chio-Capability", "t"),)


def test_the_trace_is_passed_on_when_there_is_one() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert question(View(headers=[("traceparent", trace)])).headers == (("traceparent", trace),)
    for lines in ([trace, trace], ["é"], ["a\x01"]):
        assert question(View(headers=[("traceparent", line) for line in lines])).headers == ()


def test_a_question_shows_no_token() -> None:
    one = question(View(headers=[("x-chio-capability", "hunter2"), ("authorization", "Bearer hunter2")]))
    assert "hunter2" not in repr(one)
    assert "hunter2" not in repr(one.request)


# The answer


def test_an_allow_with_its_receipt_opens_the_door() -> None:
    one = question()
    decision = conclusion(one, asked(one).response_bytes())
    assert decision.allowed
    assert (decision.verdict, decision.denial, decision.passthrough) == ("allow", None, None)
    assert decision.receipt is not None
    assert decision.request_id == decision.receipt.request_id == "req-1"
    assert decision.evidence[0].guard_name == "DefaultPolicyGuard"
    assert decision.caller == one.request.caller


@pytest.mark.parametrize("verdict", [DENY, {"verdict": "cancel", "reason": "r"}, {"verdict": "permit"}])
def test_another_verdict_refuses_and_its_receipt_is_kept(verdict: Mapping[str, Any]) -> None:
    one = question()
    decision = conclusion(one, asked(one).response_bytes(verdict))
    assert not decision.allowed
    assert decision.receipt is not None
    assert decision.denial is not None
    assert decision.denial.receipt_id == decision.receipt.id
    assert decision.verdict == verdict["verdict"]


@pytest.mark.parametrize(
    ("name", "error"),
    [("foreign_key", "kernel_key"), ("wrong_content", "content_hash"), ("deny_receipt_under_allow", "verdict"),
     ("allow_receipt_under_deny", "verdict"), ("final_scope", "scope"), ("stale", "timestamp"),
     ("newer_id_wrong", "id"), ("newer_observation", "semantics"), ("signature_null", "shape")],
)  # fmt: skip
def test_a_receipt_that_does_not_count_names_its_rule(name: str, error: str) -> None:
    one = question()
    with pytest.raises(ReceiptRejected) as refused:
        conclusion(one, BEHAVIOURS[name].reply(asked(one)).body)
    assert refused.value.rule == error


def test_an_answer_of_another_status_keeps_status_and_code_for_the_log() -> None:
    with pytest.raises(EvaluationFailed) as failed:
        conclude(answered(b'{"error":"chio_bad_request"}', 400), question(), SETTINGS, KeyTrust(), NOW)
    assert (failed.value.status, failed.value.detail) == (400, "chio_bad_request")
    with pytest.raises(EvaluationFailed) as failed:
        conclude(answered(b"<html>", 503, "text/html"), question(), SETTINGS, KeyTrust(), NOW)
    assert (failed.value.status, failed.value.detail) == (503, None)


def test_an_address_without_a_sidecar_names_the_setting_in_the_log() -> None:
    for body in (b'{"error":"chio_not_found","message":"nothing here"}', b"<html>"):
        with pytest.raises(EvaluationFailed, match="does CHIO_SIDECAR_URL name a sidecar"):
            conclude(answered(body, 404), question(), SETTINGS, KeyTrust(), NOW)


@pytest.mark.parametrize(("status", "code"), [(503, "chio_overloaded"), (429, "chio_unknown_path_limit")])
def test_a_sidecar_that_limits_evaluations_leads_to_503_and_never_to_a_passthrough(status: int, code: str) -> None:
    refusal = answered(f'{{"error":"{code}","message":"more than 5"}}'.encode(), status)
    with pytest.raises(Overloaded, match="overloaded: more than 5") as failed:
        conclude(refusal, question(), SETTINGS, KeyTrust(), NOW)
    lenient = SETTINGS.model_copy(update={"fail_open": True})
    denial = conclude_error(failed.value, question(), lenient).denial
    assert denial is not None
    assert (denial.status, denial.code) == (503, "chio_overloaded")
    with pytest.raises(EvaluationFailed):
        conclude(answered(f'{{"error":"{code}"}}'.encode(), 418), question(), SETTINGS, KeyTrust(), NOW)


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "application/json;x"])
def test_json_may_be_called_json_in_any_spelling(content_type: str) -> None:
    one = question()
    answer = answered(asked(one).response_bytes(), 200, content_type)
    assert conclude(answer, one, SETTINGS, KeyTrust(), NOW).allowed


def test_the_members_of_an_answer_that_nobody_knows_do_not_matter() -> None:
    one = question()
    document = {**asked(one).response(), "execution_nonce": {"nonce": {}}, "later": [None], "evidence": "anything"}
    assert conclusion(one, json.dumps(document).encode()).allowed


def test_two_spellings_of_one_verdict_are_the_same() -> None:
    one = question()
    receipt = asked(one).receipt(DENY)
    top = {**DENY, "details": {}}
    del top["details"]
    answer = {"verdict": dict(reversed(top.items())), "receipt": receipt}
    assert conclusion(one, json.dumps(answer).encode()).verdict == "deny"


# A capability is required


def required(view: View, requirement: Requirement, verdict: Mapping[str, Any] = ALLOW, **changes: Any) -> Decision:
    one = question(view, requirement=requirement)
    return conclusion(one, asked(one).response_bytes(verdict, **changes))


def outcome(decision: Decision) -> tuple[int, str] | None:
    return None if decision.denial is None else (decision.denial.status, decision.denial.code)


def test_without_a_capability_it_is_401_even_where_the_sidecar_allowed() -> None:
    for verdict in (ALLOW, DENY):
        decision = required(View(), TRANSFER, verdict)
        assert outcome(decision) == (401, "chio_capability_required")
        assert decision.receipt is not None
    assert required(View(), TRANSFER).verdict == "refused"


def test_a_capability_that_grants_what_is_required_opens_the_door() -> None:
    decision = required(with_token(token(("payments", "transfer", ["invoke"]))), TRANSFER)
    assert decision.allowed
    assert decision.requirement == TRANSFER


@pytest.mark.parametrize(
    "grants",
    [
        (), (("payments", "refund", ["invoke"]),), (("ledger", "transfer", ["invoke"]),),
        (("payments", "transfer", ["read"]),), (("payments", "trans*", ["invoke"]),),
    ],
)  # fmt: skip
def test_a_capability_for_something_else_is_403_though_the_sidecar_allowed(grants: Any) -> None:
    decision = required(with_token(token(*grants)), TRANSFER)
    assert outcome(decision) == (403, "chio_access_denied")
    assert decision.verdict == "refused"
    assert decision.denial is not None
    assert "payments/transfer" in decision.denial.message


def test_a_wildcard_grant_covers() -> None:
    assert required(with_token(token(("*", "*", ["invoke"]))), TRANSFER).allowed


def test_all_operations_must_be_granted() -> None:
    both = Requirement("payments", "transfer", operations=("invoke", "read"))
    assert required(with_token(token(("payments", "transfer", ["read", "invoke"]))), both).allowed
    assert not required(with_token(token(("payments", "transfer", ["invoke"]))), both).allowed


def test_the_constraints_of_a_grant_are_held_against_the_arguments() -> None:
    limited = token(("payments", "transfer", ["invoke"]), constraints=[{"type": "max_length", "value": 3}])
    for to, allowed in (("abc", True), ("abcd", False)):
        requirement = Requirement("payments", "transfer", arguments={"to": to})
        assert required(with_token(limited), requirement).allowed is allowed
    broken = token(("payments", "transfer", ["invoke"]), constraints=[{"type": "regex_match", "value": "(?=x)"}])
    assert not required(with_token(broken), Requirement("payments", "transfer", arguments={"to": "x"})).allowed


@pytest.mark.parametrize("stated", [None, "another", ""])
def test_the_capability_must_be_the_one_that_the_receipt_names(stated: str | None) -> None:
    view = with_token(token(("payments", "transfer", ["invoke"])))
    assert outcome(required(view, TRANSFER, capability_id=stated)) == (403, "chio_access_denied")


@pytest.mark.parametrize("text", ["garbage", "{}", "[]", '{"id":"cap-1"}'])
def test_a_capability_that_cannot_be_read_covers_nothing(text: str) -> None:
    for requirement in (TRANSFER, Requirement()):
        assert not required(with_token(text), requirement, capability_id="cap-1").allowed


def test_any_valid_capability_meets_a_requirement_that_names_no_tool() -> None:
    assert required(with_token(token()), Requirement()).allowed
    assert not required(with_token(token()), Requirement(), capability_id=None).allowed


# No answer


@pytest.mark.parametrize("error", [SidecarUnreachable("m"), SidecarTimeout("m")])
def test_fail_open_lets_pass_with_a_mark_and_without_a_receipt(error: SidecarError) -> None:
    closed = conclude_error(error, question(), SETTINGS)
    assert (closed.allowed, closed.verdict) == (False, "error")
    opened = conclude_error(error, question(), ChioSettings(fail_open=True))
    assert (opened.allowed, opened.verdict, opened.receipt) == (True, "passthrough", None)
    assert opened.passthrough is not None
    assert opened.passthrough.error == error.code


@pytest.mark.parametrize(
    "error", [EvaluationFailed("m", status=503), ReceiptRejected("signature", "m"), SidecarError("m")]
)
def test_fail_open_does_not_let_a_wrong_answer_pass(error: SidecarError) -> None:
    assert not conclude_error(error, question(), ChioSettings(fail_open=True)).allowed


@pytest.mark.parametrize("requirement", [TRANSFER, Requirement()])
def test_fail_open_never_meets_a_requirement(requirement: Requirement) -> None:
    one = question(requirement=requirement)
    assert not conclude_error(SidecarUnreachable("m"), one, ChioSettings(fail_open=True)).allowed


def test_a_decision_without_receipt_and_without_mark_is_no_allowance() -> None:
    assert not Decision(verdict="allow").allowed


# The reason of a sidecar that gives no decision


def reason(message: Any, code: Any = "chio_evaluation_failed", about: EvaluateCall | None = None) -> str:
    document = json.dumps({"error": code, "message": message}).encode()
    with pytest.raises(EvaluationFailed) as failed:
        conclude(answered(document, 500), about or question(), SETTINGS, KeyTrust(SETTINGS.trusted_kernel_keys), NOW)
    return failed.value.message


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("the receipt store is locked by another process", ": the receipt store is locked by another process"),
        ("two\r\nlines\x1b[31m and a \u202e", ": two lines [31m and a"),
        ("x " * 500, ": " + "x " * 100),
        ("a" * 1000, ": …"),
        ("", ""),
        (None, ""),
        (["a", "list"], ""),
    ],
)
def test_the_reason_is_short_and_printable(message: Any, shown: str) -> None:
    assert reason(message) == f"Chio sidecar returned 500 chio_evaluation_failed{shown}"


@pytest.mark.parametrize("code", ["Chio", "chio\n", "x" * 65, 5, None])
def test_a_code_that_is_none_is_not_repeated(code: Any) -> None:
    assert reason("why", code) == "Chio sidecar returned 500: why"


def test_the_reason_repeats_nothing_that_was_sent() -> None:
    text = token(("payments", "transfer", ["invoke"]))
    view = View(query="account=DE89370400440532013000", headers=[("x-chio-capability", text)])
    about = question(view, requirement=Requirement("payments", "transfer", arguments={"amount": "fortytwo"}))
    said = reason(f"bad token {text}, query {about.request.query}, arguments {about.request.arguments}", about=about)
    assert said.startswith("Chio sidecar returned 500 chio_evaluation_failed: bad token {")
    for secret in (*parse_json(text.encode()).values(), "DE89370400440532013000", "fortytwo"):
        assert not isinstance(secret, str) or secret not in said


def test_the_reason_does_not_repeat_the_token_of_the_sidecar() -> None:
    presented = SETTINGS.model_copy(update={"evaluate_token": SecretStr("canary-5be1d2")})
    body = b'{"error":"denied","message":"no user for Bearer canary-5be1d2"}'
    with pytest.raises(EvaluationFailed) as failed:
        conclude(answered(body, 401), question(), presented, KeyTrust(()), NOW)
    assert failed.value.message == "Chio sidecar returned 401 denied: no user for Bearer …-…"


def test_a_broken_or_foreign_body_gives_no_reason() -> None:
    for body in (b"<h1>502</h1>", b"", b"[]", b'"text"'):
        with pytest.raises(EvaluationFailed) as failed:
            conclude(answered(body, 502), question(), SETTINGS, KeyTrust(SETTINGS.trusted_kernel_keys), NOW)
        assert failed.value.message == "Chio sidecar returned 502"
