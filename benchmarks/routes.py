"""What it costs to find the route that will run: the last of 10, 100 and 1,000 routes, CPU microseconds in process.

    python -m benchmarks.routes

Beside it is the look-up that the framework's own router makes for the same request, which is not Chio's to change. The
lowest of some repetitions is taken, so that other work on the machine counts little.
"""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import machine, report, targets
from benchmarks.figures import Spread
from benchmarks.options import new_parser, positive, speaking_plainly

COUNTS = (10, 100, 1_000)
_SLICE = 0.02  # seconds of one repetition

LookUp = Callable[[], object]


def measure(repetitions: int) -> dict[str, list[float]]:
    """Return microseconds by case, one for each of `COUNTS`."""
    machine.require_modules("starlette", "fastapi", "django", "flask")
    sys.path.insert(0, str(machine.ROOT / "adapters"))  # those of this checkout, whichever are installed
    found: dict[str, list[float]] = {}
    for count in COUNTS:
        for cases in (_starlette, _fastapi, _included, _django, _flask, _sidecar):
            for name, look_up in cases(count):
                found.setdefault(name, []).append(_microseconds(look_up, repetitions))
    return found


def markdown(found: dict[str, list[float]]) -> str:
    """Return the table."""
    rows = [[name, *(f"{value:.1f}" for value in values)] for name, values in found.items()]
    return report.markdown(("CPU µs of a look-up", *(f"{count:,} routes" for count in COUNTS)), rows)


def of_look_ups(found: dict[str, list[float]]) -> targets.Target:
    """Return the growth of Chio's own look-ups as a target."""
    own = {name: Spread.of([values[-1] / values[0]]) for name, values in found.items() if "own router" not in name}
    return targets.Target("route look-up: the last of 1,000 routes over the last of 10", own, 2.0)


def _microseconds(look_up: LookUp, repetitions: int) -> float:
    look_up()
    began = time.process_time()
    look_up()
    number = max(3, int(_SLICE / max(time.process_time() - began, 1e-6)))
    taken = []
    for _ in range(repetitions):
        began = time.process_time()
        for _ in range(number):
            look_up()
        taken.append((time.process_time() - began) / number * 1e6)
    return min(taken)


def _scope(path: str) -> dict[str, Any]:
    kind = {"type": "http", "method": "GET", "root_path": "", "query_string": b"", "headers": [(b"host", b"a")]}
    return {**kind, "path": path, "raw_path": path.encode()}


def _scan(router: Any, scope: dict[str, Any]) -> LookUp:
    """Return what the router of Starlette and FastAPI does."""

    def scan() -> object:
        own = dict(scope)
        return next(route for route in router.routes if route.matches(own)[0].value == 2)

    return scan


def _both(name: str, app: Any, path: str) -> Iterator[tuple[str, LookUp]]:
    from chio_asgi.routing import RouteResolver

    resolve, scope = RouteResolver(app), _scope(path)
    if resolve(scope).route is None:
        raise machine.UnsuitableError(f"{name}: no route was found for {path}.")
    yield name, lambda: resolve(scope)
    yield f"{name}: own router", _scan(app.router, scope)


async def _endpoint(request: Any) -> None:
    """Never called."""


def _starlette(count: int) -> Iterator[tuple[str, LookUp]]:
    from starlette.applications import Starlette
    from starlette.routing import Route

    routes = [Route(f"/{{tenant}}/r{number}/{{item}}", _endpoint) for number in range(count)]
    yield from _both("Starlette", Starlette(routes=routes), f"/t/r{count - 1}/7")


def _fastapi(count: int) -> Iterator[tuple[str, LookUp]]:
    from fastapi import FastAPI

    app = FastAPI(openapi_url=None)
    for number in range(count):
        app.add_api_route(f"/r{number}/items/{{item}}", lambda item: item)
    yield from _both("FastAPI", app, f"/r{count - 1}/items/7")


def _included(count: int) -> Iterator[tuple[str, LookUp]]:
    from fastapi import APIRouter, FastAPI

    app, size = FastAPI(openapi_url=None), min(count, 20)
    for prefix in range(count // size):
        router = APIRouter()
        for number in range(size):
            router.add_api_route(f"/r{number}/{{item}}", lambda item: item)
        app.include_router(router, prefix=f"/p{prefix}")
    yield from _both("FastAPI, routers of 20", app, f"/p{count // size - 1}/r{size - 1}/7")


def _django(count: int) -> Iterator[tuple[str, LookUp]]:
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(ROOT_URLCONF="urls", USE_I18N=False, SECRET_KEY="-" * 50, ALLOWED_HOSTS=["*"])
        django.setup()
    from django.test import RequestFactory
    from django.urls import get_resolver, path

    from chio_django.routing import find_view

    module: Any = types.ModuleType(f"urls_of_{count}")
    module.urlpatterns = [path(f"r{number}/items/<int:item>", lambda request, item: None) for number in range(count)]
    sys.modules[module.__name__] = module
    request: Any = RequestFactory().get(f"/r{count - 1}/items/7")
    request.urlconf = module.__name__
    yield "Django", lambda: find_view(request)
    yield "Django: own router", lambda: get_resolver(request.urlconf).resolve(request.path_info)


def _flask(count: int) -> Iterator[tuple[str, LookUp]]:
    from flask import Flask
    from flask.globals import request

    from chio_flask.routing import find_view

    app = Flask("routes")
    for number in range(count):
        app.add_url_rule(f"/r{number}/items/<item>", endpoint=f"e{number}", view_func=lambda item: item)
    with app.test_request_context(f"/r{count - 1}/items/7"):
        yield "Flask (its own URL map)", lambda: find_view(app, request)


def _sidecar(count: int) -> Iterator[tuple[str, LookUp]]:
    from chio_sidecar.policy.routes import RouteRule, RouteTable

    rules = [("GET", RouteRule(f"/r{number}/items/{{item}}", "session_allow")) for number in range(count)]
    table = RouteTable(rules, "0" * 64)
    yield "the sidecar's table", lambda: table.match("GET", f"/r{count - 1}/items/7")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; return the exit status."""
    parser = new_parser("benchmarks.routes", __doc__)
    parser.add_argument("--repetitions", type=positive, default=7, metavar="N")
    options = parser.parse_args(arguments)
    found = measure(options.repetitions)
    print(markdown(found) + "\n\n" + targets.markdown([of_look_ups(found)]))
    return 0


if __name__ == "__main__":
    sys.exit(speaking_plainly(main))
