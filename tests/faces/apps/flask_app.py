"""The contract in Flask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, reduce
from typing import Any

from flask import Flask, Response, g, jsonify, request

from chio_flask import Chio, require_capability
from tests.faces import contract


def seen(handler: str, params: Any, body: bytes) -> dict[str, Any]:
    return contract.said(
        handler,
        params,
        body,
        method=request.method,
        query=request.args.items(multi=True),
        key=request.headers.get("X-Api-Key"),
        receipt=g.get("chio_receipt"),
        passthrough=g.get("chio_passthrough"),
        decision=g.get("chio_decision"),
        state=g.get("chio_state"),
    )


def read_environment() -> None:
    """Take the outcome from the environment, where `chio_wsgi` leaves it."""
    g.chio_receipt, g.chio_passthrough = request.environ.get("chio.receipt"), request.environ.get("chio.passthrough")
    g.chio_decision, g.chio_state = request.environ.get("chio.decision"), request.environ.get("chio.chio_state")


def telling(handler: str, endpoint: contract.Endpoint) -> Any:
    def view(**params: Any) -> Response:
        answer = jsonify(seen(handler, params, request.get_data()))
        answer.headers.update(endpoint.headers)
        for name in endpoint.cookies:
            answer.set_cookie(name, "1", httponly=True)
        return answer

    needs = [require_capability(**need) if need else require_capability for need in endpoint.needs]
    return reduce(lambda inner, need: need(inner), reversed(needs), view)


def piecewise() -> Response:
    return jsonify(seen("piecewise", {}, request.stream.read()))


def form() -> Response:
    return jsonify(contract.form(request.form.items(), [(name, file.read()) for name, file in request.files.items()]))


def stream() -> Response:
    def pieces() -> Iterator[str]:
        yield from contract.STREAM

    return Response(pieces())


def fails() -> Response:
    raise contract.TheHandlerFailed


SPECIAL = {"piecewise": piecewise, "form": form, "stream": stream, "fails": fails}


def rule_of(endpoint: contract.Endpoint) -> str:
    return re.sub(r"{(\w+)(?::(path))?}", lambda found: f"<{found[2] or 'string'}:{found[1]}>", endpoint.path)


def make() -> Flask:
    """Return the application, ungoverned."""
    app = Flask(__name__, static_folder=None)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    for name, one in contract.ENDPOINTS.items():
        app.add_url_rule(rule_of(one), name, telling(name, one), methods=list(one.methods))
    for name, one in contract.SPECIAL.items():
        app.add_url_rule(rule_of(one), name, SPECIAL[name], methods=list(one.methods))
    return app


@cache
def _first() -> Flask:
    return make()


def make_again() -> Flask:
    """Return the same application, with rules that are compiled once. None may be added: they are in one map."""
    app, first = Flask(__name__, static_folder=None), _first()
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.url_map, app.view_functions = first.url_map, dict(first.view_functions)
    return app


def governed() -> Flask:
    """Return the application, governed as the environment says."""
    app = make()
    Chio(app)
    return app
