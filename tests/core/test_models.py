"""The wire models read strictly, write in protocol order, and keep unknown members."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from referencing import Registry, Resource

from chio_core.errors import InvalidDocument
from chio_core.models import (
    AuthMethod,
    CallerIdentity,
    ChioHttpRequest,
    ChioPassthrough,
    EvaluateResponse,
    GuardEvidence,
    HttpReceipt,
    Verdict,
)
from chio_core.signing import SigningKey
from chio_core.testing import KEY, make_receipt
from chio_core.testing.exchange import ALLOW, DENY, EvaluateRequest
from tests.core.reference import schemas

REQUEST: dict[str, Any] = {
    "request_id": "r-1",
    "method": "GET",
    "route_pattern": "/pets/{id}",
    "path": "/pets/7",
    "caller": {"subject": "anonymous", "auth_method": {"method": "anonymous"}},
    "timestamp": 5,
}
RECEIPT = make_receipt(
    KEY,
    {
        "request_id": "r-1",
        "route_pattern": "/",
        "method": "GET",
        "caller_identity_hash": "aa" * 32,
        "content_hash": "bb" * 32,
        "timestamp": 5,
    },
    {"verdict": "allow"},
)


def test_a_request_is_written_in_protocol_order_without_empty_members() -> None:
    wire = ChioHttpRequest.model_validate(REQUEST).to_wire()
    assert list(wire) == ["request_id", "method", "route_pattern", "path", "caller", "body_length", "timestamp"]
    assert wire["caller"]["verified"] is False
    assert wire["body_length"] == 0


def test_a_full_request_is_written_as_it_was_read() -> None:
    full = {
        **REQUEST,
        "caller": {**REQUEST["caller"], "verified": True, "tenant": "t", "agent_id": "a"},
        "query": {"q": "1"},
        "headers": {"content-type": "text/plain"},
        "body_hash": "cc" * 32,
        "body_length": 3,
        "session_id": "s",
        "capability_id": "c",
        "tool_server": "srv",
        "tool_name": "tool",
        "arguments": {"n": 0, "list": []},
        "model_metadata": {"model_id": "m", "provenance_class": "observed"},
        "execution_nonce": {"of": "a later protocol"},
    }
    assert ChioHttpRequest.model_validate(full).to_wire() == full


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "get"), ("method", "TRACE"), ("request_id", None), ("request_id", 5), ("path", None),
        ("query", None), ("query", {"a": 1}), ("headers", None), ("body_length", None), ("body_length", -1),
        ("body_length", 1.0), ("body_length", True), ("body_length", 2**64), ("timestamp", "5"), ("timestamp", 5.0),
        ("caller", {"subject": "x"}), ("caller", {"subject": "x", "auth_method": {"method": "magic"}}),
        ("model_metadata", {}), ("model_metadata", {"model_id": "m", "safety_tier": "extreme"}),
    ],
)  # fmt: skip
def test_a_member_of_the_wrong_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        ChioHttpRequest.model_validate({**REQUEST, name: value})


def test_the_worked_content_hashes_of_the_protocol_hold() -> None:
    # Wire protocol, section 3.4.
    get = ChioHttpRequest.model_validate(REQUEST)
    assert get.content_hash("/pets/{petId}") == "673a0bd39138de615d43d1d3560f315ca6390d4ed15e88de383cbaa879a29f17"
    post = get.model_copy(
        update={
            "method": "POST",
            "path": "/pets/7/tags",
            "query": {"lang": "pt-BR", "dry": "1"},
            "body_hash": "ee03f2fedb7d74eb8d0a1b2f18b8f8a098b85af0d8777ceb9507129664bf1b9a",
        }
    )
    assert post.content_hash("/pets/{petId}/tags") == "1cf43fea22e744da8d7e6baf75d395b4de8888f23bdc80d277572f32dd97eb20"


def test_the_worked_caller_hashes_of_the_protocol_hold() -> None:
    # Wire protocol, section 3.5.
    digest = "4d1566a1d7df42a8517456d60ea06ed284e535cfe4c956aa6ee172dbcdf945f7"
    anonymous = "5a45e80d1ab1a73e8c2644f3f6c6e53974d0a986c2fc86692372d3f130248c9c"
    assert CallerIdentity.anonymous().identity_hash() == anonymous
    assert CallerIdentity.model_validate(REQUEST["caller"]).identity_hash() == anonymous
    as_pypi = CallerIdentity.bearer("example-token")
    assert as_pypi.subject == digest
    assert as_pypi.identity_hash() == "627fb501df99722e47655115f9e86ab709d99979850e2f3969e96be70c149ed0"
    as_proxy = as_pypi.model_copy(update={"subject": f"bearer:{digest[:16]}"})
    assert as_proxy.identity_hash() == "f1980accd62fb0bfeca9adf7be8461e6b052de05ac475a1634f2bd40ce44f697"


def test_a_caller_never_contains_its_secret() -> None:
    callers = (
        CallerIdentity.bearer("hunter2"),
        CallerIdentity.api_key("X-Key", "hunter2"),
        CallerIdentity.cookie("session", "hunter2"),
    )
    for caller in callers:
        assert "hunter2" not in repr(caller)
        assert "hunter2" not in str(caller.to_wire())


def test_the_methods_of_authentication_keep_their_own_members_only() -> None:
    method = AuthMethod.model_validate({"method": "bearer", "token_hash": "ab", "key_name": "x", "more": 1})
    assert method.to_wire() == {"method": "bearer", "token_hash": "ab"}
    assert CallerIdentity.mtls("CN=c", "ab").to_wire() == {
        "subject": "CN=c",
        "auth_method": {"method": "mtls_certificate", "subject_dn": "CN=c", "fingerprint": "ab"},
        "verified": True,
    }


@pytest.mark.parametrize(
    "document", [{"method": "bearer"}, {"method": "cookie", "cookie_name": "a"}, {}, {"method": 1}]
)
def test_a_method_without_its_members_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AuthMethod.model_validate(document)


@pytest.mark.parametrize("name", ["allow", "deny", "cancel", "incomplete", "permit", "", "ALLOW", "allow "])
def test_only_allow_is_allow(name: str) -> None:
    assert Verdict(verdict=name).is_allow is (name == "allow")


@pytest.mark.parametrize(
    "document",
    [{}, {"verdict": None}, {"verdict": True}, {"verdict": ["allow"]}, {"verdict": "deny", "http_status": "403"},
     {"verdict": "deny", "http_status": 65536}, {"verdict": "deny", "http_status": -1},
     {"verdict": "deny", "details": None}, {"verdict": "deny", "details": "x"}, {"verdict": "deny", "reason": 5}],
)  # fmt: skip
def test_a_malformed_verdict_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Verdict.model_validate(document)


def test_unknown_members_are_kept_everywhere() -> None:
    verdict = {"verdict": "deny", "reason": "r", "http_status": 403, "severity": 5}
    assert Verdict.model_validate(verdict).to_wire() == verdict
    evidence = {"guard_name": "g", "verdict": False, "weight": 0.5}
    assert GuardEvidence.model_validate(evidence).to_wire() == evidence
    answer = {"verdict": {"verdict": "allow"}, "receipt": RECEIPT, "evidence": [evidence], "trace": {"a": [None]}}
    assert EvaluateResponse.model_validate(answer).to_wire() == answer


def test_a_receipt_keeps_the_object_that_was_received() -> None:
    read = {**RECEIPT, "evidence": [], "session_id": None, "new": {"deep": [1.0, None]}}
    receipt = HttpReceipt.from_wire(read)
    assert receipt.raw == read
    assert "raw" not in receipt.model_dump_json()
    for copied in (copy.deepcopy(receipt), pickle.loads(pickle.dumps(receipt)), receipt.model_copy()):
        assert copied.raw == read
        assert copied == receipt
    assert receipt.timestamp == 5
    assert receipt.verdict.is_allow


def test_a_receipt_made_here_is_written_by_the_presence_rules() -> None:
    made = HttpReceipt.model_validate({**RECEIPT, "evidence": [], "session_id": None})
    assert made.raw == made.to_wire()
    assert not {"evidence", "session_id", "receipt_kind"} & set(made.raw)


@pytest.mark.parametrize("name", sorted(set(RECEIPT) - {"evidence", "metadata"}))
def test_a_receipt_without_a_required_member_is_refused(name: str) -> None:
    document = {key: value for key, value in RECEIPT.items() if key != name}
    with pytest.raises(InvalidDocument, match=rf"^not an HttpReceipt: {name}: Field required$"):
        HttpReceipt.from_wire(document)


def test_an_error_names_the_member_without_its_value() -> None:
    with pytest.raises(InvalidDocument) as refused:
        HttpReceipt.from_wire({**RECEIPT, "timestamp": "hunter2"})
    assert "timestamp" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_passthrough_is_no_receipt() -> None:
    mark = ChioPassthrough(error="chio_timeout", message="m")
    assert mark.to_wire() == {"mode": "allow_without_receipt", "error": "chio_timeout", "message": "m"}
    with pytest.raises(ValidationError):
        ChioPassthrough(mode="allow", error="e", message="m")


def test_models_do_not_change() -> None:
    for model in (CallerIdentity.anonymous(), Verdict(verdict="deny"), HttpReceipt.from_wire(RECEIPT)):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, next(iter(type(model).model_fields)), "changed")


# The requests that are sent, and the scripted sidecar's responses, satisfy the protocol's schemas


CALLERS = (
    CallerIdentity.anonymous(),
    CallerIdentity.bearer("token"),
    CallerIdentity.api_key("X-Api-Key", "key"),
    CallerIdentity.cookie("session", "value"),
    CallerIdentity.mtls("CN=client", "ab" * 32),
    CallerIdentity.bearer("token").model_copy(update={"tenant": "t", "agent_id": "a"}),
)


def _validator(name: str, profile: str = "april") -> Draft202012Validator:
    found = schemas(profile)
    registry: Registry[Any] = Registry().with_resources(
        (file, Resource.from_contents(schema)) for file, schema in found.items()
    )
    return Draft202012Validator(found[f"{name}.schema.json"], registry=registry)


def _request(caller: CallerIdentity = CALLERS[0], **members: Any) -> dict[str, Any]:
    request = ChioHttpRequest(
        request_id="r-1",
        method="POST",
        route_pattern="/pets/{id}",
        path="/pets/7",
        caller=caller,
        timestamp=1,
        **members,
    )
    return request.to_wire()


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.auth_method.method)
def test_a_request_satisfies_the_schemas(caller: CallerIdentity) -> None:
    bare = _request(caller)
    full = _request(
        caller, query={"a": "1"}, headers={"content-type": "text/plain"}, body_hash="00" * 32, body_length=3,
        tool_server="s", tool_name="t", arguments={"amount": 5}, session_id="s-1",
    )  # fmt: skip
    for wire in (bare, full):
        _validator("evaluate-request").validate(wire)
        _validator("chio-http-request").validate(wire)
        _validator("caller-identity").validate(wire["caller"])


@pytest.mark.parametrize("profile", ["april", "newer"])
@pytest.mark.parametrize(
    "verdict",
    [ALLOW, DENY, {"verdict": "cancel", "reason": "stop"}, {"verdict": "incomplete", "reason": "more"}],
    ids=lambda verdict: verdict["verdict"],
)
def test_a_response_satisfies_the_schemas_and_the_model_reads_it(verdict: dict[str, Any], profile: str) -> None:
    asked = EvaluateRequest(_request(), {}, b"", SigningKey.generate(), now=1_776_272_775)
    answer = json.loads(asked.response_bytes(verdict, newer=profile == "newer"))
    _validator("verdict", profile).validate(answer["verdict"])
    _validator("http-receipt", profile).validate(answer["receipt"])
    if profile == "april":
        _validator("evaluate-response").validate(answer)
    assert EvaluateResponse.model_validate(answer).to_wire() == answer
