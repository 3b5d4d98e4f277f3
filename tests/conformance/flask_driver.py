"""Drivers for Flask: with the extension, and with the decorator behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flask import Flask, g

from chio_flask import Chio, require_capability
from tests.conformance import wsgi
from tests.conformance.window import SERVER, TEMPLATE, TOOL, Driver, Observation, Seen, Send, taken

RULE = TEMPLATE.replace("{", "<int:").replace("}", ">")


class FlaskExtension(Driver):
    """`Chio(app)`, and a view that asks for nothing."""

    name = "flask"

    def guard(self, view: Any) -> Any:
        return view

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[Send]:
        seen: list[Seen] = []
        app = Flask(__name__, static_folder=None)

        def transfer(transfer_id: int) -> dict[str, bool]:
            seen.append(Seen(g.chio_receipt, g.chio_passthrough, g.chio_decision))
            return {"ok": True}

        app.post(RULE)(self.guard(transfer))
        chio = Chio(app, **settings)
        try:
            yield lambda sent: Observation(*wsgi.call(app.wsgi_app, sent), taken(seen))
        finally:
            chio.close(app)


class FlaskCapability(FlaskExtension):
    """`require_capability` on the view."""

    name = "flask-capability"
    asks = "capability"

    def guard(self, view: Any) -> Any:
        return require_capability(SERVER, TOOL)(view)
