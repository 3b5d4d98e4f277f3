from __future__ import annotations

import os

from flask import Flask, g, request

from chio_flask import Chio

chio = Chio()


def create_app() -> Flask:
    app = Flask(__name__, static_folder=None)
    app.config.update(
        CHIO_SIDECAR_URL=os.environ.get("CHIO_SIDECAR_URL", "http://127.0.0.1:9090"),
        CHIO_EXCLUDE_PATHS=["/healthz"],
    )
    chio.init_app(app)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/hello")
    def hello() -> dict[str, str]:
        return {"message": "hello from flask", "receipt_id": g.chio_receipt.id}

    @app.post("/echo")
    def echo() -> dict[str, object]:
        payload = request.get_json()
        return {
            "message": payload.get("message"),
            "count": payload.get("count", 1),
            "receipt_id": g.chio_receipt.id,
            "body_cached": bool(request.data),
        }

    return app
