"""ChioDjangoMiddleware: every request is judged before Django resolves its URL and before its view sees it.

One class for WSGI and ASGI. In a thread the question travels over a blocking connection, in an event loop over an
asynchronous one; no thread is entered or left on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.names import LOGGER
from chio_core.settings import report_settings
from chio_django.chain_request import Guarded
from chio_django.conf import conf
from chio_django.context import LiveGovernor, Passage, passage_of
from chio_django.responses import refusal, tagged

log = logging.getLogger(LOGGER)


class ChioDjangoMiddleware:
    """Governs a Django project: `MIDDLEWARE = ["chio_django.ChioDjangoMiddleware", …]`.

    Put it first, or after middleware that only changes how a request is read (proxies, virtual hosts). What stands
    before it runs ungoverned; what stands after it runs only for what was allowed.

    Args:
        get_response: the rest of the stack.
        client: a client for event loops to share; one is made from Django's settings otherwise. A middleware
            factory of your own can pass it.
        sync_client: the same for threads.

    Raises:
        ConfigurationError: the settings cannot be used.
    """

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(
        self,
        get_response: Callable[[HttpRequest], Any],
        *,
        client: ChioClient | None = None,
        sync_client: SyncChioClient | None = None,
    ) -> None:
        self.get_response = get_response
        self._governor = LiveGovernor(client, sync_client)
        self._async = iscoroutinefunction(get_response)
        # Django asks for `process_view` on the object and calls what it finds in its own mode.
        self.process_view: Callable[..., Any] = self._aview if self._async else self._view
        if self._async:
            markcoroutinefunction(self)
        _report(self._governor)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Handle one request."""
        if self._async:
            return self._acall(request)
        passage = Passage(request, self._governor.get())
        if not passage.governor.guards.is_empty:
            return Guarded(request, passage).run(self.get_response)
        denial = passage.judge(request)
        return tagged(self.get_response(request) if denial is None else refusal(denial, request), request, passage)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        passage = Passage(request, self._governor.get())
        if not passage.governor.guards.is_empty:
            return await Guarded(request, passage).arun(self.get_response)
        denial = await passage.ajudge(request)
        return tagged(
            await self.get_response(request) if denial is None else refusal(denial, request), request, passage
        )

    # Middleware further in may change what will run: the path, the URL conf, the language. Django has resolved the
    # URL by the time of `process_view`; what differs from what was judged is judged anew.

    def _view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponseBase | None:
        passage = passage_of(request) or Passage(request, self._governor.get())
        if passage.still_holds(request):
            return None
        _warn_changed(request)
        denial = passage.judge(request)
        return None if denial is None else refusal(denial, request)

    async def _aview(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponseBase | None:
        passage = passage_of(request) or Passage(request, self._governor.get())
        if passage.still_holds(request):
            return None
        _warn_changed(request)
        denial = await passage.ajudge(request)
        return None if denial is None else refusal(denial, request)


def _report(governor: LiveGovernor) -> None:
    report_settings(governor.get().settings)
    for name, hint in conf.unknown.items():
        log.warning("chio settings: %s in Django's settings is not an option of Chio. %s", name, hint)


def _warn_changed(request: HttpRequest) -> None:
    log.warning(
        "chio: middleware after ChioDjangoMiddleware changed which view runs (now %s); the request is judged again. "
        "Put that middleware before it",
        request.resolver_match.view_name if request.resolver_match is not None else "none",
    )
