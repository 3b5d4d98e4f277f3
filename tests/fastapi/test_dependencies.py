"""What a handler can ask for: receipt, decision, passthrough, caller, client; on HTTP and on websocket routes."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.requests import HTTPConnection

from chio_asgi import ChioASGIMiddleware
from chio_core import ChioClient, ConfigurationError, Decision
from chio_core.errors import SidecarUnreachable
from chio_core.models import CallerIdentity, ChioPassthrough, HttpReceipt
from chio_core.request import RequestView
from chio_fastapi import (
    CallerDep,
    Capability,
    ChioClientDep,
    ChioPassthroughDep,
    ChioReceipt,
    OptionalChioReceipt,
    RequireCapability,
    add_chio,
    get_caller_identity,
    get_chio_client,
    get_chio_decision,
    get_chio_passthrough,
    get_chio_receipt,
)
from tests.fastapi.apps import stub, with_token
from tests.support import Judge, StubClient, call, connect, deny, run, settings


class Seen:
    """What one handler was given."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}


def build(seen: Seen, *, excluded: bool = False, **options: Any) -> tuple[FastAPI, StubClient]:
    app = FastAPI()

    async def everything(
        receipt: Annotated[HttpReceipt | None, Depends(get_chio_receipt)],
        decision: Annotated[Decision | None, Depends(get_chio_decision)],
        passthrough: Annotated[ChioPassthrough | None, Depends(get_chio_passthrough)],
        caller: Annotated[CallerIdentity, Depends(get_caller_identity)],
        client: Annotated[ChioClient, Depends(get_chio_client)],
        optional: OptionalChioReceipt,
        again: ChioPassthroughDep,
        who: CallerDep,
        ask: ChioClientDep,
    ) -> None:
        assert (optional, again, who, ask) == (receipt, passthrough, caller, client)
        seen.values = {"receipt": receipt, "decision": decision, "passthrough": passthrough}
        seen.values |= {"caller": caller, "client": client}

    @app.get("/http", dependencies=[Depends(everything)])
    async def http() -> None: ...

    @app.websocket("/ws", dependencies=[Depends(everything)])
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()

    if excluded:
        options["exclude_paths"] = frozenset({"/http", "/ws"})
    client = StubClient(Judge(), **options)
    add_chio(app, client=client)
    return app, client


async def ask(app: FastAPI, kind: str, headers: Any = ()) -> None:
    if kind == "http":
        assert (await call(app, "GET", "/http", headers=headers)).status == 200
    else:
        assert (await connect(app, "/ws", headers=headers)).messages[0]["type"] == "websocket.accept"


kinds = pytest.mark.parametrize("kind", ["http", "ws"])


@kinds
def test_a_governed_handler_is_given_everything(kind: str) -> None:
    seen = Seen()
    app, client = build(seen)
    run(ask(app, kind, [("authorization", "Bearer secret")]))
    receipt, decision = seen.values["receipt"], seen.values["decision"]
    assert isinstance(receipt, HttpReceipt)
    assert receipt.id in client.judge.receipts
    assert isinstance(decision, Decision)
    assert (decision.allowed, decision.receipt) == (True, receipt)
    assert seen.values["passthrough"] is None
    assert seen.values["caller"] == CallerIdentity.bearer("secret")
    assert seen.values["client"] is client


@kinds
def test_a_passthrough_is_marked_and_has_no_receipt(kind: str) -> None:
    seen = Seen()
    app, client = build(seen, fail_open=True)
    client.failure = SidecarUnreachable("down")
    run(ask(app, kind))
    assert seen.values["receipt"] is None
    assert seen.values["passthrough"].mode == "allow_without_receipt"
    assert seen.values["passthrough"].error == "chio_sidecar_unreachable"
    assert seen.values["decision"].verdict == "passthrough"


@kinds
def test_an_excluded_handler_is_given_the_client_and_the_caller(kind: str) -> None:
    seen = Seen()
    app, client = build(seen, excluded=True)
    run(ask(app, kind, [("x-api-key", "k")]))
    assert (seen.values["receipt"], seen.values["decision"], seen.values["passthrough"]) == (None, None, None)
    assert seen.values["caller"] == CallerIdentity.api_key("x-api-key", "k")
    assert seen.values["client"] is client


def test_with_add_middleware_too_an_excluded_handler_is_given_that_client() -> None:
    app, client, got = FastAPI(), stub(exclude_paths=frozenset({"/"})), []

    @app.get("/")
    async def handler(used: ChioClientDep) -> None:
        got.append(used)

    app.add_middleware(ChioASGIMiddleware, client=client)
    assert run(call(app, "GET", "/")).status == 200
    assert got == [client]


def by_header(view: RequestView) -> CallerIdentity:
    return CallerIdentity.api_key("x-user", view.headers.get("x-user", "nobody"))


@pytest.mark.parametrize("path", ["/governed", "/excluded", "/second"])
def test_an_extractor_of_the_application_names_the_caller_everywhere(path: str) -> None:
    app, judge = FastAPI(), Judge()
    second = [Depends(RequireCapability("s", "t")), Depends(RequireCapability("s", "u"))]

    @app.get("/governed")
    @app.get("/excluded")
    async def handler(caller: CallerDep) -> str:
        return caller.subject

    @app.get("/second", dependencies=second)
    async def twice(caller: CallerDep) -> str:
        return caller.subject

    client = StubClient(judge, exclude_paths=frozenset({"/excluded"}))
    add_chio(app, client=client, extractor=by_header)
    headers = [("x-user", "alice"), ("authorization", "Bearer other"), *with_token(("s", "t"), ("s", "u"))]
    reply = run(call(app, "GET", path, headers=headers))
    subject = hashlib.sha256(b"alice").hexdigest()
    assert reply.json() == subject
    assert {question["caller"]["subject"] for question in judge.questions} <= {subject}
    assert len(judge.questions) == {"/governed": 1, "/excluded": 0, "/second": 2}[path]


# ChioReceipt: never None


def with_receipt(**options: Any) -> tuple[FastAPI, StubClient]:
    app, client = FastAPI(), StubClient(Judge(), **options)

    @app.get("/")
    async def handler(receipt: ChioReceipt) -> str:
        return receipt.id

    return app, client


def test_chio_receipt_is_the_receipt_and_never_none() -> None:
    app, client = with_receipt()
    add_chio(app, client=client)
    reply = run(call(app, "GET", "/"))
    assert reply.json() == reply.receipt


def test_a_handler_that_needs_a_receipt_does_not_run_on_a_passthrough() -> None:
    app, client = with_receipt(fail_open=True)
    add_chio(app, client=client)
    client.failure = SidecarUnreachable("down")
    reply = run(call(app, "GET", "/"))
    assert (reply.status, reply.json()["error"]) == (503, "chio_sidecar_unreachable")


@pytest.mark.parametrize("why", ["excluded", "no middleware"])
def test_a_handler_that_needs_a_receipt_and_cannot_have_one_is_a_mistake_in_the_configuration(why: str) -> None:
    app, client = with_receipt(exclude_paths=frozenset({"/"}))
    if why == "excluded":
        add_chio(app, client=client)
    with pytest.raises(ConfigurationError, match="needs a receipt but is not governed"):
        run(call(app, "GET", "/"))


def test_without_any_middleware_the_optional_values_are_none() -> None:
    app, got = FastAPI(), []

    @app.get("/")
    async def handler(receipt: OptionalChioReceipt, passthrough: ChioPassthroughDep) -> None:
        got.append((receipt, passthrough))

    assert run(call(app, "GET", "/")).status == 200
    assert got == [(None, None)]


def test_an_object_that_is_no_client_is_refused_by_name() -> None:
    app = FastAPI()
    app.state.chio_client = "http://127.0.0.1:9090"

    @app.get("/")
    async def handler(client: ChioClientDep) -> None: ...

    with pytest.raises(ConfigurationError, match="chio_client must be a ChioClient"):
        run(call(app, "GET", "/"))


# add_chio


def test_one_line_governs_an_application() -> None:
    app = FastAPI()
    client = add_chio(app, sidecar_url="http://127.0.0.1:1", connect_timeout=0.5, timeout=1)
    assert app.state.chio_client is client
    assert client.settings.sidecar_url == "http://127.0.0.1:1"
    reply = run(call(app, "GET", "/"))
    assert (reply.status, reply.json()["error"]) == (503, "chio_sidecar_unreachable")


def test_options_come_from_the_environment_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIO_SIDECAR_URL", "http://127.0.0.1:2")
    monkeypatch.setenv("CHIO_EXCLUDE_PATHS", "/healthz, /ready")
    client = add_chio(FastAPI())
    assert client.settings.sidecar_url == "http://127.0.0.1:2"
    assert client.settings.exclude_paths == {"/healthz", "/ready"}


def test_options_and_a_config_at_once_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="either config or keywords, not both"):
        add_chio(FastAPI(), settings(), timeout=3)
    with pytest.raises(ConfigurationError, match=r"client .* or keywords, not both \(got exclude_paths\)"):
        add_chio(FastAPI(), client=ChioClient(), exclude_paths={"/healthz"})


def test_an_option_that_does_not_exist_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigurationError, match="did you mean sidecar_url"):
        add_chio(FastAPI(), sidecar_ur="http://127.0.0.1:1")


def test_hooks_and_a_shared_client_are_passed_on() -> None:
    decisions: list[Any] = []
    receipts: list[Any] = []
    first, second, client = FastAPI(), FastAPI(), stub()
    for app in (first, second):
        assert add_chio(app, client=client, on_decision=decisions.append, on_receipt=receipts.append) is client
        assert run(call(app, "GET", "/none")).status == 404
    assert (len(decisions), len(receipts), len(client.judge.questions)) == (2, 2, 2)


@pytest.mark.parametrize("verdict", [{"verdict": "allow"}, deny("no")])
def test_another_name_of_the_receipt_header_applies_to_all_responses(verdict: Any) -> None:
    app = FastAPI()

    @app.post("/", dependencies=[Depends(RequireCapability("s", "t")), Depends(RequireCapability("s", "u"))])
    async def handler() -> None: ...

    client = stub(Judge(lambda question, token: verdict), receipt_header="X-Decision")
    add_chio(app, client=client)
    for headers in ((), with_token(("s", "t"))):
        reply = run(call(app, "POST", "/", headers=headers))
        assert reply.status in (401, 403)
        assert reply.header("x-decision") in client.judge.receipts
        assert reply.receipt is None


# OpenAPI


def test_the_document_has_the_scheme_and_a_lock_on_the_routes_that_need_it() -> None:
    app = FastAPI()

    @app.get("/free")
    async def free() -> None: ...

    @app.get("/locked")
    async def locked(receipt: Capability) -> None: ...

    @app.post("/pay", dependencies=[Depends(RequireCapability("payments", "transfer"))])
    async def pay() -> None: ...

    add_chio(app, client=stub())
    document = run(call(app, "GET", "/openapi.json")).json()
    scheme = document["components"]["securitySchemes"]
    assert list(scheme) == ["ChioCapability"]
    assert (scheme["ChioCapability"]["type"], scheme["ChioCapability"]["in"]) == ("apiKey", "header")
    assert scheme["ChioCapability"]["name"] == "X-Chio-Capability"
    paths = document["paths"]
    assert "security" not in paths["/free"]["get"]
    assert paths["/locked"]["get"]["security"] == [{"ChioCapability": []}]
    assert paths["/pay"]["post"]["security"] == [{"ChioCapability": []}]
    assert "parameters" not in paths["/locked"]["get"]
    assert json.dumps(document)


def test_a_handler_needs_no_request_argument() -> None:
    for dependency in (get_chio_receipt, get_chio_decision, get_chio_passthrough, get_caller_identity, get_chio_client):
        (parameter,) = inspect.signature(dependency).parameters.values()
        assert parameter.annotation in (HTTPConnection, "HTTPConnection")
