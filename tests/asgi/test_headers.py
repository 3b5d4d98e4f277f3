"""Headers that may stand only once, and the header with the receipt id."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from chio_core.errors import SidecarUnreachable
from tests.asgi.routes import both_ways, govern
from tests.stub_sidecar import Kernel, exact
from tests.support import Judge, call, call_that_raises, connect, deny, http_scope, run


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


SINGLETONS = [
    "x-chio-capability", "x-chio-approval", "authorization", "x-api-key", "content-type", "content-length", "host",
]  # fmt: skip


@pytest.mark.parametrize("name", SINGLETONS)
def test_a_security_header_that_is_repeated_is_answered_400(name: str) -> None:
    called = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope)

    governed, judge = govern(app)
    spellings = (name.lower(), name.upper(), name.title())
    for values, again in itertools.product((("a", "b"), ("a", "a"), ("", ""), ("", "a")), spellings):
        scope_headers = [(name, values[0]), ("x-other", "1"), (again, values[1])]
        reply = run(call(governed, "POST", "/", headers=scope_headers, body=b"x"))
        assert (reply.status, reply.json()["error"], reply.receipt) == (400, "chio_bad_request", None), scope_headers
        assert reply.json()["message"] == f"header {name} occurs more than once", scope_headers
        assert (judge.questions, called) == ([], []), scope_headers


def test_a_websocket_with_such_a_header_twice_is_refused() -> None:
    governed, judge = govern(Starlette())
    headers = [("x-chio-capability", "a"), ("x-chio-capability", "b")]
    assert run(connect(governed, "/", headers=headers)).status == 400
    assert judge.questions == []


def test_headers_that_are_named_in_the_settings_may_occur_only_once_too() -> None:
    governed, _ = govern(Starlette(routes=[Route("/", ok)]), capability_header="X-Cap", api_key_header="X-Key")
    for name, status in (("x-cap", 400), ("x-key", 400), ("x-api-key", 200), ("x-chio-capability", 200)):
        assert run(call(governed, "GET", "/", headers=[(name, "a"), (name, "b")])).status == status


@pytest.mark.parametrize("name", ["cookie", "accept", "x-forwarded-for", "forwarded", "traceparent"])
def test_other_headers_may_be_repeated(name: str) -> None:
    governed, judge = govern(Starlette(routes=[Route("/", ok)]))
    assert run(call(governed, "GET", "/", headers=[(name, "a=1"), (name, "b=2")])).status == 200
    assert judge.trace == [None]


def test_only_the_hyphen_form_of_the_capability_header_counts() -> None:
    governed, judge = govern(Starlette(routes=[Route("/", ok)]))
    for headers in ([("x_chio_capability", "t")], [("x-chio_capability", "t")], [("xchiocapability", "t")]):
        assert run(call(governed, "GET", "/", headers=headers)).status == 200
    headers = [("x-chio-capability", '{"id":"good"}'), ("x_chio_capability", '{"id":"bad"}')]
    assert run(call(governed, "GET", "/", headers=headers)).status == 200
    assert judge.tokens == [None, None, None, '{"id":"good"}']


@pytest.mark.parametrize("token", [b"\xff", b"a\tb", b"a\x00b", b"x" * 70_000, "tök".encode()])
def test_a_token_that_is_no_header_text_is_answered_400(token: bytes) -> None:
    governed, judge = govern(Starlette(routes=[Route("/", ok)]))
    assert run(call(governed, "GET", "/", headers=[("x-chio-capability", token)])).status == 400
    assert judge.questions == []


def test_a_blank_token_is_no_token() -> None:
    governed, judge = govern(Starlette(routes=[Route("/", ok)]))
    for value in ("", " ", "   "):
        assert run(call(governed, "GET", "/", headers=[("x-chio-capability", value)])).status == 200
    assert judge.tokens == [None] * 3


def test_the_trace_context_is_passed_on() -> None:
    governed, judge = govern(Starlette(routes=[Route("/", ok)]))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    run(call(governed, "GET", "/", headers=[("traceparent", trace)]))
    run(call(governed, "GET", "/", headers=[("traceparent", b"\xff")]))
    assert judge.trace == [trace, None]


# The receipt header


class Item(BaseModel):
    count: int


def everything() -> FastAPI:
    app = FastAPI()

    async def handler(request: Request, exc: Exception) -> Response:
        return JSONResponse({"handled": True}, status_code=418)

    class Handled(Exception):
        pass

    app.add_exception_handler(Handled, handler)

    @app.get("/ok")
    async def fine() -> dict[str, bool]:
        return {"ok": True}

    @app.post("/items")
    async def items(item: Item) -> Item:
        return item

    @app.get("/raises")
    async def raises() -> None:
        raise RuntimeError("the handler fails")

    @app.get("/handled")
    async def handled() -> None:
        raise Handled

    @app.get("/http-error")
    async def http_error() -> None:
        raise HTTPException(409, headers={"x-why": "conflict"})

    @app.get("/elsewhere")
    async def elsewhere() -> Response:
        return RedirectResponse("/ok")

    @app.get("/nothing")
    async def nothing() -> Response:
        return Response(status_code=204)

    return app


STATUSES = [
    ("GET", "/ok", b"", 200),
    ("POST", "/items", b'{"count": 1}', 200),
    ("POST", "/items", b'{"count": "x"}', 422),
    ("POST", "/items", b"{", 422),
    ("DELETE", "/items", b"", 405),
    ("GET", "/no-such", b"", 404),
    ("GET", "/ok/", b"", 307),
    ("GET", "/elsewhere", b"", 307),
    ("GET", "/nothing", b"", 204),
    ("GET", "/handled", b"", 418),
    ("GET", "/http-error", b"", 409),
    ("GET", "/openapi.json", b"", 200),
    ("GET", "/docs", b"", 200),
]


@both_ways
@pytest.mark.parametrize(("method", "path", "body", "status"), STATUSES)
def test_every_governed_response_names_its_receipt(
    governed: Any, method: str, path: str, body: bytes, status: int
) -> None:
    app, judge = governed(everything())
    reply = run(call(app, method, path, body=body, headers=[("content-type", "application/json")]))
    assert reply.status == status
    assert reply.receipt is not None
    assert judge.receipts[reply.receipt]["path"] == path


@both_ways
def test_so_does_the_response_when_the_handler_fails(governed: Any) -> None:
    app, judge = governed(everything())
    reply = run(call_that_raises(app, RuntimeError, "GET", "/raises"))
    assert (reply.status, reply.body) == (500, b"Internal Server Error")
    assert reply.receipt is not None
    assert judge.receipts[reply.receipt]["path"] == "/raises"


FORGED = [[(b"x-chio-receipt", b"forged")], [(b"X-Chio-Receipt", b"forged"), (b"X-CHIO-RECEIPT", b"forged too")]]


def forging(headers: list[tuple[bytes, bytes]], *, trailers: bool = False) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        others = [(b"set-cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"x-chio-receipt-id", b"other")]
        await send({
            "type": "http.response.start", "status": 200, "headers": [*others, *headers], "trailers": trailers,
        })  # fmt: skip
        await send({"type": "http.response.body", "body": b"ok"})
        if trailers:
            await send({"type": "http.response.trailers", "headers": [*headers, (b"x-end", b"1")]})

    return app


@pytest.mark.parametrize("forged", FORGED)
def test_an_application_cannot_claim_a_receipt(forged: Any) -> None:
    app, judge = govern(forging(forged))
    reply = run(call(app, "GET", "/"))
    assert reply.receipt in judge.receipts

    client = app.client
    app, _ = govern(forging(forged), exclude_paths=frozenset({"/"}))
    assert run(call(app, "GET", "/")).receipt is None

    app, _ = govern(forging(forged), fail_open=True)
    app.client.failure = SidecarUnreachable("x")
    reply = run(call(app, "GET", "/"))
    assert (reply.status, reply.receipt) == (200, None)
    assert client is not None


def test_nor_on_an_excluded_path_where_it_gives_its_headers_one_by_one() -> None:
    """The headers of a message are an iterable, which may be read once."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        lines = iter([(b"X-Chio-Receipt", b"forged"), (b"x-other", b"1")])
        await send({"type": "http.response.start", "status": 200, "headers": lines})
        await send({"type": "http.response.body", "body": b"ok"})

    governed, _ = govern(app, exclude_paths=frozenset({"/"}))
    assert run(call(governed, "GET", "/")).headers == [("x-other", "1")]


@pytest.mark.parametrize("forged", FORGED)
def test_nor_in_its_trailers(forged: Any) -> None:
    app, judge = govern(forging(forged, trailers=True))
    reply = run(call(app, "GET", "/"))
    assert reply.receipt in judge.receipts
    assert reply.messages[-1]["headers"] == [(b"x-end", b"1")]


def test_every_other_header_line_stays_as_it_was() -> None:
    app, _ = govern(forging([]))
    headers = run(call(app, "GET", "/")).messages[0]["headers"]
    assert headers[:3] == [(b"set-cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"x-chio-receipt-id", b"other")]
    assert [name for name, _ in headers[3:]] == [b"x-chio-receipt"]


def test_the_header_can_have_another_name() -> None:
    app, judge = govern(
        forging([(b"X-Decision", b"forged"), (b"x-chio-receipt", b"free")]), receipt_header="X-Decision"
    )
    reply = run(call(app, "GET", "/"))
    assert reply.header("x-decision") in judge.receipts
    assert reply.header("x-chio-receipt") == "free"


@pytest.mark.parametrize("identifier", ["a\r\nset-cookie: evil=1", "ä", "a\x00", "\n"])
def test_a_receipt_id_that_no_header_can_carry_is_left_out(identifier: str) -> None:
    def renamed(answer: dict[str, Any]) -> dict[str, Any]:
        return answer | {"receipt": Kernel(canonical=exact).signed({**answer["receipt"], "id": identifier})}

    app, _ = govern(forging([(b"x-chio-receipt", b"forged")]), Judge(tamper=renamed))
    reply = run(call(app, "GET", "/"))
    assert (reply.status, reply.receipt) == (200, None)


def test_a_refusals_reason_cannot_break_its_headers() -> None:
    app, _ = govern(forging([]), Judge(lambda question, token: deny("a\r\nset-cookie: evil=1 ü")))
    reply = run(call(app, "GET", "/"))
    assert reply.json()["message"] == "a\r\nset-cookie: evil=1 ü"
    assert all(b"\r" not in value and b"\n" not in value for _, value in reply.messages[0]["headers"])
    assert reply.header("cache-control") == "no-store"


@pytest.mark.parametrize("with_body", [True, False])
def test_a_trailer_that_the_server_adds_to_the_headers_later_is_no_header_for_anybody(with_body: bool) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        seen.append(([name for name, _ in scope["headers"]], message["body"]))
        await PlainTextResponse("ok")(scope, receive, send)

    governed, judge = govern(app)
    scope = http_scope("GET", "/", headers=[("x-other", "1")])
    lines, replies = scope["headers"], []

    async def receive() -> dict[str, Any]:
        lines.append((b"x-api-key", b"in the trailer"))  # uvicorn keeps the list that it gave away, and appends
        return {"type": "http.request", "body": b"x" if with_body else b""}

    async def send(message: Any) -> None:
        replies.append(message)

    run(governed(scope, receive, send))
    assert replies[0]["status"] == 200
    assert seen == [([b"x-other"], b"x" if with_body else b"")]
    assert judge.last["caller"]["subject"] == "anonymous"


@pytest.mark.parametrize("state", [{}, None, State(), {"chio_decision": "forged"}])
def test_an_application_that_replaces_its_state_cannot_hide_or_change_the_receipt(state: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = state
        await PlainTextResponse("ok")(scope, receive, send)

    governed, judge = govern(app)
    assert run(call(governed, "GET", "/")).receipt in judge.receipts
