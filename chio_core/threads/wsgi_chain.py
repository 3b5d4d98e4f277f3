"""One request of a governed WSGI application (PEP 3333): evaluated, and answered by the application or a refusal.

With guards, the application's response is held until the chain has seen its head.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from http import HTTPStatus
from itertools import chain
from typing import Any

from chio_core.evaluation.governed import run
from chio_core.guards.response_hooks import ResponseHooks, call_at_the_end
from chio_core.names import ENVIRON_INPUT, EXPOSE_HEADERS, LOGGER, STATE_RESPONSE_HOOKS
from chio_core.refusals.response import AnyResponse, Denial, Downstream, Response
from chio_core.refusals.streams import BODILESS
from chio_core.threads.body import is_kept
from chio_core.threads.context import RequestContext, SyncAdapter

log = logging.getLogger(LOGGER)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]
Headers = list[tuple[str, str]]

_PHRASES = {one.value: one.phrase for one in HTTPStatus}


def respond(
    adapter: SyncAdapter,
    inner: WSGIApp,
    environ: Environ,
    start_response: StartResponse,
    on_failure: Callable[[Exception], None],
) -> Iterable[bytes]:
    """Evaluate a request, and return the body of its response.

    Args:
        adapter: the request.
        inner: the application; it is called in this thread if the request is allowed.
        environ, start_response: of this request.
        on_failure: called with what a guard raises after the decision; the response is a 500 unless it raises.
    """
    context = adapter.context
    if not context.runtime.guards.is_empty:
        return _closing_input(ChainRequest(adapter, inner, environ, start_response, on_failure).run(), environ)
    denial = run(adapter.govern())

    def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
        return start_response(status, tagged(headers, context), exc_info)

    if denial is not None:
        run(context.runtime.pipeline.refuse(adapter, denial))
        body, refusal = context.document(denial, adapter.view)
        start(status_line(denial.status), list(refusal))
        return _closing_input([body], environ)
    return _closing_input(inner(environ, start), environ)


class ChainRequest:
    """One request of an application that has guards; see `respond`."""

    def __init__(
        self,
        adapter: SyncAdapter,
        inner: WSGIApp,
        environ: Environ,
        start_response: StartResponse,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._adapter = adapter
        self._inner = inner
        self._environ = environ
        self._start_response = start_response
        self._on_failure = on_failure
        self._status = ""
        self._headers: Headers = []
        self._exc_info: Any = None
        self._started = False
        self._body: Iterable[bytes] | None = None

    def run(self) -> Iterable[bytes]:
        """Run the chain, the view in this thread, and return the body."""
        adapter, context = self._adapter, self._adapter.context
        view, pipeline = adapter.view, context.runtime.pipeline
        answer: AnyResponse
        try:
            answer = context.runtime.guards.run(
                view, context.governed.evidence, lambda: run(pipeline.govern(adapter)), self._application
            )
        except Exception as exc:  # noqa: BLE001 - logged there
            self._discard()
            try:
                self._on_failure(exc)
            except BaseException:
                _wishes(view).finish(None)
                raise
            answer = Response("Internal Server Error", 500)  # it still names the receipt
        except BaseException:
            self._discard()
            _wishes(view).finish(None)
            raise
        else:
            if self._body is None:
                run(pipeline.refuse(adapter, answer))
        return self._release(answer, _wishes(view))

    def _application(self) -> AnyResponse:
        denial = self._adapter.context.runtime.pipeline.check_unchanged(self._adapter)
        if denial is not None:
            return denial
        body = self._inner(self._environ, self._start)
        if not self._started:
            # PEP 3333 lets an application begin its answer with its first piece.
            pieces = iter(body)
            first = [piece for piece in (next(pieces, None),) if piece is not None]
            body = Closing(chain(first, pieces), getattr(body, "close", _nothing))
        self._body = body
        return Downstream(status=int(self._status[:3]), headers=tuple(self._headers))

    def _start(self, status: str, headers: Headers, exc_info: Any = None) -> Any:
        self._status, self._headers, self._exc_info, self._started = status, headers, exc_info, True
        return _no_write

    def _release(self, answer: AnyResponse, wishes: ResponseHooks) -> Iterable[bytes]:
        ran = self._body is not None
        if isinstance(answer, Downstream) and self._body is not None:
            body: Iterable[bytes] = self._body
            headers = list(answer.headers)
            closing = [lambda: _each(answer.finished)]
        else:
            self._discard()
            body, headers = self._document(answer)
            closing = [getattr(body, "close", _nothing)]
        same = ran and answer.status == int(self._status[:3])
        line = self._status if same else status_line(answer.status)
        self._start_response(
            line, tagged(wishes.apply(headers), self._adapter.context), self._exc_info if ran else None
        )
        return Closing(body, *closing, lambda: wishes.finish(answer.status))

    def _document(self, answer: AnyResponse) -> tuple[Iterable[bytes], Headers]:
        if isinstance(answer, Denial):
            document, headers = self._adapter.context.document(answer, self._adapter.view)
            return [document], list(headers)
        if not isinstance(answer, Response):
            return [], [*answer.headers, ("content-length", "0")]
        if isinstance(answer.body, bytes):
            return [answer.body], list(answer.head())
        pieces = self._adapter.context.runtime.guards.pieces(answer.body)
        if self._environ["REQUEST_METHOD"] == "HEAD" or answer.status in BODILESS:
            pieces.close()
            return [], list(answer.head())
        return pieces, list(answer.head())

    def _discard(self) -> None:
        body, self._body = self._body, None
        getattr(body, "close", _nothing)()


def tagged(headers: Headers, context: RequestContext) -> Headers:
    """Return header lines with the receipt id, exposed to scripts; the application's lines of that name are removed."""
    name = context.runtime.settings.receipt_header
    kept = [pair for pair in headers if pair[0].lower() != name.lower()]
    value = context.decision.receipt_header if context.decision is not None else None
    if value is None:
        return kept
    return [*kept, (name, value), *([(EXPOSE_HEADERS, name)] if context.from_script else [])]


def status_line(status: int) -> str:
    """Return a status as WSGI wants it."""
    return f"{status} {_PHRASES.get(status, 'Refused')}"


class Closing:
    """The body of a response, with functions to call when the server closes it (PEP 3333).

    Args:
        body: the body; it is closed first.
        callbacks: called in this order, each also if one before it fails.
    """

    def __init__(self, body: Iterable[bytes], *callbacks: Callable[[], Any]) -> None:
        self._pieces = iter(body)
        self._at_close = ExitStack()
        for callback in reversed(callbacks):
            self._at_close.callback(callback)
        self._at_close.callback(getattr(body, "close", _nothing))

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Close the body."""
        self._at_close.close()


def _closing_input(body: Iterable[bytes], environ: Environ) -> Iterable[bytes]:
    file = environ.get(ENVIRON_INPUT)
    return Closing(body, file.close) if file is not None and is_kept(file) else body


def _wishes(view: Any) -> ResponseHooks:
    found = getattr(view.state, STATE_RESPONSE_HOOKS, None)
    return found if isinstance(found, ResponseHooks) else ResponseHooks()


def _each(callbacks: list[Callable[[], None]]) -> None:
    waiting, callbacks[:] = list(callbacks), []
    for callback in waiting:
        call_at_the_end(callback)


def _no_write(data: bytes) -> None:
    raise NotImplementedError("an application with guards gives its body as an iterable, not through write()")


def _nothing() -> None: ...
