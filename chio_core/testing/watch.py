"""What happened in a test: the receipts that the sidecar stored, and checks of requests and responses against them.

`watching` sees an application from outside: the request, the head of the response, and the stored receipts. So it works
for any framework, and does not rely on the code that it checks.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.models.receipt import HttpReceipt
from chio_core.receipts import verify_receipt
from chio_core.testing.behaviours import Reply
from chio_core.testing.exchange import EvaluateRequest

_SNIFFED = 64 * 1024
"""Bytes of a response that are kept; a refusal is shorter."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored receipt, and the request that it is for."""

    request: EvaluateRequest
    receipt: HttpReceipt

    @property
    def observed(self) -> bool:
        """True in observe mode: the application would not have carried out a refusal."""
        return bool(self.request.document.get("enforcement"))

    @property
    def allows(self) -> bool:
        """True if the receipt lets the handler run; what the route requires counts in observe mode too."""
        stated = self.request.document.get("enforcement") or {}
        unmet = "lacks" in stated or ("requires" in stated and self.receipt.capability_id is None)
        return self.receipt.verdict.is_allow and not unmet


class Ledger:
    """The stored receipts.

    Attributes:
        entries: in the order of the responses.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def keep(self, request: EvaluateRequest, reply: Reply) -> Reply:
        """Store the receipt of a response if this sidecar signed it; return the response."""
        document: Any = reply.kept
        if document is None:
            try:
                parsed = parse_json(reply.body)
            except InvalidDocument:
                parsed = None
            document = parsed.get("receipt") if isinstance(parsed, dict) else None
        if isinstance(document, Mapping) and document:
            try:
                receipt = verify_receipt(document, trusted_keys=[request.key.public_hex])
            except ReceiptRejected:
                return reply
            self.entries.append(Entry(request, receipt))
        return reply

    def find(self, receipt_id: str, since: int = 0) -> Entry | None:
        """Return the entry with this receipt id; None if none has it, or it is one of the first `since`."""
        return next((entry for entry in self.entries[since:] if entry.receipt.id == receipt_id), None)

    def named_by(self, response: Any) -> HttpReceipt:
        """Return the stored receipt whose id is the value of a response header.

        Raises:
            AssertionError: no header names a stored receipt.
        """
        for value in response.headers.values():
            if (entry := self.find(str(value))) is not None:
                return entry.receipt
        raise AssertionError(f"the response (status {response.status_code}) names no receipt that was stored")


def requests_for(asked: Sequence[EvaluateRequest], method: str | None, path: str | None) -> list[EvaluateRequest]:
    """Return the evaluate requests for this method and path; None is any.

    Raises:
        AssertionError: the sidecar got no such request.
    """
    found = [one for one in asked if one.is_about(method, path)]
    if found:
        return found
    about = f" for {method} {path}" if method is not None else ""
    known = ", ".join(dict.fromkeys(f"{one.method} {one.path}" for one in asked)) or "no request at all"
    raise AssertionError(
        f"the sidecar got no request{about}; it got {known}. Is the application governed and connected "
        "(chio.connect(app)), is the path excluded, and has the test made the request?"
    )


def check_requirement(requests: Sequence[EvaluateRequest], requires: str) -> None:
    """Check that one of the requests requires this tool.

    Raises:
        AssertionError: none does.
    """
    if any(one.requires == requires for one in requests):
        return
    last = requests[-1]
    instead = f"required {last.requires}" if last.requires is not None else "required no capability by name"
    server, _, tool = requires.partition("/")
    raise AssertionError(
        f"{last.method} {last.route} {instead}, not {requires}: does its route lack "
        f'Depends(RequireCapability("{server}", "{tool}"))?'
    )


def watching(app: Any, ledger: Ledger, except_paths: Collection[str]) -> Any:
    """Return an application around `app` that checks every request; ASGI for ASGI, WSGI for WSGI."""
    asynchronous = inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004
    return (_asgi if asynchronous else _wsgi)(app, ledger, frozenset(except_paths))


class _Watched:
    """One request, and its response as far as it has arrived."""

    def __init__(self, ledger: Ledger, method: str, path: str) -> None:
        self._ledger = ledger
        self._from = len(ledger.entries)
        self._method, self._path = method, path
        self.status = 0
        self.values: list[str] = []
        self.body = bytearray()

    def take(self, part: bytes) -> None:
        if len(self.body) < _SNIFFED:
            self.body += part

    def check(self) -> None:
        """Raise `AssertionError` if the response is neither a refusal of Chio nor backed by a stored allow."""
        if self.status == 0:
            return  # no response: the client went away, or a handshake was closed
        # A receipt from before this request belongs to another one, for example behind a cache.
        entry = next((found for value in self.values if (found := self._ledger.find(value, self._from))), None)
        if entry is not None and (entry.allows or (self.status >= 400 and not entry.observed)):
            return
        if is_refusal(self.status, bytes(self.body)):
            return
        # If only a dependency evaluates, the response names no receipt.
        new = self._ledger.entries[self._from :]
        if entry is None and any(one.allows and one.request.is_about(self._method, self._path) for one in new):
            return
        why = "its receipt says that it was refused" if entry is not None else "no receipt that allows it was stored"
        raise AssertionError(
            f"{self._method} {self._path} was answered with status {self.status}, but {why}: is the application "
            "governed, the path excluded, or fail_open or observe mode switched on?"
        )


def is_refusal(status: int, body: bytes) -> bool:
    """Return True if a response is a refusal of Chio, in either envelope."""
    try:
        document = json.loads(body) if status >= 400 else None
    except ValueError:
        return False
    error = document.get("error") if isinstance(document, dict) else None
    code = error.get("code") if isinstance(error, dict) else error
    return isinstance(code, str) and code.lower().startswith("chio_")


def _asgi(app: Any, ledger: Ledger, except_paths: frozenset[str]) -> Any:
    async def watched(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or scope["path"] in except_paths:
            await app(scope, receive, send)
            return
        seen = _Watched(ledger, scope.get("method", "GET"), scope["path"])

        async def noting(message: Mapping[str, Any]) -> None:
            kind = message["type"].removeprefix("websocket.")
            if kind in ("http.response.start", "accept"):
                seen.status = message.get("status", 101)
                seen.values = [value.decode("latin-1") for _, value in message.get("headers", ())]
            elif kind == "http.response.body":
                seen.take(message.get("body", b""))
            await send(message)

        await app(scope, receive, noting)
        seen.check()

    return watched


def _wsgi(app: Any, ledger: Ledger, except_paths: frozenset[str]) -> Any:
    def watched(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/").encode("latin-1").decode("utf-8", "replace")
        if path in except_paths:
            return app(environ, start_response)  # type: ignore[no-any-return]
        seen = _Watched(ledger, environ["REQUEST_METHOD"], path)

        def noting(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            seen.status, seen.values = int(status.split(" ")[0]), [value for _, value in headers]
            return start_response(status, headers, *more)

        body = app(environ, noting)
        if 0 < seen.status < 400:
            # Check now: the caller may read the body late, or not to its end.
            try:
                seen.check()
            except AssertionError:
                if hasattr(body, "close"):
                    body.close()
                raise
        return _passed_on(body, seen)

    return watched


def _passed_on(body: Any, seen: _Watched) -> Iterator[bytes]:
    try:
        for part in body:
            seen.take(part)
            yield part
    finally:
        if hasattr(body, "close"):
            body.close()
    seen.check()
