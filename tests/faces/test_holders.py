"""A capability that is bound to its holder is refused for every other caller, whatever the sidecar says."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from chio_core.capabilities.scope import bound
from chio_core.models.request import CallerIdentity
from chio_core.testing import behaviours
from tests.faces.faces import ALONE, FACES, Face
from tests.tokens import token

GOVERNED = [face for face in FACES if face.asks]
each_face = pytest.mark.parametrize("face", GOVERNED, ids=str)
each_way = pytest.mark.parametrize("face", [*GOVERNED, *ALONE], ids=str)

PLACE = "/accounts/7/transfer"
GRANT = {"server_id": "payments", "tool_name": "transfer", "operations": ["invoke"]}
ALICE = str(CallerIdentity.bearer("alice-token").holder)

OF_ALICE = token(bound(GRANT, ALICE))
ESCAPED = OF_ALICE.replace("chio_holder", "chio\\u005fholder")


def headers(bearer: str | None, capability: str = OF_ALICE) -> dict[str, str]:
    sent = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    return {**sent, "X-Chio-Capability": capability}


@each_way
@pytest.mark.parametrize("capability", [OF_ALICE, ESCAPED], ids=["plain", "escaped"])
@pytest.mark.parametrize("bearer", ["bob-token", None])
def test_a_capability_of_another_holder_is_refused_although_the_sidecar_allows(
    face: Face, bearer: str | None, capability: str
) -> None:
    with face.governed() as governed:
        stolen = governed.send("POST", PLACE, headers(bearer, capability))
        own = governed.send("POST", PLACE, headers("alice-token", capability))
    assert (stolen.status, stolen.seen) == (403, [])
    assert stolen.problem["message"] == "capability is bound to another holder"
    assert stolen.problem["receipt_id"]
    assert own.status == 200


@each_face
@pytest.mark.parametrize(("method", "path"), [("POST", "/anything"), ("GET", "/hello"), ("GET", "/needs/any")])
def test_it_is_refused_where_no_tool_is_required(face: Face, method: str, path: str) -> None:
    with face.governed() as governed:
        assert governed.send(method, path, headers("bob-token")).status == 403
        assert governed.send(method, path, headers("alice-token")).status == 200


@each_face
def test_it_never_fails_open(face: Face) -> None:
    with face.governed(behaviours.REFUSE, fail_open=True) as governed:
        assert governed.get("/hello", headers("bob-token")).status == 503
        assert governed.get("/hello", headers("alice-token")).status == 200


@each_face
def test_a_client_cannot_state_the_holder_itself(face: Face) -> None:
    body = json.dumps({"chio_holder": ALICE}).encode()
    with face.governed() as governed:
        sent = {**headers("bob-token"), "content-type": "application/json"}
        found = governed.send("POST", f"{PLACE}?chio_holder={ALICE}", sent, body)
    assert (found.status, found.seen) == (403, [])


@each_face
def test_a_sidecar_that_knows_constraints_only_gets_the_holder_as_an_argument(face: Face) -> None:
    with face.governed() as governed:
        governed.send("POST", PLACE, headers("alice-token"))
        governed.send("POST", PLACE, headers("alice-token", token(("payments", "transfer"))))
    assert [asked.get("arguments") for asked in governed.asked] == [{"chio_holder": ALICE}, None]


@each_face
def test_a_verified_caller_keeps_its_capability_when_its_bearer_token_is_renewed(face: Face) -> None:
    def verified(view: object) -> CallerIdentity:
        named: Callable[..., object] = view.header_values  # type: ignore[attr-defined]
        return CallerIdentity.user("alice") if "alice" in str(named("authorization")) else CallerIdentity.user("bob")

    text = token(bound(GRANT, str(CallerIdentity.user("alice").holder)))
    with face.governed(extractor=verified) as governed:
        statuses = [governed.send("POST", PLACE, headers(one, text)).status for one in ("alice-1", "alice-2", "bob")]
    assert statuses == [200, 200, 403]
