"""Watching an application from outside: did anything run without a stored receipt?

Only what every observer can see counts: the request, the head of the answer, and what the sidecar has stored. So it
holds for any framework, and it does not believe the code that it watches.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from chio_core.testing.ledger import Ledger

_SNIFFED = 64 * 1024
"""Bytes of an answer that are looked at; a refusal has less."""


class Watched:
    """What became of one request."""

    def __init__(self, ledger: Ledger, method: str, path: str) -> None:
        self._ledger = ledger
        self._from = len(ledger.entries)
        self._method, self._path = method, path
        self.status = 0
        self.values: list[str] = []
        self.body = bytearray()

    def check(self) -> None:
        """Raise when the answer is neither a refusal of Chio nor backed by a stored receipt that allows it.

        Raises:
            AssertionError: naming the request.
        """
        # An older receipt is that of another request, whoever names it: a cache around the application, for example.
        entry = next((found for value in self.values if (found := self._ledger.find(value, self._from))), None)
        if self.status == 0:
            return  # nothing was answered: the client went away, or a handshake was closed
        if entry is not None and (entry.allows or (self.status >= 400 and not entry.observed)):
            return
        if is_refusal(self.status, bytes(self.body)) or (entry is None and self._allowed()):
            return
        why = "its receipt says that it was refused" if entry is not None else "no receipt that allows it was stored"
        raise AssertionError(
            f"{self._method} {self._path} was answered with status {self.status}, but {why}: is the application "
            "governed, the path excluded, or fail_open or observe mode switched on?"
        )

    def _allowed(self) -> bool:
        # Where only a dependency asks, the answer names no receipt.
        new = self._ledger.entries[self._from :]
        return any(one.allows and one.asked.is_about(self._method, self._path) for one in new)


def is_refusal(status: int, body: bytes) -> bool:
    """Tell whether an answer is a refusal of Chio, in either envelope."""
    try:
        document = json.loads(body) if status >= 400 else None
    except ValueError:
        return False
    error = document.get("error") if isinstance(document, dict) else None
    code = error.get("code") if isinstance(error, dict) else error
    return isinstance(code, str) and code.lower().startswith("chio_")


def watching(app: Any, ledger: Ledger, except_paths: Collection[str]) -> Any:
    """Return an application around `app` that checks every request; ASGI for ASGI, WSGI for WSGI."""
    asynchronous = inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004
    return (_asgi if asynchronous else _wsgi)(app, ledger, frozenset(except_paths))


def _asgi(app: Any, ledger: Ledger, except_paths: frozenset[str]) -> Any:
    async def watched(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in except_paths:
            await app(scope, receive, send)
            return
        seen = Watched(ledger, scope.get("method", "GET"), scope["path"])

        async def noting(message: Mapping[str, Any]) -> None:
            _note(seen, message)
            await send(message)

        await app(scope, receive, noting)
        seen.check()

    return watched


def _note(seen: Watched, message: Mapping[str, Any]) -> None:
    kind = message["type"]
    if kind in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
        seen.status = message.get("status", 101)
        seen.values = [value.decode("latin-1") for _, value in message.get("headers", ())]
    elif kind in ("http.response.body", "websocket.http.response.body") and len(seen.body) < _SNIFFED:
        seen.body += message.get("body", b"")


def _wsgi(app: Any, ledger: Ledger, except_paths: frozenset[str]) -> Any:
    def watched(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/").encode("latin-1").decode("utf-8", "replace")
        if path in except_paths:
            return app(environ, start_response)  # type: ignore[no-any-return]
        seen = Watched(ledger, environ["REQUEST_METHOD"], path)

        def noting(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            seen.status, seen.values = int(status.split(" ")[0]), [value for _, value in headers]
            return start_response(status, headers, *more)

        body = app(environ, noting)
        if 0 < seen.status < 400:
            _check_and_close(seen, body)  # now: a body may be read late, or never to its end
        return _passed_on(body, seen)

    return watched


def _check_and_close(seen: Watched, body: Any) -> None:
    try:
        seen.check()
    except AssertionError:
        if hasattr(body, "close"):
            body.close()
        raise


def _passed_on(body: Any, seen: Watched) -> Iterator[bytes]:
    try:
        for part in body:
            if len(seen.body) < _SNIFFED:
                seen.body += part
            yield part
    finally:
        if hasattr(body, "close"):
            body.close()
    seen.check()
