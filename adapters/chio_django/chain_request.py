"""One request through a chain of guards, in a thread or in an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http.cookies import SimpleCookie
from typing import Any

from django.core.handlers.exception import convert_exception_to_response
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from chio_core.evaluation.governed import run, run_async
from chio_core.guards.response_hooks import ResponseHooks, call_at_the_end
from chio_core.names import STATE_RESPONSE_HOOKS
from chio_core.refusals.response import AnyResponse, Denial, Downstream, Response
from chio_core.refusals.streams import BODILESS, Stream, StreamReader
from chio_core.threads.context import RequestContext
from chio_django.context import AsyncDjangoAdapter, DjangoAdapter, refusal, tagged
from chio_django.view import DjangoGuardRequest


class ChainRequest:
    """One request of a project that has guards.

    Args:
        request: Django's request.
        context: its facts, requirement and decision so far.
    """

    def __init__(self, request: HttpRequest, context: RequestContext) -> None:
        self._request = request
        self._context = context
        self._response: HttpResponseBase | None = None

    def run(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> HttpResponseBase:
        """Run the chain, the rest of the stack in this thread."""
        context, pipeline = self._context, self._context.runtime.pipeline
        adapter, guards = DjangoAdapter(self._request, context), context.runtime.guards

        def chain(request: HttpRequest) -> HttpResponseBase:
            answer = guards.run(
                adapter.view,
                context.governed.evidence,
                lambda: run(pipeline.govern(adapter)),
                lambda: pipeline.check_unchanged(adapter) or self._ran(get_response(request)),
            )
            if self._response is None:
                run(pipeline.refuse(adapter, answer))
            return self._chosen(answer, guards.pieces)

        try:
            # A guard may fail after the decision: Django makes the response then, as for every exception.
            response: Any = convert_exception_to_response(chain)(self._request)
        except BaseException:
            self._give_up(adapter.view)
            raise
        return self._finished(response, adapter.view)

    async def arun(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> HttpResponseBase:
        """Run the chain in this event loop, without a thread."""
        context, pipeline = self._context, self._context.runtime.pipeline
        adapter = AsyncDjangoAdapter(self._request, context)

        async def handler() -> AnyResponse:
            return pipeline.check_unchanged(adapter) or self._ran(await get_response(self._request))

        async def chain(request: HttpRequest) -> HttpResponseBase:
            answer = await context.runtime.guards.arun(
                adapter.view, context.governed.evidence, lambda: run_async(pipeline.govern(adapter)), handler
            )
            if self._response is None:
                await run_async(pipeline.refuse(adapter, answer))
            return self._chosen(answer, StreamReader)

        try:
            converted: Any = convert_exception_to_response(chain)
            response = await converted(self._request)
        except BaseException:
            self._give_up(adapter.view)
            raise
        return self._finished(response, adapter.view)

    def _ran(self, response: HttpResponseBase) -> Downstream:
        self._response = response
        return _head_of(response)

    def _chosen(self, answer: AnyResponse, reader: Callable[[Stream], Any]) -> HttpResponseBase:
        """Return the application's response as the chain has changed it, or the one of a guard."""
        response = self._response
        if response is None or not isinstance(answer, Downstream):
            return _made(answer, self._request, reader)
        for callback in answer.finished:
            _at_the_end(response, callback)
        _change(response, _head_of(response), list(answer.headers), answer.status)
        return response

    def _finished(self, response: HttpResponseBase, view: DjangoGuardRequest) -> HttpResponseBase:
        """Add what guards have queued, and the receipt."""
        if self._response is not None and self._response is not response:
            self._response.close()
        wishes = _wishes(view)
        head = _head_of(response)
        _change(response, head, wishes.apply(list(head.headers)), head.status)
        _at_the_end(response, lambda: wishes.finish(head.status))
        return tagged(response, self._request, self._context)

    def _give_up(self, view: DjangoGuardRequest) -> None:
        """End a request without a response: its thread or its task ends."""
        if self._response is not None:
            self._response.close()
        _wishes(view).finish(None)


def _wishes(view: DjangoGuardRequest) -> ResponseHooks:
    found = getattr(view.state, STATE_RESPONSE_HOOKS, None)
    return found if isinstance(found, ResponseHooks) else ResponseHooks()


def _head_of(response: HttpResponseBase) -> Downstream:
    cookies = [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]
    return Downstream(status=response.status_code, headers=(*response.items(), *cookies))


def _made(answer: AnyResponse, request: HttpRequest, reader: Callable[[Stream], Any]) -> HttpResponseBase:
    if isinstance(answer, Denial):
        return refusal(answer, request)
    body, headers = (answer.body, answer.head()) if isinstance(answer, Response) else (b"", answer.headers)
    response: HttpResponseBase
    if isinstance(body, bytes):
        response = HttpResponse(body, status=answer.status)
    elif request.method == "HEAD" or answer.status in BODILESS:
        response = HttpResponse(status=answer.status)
        response._resource_closers.append(reader(body).close)  # type: ignore[attr-defined]
    else:
        response = StreamingHttpResponse(reader(body), status=answer.status)
    del response.headers["Content-Type"]
    _change(response, Downstream(), list(headers), answer.status)
    return response


def _change(response: HttpResponseBase, before: Downstream, headers: list[tuple[str, str]], status: int) -> None:
    """Give a response another head; what is the same as before is not touched, cookies keep their attributes."""
    response.status_code = status
    wanted = [pair for pair in headers if pair[0].lower() != "set-cookie"]
    for name in {name for name, _ in before.headers if name.lower() != "set-cookie"} - {name for name, _ in wanted}:
        del response.headers[name]
    for name in {name for name, _ in wanted}:
        values = [value for key, value in wanted if key == name]
        if values != [response.headers.get(name)]:
            response.headers[name] = ", ".join(values)
    cookies = [value for name, value in headers if name.lower() == "set-cookie"]
    known = [value for name, value in before.headers if name.lower() == "set-cookie"]
    for text in [one for one in cookies if one not in known]:
        response.cookies.update(SimpleCookie(text))
    for text in [one for one in known if one not in cookies]:
        for name in SimpleCookie(text):
            response.cookies.pop(name, None)


def _at_the_end(response: HttpResponseBase, callback: Callable[[], None]) -> None:
    # Django calls these when the server has sent the last byte and closes the response.
    response._resource_closers.append(lambda: call_at_the_end(callback))  # type: ignore[attr-defined]
