"""Where a requirement may be declared, and how an override takes its place."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket

from chio_core.errors import ConfigurationError
from chio_core.models.receipt import HttpReceipt
from chio_fastapi import RequireCapability, add_chio, require_capability
from tests.fastapi.apps import TRANSFER, Transfer, govern, stub, token, with_and_without, with_token
from tests.support import Judge, allow_with_capability, call, connect, run


class Service:
    def __init__(self, receipt: Transfer) -> None:
        self.receipt = receipt


@pytest.mark.parametrize("place", ["route", "router", "include", "application", "nested", "mounted"])
@with_and_without
def test_a_requirement_is_found_wherever_it_is_declared(place: str, middleware: bool) -> None:
    called: list[str] = []
    need = Depends(RequireCapability("payments", "transfer"))

    async def dependency(receipt: Transfer) -> HttpReceipt:
        return receipt

    async def handler() -> None:
        called.append("ran")

    app = FastAPI(dependencies=[need] if place == "application" else [])
    router = APIRouter(dependencies=[need] if place == "router" else [])
    own = [need] if place in ("route", "mounted") else [Depends(dependency)] if place == "nested" else []
    router.add_api_route("/pay/{account}", handler, methods=["POST"], dependencies=own)
    owner = FastAPI() if place == "mounted" else app
    owner.include_router(router, prefix="/v1", dependencies=[need] if place == "include" else [])
    path, template = "/v1/pay/7", "/v1/pay/{account}"
    judge = Judge(allow_with_capability)
    if place == "mounted":
        app.mount("/m", owner)
        path, template = "/m" + path, "/m" + template
    if middleware:
        add_chio(app, client=stub(judge))
    else:
        owner.state.chio_client = stub(judge)
    assert run(call(app, "POST", path)).status == 401
    assert run(call(app, "POST", path, headers=with_token(("payments", "refund")))).status == 403
    assert called == []
    assert run(call(app, "POST", path, headers=with_token(("payments", "transfer")))).status == 200
    assert called == ["ran"]
    assert {question["tool_name"] for question in judge.questions} == {"transfer"}
    assert {question["route_pattern"] for question in judge.questions} == {template}
    assert len(judge.questions) == 3


def test_a_sub_application_in_an_included_router_names_its_whole_template() -> None:
    """The dependency asks by itself here; what FastAPI says about the router around it must not mislead it."""
    app, router, sub, judge = FastAPI(), APIRouter(), FastAPI(), Judge(allow_with_capability)

    @sub.get("/items/{x}", dependencies=[Depends(TRANSFER)])
    async def handler(x: str) -> str:
        return x

    sub.state.chio_client = stub(judge)
    router.mount("/m", sub)
    app.include_router(router, prefix="/api")
    assert run(call(app, "GET", "/api/m/items/1", headers=with_token(("payments", "transfer")))).status == 200
    assert judge.last["route_pattern"] == "/api/m/items/{x}"


def test_under_a_mount_with_parameters_the_dependency_cannot_tell_the_template() -> None:
    app, sub = FastAPI(), FastAPI()
    judge = Judge(allow_with_capability, pattern=lambda question: "/{tenant}/items/{x}")

    @sub.get("/items/{x}", dependencies=[Depends(TRANSFER)])
    async def handler(x: str) -> str:
        return x

    sub.state.chio_client = stub(judge)
    app.mount("/{tenant}", sub)
    assert run(call(app, "GET", "/acme/items/1", headers=with_token(("payments", "transfer")))).status == 200
    assert judge.last["route_pattern"] == "/acme/items/1"


def test_a_class_with_a_call_may_depend_on_it_too() -> None:
    app, judge = FastAPI(), Judge(allow_with_capability)

    @app.get("/")
    async def handler(service: Annotated[Service, Depends()]) -> str:
        return service.receipt.id

    add_chio(app, client=stub(judge))
    reply = run(call(app, "GET", "/", headers=with_token(("payments", "transfer"))))
    assert (reply.json(), len(judge.questions)) == (reply.receipt, 1)


def test_equal_requirements_are_equal_and_found_by_dependency_overrides() -> None:
    assert RequireCapability("a", "b") == RequireCapability("a", "b")
    assert hash(RequireCapability("a", "b")) == hash(RequireCapability("a", "b"))
    assert RequireCapability("a", "b") != RequireCapability("a", "c")
    assert RequireCapability("a", "b", operations=("read",)) != RequireCapability("a", "b")
    assert RequireCapability() == require_capability
    assert repr(RequireCapability("a", "b")) == "RequireCapability('a', 'b')"


@with_and_without
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_an_override_takes_the_place_of_the_requirement(middleware: bool, kind: str) -> None:
    app, sub, judge, got = FastAPI(), FastAPI(), Judge(allow_with_capability), []
    router = APIRouter()

    async def handler(receipt: Transfer) -> None:
        got.append(receipt)

    async def socket(websocket: WebSocket, receipt: Transfer) -> None:
        got.append(receipt)
        await websocket.accept()

    for owner in (app, router, sub):
        if kind == "http":
            owner.add_api_route("/pay", handler, methods=["GET"])
        else:
            owner.add_api_websocket_route("/pay", socket)
    app.include_router(router, prefix="/r")
    app.mount("/m", sub)
    for owner in (app, sub):
        owner.dependency_overrides[RequireCapability("payments", "transfer")] = lambda: "overridden"
        owner.state.chio_client = stub(judge)
    if middleware:
        add_chio(app, client=stub(judge))

    for path in ("/pay", "/r/pay", "/m/pay"):
        if kind == "http":
            assert run(call(app, "GET", path)).status == 200
        else:
            assert run(connect(app, path)).messages[0]["type"] == "websocket.accept"
    assert got == ["overridden"] * 3
    assert all("tool_server" not in question for question in judge.questions)


# The arguments of a requirement: checked at the start, made from path parameters, compared with the grant


def test_arguments_travel_and_are_held_against_the_grant() -> None:
    app, judge = FastAPI(), Judge(allow_with_capability)
    need = RequireCapability("files", "read", arguments=lambda params: {"path": f"/data/{params['name']}"})

    @app.get("/files/{name}", dependencies=[Depends(need)])
    async def handler(name: str) -> str:
        return name

    add_chio(app, client=stub(judge))
    allowed = with_token(("files", "read"), constraints=[{"type": "path_prefix", "value": "/data/public"}])
    assert run(call(app, "GET", "/files/public", headers=allowed)).status == 200
    assert judge.last["arguments"] == {"path": "/data/public"}
    assert run(call(app, "GET", "/files/secret", headers=allowed)).status == 403


def test_functions_of_the_path_parameters_see_what_the_handler_sees() -> None:
    app, seen = FastAPI(), []

    def arguments(params: Any) -> Any:
        seen.append(dict(params))
        return dict(params)

    sub = FastAPI()

    @sub.get("/x/{number:int}/{rest:path}", dependencies=[Depends(RequireCapability("s", "t", arguments=arguments))])
    async def handler(number: int, rest: str, tenant: str) -> dict[str, Any]:
        return {"number": number, "rest": rest, "tenant": tenant}

    app.mount("/{tenant}", sub)
    judge = Judge(allow_with_capability)
    add_chio(app, client=stub(judge))
    reply = run(call(app, "GET", "/acme/x/7/a/b", headers=with_token(("s", "t"))))
    assert reply.status in (200, 422)
    assert judge.last["arguments"] == {"tenant": "acme", "number": 7, "rest": "a/b"}
    assert len(judge.questions) == 1
    assert {tuple(sorted(params)) for params in seen} == {("number", "rest", "tenant")}


@with_and_without
def test_a_function_that_fails_refuses(middleware: bool) -> None:
    app, called = FastAPI(), []

    @app.get("/{x}", dependencies=[Depends(RequireCapability("s", "t", arguments=lambda params: params["missing"]))])
    async def handler(x: str) -> None:
        called.append(x)

    govern(app, stub(), middleware)
    with contextlib.suppress(KeyError):  # the server's log is where it belongs
        assert run(call(app, "GET", "/1", headers=with_token(("s", "t")))).status == 500
    assert called == []


def test_arguments_that_are_no_json_are_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="JSON"):
        RequireCapability("s", "t", arguments={"when": object()})


@pytest.mark.parametrize(
    "arguments",
    [
        {"server": "s"},
        {"tool": "t"},
        {"server": "", "tool": "t"},
        {"server": "s", "tool": ""},
        {"server": "s", "tool": "t", "operations": ()},
        {"server": "s", "tool": "t", "operations": ("invok",)},
        {"server": "s", "tool": "t", "operations": "invoke"},
    ],
)
def test_a_requirement_that_cannot_be_meant_is_refused_at_the_start(arguments: Any) -> None:
    with pytest.raises(ConfigurationError, match="RequireCapability"):
        RequireCapability(**arguments)


def test_several_operations_must_all_be_granted() -> None:
    app = FastAPI()

    @app.get("/", dependencies=[Depends(RequireCapability("s", "t", operations=("invoke", "delegate")))])
    async def handler() -> None: ...

    add_chio(app, client=stub())
    assert run(call(app, "GET", "/", headers=with_token(("s", "t")))).status == 403
    text = json.loads(token(("s", "t")))
    assert text["scope"]["grants"][0]["operations"] == ["invoke"]
