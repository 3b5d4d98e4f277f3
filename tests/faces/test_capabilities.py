"""Required capabilities: part of the one evaluation, found before the handler runs, never skipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from chio_core import GuardRequest
from chio_core.capabilities.scope import bound
from chio_core.models.demands import CAPABILITY_GUARD, POLICY_GUARD
from chio_core.models.request import SAFE_METHODS, CallerIdentity
from chio_core.testing import EvaluateRequest, behaviours
from chio_core.testing.behaviours import Behaviour, Reply
from chio_core.testing.exchange import DECISION_METADATA
from tests.faces.faces import ALONE, FACES, Face
from tests.tokens import token, with_token

GOVERNED = [face for face in FACES if face.asks]
each_face = pytest.mark.parametrize("face", GOVERNED, ids=str)
each_way = pytest.mark.parametrize("face", [*GOVERNED, *ALONE], ids=str)
"""With the middleware, and where the route itself asks."""

TRANSFER = ("payments", "transfer")
READ = ("accounts", "read")
PLACE = "/accounts/7/transfer"


@each_face
@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("POST", PLACE, TRANSFER),
        ("GET", "/needs/two", TRANSFER),
        ("HEAD", "/needs/two", TRANSFER),
        ("GET", "/needs/any", (None, None)),
        ("GET", "/needs/read/7", READ),
        ("GET", "/hello", (None, None)),
    ],
)
def test_the_requirement_of_a_route_is_part_of_the_evaluation(
    face: Face, method: str, path: str, wanted: tuple[Any, Any]
) -> None:
    with face.governed() as governed:
        governed.send(method, path)
    asked = governed.asked[0]
    assert (asked.get("tool_server"), asked.get("tool_name")) == wanted
    assert asked["route_pattern"] == path.replace("7", "{account}")


@each_way
@pytest.mark.parametrize(("method", "path"), [("POST", PLACE), ("GET", "/needs/any")])
def test_without_a_capability_the_answer_is_401_and_with_it_the_handler_runs(
    face: Face, method: str, path: str
) -> None:
    with face.governed() as governed:
        refused = governed.send(method, path)
        allowed = governed.send(method, path, with_token(TRANSFER))
    assert (refused.status, refused.code, refused.seen) == (401, face.code("chio_capability_required"), [])
    assert refused.headers["www-authenticate"] == 'Chio realm="chio", header="X-Chio-Capability"'
    assert refused.receipt == refused.problem["receipt_id"]
    assert (allowed.status, allowed.json["receipt"]) == (200, allowed.seen[0].receipt.id)
    assert allowed.receipt in (allowed.json["receipt"], None)
    assert len(governed.asked) == 2


@each_way
def test_another_capability_is_not_enough(face: Face) -> None:
    with face.governed() as governed:
        for grant in (("payments", "refund"), ("shop", "transfer"), ("Payments", "transfer")):
            found = governed.send("POST", PLACE, with_token(grant))
            assert (found.status, found.code, found.seen) == (403, face.code("chio_access_denied"), []), grant
            assert "payments/transfer" in found.problem["message"]
            assert found.receipt is not None


@each_way
def test_a_malformed_token_is_no_capability(face: Face) -> None:
    with face.governed() as governed:
        for text in ("garbage", "{}", "[]", '{"id":"cap-1"}', "x" * 500, '{"id":"a","id":"b"}'):
            found = governed.send("POST", PLACE, {"X-Chio-Capability": text})
            assert (found.status, found.seen) == (403, []), text


@each_way
def test_a_denial_of_the_sidecar_is_the_response(face: Face) -> None:
    with face.governed(behaviours.deny("not today", status=451)) as governed:
        found = governed.send("POST", PLACE, with_token(TRANSFER))
    assert (found.status, found.problem["message"], found.seen) == (451, "not today", [])


@each_way
def test_any_capability_is_enough_where_any_is_required(face: Face) -> None:
    with face.governed() as governed:
        assert governed.get("/needs/any", with_token(("some", "thing"))).status == 200


@each_way
def test_a_second_requirement_is_evaluated_too_and_names_the_receipt_of_the_first(face: Face) -> None:
    with face.governed() as governed:
        one = governed.get("/needs/two", with_token(TRANSFER))
        both = governed.get("/needs/two", with_token(TRANSFER, READ))
    assert (one.status, both.status) == (403, 200)
    assert one.receipt == one.problem["receipt_id"]
    assert [asked["tool_server"] for asked in governed.asked] == ["payments", "accounts"] * 2
    # What the sidecar's own document demands of the route, it demands once.
    assert ["further_to" in asked for asked in governed.asked] == [False, True] * 2
    assert [asked["route_pattern"] for asked in governed.asked] == ["/needs/two"] * 4


def silent(request: EvaluateRequest) -> Reply:
    """Allow as the published sidecar does: it says nothing about restrictions."""
    guard = POLICY_GUARD if request.method in SAFE_METHODS else CAPABILITY_GUARD
    evidence = [{"guard_name": guard, "verdict": True}]
    return Reply(request.response_bytes(metadata=DECISION_METADATA, evidence=evidence))


SILENT = Behaviour("silent", "Allows, and says nothing about restrictions.", silent)
PAY = {"server_id": TRANSFER[0], "tool_name": TRANSFER[1]}
AMOUNT = {"units": 5, "currency": "USD"}
RESTRICTED = {
    "dpop_required": PAY | {"dpop_required": True},
    "operation_class": PAY | {"constraints": [{"type": "operation_class", "value": "read_only"}]},
    "require_approval_above": PAY
    | {"constraints": [{"type": "require_approval_above", "value": {"threshold_units": 5}}]},
    "max_total_cost": PAY | {"max_total_cost": AMOUNT},
    "max_cost_per_invocation": PAY | {"max_cost_per_invocation": AMOUNT},
    "max_invocations": PAY | {"max_invocations": 1},
}


@each_way
@pytest.mark.parametrize("member", RESTRICTED)
def test_a_restriction_that_the_sidecar_does_not_enforce_opens_no_route(face: Face, member: str) -> None:
    with face.governed(SILENT) as governed:
        held = with_token(RESTRICTED[member])
        refused = governed.send("POST", PLACE, held)
        assert (refused.status, refused.seen) == (403, [])
        text = f"capability is restricted by {member}, which is not enforced for this route"
        assert refused.problem["message"] == text
        assert governed.send("POST", PLACE, with_token(RESTRICTED[member], TRANSFER)).status == 200
        # Where the route only needs any capability, uses do not count.
        anything = governed.send("DELETE", "/needs/any", held)
        assert anything.status == (200 if member == "max_invocations" else 403)


@each_face
def test_a_restricted_capability_opens_no_route_that_requires_nothing_either(face: Face) -> None:
    with face.governed(SILENT) as governed:
        held = with_token(RESTRICTED["dpop_required"])
        assert [governed.send(method, "/anything", held).status for method in ("POST", "GET")] == [403, 200]


@each_way
def test_a_restriction_that_the_sidecar_has_enforced_opens_the_route(face: Face) -> None:
    with face.governed() as governed:
        for member in ("max_invocations", "max_total_cost"):
            assert governed.send("POST", PLACE, with_token(RESTRICTED[member])).status == 200


@each_way
def test_arguments_come_from_the_path(face: Face) -> None:
    with face.governed() as governed:
        assert governed.get("/needs/read/7", with_token((*READ, "read"))).status == 200
    (asked,) = governed.asked
    assert asked["arguments"] == {"account": "7"}


@each_face
@pytest.mark.parametrize(("method", "path"), [("POST", PLACE), ("GET", "/needs/any")])
def test_an_excluded_path_still_requires_its_capability(face: Face, method: str, path: str) -> None:
    with face.governed(exclude_paths=[path]) as governed:
        refused = governed.send(method, path)
        allowed = governed.send(method, path, with_token(TRANSFER))
    (seen,) = allowed.seen
    assert (refused.status, allowed.status) == (401, 200)
    assert refused.receipt == refused.problem["receipt_id"]
    assert allowed.receipt == seen.receipt.id == seen.decision.receipt.id
    assert len(governed.asked) == 2


@each_face
@pytest.mark.parametrize("excluded", [[], ["/needs/two"]], ids=["governed", "excluded"])
def test_hooks_are_called_with_each_decision_about_a_route(face: Face, excluded: list[str]) -> None:
    heard: list[Any] = []
    hooks = {"on_decision": heard.append, "on_receipt": heard.append}
    with face.governed(exclude_paths=excluded, **hooks) as governed:
        refused = governed.get("/needs/two", with_token(TRANSFER))
        allowed = governed.get("/needs/two", with_token(TRANSFER, READ))
    decisions, receipts = heard[::2], heard[1::2]
    assert [decision.receipt for decision in decisions] == receipts
    assert [receipt.request_id for receipt in receipts] == [asked["request_id"] for asked in governed.asked]
    assert [receipt.id for receipt in receipts[1:3]] == [refused.receipt, allowed.receipt]
    assert [decision.verdict for decision in decisions] == ["allow", "refused", "allow", "allow"]


@each_face
def test_the_decision_about_an_excluded_route_has_the_evidence_of_the_guards(face: Face) -> None:
    async def looks(request: GuardRequest) -> None: ...

    with face.governed(exclude_paths=["/needs/any"], guards=[looks]) as governed:
        (seen,) = governed.get("/needs/any", with_token(TRANSFER)).seen
    assert seen.decision.evidence[0].guard_name == "local/looks"


@each_way
def test_fail_open_never_opens_a_route_that_requires_a_capability(face: Face) -> None:
    with face.governed(behaviours.REFUSE, fail_open=True) as governed:
        found = governed.send("POST", PLACE, with_token(TRANSFER))
    assert (found.status, found.seen) == (503, [])


@each_face
def test_the_capability_header_can_have_another_name(face: Face) -> None:
    with face.governed(capability_header="X-Token") as governed:
        headers = {"X-Token": with_token(TRANSFER)["X-Chio-Capability"]}
        assert governed.send("POST", PLACE, headers).status == 200
    assert governed.sidecar.asked[0].capability_text


# A capability that is bound to its holder is refused for every other caller, whatever the sidecar says


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
