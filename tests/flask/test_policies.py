"""Policy of views in Flask's own idiom: blueprints, class-based views, endpoints and paths in the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, g
from flask.views import MethodView

from chio_core.testing import ScriptedSidecar
from chio_flask import Budget, Chio, Observe, Policy, RequireCapability
from chio_flask.listing import describe, list_routes
from tests.flask.apps import make
from tests.tokens import with_token

OPEN = Policy(side_effects=False)


def test_every_view_is_listed_under_the_template_that_its_requests_have() -> None:
    app = make()
    routes = list(list_routes(app))
    assert {route.name for route in routes} == set(app.view_functions)
    samples = {"{pet}": "7", "{tag}": "old", "{order}": "3", "{account}": "7", "{number}": "7"}
    for route in routes:
        path = route.template
        for name, value in samples.items():
            path = path.replace(name, value)
        path = path.replace("{", "").replace("}", "")
        assert route.resolve(route.methods[0], path) == route.template


def test_the_policy_of_a_blueprint_holds_for_its_views_and_nested_ones_and_no_others() -> None:
    inner, outer, app = Blueprint("inner", __name__), Blueprint("outer", __name__, url_prefix="/o"), Flask("nested")
    inner.add_url_rule("/i", "i", RequireCapability("in", "view")(lambda: "ran"))
    outer.add_url_rule("/o", "o", lambda: "ran")
    RequireCapability("in", "side")(inner)
    RequireCapability("out", "side")(outer)
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    app.add_url_rule("/", "free", lambda: "ran")
    found = {route.name: [source.tool for source in route.sources] for route in list_routes(app)}
    assert found["outer.inner.i"] == ["side", "side", "view"]
    assert (found["outer.o"], found["free"]) == (["side"], [])
    with ScriptedSidecar().serving_in_thread() as sidecar:
        Chio(app, sidecar_url=sidecar.url, trusted_kernel_keys=[sidecar.public_key])
        one, two = with_token(("out", "side")), with_token(("out", "side"), ("in", "side"), ("in", "view"))
        client = app.test_client()
        statuses = [client.get(path, headers=by).status_code for path in ("/o/o", "/o/i") for by in (one, two)]
        assert statuses == [200, 200, 403, 200]
        assert client.get("/").status_code == 200


def test_a_blueprint_without_the_extension_does_not_run() -> None:
    app, place = Flask("alone"), RequireCapability("a", "b")(Blueprint("place", __name__))
    place.add_url_rule("/", "view", lambda: "ran")
    app.register_blueprint(place)
    assert app.test_client().get("/").status_code == 500


def test_a_blueprint_that_is_registered_takes_no_policy() -> None:
    app, place = Flask("late"), Blueprint("place", __name__)
    app.register_blueprint(place)
    with pytest.raises(AssertionError, match="already been registered"):
        OPEN(place)


class Orders(MethodView):
    decorators = (OPEN,)

    def get(self) -> str:
        return "ran"

    @Budget(max_invocations=2)
    def post(self) -> str:
        return "ran"


@pytest.mark.parametrize("key", ["orders", "ord*", "/orders", "/"])
def test_configuration_names_endpoints_and_paths(key: str, tmp_path: Path) -> None:
    app = Flask("configured", static_folder=None)
    app.add_url_rule("/orders", "orders", lambda: "ran", methods=["POST"])
    app.config["CHIO_VIEW_POLICIES"] = {key: [OPEN, Observe()]}
    app.config["CHIO_SIDECAR_URL"] = f"embedded:{tmp_path}/store.sqlite3"
    chio = Chio(app)
    assert app.test_client().post("/orders").status_code == 200
    app.config["CHIO_VIEW_POLICIES"] = {"other": OPEN}  # read again, as all of the configuration
    assert app.test_client().post("/orders").status_code == 403
    chio.close(app)


def test_the_methods_of_a_class_have_a_policy_each(tmp_path: Path) -> None:
    app = Flask("methods", static_folder=None)
    app.add_url_rule("/orders", view_func=Orders.as_view("orders"))
    found = {route.methods: [type(source).__name__ for source in route.sources] for route in list_routes(app)}
    assert found[("POST",)] == ["Policy", "Budget"]
    assert found[("GET", "HEAD", "OPTIONS")] == ["Policy"]
    chio = Chio(app, sidecar_url=f"embedded:{tmp_path}/store.sqlite3")
    assert [app.test_client().post("/orders").status_code for _ in range(3)] == [200, 200, 403]
    chio.close(app)


def test_rules_that_the_sidecar_would_choose_differently_are_reported() -> None:
    app = Flask("overlap", static_folder=None)
    app.add_url_rule("/~me", "first", lambda: "ran", methods=["POST"])
    app.add_url_rule("/<name>", "second", lambda name: "ran", methods=["POST"])
    app.add_url_rule("/files/<path:rest>", "third", lambda rest: "ran")
    found = {finding.category: finding.message for finding in describe(app).findings}
    assert set(found) == {"overlapping_routes", "unmatchable_template"}
    assert found["overlapping_routes"].startswith("OPTIONS, POST /~me runs /~me here but is /{name} to the sidecar")


def test_an_observed_view_reads_why_it_runs() -> None:
    app = Flask("observed", static_folder=None)
    view: Any = Observe()(RequireCapability("a", "b")(lambda: str(g.chio_passthrough.error)))
    app.add_url_rule("/", "view", view)
    with ScriptedSidecar().serving_in_thread() as sidecar:
        Chio(app, sidecar_url=sidecar.url, trusted_kernel_keys=[sidecar.public_key])
        assert app.test_client().get("/").text == "chio_capability_required"
