"""Flask applications for tests: the one of the contract, and what only Flask has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Blueprint, Flask, Response, g, jsonify, request
from flask.views import MethodView

from chio_core.testing import ScriptedSidecar
from chio_flask import Chio, require_capability
from tests.faces.apps import flask_app


class Accounts(MethodView):
    def get(self) -> str:
        return "list"

    @require_capability("accounts", "open")
    def post(self) -> str:
        return "opened"


class Vault(MethodView):
    decorators = (require_capability("vault", "open"),)

    def get(self) -> str:
        return "open"


def make() -> Flask:
    """Return an ungoverned application."""
    app = flask_app.make()
    shop = Blueprint("shop", __name__, url_prefix="/shop/<shop>")
    shop.add_url_rule("/orders/<int:order>", "orders", lambda shop, order: jsonify(shop=shop, order=order))
    app.register_blueprint(shop)
    app.add_url_rule("/pets/<int:pet>/tags/<any(old, new):tag>", "tags", lambda pet, tag: "tag")
    app.add_url_rule("/payload", "payload", lambda: jsonify(request.get_json()), methods=["POST"])
    app.add_url_rule("/accounts", view_func=Accounts.as_view("accounts"))
    app.add_url_rule("/vault", view_func=Vault.as_view("vault"))

    @app.get("/transfer")
    @require_capability("payments", "transfer")
    def plain_transfer() -> Response:
        return jsonify(receipt=g.chio_receipt.id)

    @app.get("/atransfer")
    @require_capability("payments", "transfer")
    async def atransfer() -> Response:
        return jsonify(receipt=g.chio_receipt.id if g.chio_receipt else None)

    @app.get("/accounts/<int:account>")
    @require_capability(
        "accounts", "read", operations=["read"], arguments=lambda params: {"account": params["account"]}
    )
    def read_account(account: int) -> str:
        return "account"

    return app


@contextmanager
def governed(script: Any = None, app: Flask | None = None, **options: Any) -> Iterator[tuple[Flask, ScriptedSidecar]]:
    """Let a sidecar listen, and have an application governed by it."""
    app = app if app is not None else make()
    with (ScriptedSidecar(script) if script is not None else ScriptedSidecar()).serving_in_thread() as sidecar:
        settings = {"sidecar_url": sidecar.url, "trusted_kernel_keys": [sidecar.public_key], **options}
        chio = Chio(app, **settings)
        yield app, sidecar
        chio.close(app)
