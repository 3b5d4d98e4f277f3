"""The application that every framework gives in its own words: the same endpoints, the same account of what came."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

from chio_core.evaluation.outcomes import Decision
from chio_core.models.receipt import ChioPassthrough, HttpReceipt

SERVER, TOOL = "payments", "transfer"
ALL_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
READ_ONLY = ("GET", "HEAD")


@dataclass(frozen=True, eq=False)
class Endpoint:
    """One endpoint.

    Attributes:
        path: in Starlette's syntax.
        methods: others are answered 405.
        needs: the arguments of each capability that it requires, the outer one first.
        headers: header lines of its answer.
        cookies: cookies of its answer, not readable by scripts.
    """

    path: str
    methods: tuple[str, ...] = READ_ONLY
    needs: tuple[Mapping[str, Any], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: tuple[str, ...] = ()

    @property
    def template(self) -> str:
        """The route template: a parameter that takes slashes is written like any other."""
        return self.path.replace(":path}", "}")


TRANSFER = {"server": SERVER, "tool": TOOL}
READ = {"server": "accounts", "tool": "read"}

ENDPOINTS: Mapping[str, Endpoint] = {
    "hello": Endpoint("/hello"),
    "anything": Endpoint("/anything", ALL_METHODS),
    "umlaut": Endpoint("/ä"),
    "pet": Endpoint("/pets/{pet}", (*READ_ONLY, "POST")),
    "toy": Endpoint("/pets/{pet}/toys/{number}"),
    "file": Endpoint("/files/{rest:path}"),
    "health": Endpoint("/healthz", (*READ_ONLY, "POST")),
    "static": Endpoint("/static/{rest:path}"),
    "claims": Endpoint("/claims", headers={"X-Chio-Receipt": "forged", "X-Other": "kept"}),
    "cookies": Endpoint("/cookies", headers={"X-Own": "handler"}, cookies=("a", "b")),
    "slashed": Endpoint("/slashed/"),
    "transfer": Endpoint("/accounts/{account}/transfer", ("POST",), (TRANSFER,)),
    "any": Endpoint("/needs/any", (*READ_ONLY, "DELETE"), needs=({},)),
    "two": Endpoint("/needs/two", needs=(TRANSFER, READ)),
    "read": Endpoint(
        "/needs/read/{account}",
        needs=({**READ, "operations": ["read"], "arguments": lambda params: {"account": params["account"]}},),
    ),
}
"""Endpoints whose handlers all do the same: answer with `said`. The others are `Special`."""

SPECIAL: Mapping[str, Endpoint] = {
    "piecewise": Endpoint("/piecewise", ("POST",)),
    "form": Endpoint("/form", ("POST",)),
    "stream": Endpoint("/stream"),
    "fails": Endpoint("/fails"),
}
"""Reads its body as a stream; answers with the fields and files of a form; answers with `STREAM`; raises."""

TEMPLATES: Mapping[str, str] = {name: one.template for name, one in {**ENDPOINTS, **SPECIAL}.items()} | {"ws": "/ws"}

EXCLUDED = frozenset({"health", "static"})
"""Handlers that are not governed: `CHIO_EXCLUDE_PATHS` and `CHIO_EXCLUDE_PREFIXES`."""

STREAM = tuple(f"{number};" for number in range(5))
"""Pieces of the answer of `stream`."""


class TheHandlerFailed(Exception):
    """What `fails` raises."""


@dataclass
class Seen:
    """What a handler saw on one run.

    Attributes:
        params: path parameters as the framework gave them, as text.
        body: all that it read.
        key: the header X-Api-Key as it finds it after the body.
        state: where guards leave what they found.
        thread: the thread that it ran in.
    """

    handler: str
    params: Mapping[str, str]
    body: bytes
    key: str | None
    receipt: HttpReceipt | None
    passthrough: ChioPassthrough | None
    decision: Decision | None
    state: Any = None
    thread: int = field(default_factory=get_ident)


SEEN: list[Seen] = []
"""What the handlers of this process saw."""


def taken() -> list[Seen]:
    """Return what the handlers have seen since the last call."""
    found = list(SEEN)
    SEEN.clear()
    return found


def said(
    handler: str,
    params: Mapping[str, Any],
    body: bytes,
    *,
    method: str,
    query: Iterable[tuple[str, str]],
    key: str | None,
    receipt: HttpReceipt | None,
    passthrough: ChioPassthrough | None,
    decision: Decision | None,
    state: Any,
) -> dict[str, Any]:
    """Note what a handler saw, and return what it answers; the query with every field, also those that are repeated."""
    texts = {name: str(value) for name, value in params.items()}
    SEEN.append(Seen(handler, texts, body, key, receipt, passthrough, decision, state))
    return {
        "handler": handler,
        "method": method,
        "query": [[name, value] for name, value in query],
        "params": texts,
        "read": hashlib.sha256(body).hexdigest() if body else None,
        "key": key,
        "receipt": receipt.id if receipt else None,
        "passthrough": passthrough.error if passthrough else None,
    }


def form(fields: Iterable[tuple[str, str]], files: Iterable[tuple[str, bytes]]) -> dict[str, Any]:
    """Return what `form` answers."""
    return {"fields": dict(fields), "files": {name: content.decode() for name, content in files}}
