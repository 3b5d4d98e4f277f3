"""Refusals as documents: their status, their code, their media type, and no internal text."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode

import pytest

from chio_core import ConfigurationError, Denial, Requirement
from chio_core.errors import EvaluationFailed, ReceiptRejected, SidecarError, SidecarTimeout, SidecarUnreachable
from chio_core.evaluation import outcomes as outcome
from chio_core.models import Verdict
from chio_core.refusals.problems import (
    explain_command,
    flat,
    nested,
    preferred_type,
    problem,
    problem_title,
    problem_type,
    render,
)  # fmt: skip

FULL = Denial(
    status=403,
    code="chio_access_denied",
    message="no",
    guard="CapabilityGuard",
    receipt_id="rcpt-1",
    suggestion="ask",
    details={"hint": "h"},
    headers=(("www-authenticate", "Chio"),),
)


def test_the_flat_envelope_has_every_known_member() -> None:
    assert flat(FULL) == {
        "error": "chio_access_denied",
        "message": "no",
        "status": 403,
        "receipt_id": "rcpt-1",
        "suggestion": "ask",
        "guard": "CapabilityGuard",
        "details": {"hint": "h"},
        "type": "urn:chio:problem:access-denied",
        "instance": "urn:chio:receipt:rcpt-1",
        "explain": "chio-sidecar explain rcpt-1",
    }
    assert flat(Denial(message="no")) == {
        "error": "chio_access_denied",
        "message": "no",
        "status": 403,
        "type": "urn:chio:problem:access-denied",
    }


@pytest.mark.parametrize(
    ("code", "uri"),
    [
        ("chio_capability_required", "urn:chio:problem:capability-required"),
        ("chio_policy_not_enforced", "urn:chio:problem:policy-not-enforced"),
        ("rate_limited", "urn:chio:problem:rate-limited"),
        ("Too many, <please> wait\n", "urn:chio:problem:too-many-please-wait"),
    ],
)
def test_each_code_has_one_uri_that_needs_no_escaping(code: str, uri: str) -> None:
    assert problem_type(code) == uri
    assert flat(Denial(code=code, message="m"))["type"] == uri


@pytest.mark.parametrize(
    "receipt_id", ["x; rm -rf ~", "$(id)", "--help", "-", "a b", "a\nb", "é", "", "`id`", "r" * 129, "a/../b", "٣"]
)
def test_no_command_is_offered_for_an_id_that_a_shell_could_take_for_more_than_a_word(receipt_id: str) -> None:
    assert explain_command(receipt_id) is None
    assert "explain" not in flat(Denial(message="m", receipt_id=receipt_id))


@pytest.mark.parametrize("receipt_id", ["0198f3c2-7b1e-7c3a-9f00-0123456789ab", "ab" * 32])
def test_ids_of_both_wire_profiles_can_be_explained(receipt_id: str) -> None:
    assert explain_command(receipt_id) == f"chio-sidecar explain {receipt_id}"


def test_the_nested_envelope_has_the_published_codes() -> None:
    document = nested(FULL)
    assert list(document) == ["error"]
    assert document["error"]["code"] == "CHIO_GUARD_DENIED"
    assert document["error"]["message"] == "no"
    assert document["error"]["guard"] == "CapabilityGuard"
    assert document["error"]["details"] == {"hint": "h"}
    assert document["error"]["type"] == "urn:chio:problem:access-denied"
    assert document["error"]["explain"] == "chio-sidecar explain rcpt-1"


@pytest.mark.parametrize(
    ("code", "published"),
    [
        ("chio_access_denied", "CHIO_GUARD_DENIED"),
        ("chio_approval_required", "CHIO_APPROVAL_REQUIRED"),
        ("chio_bad_request", "CHIO_BAD_REQUEST"),
        ("chio_body_too_large", "CHIO_BODY_TOO_LARGE"),
        ("chio_capability_required", "CHIO_CAPABILITY_REQUIRED"),
        ("chio_evaluation_failed", "CHIO_INTERNAL_ERROR"),
        ("chio_invalid_receipt", "CHIO_INVALID_RECEIPT"),
        ("chio_overloaded", "CHIO_OVERLOADED"),
        ("chio_policy_not_enforced", "CHIO_POLICY_NOT_ENFORCED"),
        ("chio_sidecar_unreachable", "CHIO_SIDECAR_UNAVAILABLE"),
        ("chio_timeout", "CHIO_SIDECAR_UNAVAILABLE"),
        ("my_own", "MY_OWN"),
    ],
)
def test_the_nested_code_is_the_published_one_else_the_wire_code_in_capitals(code: str, published: str) -> None:
    assert nested(Denial(code=code, message="m"))["error"]["code"] == published


@pytest.mark.parametrize("nest", [False, True])
def test_a_refusal_is_json_that_is_not_cached(nest: bool) -> None:
    body, headers = render(Denial(message="Grüße\n"), nest=nest)
    found = dict(headers)
    assert found["content-type"] == "application/json"
    assert found["content-length"] == str(len(body))
    assert found["cache-control"] == "no-store"
    assert body.isascii()
    document = json.loads(body)
    assert (document["error"] if nest else document)["message"] == "Grüße\n"


def test_the_headers_of_a_refusal_are_sent() -> None:
    assert ("www-authenticate", "Chio") in render(FULL)[1]


def test_a_problem_document_has_the_names_of_the_rfc_beside_the_published_ones() -> None:
    found = problem(FULL)
    assert found == flat(FULL) | {"title": "Access denied", "detail": "no"}
    inside = nested(FULL)["error"]
    assert problem(FULL, nest=True) == {
        "type": "urn:chio:problem:access-denied",
        "title": "Access denied",
        "status": 403,
        "detail": "no",
        "instance": "urn:chio:receipt:rcpt-1",
        "error": inside,
    }


@pytest.mark.parametrize(
    ("code", "title"), [("chio_capability_required", "Capability required"), ("RATE_LIMITED", "Rate limited")]
)
def test_the_title_says_the_kind_of_problem_only(code: str, title: str) -> None:
    assert problem_title(code) == title


@pytest.mark.parametrize(
    ("names", "uri"),
    [
        ({"receipt_id": "rcpt-1", "request_id": "q-1"}, "urn:chio:receipt:rcpt-1"),
        ({"request_id": "q-1"}, "urn:chio:request:q-1"),
        ({"receipt_id": "a b#\u00e9\n"}, "urn:chio:receipt:a%20b%23%C3%A9%0A"),
        ({}, None),
    ],
)
def test_a_refusal_is_named_by_its_receipt_or_its_evaluation(names: dict[str, str], uri: str | None) -> None:
    assert flat(Denial(message="m", **names)).get("instance") == uri


def headers_of(denial: Denial, accept: str = "") -> dict[str, str]:
    headers = render(denial, accept=accept)[1]
    assert len(dict(headers)) == len(headers), "a header stands twice"
    return dict(headers)


def test_a_guards_refusal_gets_the_headers_of_its_status_and_keeps_its_own() -> None:
    assert headers_of(Denial(status=401, message="m"))["www-authenticate"] == 'Chio realm="chio"'
    assert headers_of(Denial(status=503, message="m"))["retry-after"] == "1"
    own = (("WWW-Authenticate", "Bearer"), ("Retry-After", "9"), ("Cache-Control", "max-age=60"))
    found = headers_of(Denial(status=401, message="m", headers=own))
    assert (found["www-authenticate"], found["retry-after"], found["cache-control"]) == ("Bearer", "9", "no-store")
    assert not {"www-authenticate", "retry-after"} & set(headers_of(Denial(status=403, message="m")))


def test_list_headers_of_a_guard_are_continued_in_one_line() -> None:
    own = (("Vary", "Origin"), ("Link", "</terms>; rel=license"), ("WWW-Authenticate", "A"), ("www-authenticate", "B"))
    found = headers_of(Denial(status=401, message="m", headers=own, explain_url="https://h/#r"), "application/json")
    assert found["vary"] == "Accept, Origin"
    assert found["link"] == '<https://h/#r>; rel="help", </terms>; rel=license'
    assert found["www-authenticate"] == "A, B"


def test_a_deny_of_the_sidecar_with_status_401_or_503_says_what_these_have_to_say() -> None:
    denied = [outcome.denial_for_verdict(Verdict(verdict="deny", http_status=s), "r", "X-Cap") for s in (401, 503)]
    assert headers_of(denied[0])["www-authenticate"] == 'Chio realm="chio", header="X-Cap"'
    assert headers_of(denied[1])["retry-after"] == "1"


def test_a_refusal_cannot_become_a_success() -> None:
    assert FULL.with_status(404).status == 404
    for status in (200, 302, 399, 600):
        with pytest.raises(ConfigurationError):
            FULL.with_status(status)


@pytest.mark.parametrize(
    ("error", "status", "code", "opens"),
    [
        (SidecarUnreachable("m"), 503, "chio_sidecar_unreachable", True),
        (SidecarTimeout("m"), 503, "chio_timeout", True),
        (EvaluationFailed("m", status=500), 502, "chio_evaluation_failed", False),
        (EvaluationFailed("m", status=409, detail="chio_approval_required"), 403, "chio_approval_required", False),
        (EvaluationFailed("m", status=503, detail="chio_sidecar_unreachable"), 502, "chio_evaluation_failed", False),
        (ReceiptRejected("signature", "m"), 502, "chio_invalid_receipt", False),
        (SidecarError("m"), 502, "chio_evaluation_failed", False),
    ],
)
def test_an_error_is_answered_by_its_kind_and_its_text_stays_here(
    error: SidecarError, status: int, code: str, opens: bool
) -> None:
    error.message = "http://10.0.0.1 hunter2"
    denial = outcome.denial_for_error(error)
    assert (denial.status, denial.code) == (status, code)
    assert "hunter2" not in denial.message
    assert (denial.header("retry-after") is not None) is (status == 503)
    mark = outcome.passthrough_for(error)
    assert (mark is not None) is opens
    if mark is not None:
        assert mark.error == code


@pytest.mark.parametrize(
    ("stated", "status"),
    [(403, 403), (400, 400), (599, 599), (401, 401), (399, 403), (600, 403), (200, 403), (0, 403), (None, 403)],
)
def test_a_deny_is_answered_with_its_own_status_where_that_refuses(stated: int | None, status: int) -> None:
    verdict = Verdict(verdict="deny", reason="r", guard="G", http_status=stated)
    denial = outcome.denial_for_verdict(verdict, "rcpt", "X-Chio-Capability")
    assert (denial.status, denial.message, denial.guard, denial.receipt_id) == (status, "r", "G", "rcpt")


@pytest.mark.parametrize("name", ["cancel", "incomplete", "permit", ""])
def test_another_verdict_is_answered_with_403_whatever_status_it_states(name: str) -> None:
    denial = outcome.denial_for_verdict(Verdict(verdict=name, http_status=451), "rcpt", "H")
    assert (denial.status, denial.message, denial.guard) == (403, "denied", "ChioGuard")


def test_the_details_of_a_deny_are_shown_where_they_are_text() -> None:
    verdict = Verdict(verdict="deny", details={"hint": "ask the treasurer", "required_scope": "a/b", "n": 5, "o": {}})
    denial = outcome.denial_for_verdict(verdict, "rcpt", "H")
    assert denial.suggestion == "ask the treasurer"
    assert denial.details == {"hint": "ask the treasurer", "required_scope": "a/b"}


def test_a_missing_capability_is_a_401_that_says_how_to_present_one() -> None:
    denial = outcome.capability_required(Requirement("payments", "transfer"), "X-Cap", "rcpt")
    assert (denial.status, denial.code) == (401, "chio_capability_required")
    assert denial.message == "Chio capability required for payments/transfer"
    assert denial.header("www-authenticate") == 'Chio realm="chio", header="X-Cap"'
    assert outcome.capability_required(Requirement(), "X", None).message == "Chio capability required"


PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    "accept",
    [
        PROBLEM,
        "Application/Problem+JSON",
        f"{PROBLEM}, */*",
        f"*/* , {PROBLEM};q=1.0",
        f"{PROBLEM}, application/json;q=0.9",
        f"application/json;q=0.5,{PROBLEM};q=0.501",
        f"{PROBLEM}; charset=utf-8 ; Q=0.2",
        f"{PROBLEM}, application/*",
        "application/json;q=0, */*",
        "application/json;q=0, application/*;q=0.1",
        f"text/html, {PROBLEM}, application/json;q=nonsense",
    ],
)
def test_a_client_that_prefers_the_problem_type_gets_it(accept: str) -> None:
    assert preferred_type(accept) == PROBLEM


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/*",
        "application/json",
        f"application/json, {PROBLEM}",
        f"{PROBLEM}, application/json",
        f"{PROBLEM};q=0.9, application/json",
        f"{PROBLEM};q=0.3, */*",
        f"{PROBLEM};q=0",
        f"{PROBLEM};q=0.000, */*;q=0.1",
        f"*/*;q=0, {PROBLEM};q=0",
        f"{PROBLEM};q=2",
        f"{PROBLEM};q=",
        f"{PROBLEM};q=0.1234",
        f"{PROBLEM};q=-1",
        f"{PROBLEM};q=1e0",
        "text/html;q=0",
        "text/html;q=0.9, application/json",
        "application/json, text/html",
        "text/*",
        "application/problem",
        "application/problem+xml",
        ", ,;;q=1,=,",
    ],
)
def test_all_others_get_the_published_type(accept: str) -> None:
    assert preferred_type(accept) == "application/json"


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "Text/HTML, application/xhtml+xml, application/xml;q=0.9, image/webp, */*;q=0.8",
        f"{PROBLEM};q=0.1, text/html",
        "text/html, */*",
    ],
)
def test_a_browser_gets_a_page(accept: str) -> None:
    assert preferred_type(accept) == "text/html"


def test_a_page_has_no_script_and_repeats_foreign_text_escaped() -> None:
    foreign = "<script>alert('x')</script>\ud800"
    denial = Denial(
        message=foreign, guard=foreign, receipt_id=foreign, suggestion=foreign, explain_url='http://h/"><b>'
    )
    body, headers = render(denial, accept="text/html")
    page, lines = body.decode(), dict(headers)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&#55296;") == 4
    assert 'href="http://h/&quot;&gt;&lt;b&gt;"' in page
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert f"'sha256-{b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in lines["content-security-policy"]
    assert (lines["content-type"], lines["vary"]) == ("text/html; charset=utf-8", "Accept")
    assert (lines["cache-control"], lines["content-length"]) == ("no-store", str(len(body)))
