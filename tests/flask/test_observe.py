"""Observe mode on each kind of view that Flask has; what holds on every face is in tests/faces."""

from __future__ import annotations

import pytest
from flask import Flask, Response, g, jsonify

from chio_flask import require_capability
from tests.flask.apps import governed
from tests.tokens import with_token

TRANSFER = ("payments", "transfer")
NOTHING = {"receipt": None, "observed": True}


def seen() -> Response:
    mark = g.chio_passthrough
    return jsonify(
        receipt=g.chio_receipt.id if g.chio_receipt is not None else None,
        mark=[mark.mode, mark.error] if mark is not None else None,
        observed=g.chio_decision.observed,
    )


async def aseen() -> Response:
    return seen()


def make() -> Flask:
    app = Flask("tests.flask.observed", static_folder=None)
    app.add_url_rule("/transfer", "transfer", require_capability(*TRANSFER)(seen))
    app.add_url_rule("/atransfer", "atransfer", require_capability(*TRANSFER)(aseen))
    app.add_url_rule("/any", "any", require_capability(seen))
    app.add_url_rule("/two", "two", require_capability(*TRANSFER)(require_capability("accounts", "read")(seen)))
    return app


@pytest.mark.parametrize("path", ["/transfer", "/atransfer", "/two", "/any"])
def test_a_view_runs_without_the_capability_that_it_requires_and_with_it_has_its_receipt(path: str) -> None:
    with governed(app=make(), observe=True) as (app, sidecar):
        response = app.test_client().get(path)
        allowed = app.test_client().get(path, headers=with_token(TRANSFER, ("accounts", "read")))
    assert response.status_code == 200
    assert response.json == NOTHING | {"mark": ["observe", "chio_capability_required"]}
    assert "X-Chio-Receipt" in response.headers
    requires = "any" if path == "/any" else "payments/transfer"
    stated = {"mode": "observe", "requires": requires, "framework": "flask", "view": path.removeprefix("/")}
    assert sidecar.asked[0].document["enforcement"] == stated
    assert allowed.json == {"receipt": allowed.headers["X-Chio-Receipt"], "mark": None, "observed": False}
