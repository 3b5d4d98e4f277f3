"""`Depends(Observe())` and observe mode with dependencies: what they give where nothing was allowed."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from pydantic import BaseModel

from chio_asgi.listing import observed_routes
from chio_core.errors import ConfigurationError, SidecarUnreachable
from chio_core.models.receipt import ChioPassthrough, HttpReceipt
from chio_fastapi import (
    Capability,
    ChioPassthroughDep,
    ChioReceipt,
    Observe,
    OptionalChioReceipt,
    RequireCapability,
    add_chio,
    check,
)
from tests.fastapi.apps import TRANSFER, govern, stub, with_and_without, with_token
from tests.support import Judge, Reply, StubClient, call, connect, deny, run

OBSERVED = [Depends(Observe())]
Mark = Annotated[ChioPassthrough | None, Depends(Observe())]
Granted = Annotated[HttpReceipt | None, Depends(TRANSFER)]
JSON = ("content-type", "application/json")


class Payment(BaseModel):
    amount: int


def name_of(receipt: HttpReceipt | None) -> str | None:
    return receipt.id if receipt is not None else None


def build(middleware: bool = True, client: StubClient | None = None, **options: Any) -> tuple[FastAPI, StubClient]:
    """One application with routes that are observed and routes that are not."""
    app = FastAPI()

    @app.post("/pay", dependencies=OBSERVED)
    async def pay(payment: Payment, receipt: Granted) -> dict[str, Any]:
        return {"amount": payment.amount, "receipt": name_of(receipt)}

    @app.post("/pay-after")
    async def pay_after(receipt: Granted, mark: Mark) -> dict[str, Any]:
        return {"receipt": name_of(receipt), "mark": mark.error if mark else None}

    @app.post("/enforced")
    async def enforced(receipt: Granted) -> dict[str, Any]:
        return {"receipt": name_of(receipt)}

    @app.post("/two", dependencies=[*OBSERVED, Depends(RequireCapability("accounts", "read"))])
    async def two(receipt: Granted) -> dict[str, Any]:
        return {"receipt": name_of(receipt)}

    @app.get("/any", dependencies=OBSERVED)
    async def any_capability(receipt: Capability) -> dict[str, Any]:
        return {"receipt": name_of(receipt)}

    @app.post("/only")
    async def only(mark: Mark) -> dict[str, Any]:
        return {"mark": mark.error if mark else None}

    client = client if client is not None else stub(**options)
    govern(app, client, middleware)
    return app, client


def post(app: FastAPI, path: str, headers: Any = (), body: bytes = b'{"amount": 3}') -> Reply:
    return run(call(app, "POST", path, body=body, headers=[JSON, *headers]))


@with_and_without
def test_another_capability_gives_no_receipt_either(middleware: bool) -> None:
    app, _ = build(middleware)
    reply = post(app, "/pay", with_token(("payments", "refund")))
    assert (reply.status, reply.json()["receipt"]) == (200, None)


@with_and_without
def test_the_order_of_the_dependencies_does_not_matter(middleware: bool) -> None:
    app, client = build(middleware)
    assert post(app, "/pay-after").json() == {"receipt": None, "mark": "chio_capability_required"}
    assert len(client.judge.questions) == 1


@with_and_without
def test_the_route_beside_it_is_enforced(middleware: bool) -> None:
    app, client = build(middleware)
    assert post(app, "/enforced").status == 401
    assert "enforcement" not in client.judge.last


@with_and_without
def test_a_second_requirement_of_the_route_is_observed_too(middleware: bool) -> None:
    app, client = build(middleware)
    reply = post(app, "/two", with_token(("accounts", "read")))
    assert (reply.status, reply.json()["receipt"]) == (200, None)
    assert [question["enforcement"]["mode"] for question in client.judge.questions] == ["observe"] * 2


@with_and_without
def test_the_dependency_gives_the_mark_and_evaluates_if_nothing_else_did(middleware: bool) -> None:
    app, client = build(middleware)
    assert post(app, "/only").json() == {"mark": "chio_access_denied"}
    assert post(app, "/only", with_token()).json() == {"mark": None}
    assert len(client.judge.questions) == 2
    assert client.judge.last["enforcement"] == {"mode": "observe", "framework": "fastapi"}


@with_and_without
@pytest.mark.parametrize("fail_open", [False, True])
def test_a_sidecar_that_is_down_lets_the_route_run_and_no_other(middleware: bool, fail_open: bool) -> None:
    app, client = build(middleware, fail_open=fail_open)
    client.failure = SidecarUnreachable("no connection")
    assert post(app, "/pay-after").json() == {"receipt": None, "mark": "chio_sidecar_unreachable"}
    assert post(app, "/enforced").status == 503


@with_and_without
def test_what_is_refused_without_an_evaluation_runs_on_an_observed_route_and_on_no_other(middleware: bool) -> None:
    app, client = build(middleware, max_body_bytes=5)
    twice = [("authorization", "a"), ("authorization", "b")]
    assert post(app, "/only").json() == {"mark": "chio_body_too_large"}
    assert post(app, "/only", twice, b"").json() == {"mark": "chio_bad_request"}
    stated = [question["enforcement"]["refused"] for question in client.judge.questions]
    assert stated == ["413 request body is larger than 5 bytes", "400 header authorization occurs more than once"]
    assert post(app, "/enforced", with_token(("payments", "transfer"))).status == 413
    assert post(app, "/enforced", twice, b"").status == 400
    assert len(client.judge.questions) == 2


def test_an_excluded_route_that_is_observed_is_evaluated() -> None:
    app, client = build(exclude_paths=["/only"])
    assert post(app, "/only").json() == {"mark": "chio_access_denied"}
    assert client.judge.last["enforcement"] == {"mode": "observe", "framework": "fastapi"}


@with_and_without
def test_an_override_takes_the_mode_off(middleware: bool) -> None:
    app, _ = build(middleware)
    app.dependency_overrides[Observe()] = lambda: None
    assert post(app, "/pay").status == 401


def dev_mode(mark: Mark) -> str:
    return "dev"


def trusted(receipt: Granted) -> str:
    return "trusted"


def prod_mode() -> str:
    return "prod"


def nested(inner: Annotated[str, Depends(dev_mode)]) -> str:
    return inner


def again(inner: Annotated[str, Depends(dev_mode)]) -> str:
    return inner


@with_and_without
@pytest.mark.parametrize(
    ("dependency", "overrides", "status"),
    [
        (dev_mode, {}, 200),
        (dev_mode, {dev_mode: prod_mode}, 401),
        (nested, {dev_mode: prod_mode}, 401),
        (nested, {nested: prod_mode}, 401),
        (nested, {nested: dev_mode}, 200),
        (nested, {nested: dev_mode, dev_mode: prod_mode}, 200),
        (nested, {nested: again, dev_mode: prod_mode}, 401),
        (prod_mode, {prod_mode: dev_mode}, 200),
        (prod_mode, {prod_mode: Observe()}, 200),
    ],
)
def test_what_is_below_an_overridden_dependency_has_no_effect(
    middleware: bool, dependency: Any, overrides: dict[Any, Any], status: int
) -> None:
    """FastAPI replaces it together with its own dependencies; those of the override count."""
    app = FastAPI()

    @app.post("/pay", dependencies=[Depends(dependency), Depends(TRANSFER)])
    async def pay() -> dict[str, Any]:
        return {}

    govern(app, stub(), middleware)
    app.dependency_overrides.update(overrides)
    assert post(app, "/pay").status == status


@with_and_without
def test_a_requirement_of_an_override_is_part_of_the_one_evaluation(middleware: bool) -> None:
    app, client = FastAPI(), stub()

    @app.post("/pay", dependencies=[Depends(prod_mode)])
    async def pay() -> dict[str, Any]:
        return {}

    govern(app, client, middleware)
    app.dependency_overrides[prod_mode] = trusted
    assert post(app, "/pay").status == 401
    assert [asked["tool_name"] for asked in client.judge.questions] == ["transfer"]
    app.dependency_overrides = {prod_mode: trusted, trusted: dev_mode}  # only what a route names is looked up
    assert post(app, "/pay").status == 401


def test_it_holds_in_nested_routers_and_mounted_applications() -> None:
    app, inner, outer, sub = (
        FastAPI(),
        APIRouter(prefix="/inner"),
        APIRouter(prefix="/outer", dependencies=OBSERVED),
        FastAPI(),
    )

    @inner.post("/{item}")
    async def nested(item: int, receipt: Granted) -> str | None:
        return name_of(receipt)

    @sub.post("/thing", dependencies=OBSERVED)
    async def thing(receipt: Granted) -> str | None:
        return name_of(receipt)

    outer.include_router(inner)
    app.include_router(outer)
    app.mount("/sub", sub)
    add_chio(app, client=stub())
    assert post(app, "/outer/inner/5").status == 200
    assert post(app, "/sub/thing").status == 200
    assert sorted(observed_routes(app)) == ["POST /outer/inner/{item}", "POST /sub/thing"]


def test_it_holds_on_websockets() -> None:
    app = FastAPI()

    @app.websocket("/chat", dependencies=OBSERVED)
    async def chat(websocket: WebSocket, mark: ChioPassthroughDep) -> None:
        await websocket.accept()
        await websocket.send_text(mark.mode if mark else "none")

    add_chio(app, client=StubClient(Judge(lambda question, token: deny())))
    messages = run(connect(app, "/chat")).messages
    assert [message.get("text") for message in messages] == [None, "observe"]


# What handlers ask for


def handler_app(**options: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/needs")
    async def needs(receipt: ChioReceipt) -> str:
        return receipt.id

    @app.get("/may-have")
    async def may_have(receipt: OptionalChioReceipt, mark: ChioPassthroughDep) -> list[str | None]:
        return [name_of(receipt), mark.mode if mark else None]

    add_chio(app, client=StubClient(Judge(lambda question, token: deny("blocked", 429)), observe=True, **options))
    return app


def test_a_handler_that_may_do_without_a_receipt_runs() -> None:
    assert run(call(handler_app(), "GET", "/may-have")).json() == [None, "observe"]


def test_a_handler_whose_receipt_is_never_none_is_given_none_that_refuses(caplog: pytest.LogCaptureFixture) -> None:
    reply = run(call(handler_app(), "GET", "/needs"))
    assert "OptionalChioReceipt lets it run" in caplog.text
    assert (reply.status, reply.json()["message"]) == (429, "blocked")
    assert reply.receipt is not None


# Objects


def test_objects_are_equal_and_say_what_they_require() -> None:
    assert Observe() == Observe()
    assert len({Observe(), Observe()}) == 1
    assert Observe() != RequireCapability()
    assert repr(Observe()) == "Observe()"
    assert Observe().chio_extensions() == {"x-chio-observe": True}
    demand = Observe().chio_requirement({})
    assert (demand.observe, demand.capability, demand.binding) == (True, False, False)


def test_without_parentheses_it_is_a_mistake_that_shows_at_once() -> None:
    app = FastAPI()
    with pytest.raises(ConfigurationError, match=r"Depends\(Observe\(\)\)"):

        @app.get("/", dependencies=[Depends(Observe)])
        async def handler() -> None: ...


# Loud


def test_routes_are_named_when_the_application_starts(caplog: pytest.LogCaptureFixture) -> None:
    app, _ = build()

    async def start() -> None:
        waiting = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def receive() -> Any:
            return waiting.pop(0)

        async def send(message: Any) -> None: ...

        await app({"type": "lifespan", "app": app, "state": {}}, receive, send)

    with caplog.at_level(logging.WARNING, logger="chio"):
        run(start())
    (said,) = [record.getMessage() for record in caplog.records if "these routes" in record.getMessage()]
    assert said.startswith("chio: observe mode: ")
    assert said.endswith("GET /any, POST /only, POST /pay, POST /pay-after, POST /two")


def test_check_names_routes_and_settings() -> None:
    app, _ = build(observe_paths=["/reports"])
    found = {finding.category: finding for finding in check(app)}
    assert found["observe"].severity == found["setting_observe"].severity == "WARN"
    assert "/reports" in found["setting_observe"].message
    assert sum(finding.category == "observe" for finding in check(app)) == 5


def test_an_application_without_observed_routes_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    add_chio(app, client=stub())
    assert list(observed_routes(app)) == []
    assert not [finding for finding in check(app) if finding.category == "observe"]
