"""Observe mode in Flask: extension, decorators and guards."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flask import Flask, Response, g, jsonify

from chio_core.refusals.response import Denial
from chio_core.request import GuardRequest
from chio_core.testing import ScriptedSidecar, behaviours
from chio_flask import Chio, require_capability
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
    app.add_url_rule("/plain", "plain", seen, methods=["GET", "POST"])
    app.add_url_rule("/v2/plain", "v2", seen)
    app.add_url_rule("/transfer", "transfer", require_capability(*TRANSFER)(seen))
    app.add_url_rule("/atransfer", "atransfer", require_capability(*TRANSFER)(aseen))
    app.add_url_rule("/any", "any", require_capability(seen))
    app.add_url_rule("/two", "two", require_capability(*TRANSFER)(require_capability("accounts", "read")(seen)))
    return app


@pytest.mark.parametrize("path", ["/transfer", "/atransfer", "/two", "/any"])
def test_a_view_runs_without_the_capability_that_it_requires(path: str) -> None:
    with governed(app=make(), observe=True) as (app, sidecar):
        response = app.test_client().get(path)
    assert response.status_code == 200
    assert response.json == NOTHING | {"mark": ["observe", "chio_capability_required"]}
    assert "X-Chio-Receipt" in response.headers
    requires = "any" if path == "/any" else "payments/transfer"
    assert sidecar.asked[0].document["enforcement"] == {"mode": "observe", "requires": requires, "framework": "flask"}


@pytest.mark.parametrize("path", ["/transfer", "/atransfer", "/any"])
def test_with_the_capability_it_has_its_receipt(path: str) -> None:
    with governed(app=make(), observe=True) as (app, sidecar):
        response = app.test_client().get(path, headers=with_token(TRANSFER))
    assert response.json == {"receipt": response.headers["X-Chio-Receipt"], "mark": None, "observed": False}
    assert len(sidecar.asked) == 1


def test_a_denied_request_runs_and_one_that_is_not_observed_does_not() -> None:
    with governed(behaviours.DENY, make(), observe_prefixes=["/v2"]) as (app, sidecar):
        observed, enforced = app.test_client().get("/v2/plain"), app.test_client().get("/plain")
    assert observed.json == NOTHING | {"mark": ["observe", "chio_access_denied"]}
    assert enforced.status_code == 403
    assert ["enforcement" in asked.document for asked in sidecar.asked] == [True, False]


def test_paths_may_be_in_the_configuration() -> None:
    app = make()
    app.config["CHIO_OBSERVE_PATHS"] = ["/plain"]
    with governed(behaviours.DENY, app):
        assert app.test_client().get("/plain").status_code == 200
        assert app.test_client().get("/v2/plain").status_code == 403


def test_a_sidecar_that_is_down_lets_pass() -> None:
    with governed(behaviours.REFUSE, make(), observe=True) as (app, _):
        response = app.test_client().get("/transfer")
    assert response.json == NOTHING | {"mark": ["observe", "chio_sidecar_unreachable"]}
    assert "X-Chio-Receipt" not in response.headers


def test_a_guard_of_the_application_refuses_in_observe_mode_too() -> None:
    class Closed:
        """Refuses after the decision."""

        priority = 1

        async def __call__(self, request: GuardRequest) -> Denial:
            return Denial(status=429, message="closed")

    told: list[Any] = []
    app = make()
    with ScriptedSidecar(behaviours.DENY).serving_in_thread() as sidecar:
        chio = Chio(
            app,
            sidecar_url=sidecar.url,
            trusted_kernel_keys=[sidecar.public_key],
            observe=True,
            guards=[Closed()],
            on_decision=told.append,
        )
        assert app.test_client().get("/plain").status_code == 429
        chio.close(app)
    assert [decision.allowed for decision in told] == [True, False]


def test_it_is_said_aloud_at_the_start_and_once_for_each_refusal(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="chio"), governed(behaviours.DENY, make(), observe=True) as (app, _):
        assert "observe mode" in caplog.text
        caplog.clear()
        app.test_client().get("/plain")
        (record,) = [one for one in caplog.records if one.name.startswith("chio")]
    assert "OBSERVED, NOT REFUSED" in record.getMessage()
