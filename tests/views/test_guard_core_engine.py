"""guard-core's own engine accepts the views: its checks answer the same over every framework (G14, G16)."""

from __future__ import annotations

import asyncio
import logging
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from flask import Flask, request
from guard_core.core.checks.implementations.request_size_content import RequestSizeContentCheck
from guard_core.core.checks.implementations.required_headers import RequiredHeadersCheck
from guard_core.core.checks.implementations.route_config import RouteConfigCheck
from guard_core.decorators.base import RouteConfig
from guard_core.models import SecurityConfig
from guard_core.utils import extract_client_ip

from chio_django import DjangoGuardRequest
from chio_flask import FlaskGuardRequest
from tests.faces.wire import Wire, environ_of
from tests.faces.wsgi import call
from tests.support import run
from tests.views.stacks import MAKERS

CONFIG = SecurityConfig(trusted_proxies=["10.0.0.0/8"], enable_redis=False)
FORWARDED = Wire("POST", b"/api/x?a=1", ((b"x-forwarded-for", b"203.0.113.7"),), (b"hello world",))

each_maker = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


class Engine:
    """What checks call back into: a middleware of guard-core, reduced to what these checks use."""

    def __init__(self, route: RouteConfig | None = None) -> None:
        self.config = CONFIG
        self.logger = logging.getLogger("tests.guard_core")
        self.last_cloud_ip_refresh = 0
        self.suspicious_request_counts: dict[str, dict[str, int]] = {}
        self.agent_handler = None
        self.route_resolver = SimpleNamespace(get_route_config=lambda request: route)
        self.event_bus = self

    async def send_middleware_event(self, **event: Any) -> None: ...

    async def create_error_response(self, status_code: int, default_message: str) -> Any:
        return SimpleNamespace(status_code=status_code, body=default_message.encode(), headers={})


@each_maker
def test_the_engine_finds_the_client_behind_a_trusted_proxy(make: Any) -> None:
    assert run(extract_client_ip(make(FORWARDED).view, CONFIG)) == "203.0.113.7"


@each_maker
def test_the_engine_ignores_the_claim_of_a_peer_that_is_no_proxy(make: Any) -> None:
    wire = Wire("POST", b"/", FORWARDED.headers, peer="192.0.2.1")
    assert run(extract_client_ip(make(wire).view, CONFIG)) == "192.0.2.1"


@each_maker
def test_a_body_that_is_too_large_for_its_route_is_413(make: Any) -> None:
    route = RouteConfig()
    route.max_request_size = 5
    view = make(FORWARDED).view
    view.state.route_config = route
    answer = run(RequestSizeContentCheck(Engine(route)).check(view))
    assert answer.status_code == 413


@each_maker
def test_the_route_s_rules_and_the_client_are_put_on_the_state(make: Any) -> None:
    view = make(FORWARDED).view
    route = RouteConfig()
    assert run(RouteConfigCheck(Engine(route)).check(view)) is None
    assert view.state.client_ip == "203.0.113.7"
    assert view.state.route_config is route


@each_maker
@pytest.mark.parametrize(("headers", "status"), [((), 400), (((b"x-tenant", b"7"),), None)])
def test_a_header_that_is_required_is_found_in_any_case(make: Any, headers: Any, status: int | None) -> None:
    route = RouteConfig()
    route.required_headers = {"X-Tenant": "required"}
    view = make(Wire(headers=headers)).view
    view.state.route_config = route
    answer = run(RequiredHeadersCheck(Engine(route)).check(view))
    assert (answer.status_code if answer is not None else None) == status


async def pipeline(view: Any, seen: list[Any]) -> None:
    """Guards that really wait, and share what they found."""
    seen.append(threading.current_thread())
    await RouteConfigCheck(Engine(RouteConfig())).check(view)
    await asyncio.sleep(0)
    view.state.length = len(await view.body())
    await asyncio.sleep(0)


def _piped(view: Any, seen: list[Any]) -> None:
    # A new loop in a new thread, as a synchronous adapter runs asynchronous guards.
    thread = threading.Thread(target=lambda: asyncio.run(pipeline(view, seen)))
    thread.start()
    thread.join()


def piping(get_response: Any) -> Any:
    """Middleware that runs the guards before the view."""

    def middleware(request: HttpRequest) -> Any:
        _piped(DjangoGuardRequest(request), settings.SEEN)
        return get_response(request)

    return middleware


def test_asynchronous_guards_run_from_django_while_the_view_stays_in_its_thread() -> None:
    seen: list[Any] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(threading.current_thread())
        state = DjangoGuardRequest(request).state
        return HttpResponse(f"{state.client_ip} {state.length} {len(request.body)}")

    urls = ModuleType("urls")
    urls.urlpatterns = [path("api/x", view)]  # type: ignore[attr-defined]
    middleware = ["tests.views.test_guard_core_engine.piping"]
    with override_settings(MIDDLEWARE=middleware, ROOT_URLCONF=urls, SEEN=seen):
        answered = call(WSGIHandler(), environ_of(FORWARDED))
    assert answered.body == b"203.0.113.7 11 11"
    assert seen[1] is threading.current_thread()
    assert seen[0] is not seen[1]


def test_asynchronous_guards_run_from_flask_while_the_view_stays_in_its_thread() -> None:
    seen: list[Any] = []
    app = Flask("tests.views.stacks")

    @app.before_request
    def guard() -> None:
        _piped(FlaskGuardRequest(request._get_current_object(), app), seen)  # type: ignore[attr-defined]

    @app.post("/api/x")
    def view() -> str:
        seen.append(threading.current_thread())
        state = FlaskGuardRequest(request).state
        return f"{state.client_ip} {state.length} {len(request.get_data())}"

    assert call(app, environ_of(FORWARDED)).body == b"203.0.113.7 11 11"
    assert seen[1] is threading.current_thread()
    assert seen[0] is not seen[1]
