"""The extension: what it lets through, what it refuses, and what the application reads of it."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest
from flask import Flask, Response, g, request_started
from flask.sessions import SecureCookieSessionInterface

from chio_core.client.client import SyncChioClient
from chio_core.errors import ConfigurationError
from chio_core.models.caller import CallerIdentity
from chio_core.models.receipt import HttpReceipt
from chio_core.settings import ChioSettings
from chio_core.testing import KEY, ScriptedSidecar, behaviours
from chio_flask import Chio
from tests.faces.wsgi import call, environ
from tests.flask.apps import governed, hello, make


def test_an_allowed_request_reaches_its_view_with_the_verified_receipt() -> None:
    with governed() as (app, _):
        response = app.test_client().get("/hello")
    assert response.status_code == 200
    assert response.headers.getlist("X-Chio-Receipt") == [response.json["receipt"]]
    assert response.json["verdict"] == "allow"


def test_a_denied_request_is_answered_in_the_flat_envelope_with_its_receipt() -> None:
    with governed(behaviours.DENY) as (app, sidecar):
        response = app.test_client().post("/hello", data=b"x")
    document = response.json
    assert response.status_code == document["status"] == 403
    assert document["error"] == "chio_access_denied"
    assert document["message"] == "side-effect route requires a capability token"
    assert response.headers["X-Chio-Receipt"] == document["receipt_id"]
    assert response.headers["Content-Type"] == "application/json"
    assert len(sidecar.asked) == 1


@pytest.mark.parametrize("fail_open", [False, True])
def test_a_sidecar_that_is_away_refuses_or_opens_as_chosen(fail_open: bool) -> None:
    with governed(behaviours.REFUSE, fail_open=fail_open) as (app, _):
        response = app.test_client().get("/hello")
    assert "X-Chio-Receipt" not in response.headers
    if fail_open:
        assert (response.status_code, response.json["passthrough"]) == (200, "chio_sidecar_unreachable")
    else:
        assert (response.status_code, response.json["error"]) == (503, "chio_sidecar_unreachable")


def test_excluded_paths_and_methods_are_not_asked_about() -> None:
    options = {"exclude_paths": ["/healthz"], "exclude_prefixes": ["/files"]}
    with governed(behaviours.REFUSE, **options) as (app, sidecar):
        assert app.test_client().get("/healthz").json["verdict"] is None
        assert app.test_client().get("/files/a/b").status_code == 200
        assert app.test_client().options("/hello").status_code == 200
        assert app.test_client().get("/healthz/").status_code == 503
        assert call(app, environ("GET", "//healthz")).status == 200  # Flask itself takes it for /healthz
    assert sidecar.asked == []


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/fails", 500), ("/slashed", 308), ("/echo", 405)])
def test_errors_and_redirects_have_the_receipt_header_too(path: str, status: int) -> None:
    with governed() as (app, sidecar):
        response = app.test_client().get(path)
    assert response.status_code == status
    assert response.headers["X-Chio-Receipt"]
    assert len(sidecar.asked) == 1


def test_static_files_are_governed() -> None:
    def make_static() -> Flask:
        return Flask("tests.flask.apps", static_folder=".", static_url_path="/static")

    with governed(behaviours.DENY, make_static()) as (app, _):
        assert app.test_client().get("/static/apps.py").status_code == 403
    with governed(app=make_static()) as (app, sidecar), app.test_client().get("/static/apps.py") as response:
        assert response.status_code == 200
        assert response.headers["X-Chio-Receipt"]
    assert sidecar.asked[0].document["route_pattern"] == "/static/{filename}"


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


def test_an_application_cannot_claim_a_receipt() -> None:
    with governed() as (app, _):
        tagged = app.test_client().get("/claims")
    with governed(behaviours.REFUSE, fail_open=True) as (app, _):
        passed = app.test_client().get("/claims")
    with governed(exclude_paths=["/claims"]) as (app, _):
        excluded = app.test_client().get("/claims")
    assert tagged.headers.getlist("X-Chio-Receipt") != ["forged"]
    assert len(tagged.headers.getlist("X-Chio-Receipt")) == 1
    assert tagged.headers.getlist("Set-Cookie") == ["a=1", "b=2"]
    assert "X-Chio-Receipt" not in passed.headers
    assert "X-Chio-Receipt" not in excluded.headers


def test_streams_and_files_stay_what_they_are() -> None:
    with governed() as (app, _):
        stream = app.test_client().get("/stream", buffered=False)
        assert list(stream.iter_encoded()) == [b"0/stream;", b"1/stream;", b"2/stream;"]
        with app.test_client().get("/file") as file:
            assert file.data.startswith(b'"""Flask applications')
            assert file.headers["X-Chio-Receipt"]
    assert stream.headers["X-Chio-Receipt"]


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
                CHIO_SIDECAR_URL=sidecar.url,
                CHIO_TRUSTED_KERNEL_KEYS=[sidecar.public_key],
                CHIO_RECEIPT_HEADER=header,
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


def test_hooks_and_extractor_are_used() -> None:
    heard: list[object] = []

    def fails(value: object) -> None:
        heard.append(value)
        raise RuntimeError("nobody listens")

    options = {
        "on_decision": fails,
        "on_receipt": fails,
        "extractor": lambda view: CallerIdentity.mtls("CN=me", "00"),
    }
    with governed(**options) as (app, sidecar):
        assert app.test_client().get("/hello").status_code == 200
    assert len(heard) == 2
    assert sidecar.asked[0].document["caller"]["subject"] == "CN=me"


def test_middleware_that_changes_the_path_inside_of_chio_is_judged_again() -> None:
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


def test_the_views_of_other_tests_are_what_they_seem() -> None:
    with make().test_request_context("/hello"):
        assert hello().json == {"receipt": None, "verdict": None, "passthrough": None, "params": {}}


def test_nothing_of_a_request_is_left_when_its_response_is_gone() -> None:
    with governed() as (app, _):
        kept = []
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                environment = environ("POST", "/echo", b"hello")
                kept.append(weakref.ref(environment["wsgi.errors"]))
                call(app, environment)
                del environment
        finally:
            gc.enable()
    assert [reference() for reference in kept] == [None] * 3
