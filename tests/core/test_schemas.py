"""The requests that are sent, and the scripted sidecar's responses, satisfy the protocol's schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from chio_core.models import CallerIdentity, ChioHttpRequest, EvaluateResponse
from chio_core.signing import SigningKey
from chio_core.testing.exchange import ALLOW, DENY, EvaluateRequest
from tests.core.reference import schemas

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
