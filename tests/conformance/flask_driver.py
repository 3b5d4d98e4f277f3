"""Drivers for Flask: with the extension, and with the decorator behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask, g

from chio_core.refusals.problems import flat
from chio_core.refusals.response import Denial
from chio_flask import Chio, require_capability
from tests.conformance import wsgi
from tests.conformance.window import SERVER, TEMPLATE, TOOL, Observation, Seen, Sent

RULE = TEMPLATE.replace("{", "<int:").replace("}", ">")


class FlaskExtension:
    """`Chio(app)`, and a view that asks for nothing."""

    name = "flask"
    asks = "middleware"
    tags_success = True

    def code(self, wire_code: str) -> str:
        return str(flat(Denial(code=wire_code, message=""))["error"])

    def guard(self, view: Any) -> Any:
        return view

    def run(self, settings: Mapping[str, Any], request: Sent) -> Observation:
        seen: list[Seen] = []
        app = Flask(__name__, static_folder=None)

        def transfer(transfer_id: int) -> dict[str, bool]:
            seen.append(Seen(g.chio_receipt, g.chio_passthrough, g.chio_decision))
            return {"ok": True}

        app.post(RULE)(self.guard(transfer))
        chio = Chio(app, **settings)
        try:
            status, headers, body = wsgi.call(app.wsgi_app, request)
        finally:
            chio.close(app)
        return Observation(status, headers, body, seen)


class FlaskCapability(FlaskExtension):
    """`require_capability` on the view."""

    name = "flask-capability"
    asks = "capability"

    def guard(self, view: Any) -> Any:
        return require_capability(SERVER, TOOL)(view)
