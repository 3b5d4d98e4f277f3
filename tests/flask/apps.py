"""Flask applications for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Blueprint, Flask, Response, g, jsonify, request, send_file, stream_with_context
from flask.views import MethodView

from chio_core.testing import ScriptedSidecar
from chio_flask import Chio, require_capability


def make() -> Flask:
    """Return an application that nobody governs."""
    app = Flask("tests.flask.apps", static_folder=None)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    add_views(app)
    add_guarded(app)
    shop = Blueprint("shop", __name__, url_prefix="/shop/<shop>")
    shop.add_url_rule("/orders/<int:order>", "orders", lambda shop, order: jsonify(shop=shop, order=order))
    app.register_blueprint(shop)
    return app


def hello(**params: Any) -> Response:
    receipt = g.get("chio_receipt")
    passthrough = g.get("chio_passthrough")
    return jsonify(
        receipt=receipt.id if receipt is not None else None,
        verdict=g.chio_decision.verdict if g.get("chio_decision") is not None else None,
        passthrough=passthrough.error if passthrough is not None else None,
        params=params,
    )


def add_views(app: Flask) -> None:
    @app.get("/stream")
    def stream() -> Response:
        def pieces() -> Iterator[str]:
            for number in range(3):
                yield f"{number}{request.path};"

        return Response(stream_with_context(pieces()))

    @app.get("/file")
    def file() -> Response:
        return send_file(__file__)

    @app.get("/fails")
    def fails() -> Response:
        raise RuntimeError("the view is broken")

    @app.post("/form")
    def form() -> Response:
        files = {name: file.read().decode() for name, file in request.files.items()}
        return jsonify(fields=request.form.to_dict(), files=files)

    @app.get("/claims")
    def claims() -> Response:
        return Response("mine", headers=[("X-Chio-Receipt", "forged"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])

    app.add_url_rule("/hello", "hello", hello, methods=["GET", "POST"])
    app.add_url_rule("/pets/<int:pet>/tags/<any(old, new):tag>", "tags", hello)
    app.add_url_rule("/files/<path:rest>", "files", hello)
    app.add_url_rule("/slashed/", "slashed", hello)
    app.add_url_rule("/healthz", "healthz", hello)
    app.add_url_rule("/echo", "echo", lambda: Response(request.get_data()), methods=["POST"])
    app.add_url_rule("/echo-read", "echo_read", lambda: Response(request.stream.read()), methods=["POST"])
    app.add_url_rule("/payload", "payload", lambda: jsonify(request.get_json()), methods=["POST"])


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


def add_guarded(app: Flask) -> None:
    @app.get("/transfer")
    @require_capability("payments", "transfer")
    def transfer() -> Response:
        return jsonify(moved=True, receipt=g.chio_receipt.id)

    @app.get("/atransfer")
    @require_capability("payments", "transfer")
    async def atransfer() -> Response:
        return jsonify(moved=True, receipt=g.chio_receipt.id)

    @app.get("/any")
    @require_capability
    def any_capability() -> str:
        return "any"

    @app.get("/two")
    @require_capability("payments", "transfer")
    @require_capability("accounts", "read")
    def two() -> str:
        return "two"

    @app.get("/accounts/<int:account>")
    @require_capability(
        "accounts", "read", operations=["read"], arguments=lambda params: {"account": params["account"]}
    )
    def account(account: int) -> str:
        return "account"

    app.add_url_rule("/accounts", view_func=Accounts.as_view("accounts"))
    app.add_url_rule("/vault", view_func=Vault.as_view("vault"))


@contextmanager
def governed(script: Any = None, app: Flask | None = None, **options: Any) -> Iterator[tuple[Flask, ScriptedSidecar]]:
    """Let a sidecar listen, and have an application governed by it."""
    app = app if app is not None else make()
    with (ScriptedSidecar(script) if script is not None else ScriptedSidecar()).serving_in_thread() as sidecar:
        settings = {"sidecar_url": sidecar.url, "trusted_kernel_keys": [sidecar.public_key], **options}
        chio = Chio(app, **settings)
        yield app, sidecar
        chio.close(app)
