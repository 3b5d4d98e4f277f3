"""`RequireApproval`: part of the one evaluation, of the amount that the handler will read, never skipped."""

from __future__ import annotations

import contextlib
import uuid
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request, WebSocket

from chio_asgi import ChioASGIMiddleware
from chio_core.errors import ConfigurationError
from chio_core.models.receipt import HttpReceipt
from chio_core.testing import Behaviour, ScriptedSidecar, behaviours
from chio_core.testing import Reply as SidecarReply
from chio_core.testing.exchange import compact
from chio_fastapi import Budget, RequireApproval, RequireCapability, add_chio, from_body, from_path, from_query
from tests.fastapi.apps import govern, with_and_without
from tests.fastapi.demanding import HOLDER, JSON, Served, problem
from tests.support import call, connect, run

ALWAYS = RequireApproval(10_000)
PENDING = {
    "error": "chio_approval_required",
    "message": "request requires human approval before it can proceed",
    "kernel_receipt_id": "rcpt-1",
    "approval_id": "appr-1",
    "resume_path": "/approvals/appr-1/respond",
}
WAITS = Behaviour("waits", "Wants an approval.", lambda asked: SidecarReply(compact(PENDING), 409))


# One question


def test_capability_approval_and_budget_are_one_evaluation_with_one_receipt() -> None:
    receipts: list[HttpReceipt] = []
    sidecar, app = ScriptedSidecar(), FastAPI()

    @app.post("/pay/{account}")
    async def pay(
        account: str,
        capability: Annotated[HttpReceipt, Depends(RequireCapability("pay", "out", arguments=dict))],
        approval: Annotated[HttpReceipt, Depends(RequireApproval(10, "EUR", amount=from_body("amount.units")))],
        budget: Annotated[HttpReceipt, Depends(Budget(cost=from_query("cost"), max_invocations=5))],
    ) -> None:
        receipts.extend((capability, approval, budget))

    add_chio(app, client=sidecar.client())
    body = b'{"amount":{"units":12}}'
    reply = run(call(app, "POST", "/pay/7", body=body, query=b"cost=2", headers=[*HOLDER, JSON]))
    assert (reply.status, len(sidecar.asked)) == (200, 1)
    assert {receipt.id for receipt in receipts} == {reply.receipt}
    asked = sidecar.asked[0].document
    assert (asked["tool_server"], asked["tool_name"], asked["arguments"]) == ("pay", "out", {"account": "7"})
    assert asked["governed_intent"] == {
        "approval": {"threshold_units": 10, "currency": "EUR"},
        "amount": {"units": 12, "currency": "EUR"},
    }
    assert asked["budget"] == {"cost": 2, "currency": "USD", "max_invocations": 5}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_without_the_middleware_the_route_is_one_evaluation_too(order: tuple[int, ...]) -> None:
    demands = (RequireCapability("pay", "out"), ALWAYS, Budget(cost=3))
    served = Served(*(demands[at] for at in order), middleware=False)
    assert served.ask().status == 200
    assert len(served.asked) == 1
    assert {"tool_server", "governed_intent", "budget"} <= served.asked[0].keys()


def test_where_the_middleware_cannot_see_the_route_its_demands_are_still_one_evaluation() -> None:
    demands = (RequireCapability("pay", "out"), ALWAYS, Budget(cost=3))
    served = Served(*demands, middleware=False)

    async def opaque(scope: Any, receive: Any, send: Any) -> None:
        await served.app(scope, receive, send)

    governed = ChioASGIMiddleware(opaque, client=served.sidecar.client())
    assert run(call(governed, "POST", "/pay/7", headers=HOLDER)).status == 200
    first, second = served.asked
    assert not {"tool_server", "governed_intent", "budget"} & first.keys()
    assert {"tool_server", "governed_intent", "budget"} <= second.keys()


@with_and_without
def test_a_second_demand_of_a_kind_is_a_second_evaluation(middleware: bool) -> None:
    served = Served(RequireApproval(1), RequireApproval(2), middleware=middleware)
    assert served.ask().status == 200
    thresholds = [asked["governed_intent"]["approval"]["threshold_units"] for asked in served.asked]
    assert thresholds == [1, 2]


@with_and_without
def test_a_decision_for_another_approval_does_not_count(middleware: bool) -> None:
    """The first is met; the second is asked about by itself, and is not."""
    served = Served(RequireApproval(1), RequireApproval(2), middleware=middleware)

    def script(asked: Any) -> Behaviour:
        first = asked.document["governed_intent"]["approval"]["threshold_units"] == 1
        return behaviours.ALLOW if first else WAITS

    served.sidecar.script = script
    assert (served.ask().status, served.ran) == (403, [])


@with_and_without
def test_a_dependency_behind_a_function_is_found_and_an_excluded_path_evaluates_by_itself(middleware: bool) -> None:
    def behind(receipt: Annotated[HttpReceipt, Depends(ALWAYS)]) -> HttpReceipt:
        return receipt

    served = Served(behind, middleware=middleware, exclude_prefixes=["/pay"])
    served.sidecar.script = WAITS
    assert (served.ask().status, served.ran, len(served.asked)) == (403, [], 1)


@with_and_without
def test_a_decision_of_an_earlier_request_never_counts_for_a_later_one(middleware: bool) -> None:
    """Also where a server gives every request the same state."""
    served, state = Served(ALWAYS, middleware=middleware), dict[str, Any]()
    assert served.ask(state=state).status == 200
    served.sidecar.script = WAITS
    assert (served.ask(state=state).status, len(served.ran)) == (403, 1)


@with_and_without
def test_a_decision_never_counts_for_a_request_that_a_handler_makes(middleware: bool) -> None:
    """A handler of batches hands copies of its scope to the application, with other bodies."""
    served = Served(RequireApproval(1), ALWAYS, middleware=middleware)
    inner: list[int] = []

    async def batch(request: Request) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"another"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                inner.append(message["status"])

        served.sidecar.script = WAITS
        await served.app({**request.scope, "path": "/pay/8"}, receive, send)

    served.app.add_api_route(
        "/batch", batch, methods=["POST"], dependencies=[Depends(RequireApproval(1)), Depends(ALWAYS)]
    )
    assert (served.ask("/batch").status, inner, served.ran) == (200, [403], [])


# Refusals


@with_and_without
def test_without_a_capability_it_is_401_and_no_approval_is_requested(middleware: bool) -> None:
    served = Served(ALWAYS, middleware=middleware)
    reply = served.ask(headers=[("x-chio-approval", "appr-1")])
    assert (reply.status, problem(reply)["error"], served.ran) == (401, "chio_capability_required", [])
    assert "governed_intent" not in served.asked[0]


@with_and_without
def test_a_refusal_for_a_missing_approval_says_how_to_get_it(middleware: bool) -> None:
    served = Served(ALWAYS, middleware=middleware)
    served.sidecar.script = WAITS
    reply = served.ask()
    document = problem(reply)
    assert (reply.status, document["error"], served.ran) == (403, "chio_approval_required", [])
    assert document["details"] == {
        "approval_id": "appr-1",
        "resume_path": "/approvals/appr-1/respond",
        "threshold": 10_000,
        "currency": "USD",
    }
    assert document["receipt_id"] == "rcpt-1"
    assert document["suggestion"].startswith("repeat the same request with X-Chio-Approval: appr-1 ")
    assert reply.receipt is None  # that receipt was not verified


@with_and_without
@pytest.mark.parametrize("demand", [ALWAYS, RequireApproval(100, amount=3), Budget(max_invocations=1)])
def test_an_allow_of_a_sidecar_that_ignores_the_demand_is_refused(middleware: bool, demand: Any) -> None:
    served = Served(demand, middleware=middleware)
    served.sidecar.script = behaviours.IGNORES_DEMANDS
    reply = served.ask()
    assert (reply.status, problem(reply)["error"], served.ran) == (502, "chio_policy_not_enforced", [])
    assert reply.receipt == problem(reply)["receipt_id"]


@with_and_without
@pytest.mark.parametrize("behaviour", [behaviours.REFUSE, behaviours.CANCEL, behaviours.DENY])
def test_fail_open_never_opens_a_route_with_demands(middleware: bool, behaviour: Behaviour) -> None:
    for demand in (ALWAYS, Budget(max_invocations=1)):
        served = Served(demand, middleware=middleware, fail_open=True)
        served.sidecar.script = behaviour
        assert served.ask().status in (403, 503)
        assert served.ran == []


@with_and_without
def test_the_approval_is_presented_and_sent_on(middleware: bool) -> None:
    served = Served(ALWAYS, middleware=middleware)
    assert served.ask(headers=[*HOLDER, ("X-Chio-Approval", " appr-1 ")]).status == 200
    assert served.ask(headers=[*HOLDER, ("X-Chio-Approval", '{"id":"t","n":[1]}')]).status == 200
    assert [asked["approval_token"] for asked in served.asked] == ["appr-1", {"id": "t", "n": [1]}]


@with_and_without
@pytest.mark.parametrize("lines", [["a", "a"], ["a b"], ["{"], ['{"a":1,"a":1}'], ["x" * 300], ["a\x7f"], ["\xe9"]])
def test_a_malformed_approval_is_refused_without_an_evaluation(middleware: bool, lines: list[str]) -> None:
    served = Served(ALWAYS, middleware=middleware)
    reply = served.ask(headers=[*HOLDER, *(("x-chio-approval", line) for line in lines)])
    assert (reply.status, problem(reply)["error"]) == (400, "chio_bad_request")
    assert (served.asked, served.ran) == ([], [])


# Amounts


@with_and_without
def test_the_amount_is_what_the_handler_will_read(middleware: bool) -> None:
    for source, path, query, body in [
        (from_path("account"), "/pay/12", b"", b""),
        (from_query("amount"), "/pay/x", b"a=1&amount=12", b""),
        (from_body("amount.units"), "/pay/x", b"", {"amount": {"units": 12}}),
        (lambda params: int(params["account"]) // 100, "/pay/1200", b"", b""),
        (12, "/pay/x", b"", b""),
    ]:
        served = Served(RequireApproval(amount=source), middleware=middleware)
        assert served.ask(path, query=query, body=body).status == 200
        assert served.asked[0]["governed_intent"]["amount"] == {"units": 12, "currency": "USD"}


@with_and_without
@pytest.mark.parametrize(
    ("source", "query", "body", "status", "place"),
    [
        (from_query("amount"), b"", b"", 400, "query parameter amount"),
        (from_query("amount"), b"amount=1&amount=99999", b"", 400, "query parameter amount"),
        (from_path("account"), b"", b"", 400, "path parameter account"),
        (from_body("amount"), b"", {"amount": True}, 400, "body member amount"),
        (from_body("amount.units"), b"", {"amount": 5}, 400, "body member amount.units"),
        (from_body("amount"), b"", {}, 400, "body member amount"),
        (from_body("amount"), b"", b'{"amount":1}', 415, "amount"),
        (from_body("amount"), b"", b"", 415, "amount"),
    ],
)
def test_an_amount_that_is_not_clearly_stated_is_refused(
    middleware: bool, source: Any, query: bytes, body: Any, status: int, place: str
) -> None:
    for demand in (RequireApproval(amount=source), Budget(cost=source)):
        served = Served(demand, middleware=middleware)
        reply = served.ask("/pay/x", query=query, body=body)
        assert (reply.status, problem(reply)["error"]) == (status, "chio_bad_request")
        assert place in problem(reply)["message"]
        assert (served.ran, served.asked) == ([], [])


@with_and_without
@pytest.mark.parametrize("query", [b"id=99&id=5", b"id=5&a=1&%69d=5"])
def test_a_query_that_repeats_a_parameter_cannot_be_approved(middleware: bool, query: bytes) -> None:
    """The sidecar would see the last value only, and a handler may read them all."""
    served = Served(ALWAYS, middleware=middleware)
    reply = served.ask(query=query, headers=[*HOLDER, ("x-chio-approval", "appr-1")])
    assert (reply.status, served.ran, served.asked) == (400, [], [])
    assert "a query parameter occurs more than once" in problem(reply)["message"]
    assert served.ask(query=b"id=5&a=1").status == 200


@with_and_without
def test_a_query_of_too_many_fields_is_refused_if_it_holds_an_amount(middleware: bool) -> None:
    served = Served(Budget(cost=from_query("cost")), middleware=middleware)
    reply = served.ask(query=b"cost=1" + b"&a=" * 1000)
    assert (reply.status, problem(reply)["error"], served.ran) == (400, "chio_bad_request", [])
    assert "too many fields" in problem(reply)["message"]


@with_and_without
def test_a_body_with_two_readings_is_refused(middleware: bool) -> None:
    served = Served(RequireApproval(amount=from_body("amount")), middleware=middleware)
    reply = served.ask(body=b'{"amount":1,"amount":99999}', headers=[*HOLDER, JSON])
    assert (reply.status, served.ran) == (400, [])


@pytest.mark.parametrize("padding", [100, 70_000, 200_000])
@with_and_without
def test_a_large_body_is_evaluated_from_memory_and_from_a_file(padding: int, middleware: bool) -> None:
    served = Served(RequireApproval(amount=from_body("amount")), middleware=middleware, spool_bytes=1000)
    body = b'{"padding":"' + b"x" * padding + b'","amount":7}'
    pieces = [body[at : at + 9_000] for at in range(0, len(body), 9_000)]
    assert served.ask(body=pieces, headers=[*HOLDER, JSON]).status == 200
    assert served.asked[0]["governed_intent"]["amount"]["units"] == 7
    assert served.asked[0]["body_length"] == len(body)
    assert served.ran == [body]


@with_and_without
def test_a_body_above_the_limit_is_refused_before_it_is_parsed(middleware: bool) -> None:
    served = Served(RequireApproval(amount=from_body("amount")), middleware=middleware, max_body_bytes=10)
    reply = served.ask(body={"amount": 1, "more": 2})
    assert (reply.status, problem(reply)["error"], served.ran) == (413, "chio_body_too_large", [])


@with_and_without
def test_a_function_that_returns_no_number_refuses(middleware: bool) -> None:
    served = Served(RequireApproval(amount=lambda params: params["account"]), middleware=middleware)
    with contextlib.suppress(ConfigurationError):
        assert served.ask().status == 500
    assert (served.asked, served.ran) == ([], [])


# Websockets


@with_and_without
@pytest.mark.parametrize("waits", [False, True])
def test_a_handshake_needs_its_approval_too(middleware: bool, waits: bool) -> None:
    sidecar, app, opened = ScriptedSidecar(WAITS if waits else behaviours.ALLOW), FastAPI(), []
    demands = [Depends(RequireApproval(amount=from_query("n"))), Depends(Budget(cost=from_path("room")))]

    @app.websocket("/rooms/{room}", dependencies=demands)
    async def room(websocket: WebSocket) -> None:
        opened.append(websocket)
        await websocket.accept()

    govern(app, sidecar.client(), middleware)
    reply = run(connect(app, "/rooms/3", headers=HOLDER, query_string=b"n=4"))
    assert len(opened) == (0 if waits else 1)
    assert reply.messages[0]["type"] == ("websocket.http.response.start" if waits else "websocket.accept")
    assert [asked.document["budget"]["cost"] for asked in sidecar.asked] == [3]


@with_and_without
def test_a_handshake_has_no_body_to_take_an_amount_from(middleware: bool) -> None:
    sidecar, app, opened = ScriptedSidecar(), FastAPI(), []

    @app.websocket("/room", dependencies=[Depends(Budget(cost=from_body("n")))])
    async def room(websocket: WebSocket) -> None:
        opened.append(websocket)

    client = sidecar.client()
    if middleware:
        add_chio(app, client=client)
        assert run(connect(app, "/room", headers=HOLDER)).status == 500
    else:
        app.state.chio_client = client
        with pytest.raises(ConfigurationError, match="websocket handshake has no body"):
            run(connect(app, "/room", headers=HOLDER))
    assert opened == []


# Mistakes, equality, the document


def test_equal_demands_are_equal_and_found_by_dependency_overrides() -> None:
    assert RequireApproval(5, "EUR", amount=from_body("a")) == RequireApproval(5, "EUR", amount=from_body("a"))
    assert hash(RequireApproval()) == hash(RequireApproval(10_000, "USD"))
    assert RequireApproval(amount=1) != RequireApproval(amount=2) != RequireApproval()
    assert RequireApproval(amount=from_query("a")) != RequireApproval(amount=from_path("a"))
    assert repr(RequireApproval(5, amount=from_body("a"))) == ("RequireApproval(5, 'USD', amount=FromBody(path='a'))")
    for middleware in (True, False):
        served = Served(ALWAYS, middleware=middleware, overrides=[RequireApproval()])
        served.sidecar.script = behaviours.IGNORES_DEMANDS
        assert served.ask(headers=[]).status == 200
        assert all("governed_intent" not in asked for asked in served.asked)


def test_a_demand_without_its_parentheses_is_refused_when_the_route_is_defined() -> None:
    for demand in (RequireApproval, Budget):
        with pytest.raises(ConfigurationError, match=rf"Depends\({demand.__name__}\) lacks its parentheses"):
            FastAPI().get("/", dependencies=[Depends(demand)])(lambda: None)


@pytest.mark.parametrize(
    "arguments",
    [
        {"threshold": -1},
        {"threshold": True},
        {"threshold": 1.5},
        {"threshold": 2**63},
        {"currency": ""},
        {"currency": "US D"},
        {"currency": "€"},
        {"amount": -1},
        {"amount": "5"},
        {"amount": 1.0},
        {"amount": True},
        {"amount": int},
    ],
)
def test_an_approval_that_cannot_be_meant_is_refused_at_the_start(arguments: Any) -> None:
    with pytest.raises(ConfigurationError, match="RequireApproval"):
        RequireApproval(**arguments)


def test_the_document_states_the_approval_and_the_header() -> None:
    assert RequireApproval(5, "EUR").chio_extensions() == {
        "x-chio-approval-required": True,
        "x-chio-approval": {"threshold": 5, "currency": "EUR"},
    }
    operation = Served(ALWAYS).app.openapi()["paths"]["/pay/{account}"]["post"]
    assert [one["name"] for one in operation["parameters"] if one["in"] == "header"] == ["X-Chio-Approval"]
    assert operation["security"] == [{"ChioCapability": []}]


# Arguments of a capability that are no JSON


@with_and_without
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (uuid.UUID(int=7), "a value of type UUID"),
        ({"at": [uuid.UUID(int=7)]}, "a value of type UUID"),
        ({"n": float("nan")}, "a number that is not finite"),
        ({7: 1}, "a key of type int"),
        ({1, 2}, "a value of type set"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_arguments_that_are_no_json_are_reported(
    middleware: bool, value: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    served = Served(RequireCapability("pay", "out", arguments=lambda params: value), middleware=middleware)
    if middleware:
        assert served.ask().status == 500
        text = caplog.text
    else:
        with pytest.raises(ConfigurationError) as caught:
            served.ask()
        text = caught.value.message
    assert said in text
    assert "/pay/{account}" in text
    assert "00000000-0000" not in text
    assert (served.asked, served.ran) == ([], [])
