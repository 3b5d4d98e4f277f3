"""ChioDjangoMiddleware: every request is evaluated before Django resolves its URL and before its view sees it.

One class for WSGI and ASGI. In a thread the evaluation uses a blocking connection, in an event loop over an
asynchronous one; no thread is entered or left on the way. `metrics` is the view of what it has counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_safe

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.errors import ConfigurationError
from chio_core.evaluation.governed import run, run_async
from chio_core.names import LOGGER
from chio_core.settings_report import report_settings
from chio_core.telemetry.metrics import CONTENT_TYPE
from chio_django.chain_request import ChainRequest
from chio_django.conf import conf
from chio_django.context import AsyncDjangoAdapter, DjangoAdapter, LiveRuntime, begin, context_of, refusal, tagged

log = logging.getLogger(LOGGER)


class ChioDjangoMiddleware:
    """Governs a Django project: `MIDDLEWARE = ["chio_django.ChioDjangoMiddleware", …]`.

    Put it first, or after middleware that only changes how a request is read (proxies, virtual hosts). Middleware
    before it runs ungoverned; middleware after it runs only for allowed requests.

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
        self._runtime = LiveRuntime(client, sync_client)
        self._async = iscoroutinefunction(get_response)
        # Django looks up `process_view` on the object and calls it in its own mode.
        self.process_view: Callable[..., Any] = self._aview if self._async else self._view
        if self._async:
            markcoroutinefunction(self)
        _report(self._runtime)

    def __call__(self, request: HttpRequest) -> Any:
        """Handle one request."""
        if self._async:
            return self._acall(request)
        context = begin(request, self._runtime.get())
        if not context.runtime.guards.is_empty:
            return ChainRequest(request, context).run(self.get_response)
        adapter, pipeline = DjangoAdapter(request, context), context.runtime.pipeline
        denial = run(adapter.govern())
        if denial is None:
            return tagged(self.get_response(request), request, context)
        run(pipeline.refuse(adapter, denial))
        return tagged(refusal(denial, request), request, context)

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        context = begin(request, self._runtime.get())
        if not context.runtime.guards.is_empty:
            return await ChainRequest(request, context).arun(self.get_response)
        adapter, pipeline = AsyncDjangoAdapter(request, context), context.runtime.pipeline
        denial = await run_async(adapter.govern())
        if denial is None:
            return tagged(await self.get_response(request), request, context)
        await run_async(pipeline.refuse(adapter, denial))
        return tagged(refusal(denial, request), request, context)

    # Inner middleware may change what will run: the method, the path, the query, the URL conf, the language. Django has
    # resolved the URL by the time of `process_view`; a request that differs from the evaluated one is governed again.

    def _view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponseBase | None:
        adapter = DjangoAdapter(request, context_of(request) or begin(request, self._runtime.get()))
        if not self._has_changed(adapter, request):
            return None
        denial = run(adapter.context.runtime.pipeline.govern(adapter))
        return None if denial is None else refusal(denial, request)

    async def _aview(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponseBase | None:
        adapter = AsyncDjangoAdapter(request, context_of(request) or begin(request, self._runtime.get()))
        if not self._has_changed(adapter, request):
            return None
        denial = await run_async(adapter.context.runtime.pipeline.govern(adapter))
        return None if denial is None else refusal(denial, request)

    def _has_changed(self, adapter: DjangoAdapter, request: HttpRequest) -> bool:
        changed = adapter.context.runtime.pipeline.changes(adapter)
        if changed:
            log.warning(
                "chio: middleware after ChioDjangoMiddleware changed the request's %s, so the view %s would run"
                " without a decision; the request is evaluated again. Put that middleware before it",
                " and ".join(changed),
                request.resolver_match.view_name if request.resolver_match is not None else "(none)",
            )
        return bool(changed) or adapter.governed.evaluated is None


def _report(runtime: LiveRuntime) -> None:
    runtime.get().check()
    report_settings(runtime.get().settings)
    for name, hint in conf.unknown.items():
        log.warning("chio settings: %s in Django's settings is not an option of Chio. %s", name, hint)


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Respond with the metrics of this process, for Prometheus.

    The view is governed like any other: exclude its path (`CHIO_EXCLUDE_PATHS = ["/metrics"]`), or let the scraper be
    allowed. It shows how much traffic there is and how it was decided, and has no other protection.

    Raises:
        ConfigurationError: the middleware is not installed.
    """
    context = context_of(request)
    if context is None:
        raise ConfigurationError("chio_django.metrics needs chio_django.ChioDjangoMiddleware in MIDDLEWARE")
    page = context.runtime.telemetry.metrics.render()
    return HttpResponse(page, content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})
