"""The request of the sidecar that is made from a view."""

from __future__ import annotations

import json
import uuid
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chio_core import GuardRequest, Requirement
from chio_core.evaluation.exchange import new_request_id
from chio_core.models import CallerIdentity, ChioHttpRequest
from chio_core.models.request import METHODS
from chio_core.request import MAX_QUERY_FIELDS, query_map, to_chio_request
from tests.core.views import View

CALLER = CallerIdentity.anonymous()


def sent(view: View, **more: object) -> dict[str, object]:
    request = to_chio_request(view, request_id="r", timestamp=5, caller=CALLER, **more)  # type: ignore[arg-type]
    return request.to_wire()


def test_the_view_of_these_tests_is_a_guard_request() -> None:
    assert isinstance(View(), GuardRequest)


def test_the_smallest_request() -> None:
    assert sent(View("GET", "/pets/7")) == {
        "request_id": "r",
        "method": "GET",
        "route_pattern": "/pets/7",
        "path": "/pets/7",
        "caller": CALLER.to_wire(),
        "body_length": 0,
        "timestamp": 5,
    }


def test_the_template_is_the_pattern_and_the_path_stays_the_path() -> None:
    wire = sent(View("GET", "/pets/7"), template="/pets/{id}")
    assert (wire["route_pattern"], wire["path"]) == ("/pets/{id}", "/pets/7")


def test_the_length_is_the_counted_one() -> None:
    view = View(headers=[("Content-Length", "999"), ("Content-Type", "text/plain")])
    wire = sent(view, body_hash="ab" * 32, body_length=3)
    assert wire["body_length"] == 3
    assert wire["headers"] == {"content-type": "text/plain", "content-length": "3"}


def test_no_other_header_is_sent() -> None:
    headers = [("authorization", "Bearer s"), ("cookie", "session=s"), ("x-api-key", "s"), ("x-chio-capability", "s"),
               ("host", "h"), ("user-agent", "u"), ("content-type", "application/json")]  # fmt: skip
    assert sent(View(headers=headers))["headers"] == {"content-type": "application/json"}


def test_a_requirement_is_sent_as_tool_and_arguments_and_any_capability_names_no_tool() -> None:
    wire = sent(View(), requirement=Requirement("payments", "transfer", arguments={"amount": 5}), session_id="s-1")
    assert (wire["tool_server"], wire["tool_name"], wire["arguments"]) == ("payments", "transfer", {"amount": 5})
    assert wire["session_id"] == "s-1"
    assert not {"tool_server", "tool_name", "arguments"} & set(sent(View(), requirement=Requirement()))


@pytest.mark.parametrize("method", ["get", "TRACE", "CONNECT", "", "GET "])
def test_a_method_unknown_to_the_protocol_is_refused(method: str) -> None:
    assert method not in METHODS
    with pytest.raises(ValueError, match="knows no method"):
        sent(View(method))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {}),
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a=1&a=2", {"a": "2"}),
        ("a", {"a": ""}),
        ("a=&=b", {"a": "", "": "b"}),
        ("a=%20+%2B", {"a": "  +"}),
        ("a=1;b=2", {"a": "1;b=2"}),
        ("%61=x", {"a": "x"}),
        ("a=%C3%A4", {"a": "ä"}),
        ("a=%FF", {"a": "\ufffd"}),
        ("&&a=1&", {"a": "1"}),
        ("a=1=2", {"a": "1=2"}),
        ("a=%00", {"a": "\0"}),
    ],
)
def test_a_query_is_form_decoded_and_of_duplicates_the_last_counts(query: str, found: dict[str, str]) -> None:
    assert query_map(query) == found


@pytest.mark.parametrize("query", ["chio_capability=s", "a=1&chio_capability=s&b=2", "chio%5Fcapability=s"])
def test_the_token_parameter_is_removed_from_the_query_in_every_spelling(query: str) -> None:
    assert "s" not in query_map(query).values()


def test_a_query_of_too_many_fields_is_refused() -> None:
    assert len(query_map("&".join(f"f{n}=" for n in range(MAX_QUERY_FIELDS)))) == MAX_QUERY_FIELDS
    with pytest.raises(ValueError, match="fields"):
        query_map("&".join(f"f{n}=" for n in range(MAX_QUERY_FIELDS + 1)))


@given(st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=6))
def test_an_encoded_query_is_read_back(fields: dict[str, str]) -> None:
    fields.pop("chio_capability", None)
    assert query_map(urlencode(fields, errors="replace")) == {
        _replaced(name): _replaced(value) for name, value in fields.items()
    }


def _replaced(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("arguments", [None, {"amount": 1e-7, "rate": 2.5}, ["ü", 2**64, "\U0001f600"]])
def test_a_request_is_encoded_as_compact_json_whatever_its_arguments_are(arguments: object) -> None:
    required = Requirement("payments", "transfer", arguments=arguments)
    request = to_chio_request(View("GET", "/pets/7"), request_id="r", timestamp=5, caller=CALLER, requirement=required)
    assert request.encode() == json.dumps(request.to_wire(), separators=(",", ":"), ensure_ascii=False).encode()


def test_a_request_id_is_a_random_uuid_of_version_four() -> None:
    ids = [new_request_id() for _ in range(200)]
    assert len(set(ids)) == 200
    for text in ids:
        found = uuid.UUID(text)
        assert (str(found), found.version, found.variant) == (text, 4, uuid.RFC_4122)


def test_a_described_request_leaves_out_what_is_absent_and_keeps_the_protocols_order() -> None:
    request = ChioHttpRequest(
        timestamp=5, caller=CallerIdentity.anonymous(), path="/p", route_pattern="/p", method="GET", request_id="r"
    )
    assert list(request.to_wire()) == [
        "request_id", "method", "route_pattern", "path", "caller", "body_length", "timestamp",
    ]  # fmt: skip
    full = request.model_copy(update={"query": {"a": "b"}, "headers": {"c": "d"}, "arguments": {}, "further_to": "x"})
    assert list(full.to_wire()) == [
        "request_id", "method", "route_pattern", "path", "query", "headers", "caller", "body_length", "arguments",
        "timestamp", "further_to",
    ]  # fmt: skip
