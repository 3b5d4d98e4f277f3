"""The extension: configuration, several applications, and what is Flask's own; the rest is in tests/faces."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
from flask import Flask, Response, g, request, request_started
from flask.sessions import SecureCookieSessionInterface
from werkzeug.routing import BaseConverter

from chio_core.canonical import sha256_hex
from chio_core.client.client import SyncChioClient
from chio_core.errors import ConfigurationError
from chio_core.models.receipt import HttpReceipt
from chio_core.settings import ChioSettings
from chio_core.testing import KEY, ScriptedSidecar, behaviours
from chio_flask import Chio
from tests.faces.inner import around_wsgi
from tests.faces.wsgi import call, environ
from tests.flask.apps import governed, make


def test_static_files_are_governed() -> None:
    def make_static() -> Flask:
        return Flask("tests.flask.apps", static_folder=".", static_url_path="/static")

    with governed(behaviours.DENY, make_static()) as (app, _):
        assert app.test_client().get("/static/apps.py").status_code == 403
    with governed(app=make_static()) as (app, sidecar), app.test_client().get("/static/apps.py") as response:
        assert response.data.startswith(b'"""Flask applications')
        assert response.headers["X-Chio-Receipt"]
    assert sidecar.asked[0].document["route_pattern"] == "/static/{filename}"


def test_a_path_that_flask_takes_for_an_excluded_one_is_excluded() -> None:
    with governed(behaviours.REFUSE, exclude_paths=["/healthz"]) as (app, sidecar):
        assert call(app, environ("GET", "//healthz")).status == 200
    assert sidecar.asked == []


def test_a_url_is_matched_once_before_flask_matches_it() -> None:
    matched: list[str] = []

    class Noted(BaseConverter):
        def to_python(self, value: str) -> str:
            matched.append(value)
            return value

    with governed() as (app, _):
        app.url_map.converters["noted"] = Noted
        app.add_url_rule("/noted/<noted:name>", "noted", lambda name: str(name))
        assert call(app, environ("GET", "/noted/a")).status == 200
    assert matched == ["a", "a"]


def test_json_and_the_limit_of_a_body_stay_flask_s() -> None:
    with governed() as (app, sidecar):
        assert app.test_client().post("/payload", json={"a": [1]}).json == {"a": [1]}
        app.config["MAX_CONTENT_LENGTH"] = 100
        assert app.test_client().post("/anything", data=b"x" * 101).status_code == 413
    assert len(sidecar.asked) == 2


@pytest.mark.parametrize(
    "query", ["a=\xc3\xbc", "a=%C3%BC&b=\xc3\xbc", "a=%FF", "a=%fe&%E2%82=x+y&b=%C3%BC", "a=%ED%A0%80;&b"]
)
def test_a_query_with_bytes_beyond_ascii_is_evaluated_as_flask_reads_it(query: str) -> None:
    read: list[dict[str, str]] = []
    with governed() as (app, sidecar):
        app.add_url_rule("/query", view_func=lambda: str(read.append(dict(request.args.items()))), endpoint="query")
        call(app, environ("GET", "/query", QUERY_STRING=query))
    assert [asked.document["query"] for asked in sidecar.asked] == read != []


def test_paths_to_observe_may_be_in_the_configuration() -> None:
    app = make()
    app.config["CHIO_OBSERVE_PATHS"] = ["/hello"]
    with governed(behaviours.DENY, app):
        assert app.test_client().get("/hello").status_code == 200
        assert app.test_client().get("/stream").status_code == 403


def test_a_copied_environment_is_evaluated_with_the_body_that_its_view_reads() -> None:
    app, other = make(), b"another body"

    def batch() -> bytes:
        length = {"wsgi.input": io.BytesIO(other), "CONTENT_LENGTH": str(len(other))}
        return call(app, {**request.environ, "PATH_INFO": "/anything", **length}).body

    app.add_url_rule("/batch", "batch", batch, methods=["POST"])
    with governed(app=app) as (_, sidecar):
        response = app.test_client().post("/batch", data=b"sent by the client")
    found = [(asked.path, asked.document["body_hash"]) for asked in sidecar.asked]
    assert found == [("/batch", sha256_hex(b"sent by the client")), ("/anything", sha256_hex(other))]
    assert json.loads(response.data)["read"] == sha256_hex(other)


def test_an_unreadable_body_of_inner_middleware_is_refused() -> None:
    def change(environ: dict[str, Any]) -> None:
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(b"short"), "1000"

    app = make()
    app.wsgi_app = around_wsgi(app.wsgi_app, change)  # type: ignore[method-assign]
    with governed(app=app) as (_, sidecar):
        assert app.test_client().post("/anything", data=b"sent by the client").status_code == 400
    assert len(sidecar.asked) == 1


@pytest.mark.parametrize(("changed", "status", "evaluated"), [({}, 200, 1), ({"REQUEST_METHOD": "DELETE"}, 403, 2)])
def test_a_new_environment_of_inner_middleware_is_the_same_request(
    changed: dict[str, str], status: int, evaluated: int
) -> None:
    app = make()
    inner = app.wsgi_app

    def renewing(environ: dict[str, Any], start_response: Any) -> Any:
        own = ("chio", "werkzeug")
        return inner(
            {key: value for key, value in environ.items() if not key.startswith(own)} | changed, start_response
        )

    app.wsgi_app = renewing  # type: ignore[method-assign]
    with governed(lambda asked: behaviours.DENY if asked.method == "DELETE" else behaviours.ALLOW, app) as (_, sidecar):
        response = app.test_client().get("/anything")
    assert (response.status_code, len(sidecar.asked)) == (status, evaluated)
    assert response.headers["X-Chio-Receipt"] == response.json.get("receipt", response.json.get("receipt_id"))


def test_a_request_that_does_not_come_through_wsgi_app_is_evaluated() -> None:
    with governed(behaviours.DENY) as (app, sidecar), app.test_request_context("/anything", method="DELETE"):
        assert app.full_dispatch_request().status_code == 403
    with governed() as (app, sidecar), app.test_request_context("/anything", method="DELETE"):
        assert app.full_dispatch_request().json["receipt"]
    assert len(sidecar.asked) == 1


def test_nothing_of_the_application_runs_for_a_refused_request() -> None:
    ran: list[str] = []

    class Sessions(SecureCookieSessionInterface):
        def open_session(self, app: Flask, request: object) -> None:
            ran.append("session")

    app = make()
    app.session_interface = Sessions()
    app.before_request(lambda: ran.append("before_request"))
    app.after_request(lambda response: ran.append("after_request") or response)
    app.url_value_preprocessor(lambda endpoint, values: ran.append("url_value_preprocessor"))
    app.register_error_handler(403, lambda error: ran.append("errorhandler") or "fine")
    with (
        governed(behaviours.DENY, app) as (app, _),
        request_started.connected_to(lambda *_, **__: ran.append("signal"), app),
    ):
        assert app.test_client().get("/hello").status_code == 403
        assert ran == []


def test_functions_before_the_request_read_the_outcome() -> None:
    seen: list[object] = []
    app = make()
    app.before_request(lambda: seen.append(g.chio_receipt))
    with governed(app=app) as (app, _):
        app.test_client().get("/hello")
    assert isinstance(seen[0], HttpReceipt)


def test_several_applications_in_one_process_have_settings_of_their_own() -> None:
    with governed() as (one, first), governed(behaviours.DENY, receipt_header="X-Receipt") as (two, second):
        assert one.test_client().get("/hello").status_code == 200
        refused = two.test_client().get("/hello")
    assert (refused.status_code, "X-Receipt" in refused.headers) == (403, True)
    assert (len(first.asked), len(second.asked)) == (1, 1)


def test_one_extension_serves_the_applications_of_a_factory() -> None:
    chio = Chio()
    with ScriptedSidecar().serving_in_thread() as sidecar:
        apps = []
        for header in ("X-One", "X-Two"):
            app = make()
            app.config.update(
                CHIO_SIDECAR_URL=sidecar.url, CHIO_TRUSTED_KERNEL_KEYS=[sidecar.public_key], CHIO_RECEIPT_HEADER=header
            )
            chio.init_app(app)
            apps.append(app)
        assert "X-One" in apps[0].test_client().get("/hello").headers
        assert "X-Two" in apps[1].test_client().get("/hello").headers
        for app in apps:
            chio.close(app)


def test_configuration_that_comes_after_the_extension_counts_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="chio")
    app = make()
    chio = Chio(app)
    with ScriptedSidecar().serving_in_thread() as sidecar:
        app.config.update(CHIO_SIDECAR_URL=sidecar.url, CHIO_TRUSTED_KERNEL_KEYS=KEY.public_hex)
        assert app.test_client().get("/hello").status_code == 200
        app.config["CHIO_RECEIPT_HEADER"] = "X-Later"
        assert "X-Later" in app.test_client().get("/hello").headers
        said = [one.getMessage() for one in caplog.records if one.name == "chio" and one.levelno == logging.INFO]
        assert ["127.0.0.1:9090" in said[0], *(sidecar.url in one for one in said[1:])] == [True, True, True]
        chio.close(app)
        assert app.test_client().get("/hello").status_code == 200
        chio.close(app)


def test_configuration_that_breaks_after_the_start_refuses(caplog: pytest.LogCaptureFixture) -> None:
    with governed() as (app, _):
        app.config["CHIO_TIMEOUT"] = -1
        answers = [call(app.wsgi_app, environ(path="/hello")) for _ in range(2)]
        assert [(one.status, json.loads(one.body)["error"]) for one in answers] == [(500, "chio_configuration")] * 2
        (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert "timeout" in record.getMessage()
        assert record.exc_info is None
        del app.config["CHIO_TIMEOUT"]
        assert call(app.wsgi_app, environ(path="/hello")).status == 200


def test_options_that_cannot_be_used_are_refused_at_once(caplog: pytest.LogCaptureFixture) -> None:
    app = make()
    app.config["CHIO_TIMEOUT"] = "soon"
    with pytest.raises(ConfigurationError, match="CHIO_TIMEOUT"):
        Chio(app)
    with pytest.raises(ConfigurationError, match="did you mean sidecar_url"):
        Chio(make(), sidecar_ur="http://localhost")
    with pytest.raises(ConfigurationError, match="either config or keywords"):
        Chio(make(), ChioSettings(), timeout=1)
    with pytest.raises(ConfigurationError, match=r"client .* or keywords"), SyncChioClient() as client:
        Chio(Flask("app"), client=client, exclude_paths={"/healthz"})
    unknown = make()
    unknown.config["CHIO_FAIL_OPN"] = True
    Chio(unknown)
    assert "did you mean CHIO_FAIL_OPEN?" in caplog.text


def test_an_application_is_governed_once() -> None:
    app = make()
    Chio(app)
    with pytest.raises(ConfigurationError, match="already"):
        Chio(app)


def test_a_client_can_be_shared() -> None:
    app = make()
    with ScriptedSidecar().serving_in_thread() as sidecar, SyncChioClient(sidecar.settings()) as client:
        chio = Chio(app, client=client)
        assert app.test_client().get("/hello").status_code == 200
        chio.close(app)
        assert app.test_client().get("/hello").status_code == 200


def test_middleware_that_changes_the_path_inside_of_chio_is_evaluated_again() -> None:
    app = make()
    inner = app.wsgi_app

    def rewriting(environ: dict[str, str], start_response: object) -> object:
        environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/v1")
        return inner(environ, start_response)  # type: ignore[arg-type]

    app.wsgi_app = rewriting  # type: ignore[method-assign, assignment]
    app.register_error_handler(Exception, lambda error: Response("swallowed", 200))
    with governed(app=app, exclude_paths=["/v1/transfer"]) as (app, sidecar):
        rewritten = app.test_client().get("/v1/hello")
        refused = app.test_client().get("/v1/transfer")
    assert rewritten.headers["X-Chio-Receipt"] == rewritten.json["receipt"]
    assert (refused.status_code, refused.json["error"]) == (401, "chio_capability_required")
    assert [asked.path for asked in sidecar.asked] == ["/v1/hello", "/hello", "/transfer"]
