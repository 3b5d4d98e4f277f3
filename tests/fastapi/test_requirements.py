"""`RequireCapability` in FastAPI's idiom; what holds on every face is in tests/faces."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Form, Query, Security, UploadFile
from pydantic import BaseModel

from chio_asgi import ChioASGIMiddleware
from chio_core.models.receipt import HttpReceipt
from chio_fastapi import RequireCapability, add_chio, require_capability
from tests.fastapi.apps import TRANSFER, Transfer, stub, with_token
from tests.support import Judge, Reply, allow_with_capability, call, run


class Payment(BaseModel):
    amount: int


def build() -> tuple[FastAPI, list[str]]:
    """Return an application with one route, and the receipts of the handlers that ran."""
    app, called = FastAPI(), []

    @app.post("/pay")
    async def pay(payment: Payment, receipt: Transfer) -> dict[str, Any]:
        called.append(receipt.id)
        return {"amount": payment.amount, "receipt": receipt.id}

    add_chio(app, client=stub())
    return app, called


JSON = ("content-type", "application/json")


def pay(app: FastAPI, headers: Any = (), body: bytes = b'{"amount": 3}') -> Reply:
    return run(call(app, "POST", "/pay", body=body, headers=[JSON, *headers]))


@pytest.mark.parametrize("body", [b"{", b"", b'{"amount": "x"}', b"\xff", b"[]"])
def test_malformed_json_without_a_capability_is_refused_before_it_is_parsed(body: bytes) -> None:
    app, called = build()
    assert pay(app, body=body).status == 401
    assert pay(app, with_token(("payments", "refund")), body=body).status == 403
    assert pay(app, with_token(("payments", "transfer")), body=body).status in (400, 422)
    assert called == []


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
