"""Middleware as it is written for FastHTTP. Only the import lines differ."""

import time
import uuid
from contextvars import ContextVar

from stand_in import FastHTTP

from chio_core.outbound import (
    BaseMiddleware,
    CacheMiddleware,
    CookieJar,
    DummyCookieJar,
    MiddlewareChain,
    Response,
    SessionMiddleware,
)


class BearerAuthMiddleware(BaseMiddleware):
    __return_type__ = bool
    __priority__ = 0
    __methods__ = None
    __enabled__ = True

    def __init__(self, token: str) -> None:
        self.token = token

    async def request(self, method, url, kwargs):
        kwargs["headers"] = kwargs.get("headers") or {}
        kwargs["headers"]["Authorization"] = f"Bearer {self.token}"
        return kwargs


class LoggingMiddleware(BaseMiddleware):
    __return_type__ = None
    __priority__ = 99
    __methods__ = None
    __enabled__ = True

    async def request(self, method, url, kwargs):
        print(f"→ {method} {url}")
        return kwargs

    async def response(self, response):
        print(f"← {response.status}")
        return response


class TimingMiddleware(BaseMiddleware):
    __return_type__ = float
    __priority__ = 0
    __methods__ = None
    __enabled__ = True

    def __init__(self) -> None:
        self._start: ContextVar[float] = ContextVar("timing_start", default=0.0)

    async def request(self, method, url, kwargs):
        self._start.set(time.monotonic())
        return kwargs

    async def response(self, response):
        elapsed = time.monotonic() - self._start.get()
        print(f"Request took {elapsed:.3f}s")
        return response


class TraceMiddleware(BaseMiddleware):
    __return_type__ = None
    __priority__ = 0
    __methods__ = None
    __enabled__ = True

    async def request(self, method, url, kwargs):
        kwargs["headers"] = kwargs.get("headers") or {}
        kwargs["headers"]["X-Trace-ID"] = str(uuid.uuid4())
        return kwargs


class WriteOpMiddleware(BaseMiddleware):
    __return_type__ = bool
    __priority__ = 1
    __methods__ = ["POST", "PUT", "PATCH", "DELETE"]  # noqa: RUF012
    __enabled__ = True

    async def request(self, method, url, kwargs):
        kwargs["headers"] = kwargs.get("headers") or {}
        kwargs["headers"]["X-Write-Op"] = "true"
        return kwargs


class ErrorTrackingMiddleware(BaseMiddleware):
    __return_type__ = None
    __priority__ = 0
    __methods__ = None
    __enabled__ = True

    def __init__(self) -> None:
        self.error_count = 0

    async def on_error(self, error, route, config) -> None:
        self.error_count += 1
        print(f"Error #{self.error_count}: {error.__class__.__name__}")
        print(f" {route.method} {route.url} — {error}")


def piped() -> None:
    """Pipes, and a member that is disabled and enabled."""
    chain = BearerAuthMiddleware("token") | TimingMiddleware() | LoggingMiddleware()
    assert isinstance(chain, MiddlewareChain)
    app = FastHTTP(middleware=chain)

    @app.get(url="https://api.example.com/echo")
    async def echo(resp: Response) -> dict:
        return resp.json()

    print(app.run()["echo"].value)

    debug = LoggingMiddleware()
    app = FastHTTP(middleware=[debug, TraceMiddleware(), WriteOpMiddleware(), ErrorTrackingMiddleware()])

    @app.post(url="https://api.example.com/echo")
    async def write(resp: Response) -> dict:
        return resp.json()

    # disable at some point
    debug.__enabled__ = False  # not logged
    print(app.run()["write"].value)
    # re-enable
    debug.__enabled__ = True  # logged again
    app.run()


def login_flow() -> None:
    """Runs in sequence: the second has the cookie of the first."""
    jar = CookieJar()
    app = FastHTTP(cookie_jar=jar)

    @app.post(
        url="https://api.example.com/login",
        json={"username": "alice", "password": "secret"},
        tags=["auth"],
    )
    async def login(resp: Response) -> dict:
        return resp.json()

    @app.get(url="https://api.example.com/profile", tags=["protected"])
    async def profile(resp: Response) -> dict:
        return resp.json()

    app.run(tags=["auth"])  # login — cookies saved in jar
    print(app.run(tags=["protected"])["profile"].value)  # profile — Cookie header injected automatically

    # inspect
    print(jar.get("session_id"))
    print(jar.items())
    # remove all cookies (e.g. logout)
    jar.clear()
    print(app.run(tags=["protected"])["profile"].value)


def other_jars() -> None:
    """An initial cookie, a jar for local servers, a jar that keeps nothing, and cache and session as one chain."""
    caching = SessionMiddleware() | CacheMiddleware(ttl=60)
    for app in (
        FastHTTP(cookie_jar=CookieJar({"session_id": "known"})),
        FastHTTP(cookie_jar=CookieJar(unsafe=True)),
        FastHTTP(cookie_jar=DummyCookieJar()),
        FastHTTP(middleware=[CacheMiddleware(ttl=3600, max_size=100)]),
        FastHTTP(middleware=caching),
    ):

        @app.get(url="https://api.example.com/profile")
        async def profile(resp: Response) -> dict:
            return resp.json()

        print(app.run()["profile"].value)


if __name__ == "__main__":
    piped()
    login_flow()
    other_jars()
