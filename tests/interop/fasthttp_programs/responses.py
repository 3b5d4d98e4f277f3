"""Programs about responses and models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kit import Kit, behaviour

# Responses


def reading(name: str, doc: str, path: str, read: Callable[[Any], Any], method: str = "get", **options: Any) -> None:
    def check(kit: Kit) -> Any:
        return kit.answer(path, read, method, **options)

    check.__name__, check.__doc__ = f"response_{name}", doc
    behaviour(check)


reading("status", "`response.status`, `response.text`, `response.json()`", "/text", lambda one: [one.status, one.text])
reading("json", "`response.json()`", "/user", lambda one: one.json())
reading("bytes", "`response.bytes()`", "/text", lambda one: one.bytes().decode())
reading("headers", "`response.headers`: a dictionary with names in lower case", "/text",
        lambda one: [isinstance(one.headers, dict), one.headers["content-type"]])  # fmt: skip
reading("method", "`response.method`", "/json", lambda one: one.method, "post", json={})
reading("url", "`response.url`: a text, without the params", "/json",
        lambda one: [type(one.url).__name__, one.url[-5:]], params={"a": "1"})  # fmt: skip
reading("query", "`response.query`", "/json", lambda one: one.query, params={"a": 1})
reading("req_headers", "`response.req_headers`: what the hooks made", "/json",
        lambda one: [isinstance(one.req_headers, dict), sorted(one.req_headers)])  # fmt: skip
reading("req_json", "`response.req_json()` and `response.req_text()`", "/json",
        lambda one: [one.req_json(), one.req_text().replace(" ", "")], "post", json={"a": 1})  # fmt: skip
reading(
    "req_data", "`response.req_text()` of a call with data", "/json", lambda one: one.req_text(), "post", data="text"
)
reading("req_nothing", "`response.req_json()` and `req_text()` of a call without a body", "/json",
        lambda one: [one.req_json(), one.req_text()])  # fmt: skip
reading("path_params", "`response.path_params`", "/json", lambda one: one.path_params)
reading("html", "`response.html()`", "/page", lambda one: one.html()[:5])
reading("xml", "`response.xml()`", "/xml", lambda one: one.xml().find("b").text)
reading(
    "assets", "`response.assets()`", "/page", lambda one: sorted(kind for kind, urls in one.assets().items() if urls)
)
reading("assets_of_one_kind", "`response.assets(js=False)`", "/page", lambda one: one.assets(js=False)["js"])
reading("repr", "`repr(response)`", "/json", repr)
reading("text_assigned", '`response.text = "…"`, then `response.json()`', "/json",
        lambda one: [setattr(one, "text", '{"new": 1}'), one.json()][1])  # fmt: skip


@behaviour
def headers_in_any_case(kit: Kit) -> Any:
    """`"Content-Type" in response.headers`: the name in another case"""
    return kit.answer("/json", lambda one: "Content-Type" in one.headers)


@behaviour
def xml_with_a_document_type(kit: Kit) -> Any:
    """`response.xml()` of a document with a document type and an entity"""
    text = '<!DOCTYPE a [<!ENTITY e "expanded">]><a>&e;</a>'

    def read(one: Any) -> Any:
        one.text = text
        try:
            return one.xml().text
        except ValueError:
            return "ValueError"

    return kit.answer("/json", read)


@behaviour
def response_html_of_json(kit: Kit) -> Any:
    """`response.html()` of another content type"""
    found = []

    def read(one: Any) -> None:
        try:
            one.html()
        except ValueError as error:
            found.append(type(error).__name__)

    kit.answer("/json", read)
    return found


@behaviour
def a_response_made_by_hand(kit: Kit) -> Any:
    """`Response(status=…, text=…, headers=…, method=…, …)`"""
    one = kit.response()(
        status=201, text='{"a": 1}', headers={"content-type": "application/json"}, method="POST",
        req_headers={"X": "1"}, query={"q": "1"}, req_json={"j": 1}, req_data=None,
    )  # fmt: skip
    bare = kit.response()(200, "ä", {})
    return [
        one.status, one.json(), one.method, one.req_headers, one.query, one.req_json(), one.url, one.bytes().decode(),
        bare.bytes().decode(), bare.method, bare.req_headers, bare.query, bare.req_json(), bare.req_text(),
    ]  # fmt: skip


@behaviour
def a_handler_that_returns_a_response(kit: Kit) -> Any:
    """The outcome of handlers that return a text, a dictionary and a `Response`, as it is logged"""
    app = kit.app()
    make = kit.response()

    @app.get(url=kit.url("/1"))
    async def text(resp: Any) -> str:
        return "a text"

    @app.get(url=kit.url("/2"))
    async def whole(resp: Any) -> Any:
        return make(201, "made", {})

    app.run()
    return "done"


@behaviour
def a_response_model(kit: Kit) -> Any:
    """`response_model=User`: `response.json()` is a `User`"""
    from pydantic import BaseModel

    class User(BaseModel):
        id: int
        name: str

    return kit.answer("/user", lambda one: [type(one.json()).__name__, one.json().name], response_model=User)


@behaviour
def a_list_as_a_response_model(kit: Kit) -> Any:
    """`response_model=list[User]` on a response made by hand"""
    from pydantic import BaseModel

    class User(BaseModel):
        id: int

    app, found = kit.app(), []

    class Listing(kit.base()):  # type: ignore[misc]
        async def response(self, response: Any) -> Any:
            response.text = '[{"id": 1}, {"id": 2}]'
            return response

    app = kit.app(middleware=Listing())

    @app.get(url=kit.url(), response_model=list[User])
    async def handler(resp: Any) -> None:
        found.append([user.id for user in resp.json()])

    app.run()
    return found


@behaviour
def a_request_model(kit: Kit) -> Any:
    """`request_model=User`: a body that does not fit is not sent"""
    from pydantic import BaseModel

    class User(BaseModel):
        id: int

    app = kit.app()
    kit.call(app, "/1", "post", json={"id": 1}, request_model=User)
    kit.call(app, "/2", "post", json={"id": "x"}, request_model=User)
    app.run()
    return [[one["path"] for one in kit.sent], kit.trace]


@behaviour
def a_model_for_an_error(kit: Kit) -> Any:
    """`responses={404: {"model": Missing}}`: the handler gets the 404"""
    from pydantic import BaseModel

    class Missing(BaseModel):
        code: int

    return kit.answer("/status/404", lambda one: [one.status, one.json()], responses={404: {"model": Missing}})
