"""require_capability on each kind of view that Flask has; what holds on every face is in tests/faces."""

from __future__ import annotations

from typing import Any

import pytest
from flask.views import MethodView

from chio_core.errors import ConfigurationError
from chio_flask import require_capability
from chio_flask.routing import template_of
from tests.flask.apps import governed, make
from tests.tokens import with_token

TRANSFER = ("payments", "transfer")


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/transfer", TRANSFER),
        ("HEAD", "/transfer", TRANSFER),
        ("GET", "/atransfer", TRANSFER),
        ("POST", "/accounts", ("accounts", "open")),
        ("GET", "/accounts", (None, None)),
        ("GET", "/vault", ("vault", "open")),
        ("POST", "/transfer", (None, None)),
    ],
)
def test_the_requirement_of_a_view_is_part_of_the_evaluation(method: str, path: str, wanted: tuple[Any, Any]) -> None:
    with governed() as (app, sidecar):
        app.test_client().open(path, method=method)
    asked = sidecar.asked[0].document
    assert (asked.get("tool_server"), asked.get("tool_name")) == wanted
    assert asked["route_pattern"] == path
    assert len(sidecar.asked) == 1


@pytest.mark.parametrize("excluded", [False, True], ids=["governed", "excluded"])
@pytest.mark.parametrize("path", ["/transfer", "/atransfer", "/vault"])
def test_without_a_capability_the_answer_is_401_and_with_it_the_view_runs(path: str, excluded: bool) -> None:
    with governed(exclude_paths=[path] if excluded else []) as (app, sidecar):
        refused = app.test_client().get(path)
        allowed = app.test_client().get(path, headers=with_token(TRANSFER, ("vault", "open")))
    assert (refused.status_code, refused.json["error"]) == (401, "chio_capability_required")
    assert "Chio" in refused.headers["WWW-Authenticate"]
    assert allowed.status_code == 200
    assert len(sidecar.asked) == 2


def test_arguments_that_python_calls_equal_are_two_requirements() -> None:
    one, true = (require_capability("s", "t", arguments={"n": value}) for value in (1, True))
    with governed() as (app, sidecar):
        app.add_url_rule("/equal", "equal", one(true(lambda: "ok")))
        assert app.test_client().get("/equal", headers=with_token(("s", "t"))).status_code == 200
    assert [str(asked.document["arguments"]) for asked in sidecar.asked] == ["{'n': 1}", "{'n': True}"]


def test_arguments_are_converted_parameters_of_the_path() -> None:
    with governed() as (app, sidecar):
        assert app.test_client().get("/accounts/7", headers=with_token(("accounts", "read", "read"))).data == b"account"
    assert sidecar.asked[0].document["arguments"] == {"account": 7}
    assert len(sidecar.asked) == 1


class Notes(MethodView):
    @require_capability("accounts", "read", operations=["read"], arguments=lambda named: {"account": named["account"]})
    def note(self, account: int) -> str:
        return "account"

    def get(self, account: int) -> str:
        return self.note(account + 1)


@pytest.mark.parametrize("alias", ["by_name", "by_position", "method"])
def test_arguments_are_those_that_the_view_is_called_with(alias: str) -> None:
    app = make()
    account_of = app.view_functions["read_account"]
    app.add_url_rule("/by_name/<int:account>", "by_name", lambda account: account_of(account=account + 1))
    app.add_url_rule("/by_position/<int:account>", "by_position", lambda account: account_of(account + 1))
    app.add_url_rule("/method/<int:account>", view_func=Notes.as_view("method"))
    with governed(app=app) as (_, sidecar):
        response = app.test_client().get(f"/{alias}/7", headers=with_token(("accounts", "read", "read")))
    assert response.data == b"account"
    assert [asked.document.get("arguments") for asked in sidecar.asked] == [None, {"account": 8}]


def test_in_an_ungoverned_application_a_requirement_refuses() -> None:
    app = make()
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(ConfigurationError, match=r"chio_flask\.Chio"):
        app.test_client().get("/transfer")


def test_a_view_that_is_called_directly_is_evaluated_too() -> None:
    with governed() as (app, sidecar), app.test_request_context("/transfer"):
        assert app.view_functions["plain_transfer"]().status_code == 401
    assert len(sidecar.asked) == 1


def test_a_class_is_decorated_by_its_methods() -> None:
    with pytest.raises(ConfigurationError, match="decorators"):
        require_capability("a", "b")(type("V", (), {}))


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/pets/7/tags/old", "/pets/{pet}/tags/{tag}"),
        ("/files/a/b", "/files/{rest}"),
        ("/shop/north/orders/3", "/shop/{shop}/orders/{order}"),
        ("/pets/7/tags/other", "/pets/7/tags/other"),
        ("/slashed", "/slashed"),
        ("/slashed/", "/slashed/"),
    ],
)
def test_the_template_of_the_rule_is_sent(path: str, template: str) -> None:
    with governed() as (app, sidecar):
        app.test_client().get(path)
        app.test_client().delete(path)
    assert [asked.document["route_pattern"] for asked in sidecar.asked] == [template, template]
    assert sidecar.asked[0].path == path


def test_rules_become_templates() -> None:
    assert template_of("/a/<int(min=1, max=9):n>/<b>.<string(length=2):c>") == "/a/{n}/{b}.{c}"


def test_a_host_that_is_not_trusted_is_evaluated_without_a_template() -> None:
    app = make()
    app.config["TRUSTED_HOSTS"] = ["example.com"]
    with governed(app=app) as (app, sidecar):
        assert app.test_client().get("/pets/7/tags/old").status_code == 400
    assert sidecar.asked[0].document["route_pattern"] == "/pets/7/tags/old"
