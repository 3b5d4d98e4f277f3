"""What the programs beside this file share: an upstream, and the package under its name."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

BEHAVIOURS: dict[str, Callable[[Kit], Any]] = {}


def behaviour(function: Callable[[Kit], Any]) -> Callable[[Kit], Any]:
    """Register one; its docstring describes it."""
    BEHAVIOURS[function.__name__] = function
    return function


class Upstream(BaseHTTPRequestHandler):
    """Responds by the path, and keeps what was sent."""

    protocol_version = "HTTP/1.1"
    sent: ClassVar[list[dict[str, Any]]] = []

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        one = {
            "method": self.command, "path": parts.path, "query": dict(parse_qsl(parts.query)), "headers": headers,
            "body": body.decode(), "host": headers["host"].partition(":")[0],
        }  # fmt: skip
        self.sent.append(one)
        status, more, content = 200, [("Content-Type", "application/json")], json.dumps({"n": len(self.sent)})
        word, _, rest = parts.path.strip("/").partition("/")
        if word == "status":
            status = int(rest)
            content = json.dumps({"code": status})
        elif word == "flaky":  # fails until it was called that often
            status = 503 if sum(known["path"] == parts.path for known in self.sent) < int(rest) else 200
        elif word == "cookie":
            more += [("Set-Cookie", line) for line in unquote(rest).split("+")]
        elif word == "move":
            status, more = 302, [("Location", f"/{rest}")]
        elif word == "page":
            more, content = [("Content-Type", "text/html")], '<link rel="stylesheet" href="a.css"><script src="/b.js">'
        elif word == "xml":
            more, content = [("Content-Type", "application/xml")], "<a><b>1</b></a>"
        elif word == "text":
            more, content = [("Content-Type", "text/plain; charset=utf-8")], "grüße"
        elif word == "control":
            more += [("Cache-Control", rest)]
        elif word == "policy":
            more += [("Content-Security-Policy", "default-src 'self'")]
        elif word == "user":
            content = json.dumps({"id": 7, "name": "alice", "caller": headers.get("authorization")})
        data = b"" if self.command == "HEAD" else content.encode()
        self.send_response(status)
        for name, value in more:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = respond  # noqa: N815

    def log_message(self, *args: Any) -> None:
        return


class Kit:
    """What each program is given: the package under its name, an upstream, and what that upstream got."""

    def __init__(self, package: str, port: int) -> None:
        self.package = package
        self.port = port
        self.trace: list[Any] = []
        Upstream.sent.clear()

    @property
    def sent(self) -> list[dict[str, Any]]:
        return Upstream.sent

    def load(self, path: str) -> Any:
        """Return what `from fasthttp.x import Y` gives, for `x:Y`."""
        module, _, name = path.partition(":")
        loaded = importlib.import_module(f"{self.package}.{module}" if module else self.package)
        return getattr(loaded, name) if name else loaded

    def url(self, path: str = "/json", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def app(self, **options: Any) -> Any:
        # The original refuses addresses of this machine unless its checks are off; that is a behaviour of its own.
        off = {"security": False} if self.package == "fasthttp" else {}
        return self.load(":FastHTTP")(**{**off, **options})

    def base(self) -> Any:
        return self.load("middleware:BaseMiddleware")

    def response(self) -> Any:
        return self.load("response:Response")

    def call(self, app: Any, path: str = "/json", method: str = "get", **options: Any) -> None:
        """Declare one call whose handler notes the status."""

        @getattr(app, method)(url=self.url(path), **options)
        async def handler(resp: Any) -> Any:
            self.trace.append(("handler", resp.status))
            return None

    def hooks(self, name: str, **attributes: Any) -> Any:
        """Return an instance of a middleware that notes its hooks."""
        trace = self.trace

        class Noting(self.base()):  # type: ignore[misc]
            async def request(self, method: str, url: str, kwargs: dict[str, Any]) -> dict[str, Any]:
                trace.append(f"{name}>")
                return kwargs

            async def response(self, response: Any) -> Any:
                trace.append(f"<{name}")
                return response

            async def on_error(self, error: Exception, route: Any, config: Any) -> None:
                trace.append(f"!{name}")

        for attribute, value in attributes.items():
            setattr(Noting, attribute, value)
        return Noting()

    def seen(self, method: str = "get", middleware: Any = None, path: str = "/json", **options: Any) -> dict[str, Any]:
        """Make one call and return what the upstream got."""
        app = self.app(middleware=middleware)
        self.call(app, path, method, **options)
        app.run()
        return self.sent[-1]

    def answer(self, path: str, read: Callable[[Any], Any], method: str = "get", **options: Any) -> Any:
        """Make one call and return what `read` gives in its handler."""
        app, found = self.app(), []

        @getattr(app, method)(url=self.url(path), **options)
        async def handler(resp: Any) -> Any:
            found.append(read(resp))
            return None

        app.run()
        return found


def annotated(function: Any) -> Any:
    """Give a handler the annotations that the original insists on."""
    function.__annotations__ = {"resp": Any, "return": Any}
    return function
