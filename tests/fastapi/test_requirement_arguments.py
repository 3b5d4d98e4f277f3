"""The arguments of a requirement: checked at the start, made from path parameters, compared with the grant."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from fastapi import Depends, FastAPI

from chio_core.errors import ConfigurationError
from chio_fastapi import RequireCapability, add_chio
from tests.fastapi.apps import govern, stub, token, with_and_without, with_token
from tests.support import Judge, allow_with_capability, call, run


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
