"""`RequireCapability`: found before the body is parsed, part of the one evaluation, never skipped."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Form, Query, Security, UploadFile
from pydantic import BaseModel

from chio_asgi import ChioASGIMiddleware
from chio_core.errors import EvaluationFailed, SidecarTimeout, SidecarUnreachable
from chio_core.models.receipt import HttpReceipt
from chio_fastapi import RequireCapability, add_chio, require_capability
from tests.fastapi.apps import TRANSFER, Transfer, govern, stub, with_and_without, with_token
from tests.support import Judge, Reply, allow_with_capability, call, deny, run


class Payment(BaseModel):
    amount: int


def build(*, middleware: bool = True, **options: Any) -> tuple[FastAPI, Judge, list[str]]:
    """One application with a route of each kind; `called` lists the receipts of the handlers that ran."""
    app, judge, called = FastAPI(), Judge(allow_with_capability), []

    @app.post("/pay")
    async def pay(payment: Payment, receipt: Transfer) -> dict[str, Any]:
        called.append(receipt.id)
        return {"amount": payment.amount, "receipt": receipt.id}

    govern(app, stub(judge, **options), middleware)
    return app, judge, called


JSON = ("content-type", "application/json")


def pay(app: FastAPI, headers: Any = (), body: bytes = b'{"amount": 3}') -> Reply:
    return run(call(app, "POST", "/pay", body=body, headers=[JSON, *headers]))


def refusal(reply: Reply, middleware: bool) -> Any:
    """`add_chio` answers in the flat envelope, FastAPI by itself puts that under `detail`."""
    return reply.json() if middleware else reply.json()["detail"]


@with_and_without
def test_with_the_capability_the_handler_gets_the_receipt(middleware: bool) -> None:
    app, judge, called = build(middleware=middleware)
    reply = pay(app, with_token(("payments", "transfer")))
    assert reply.status == 200
    assert reply.json() == {"amount": 3, "receipt": called[0]}
    assert len(judge.questions) == 1
    asked = judge.receipts[called[0]]
    assert (asked["tool_server"], asked["tool_name"], asked["route_pattern"]) == ("payments", "transfer", "/pay")
    assert asked["body_length"] == len(b'{"amount": 3}')


@with_and_without
def test_without_a_capability_it_is_401_with_a_challenge(middleware: bool) -> None:
    app, _, called = build(middleware=middleware)
    reply = pay(app)
    assert (reply.status, called) == (401, [])
    assert reply.header("www-authenticate") == 'Chio realm="chio", header="X-Chio-Capability"'
    document = refusal(reply, middleware)
    assert (document["error"], document["status"]) == ("chio_capability_required", 401)
    assert document["receipt_id"] == reply.receipt


@with_and_without
@pytest.mark.parametrize("grant", [("payments", "refund"), ("shop", "transfer"), ("Payments", "transfer")])
def test_with_another_capability_it_is_403(middleware: bool, grant: tuple[str, str]) -> None:
    app, _, called = build(middleware=middleware)
    reply = pay(app, with_token(grant))
    assert (reply.status, called) == (403, [])
    assert refusal(reply, middleware)["error"] == "chio_access_denied"
    assert reply.receipt is not None


@with_and_without
def test_a_token_that_the_sidecar_did_not_take_is_no_capability(middleware: bool) -> None:
    """The receipt names no capability: whatever the token says about itself, it was not found valid."""

    class Ignoring(Judge):
        def answer(self, body: bytes, headers: Any) -> bytes:
            return super().answer(body, {name: value for name, value in headers.items() if "capability" not in name})

    app, _, called = build(middleware=middleware)
    app.state.chio_client.judge = Ignoring()
    assert (pay(app, with_token(("payments", "transfer"))).status, called) == (403, [])


@with_and_without
@pytest.mark.parametrize("text", ["garbage", "{}", "[]", '{"id":"cap-1"}', "x" * 500, '{"id":"a","id":"b"}'])
def test_a_malformed_token_is_refused(middleware: bool, text: str) -> None:
    app, _, called = build(middleware=middleware)
    assert (pay(app, [("x-chio-capability", text)]).status, called) == (403, [])


@with_and_without
@pytest.mark.parametrize(
    ("failure", "status"),
    [(SidecarUnreachable("x"), 503), (SidecarTimeout("x"), 503), (EvaluationFailed("x"), 502)],
)
@pytest.mark.parametrize("fail_open", [False, True])
def test_without_a_decision_a_requirement_is_never_met(
    middleware: bool, failure: Exception, status: int, fail_open: bool
) -> None:
    app, _, called = build(middleware=middleware, fail_open=fail_open)
    app.state.chio_client.failure = failure
    reply = pay(app, with_token(("payments", "transfer")))
    assert (reply.status, reply.receipt, called) == (status, None, [])


@pytest.mark.parametrize("body", [b"{", b"", b'{"amount": "x"}', b"\xff", b"[]"])
def test_malformed_json_without_a_capability_is_refused_before_it_is_parsed(body: bytes) -> None:
    app, _, called = build()
    assert pay(app, body=body).status == 401
    assert pay(app, with_token(("payments", "refund")), body=body).status == 403
    assert pay(app, with_token(("payments", "transfer")), body=body).status in (400, 422)
    assert called == []


@with_and_without
def test_a_denial_of_the_sidecar_is_the_response(middleware: bool) -> None:
    app, judge, called = build(middleware=middleware)
    app.state.chio_client.judge = Judge(lambda question, text: deny("not today", 451))
    reply = pay(app, with_token(("payments", "transfer")))
    assert (reply.status, called, judge.questions) == (451, [], [])
    assert refusal(reply, middleware)["message"] == "not today"


# Several requirements


def test_of_two_requirements_both_must_be_met() -> None:
    app, judge, called = FastAPI(), Judge(allow_with_capability), []

    @app.post("/both")
    async def both(
        first: Transfer, second: Annotated[HttpReceipt, Depends(RequireCapability("audit", "write"))]
    ) -> None:
        called.append((first.id, second.id))

    add_chio(app, client=stub(judge))
    for grants, status in [
        ([("payments", "transfer"), ("audit", "write")], 200),
        ([("payments", "transfer")], 403),
        ([("audit", "write")], 403),
        ([], 401),
    ]:
        headers = with_token(*grants) if grants else []
        assert run(call(app, "POST", "/both", headers=headers)).status == status
    assert len(called) == 1
    tools = [judge.receipts[identifier]["tool_name"] for identifier in called[0]]
    assert tools == ["transfer", "write"]


@pytest.mark.parametrize("body", ["form", "file", "json", "none"])
def test_a_second_requirement_is_about_the_same_body(body: str) -> None:
    app, judge = FastAPI(), Judge(allow_with_capability)
    second = Depends(RequireCapability("audit", "write"))

    @app.post("/form", dependencies=[Depends(TRANSFER), second])
    async def form(a: Annotated[str, Form()]) -> str:
        return a

    @app.post("/file", dependencies=[Depends(TRANSFER), second])
    async def file(a: UploadFile) -> str:
        return (await a.read()).decode()

    @app.post("/json", dependencies=[Depends(TRANSFER), second])
    async def document(a: Payment) -> str:
        return "1"

    @app.post("/none", dependencies=[Depends(TRANSFER), second])
    async def none() -> str:
        return "1"

    add_chio(app, client=stub(judge))
    sent, kind = {
        "form": (b"a=1", "application/x-www-form-urlencoded"),
        "file": (
            b'--b\r\ncontent-disposition: form-data; name="a"; filename="f"\r\n\r\n1\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
        ),
        "json": (b'{"amount":1}', "application/json"),
        "none": (b"unread", "text/plain"),
    }[body]
    headers = [*with_token(("payments", "transfer"), ("audit", "write")), ("content-type", kind)]
    reply = run(call(app, "POST", f"/{body}", body=sent, headers=headers))
    assert (reply.status, reply.json()) == (200, "1")
    first, other = judge.questions
    assert first["body_hash"] == other["body_hash"]
    assert first["body_length"] == other["body_length"] == len(sent)
    assert (first["tool_name"], other["tool_name"]) == ("transfer", "write")


def test_the_same_requirement_twice_is_one_evaluation() -> None:
    app, judge = (
        FastAPI(dependencies=[Depends(RequireCapability("payments", "transfer"))]),
        Judge(allow_with_capability),
    )
    router = APIRouter(dependencies=[Security(RequireCapability("payments", "transfer"))])

    @router.post("/pay")
    async def handler(receipt: Transfer) -> str:
        return receipt.id

    app.include_router(router)
    add_chio(app, client=stub(judge))
    reply = run(call(app, "POST", "/pay", headers=with_token(("payments", "transfer"))))
    assert (reply.json(), len(judge.questions)) == (reply.receipt, 1)


def test_a_named_requirement_goes_before_any_capability() -> None:
    app, judge = FastAPI(dependencies=[Depends(require_capability)]), Judge(allow_with_capability)

    @app.post("/pay")
    async def handler(receipt: Transfer) -> str:
        return receipt.id

    add_chio(app, client=stub(judge))
    assert run(call(app, "POST", "/pay", headers=with_token(("payments", "transfer")))).status == 200
    assert judge.questions[0]["tool_name"] == "transfer"
    assert run(call(app, "POST", "/pay")).status == 401


def test_arguments_that_python_calls_equal_are_two_requirements() -> None:
    app, judge = FastAPI(), Judge(allow_with_capability)
    one, true = (RequireCapability("s", "t", arguments={"n": value}) for value in (1, True))
    assert one != true

    @app.get("/", dependencies=[Depends(one), Depends(true)])
    async def handler() -> None: ...

    add_chio(app, client=stub(judge))
    assert run(call(app, "GET", "/", headers=with_token(("s", "t")))).status == 200
    assert [question["arguments"] for question in judge.questions] == [{"n": 1}, {"n": True}]
    assert [type(question["arguments"]["n"]) for question in judge.questions] == [int, bool]


def test_query_parameters_and_requirements_work_side_by_side() -> None:
    app = FastAPI()

    @app.get("/")
    async def handler(receipt: Transfer, q: Annotated[int, Query()]) -> int:
        return q

    add_chio(app, client=stub())
    headers = with_token(("payments", "transfer"))
    assert run(call(app, "GET", "/", query=b"q=3", headers=headers)).json() == 3
    assert run(call(app, "GET", "/", query=b"q=x", headers=headers)).status == 422
    assert run(call(app, "GET", "/", query=b"q=x")).status == 401


def test_the_middleware_alone_enforces_what_routes_require() -> None:
    """`add_middleware` in place of `add_chio`: the refusal comes from the middleware, in its envelope."""
    app, called = FastAPI(), []

    @app.post("/pay")
    async def handler(receipt: Transfer) -> None:
        called.append(receipt)

    app.add_middleware(ChioASGIMiddleware, client=stub())
    reply = run(call(app, "POST", "/pay"))
    assert (reply.status, reply.json()["error"], called) == (401, "chio_capability_required", [])
    assert run(call(app, "POST", "/pay", headers=with_token(("payments", "transfer")))).status == 200
