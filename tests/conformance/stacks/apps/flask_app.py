"""The contract in Flask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, g, jsonify, request

from chio_flask import Chio, require_capability
from tests.conformance.stacks.contract import METHODS, SERVER, STREAM, TOOL, TheHandlerFailed, said

app = Flask(__name__, static_folder=None)
Chio(app)


def seen(handler: str, params: Any) -> dict[str, Any]:
    receipt, passed = g.chio_receipt, g.chio_passthrough
    return said(
        handler,
        params,
        request.get_data(),
        key=request.headers.get("X-Api-Key"),
        receipt=receipt.id if receipt else None,
        passthrough=passed.error if passed else None,
    )


def telling(handler: str, headers: dict[str, str] | None = None) -> Any:
    def view(**params: Any) -> Response:
        answer = jsonify(seen(handler, params))
        answer.headers.update(headers or {})
        return answer

    return view


def stream() -> Response:
    def pieces() -> Iterator[str]:
        yield from STREAM

    return Response(pieces())


def fails() -> Response:
    raise TheHandlerFailed


VIEWS = {
    "hello": ("/hello", telling("hello")),
    "anything": ("/anything", telling("anything")),
    "pet": ("/pets/<pet>", telling("pet")),
    "toy": ("/pets/<pet>/toys/<number>", telling("toy")),
    "file": ("/files/<path:rest>", telling("file")),
    "transfer": ("/accounts/<account>/transfer", require_capability(SERVER, TOOL)(telling("transfer"))),
    "health": ("/healthz", telling("health")),
    "static": ("/static/<path:rest>", telling("static")),
    "claims": ("/claims", telling("claims", {"X-Chio-Receipt": "forged"})),
    "stream": ("/stream", stream),
    "fails": ("/fails", fails),
    "slashed": ("/slashed/", telling("slashed")),
}

for name, (rule, view) in VIEWS.items():
    app.add_url_rule(rule, name, view, methods=list(METHODS[name]))
