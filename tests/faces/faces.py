"""Faces: one framework each, governed, seen through the same small window.

A face opens the application of the contract with settings, sends it requests, and says what came out: status,
headers, body, and what the handler saw each time that it ran. To hold another framework to the same promises, write
its application under `apps/` and add one more face to `FACES`. (`tests/conformance/stacks` does it with servers.)
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from django.core import signing
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings
from flask import Flask
from flask import request as request_of_flask
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import TimestampSigner
from starlette.middleware.sessions import SessionMiddleware

from chio_asgi import ChioASGIConfig, ChioASGIMiddleware
from chio_core.client.client import ChioClient
from chio_core.refusals.problems import flat, nested
from chio_core.refusals.response import Denial
from chio_core.settings import ChioSettings
from chio_core.testing import ScriptedSidecar, behaviours
from chio_fastapi import add_chio
from chio_flask import Chio
from chio_wsgi import ChioWSGIMiddleware
from tests.django.project import CHIO, SHARING
from tests.faces.apps import django_app, fastapi_app, flask_app, starlette_app
from tests.faces.contract import Seen, taken
from tests.faces.inner import ASGILayer, Change, around_wsgi, change_environ
from tests.faces.wire import Lines, Wire, asgi_call, environ_of, messages_of, request, scope_of
from tests.faces.wsgi import call as wsgi_call
from tests.support import App

HOOKS = ("guards", "on_decision", "on_receipt", "extractor", "capability", "refusal_page")
"""Options that are no settings; each framework takes them under the same names."""

SECRET = "for tests only"
SIGNED = "django.contrib.sessions.backends.signed_cookies"
# The limit on the parameters of a query that is tested is Chio's.
DJANGO: dict[str, Any] = {"DATA_UPLOAD_MAX_NUMBER_FIELDS": None}
INNER = "tests.faces.inner.django_middleware"
LATE = "tests.faces.inner.LateDjangoMiddleware"


@dataclass
class Observation:
    """What came out of one request.

    Attributes:
        status: 0 if there was no answer.
        lines: header lines of the answer, names in lower case.
        seen: one entry for each time that a handler ran.
    """

    status: int
    lines: Sequence[tuple[str, str]]
    body: bytes
    seen: list[Seen] = field(default_factory=list)

    @property
    def headers(self) -> Mapping[str, str]:
        """The header lines by name; of repeated ones the last."""
        return dict(self.lines)

    def all(self, name: str) -> list[str]:
        """Return the values of each line of a header."""
        return [value for key, value in self.lines if key == name]

    @property
    def receipt(self) -> str | None:
        """The one receipt that the answer names."""
        found = self.all("x-chio-receipt")
        assert len(found) <= 1, found
        return found[0] if found else None

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        """The members of a refusal: of a flat envelope, a nested one, or FastAPI's `detail`."""
        document = self.json.get("detail", self.json)
        found: dict[str, Any] = document["error"] if isinstance(document["error"], dict) else document
        return found

    @property
    def code(self) -> str | None:
        """The code that the body states; None if it states none."""
        try:
            members = self.problem
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return members.get("code", members.get("error"))


Send = Callable[[Wire], Observation]


class Face(ABC):
    """One framework, set up in one way.

    Attributes:
        name: how tests call it.
        sessions: returns the header `Cookie` of a browser whose session has these entries; None: it has none.
        asks: whether its routes can require a capability.
        knows_routes: whether it finds the template of the route that will run.
        threaded: whether it runs under WSGI; what `opened` gives is then a `WSGISend`.
    """

    name: str
    sessions: Callable[[Mapping[str, str]], str] | None = None
    asks = True
    knows_routes = True
    threaded = False

    @abstractmethod
    def opened(self, **options: Any) -> AbstractContextManager[Send]:
        """Govern the application with settings and hooks (`HOOKS`), and close everything at the end.

        The option `inner` is a change that a layer inside Chio makes to each request, `late` one that is made when the
        route is known; see `tests.faces.inner`.
        """

    def code(self, wire_code: str) -> str:
        """Return how this framework's envelope spells a wire code."""
        return str(flat(Denial(code=wire_code, message=""))["error"])

    @contextmanager
    def governed(self, script: Any = behaviours.ALLOW, **options: Any) -> Iterator[Governed]:
        """Govern the application, with a sidecar that follows a script."""
        sidecar = ScriptedSidecar(script)
        with sidecar.serving_in_thread(), self.opened(**pointing_at(sidecar), **options) as send:
            yield Governed(sidecar, send)

    def __str__(self) -> str:
        return self.name


@dataclass
class Governed:
    """A governed application and its sidecar."""

    sidecar: ScriptedSidecar
    wire: Any

    def send(self, method: str, target: str, headers: Lines = (), body: bytes | Sequence[bytes] = b"") -> Observation:
        """Send one request; a body in a list is sent chunked."""
        return self.wire(request(method, target, headers, body))

    def get(self, target: str, headers: Lines = ()) -> Observation:
        """Send one GET."""
        return self.send("GET", target, headers)

    @property
    def asked(self) -> list[Mapping[str, Any]]:
        """Every question so far."""
        return [one.document for one in self.sidecar.asked]


def pointing_at(sidecar: ScriptedSidecar) -> dict[str, Any]:
    """Return the settings that name a sidecar and pin its key."""
    return {"sidecar_url": sidecar.url, "trusted_kernel_keys": [sidecar.public_key]}


def divided(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return settings and hooks."""
    hooks = {name: value for name, value in options.items() if name in (*HOOKS, "inner", "late")}
    return {name: value for name, value in options.items() if name not in hooks}, hooks


def starlette_session(entries: Mapping[str, str]) -> str:
    """Return the cookie of Starlette's session middleware."""
    return "session=" + TimestampSigner(SECRET).sign(b64encode(json.dumps(entries).encode())).decode()


def django_session(entries: Mapping[str, str]) -> str:
    """Return the cookie of Django's signed sessions."""
    return "sessionid=" + signing.dumps(dict(entries), salt=SIGNED, compress=True)


def flask_session(entries: Mapping[str, str]) -> str:
    """Return the cookie of Flask's sessions."""
    app = Flask("any")
    app.secret_key = SECRET
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    return "session=" + str(serializer.dumps(dict(entries)))


class ASGIFace(Face):
    """What the faces under ASGI share."""

    sessions = staticmethod(starlette_session)

    @abstractmethod
    def app(self, client: ChioClient, hooks: Mapping[str, Any]) -> AbstractContextManager[App]:
        """Govern the application with a client."""

    @contextmanager
    def opened(self, **options: Any) -> Iterator[Send]:
        settings, hooks = divided(options)
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            client = ChioClient(ChioASGIConfig(**settings))
            with self.app(client, hooks) as app:

                def send(wire: Wire) -> Observation:
                    taken()
                    leaves = asyncio.Event()
                    if wire.breaks:
                        leaves.set()
                    exchange = asgi_call(app, scope_of(wire), messages_of(wire), leaves)
                    reply = runner.run(exchange, context=copy_context())
                    if not reply.messages:
                        return Observation(0, [], b"", taken())
                    return Observation(reply.status, reply.headers, reply.body, taken())

                try:
                    yield send
                finally:
                    runner.run(client.aclose())


class StarletteFace(ASGIFace):
    """The middleware around a plain Starlette application."""

    name = "starlette"
    asks = False

    @contextmanager
    def app(self, client: ChioClient, hooks: Mapping[str, Any]) -> Iterator[App]:
        yield SessionMiddleware(ChioASGIMiddleware(starlette_app.make(), client=client, **hooks), SECRET)


class FastAPIFace(ASGIFace):
    """`add_chio`, and `RequireCapability` on routes."""

    name = "fastapi"

    @contextmanager
    def app(self, client: ChioClient, hooks: Mapping[str, Any]) -> Iterator[App]:
        app, more = fastapi_app.make_again(), dict(hooks)
        for name in ("inner", "late"):
            if (change := more.pop(name, None)) is not None:
                app.add_middleware(ASGILayer, change=change)
        add_chio(app, client=client, **more)
        app.add_middleware(SessionMiddleware, secret_key=SECRET)
        yield app


class FastAPIAlone(ASGIFace):
    """`RequireCapability` without any middleware: the dependency asks by itself."""

    name = "fastapi-alone"

    @contextmanager
    def app(self, client: ChioClient, hooks: Mapping[str, Any]) -> Iterator[App]:
        app = fastapi_app.make_again()
        app.state.chio_client = client
        yield app


def changing(options: Mapping[str, Any]) -> tuple[tuple[str, ...], Change | None]:
    """Return Django's middleware for a change, and the change."""
    inner, late = options.get("inner"), options.get("late")
    return ((INNER,), inner) if inner else ((LATE,), late) if late else ((), None)


class DjangoFace(Face):
    """The middleware under WSGI, and `require_capability` on views."""

    name = "django"
    threaded = True
    sessions = staticmethod(django_session)
    middleware: tuple[str, ...] = (CHIO,)

    def code(self, wire_code: str) -> str:
        return str(nested(Denial(code=wire_code, message=""))["error"]["code"])

    @contextmanager
    def opened(self, **options: Any) -> Iterator[Send]:
        more, change = changing(options)
        chio = {f"CHIO_{name.upper()}": value for name, value in options.items() if name not in ("inner", "late")}
        middleware = (*self.middleware, *more)
        test = {"ROOT_URLCONF": django_app, "TEST_CHANGE": change, "SESSION_ENGINE": SIGNED}
        with override_settings(MIDDLEWARE=middleware, **DJANGO, **test, **chio):
            yield WSGISend(WSGIHandler())


class DjangoAlone(DjangoFace):
    """`require_capability` without the middleware: the decorator asks by itself."""

    name = "django-alone"
    middleware = ()


class DjangoASGIFace(ASGIFace):
    """The middleware under ASGI, around `async def` views."""

    name = "django-async"
    code = DjangoFace.code
    sessions = staticmethod(django_session)

    @contextmanager
    def app(self, client: ChioClient, hooks: Mapping[str, Any]) -> Iterator[App]:
        more, change = changing(hooks)
        chio = {f"CHIO_{name.upper()}": hooks[name] for name in HOOKS if name in hooks}
        test = {
            "ROOT_URLCONF": django_app.Async,
            "TEST_CLIENT": client,
            "TEST_CHANGE": change,
            "SESSION_ENGINE": SIGNED,
        }
        with override_settings(MIDDLEWARE=(SHARING, *more), **DJANGO, **test, **chio):
            yield ASGIHandler()


class FlaskFace(Face):
    """`Chio(app)`, and `require_capability` on views."""

    name = "flask"
    threaded = True
    sessions = staticmethod(flask_session)

    @contextmanager
    def opened(self, **options: Any) -> Iterator[Send]:
        app = flask_app.make_again()
        app.secret_key = SECRET
        if (inner := options.pop("inner", None)) is not None:
            app.wsgi_app = around_wsgi(app.wsgi_app, inner)  # type: ignore[method-assign]
        if (late := options.pop("late", None)) is not None:
            app.before_request(lambda: change_environ(request_of_flask.environ, late))
        chio = Chio(app, **options)
        try:
            yield WSGISend(app.wsgi_app)
        finally:
            chio.close(app)


class WSGIFace(Face):
    """The middleware for any WSGI application, around one whose router it does not know."""

    name = "wsgi"
    asks = False
    knows_routes = False
    threaded = True

    @contextmanager
    def opened(self, **options: Any) -> Iterator[Send]:
        settings, hooks = divided(options)
        app = flask_app.make_again()
        app.before_request(flask_app.read_environment)
        if (inner := hooks.pop("inner", None)) is not None:
            app.wsgi_app = around_wsgi(app.wsgi_app, inner)  # type: ignore[method-assign]
        chio = ChioWSGIMiddleware(app, ChioSettings(**settings), **hooks)
        try:
            yield WSGISend(chio)
        finally:
            chio.close()


class WSGISend:
    """Sends requests to a WSGI application.

    Args:
        app: the application.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, wire: Wire) -> Observation:
        return self.call(environ_of(wire))

    def call(self, environ: dict[str, Any]) -> Observation:
        """Call the application with an environment as a server made it."""
        taken()
        answered = wsgi_call(self._app, environ)
        lines = [(name.lower(), value) for name, value in answered.headers]
        return Observation(answered.status, lines, answered.body, taken())


FACES: tuple[Face, ...] = (FastAPIFace(), StarletteFace(), DjangoFace(), DjangoASGIFace(), FlaskFace(), WSGIFace())
ALONE: tuple[Face, ...] = (FastAPIAlone(), DjangoAlone())
