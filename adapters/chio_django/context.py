"""How Django's requests are governed: the runtime for the present settings, and what is kept on a request."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from django.core.signals import setting_changed
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.evaluation.governed import RouteMatch
from chio_core.evaluation.outcomes import Decision
from chio_core.models.receipt import HttpReceipt
from chio_core.names import (
    ENVIRON_INPUT,
    EXPOSE_HEADERS,
    REQUEST_CONTEXT,
    STATE_DECISION,
    STATE_EVALUATION,
    STATE_PASSTHROUGH,
    STATE_RECEIPT,
)
from chio_core.refusals.response import Denial
from chio_core.threads.body import is_kept
from chio_core.threads.context import AsyncAdapter, RequestContext, Runtime, SyncAdapter
from chio_django.conf import PREFIX, conf
from chio_django.listing import routes_for_embedded
from chio_django.routing import find_view, view_match
from chio_django.view import DjangoGuardRequest, session_of


class LiveRuntime:
    """The runtime for Django's settings as they are now: made again when a test overrides one of them.

    Args:
        client, sync_client: clients to share; their settings are used.

    Raises:
        ConfigurationError: the settings cannot be used.
    """

    def __init__(self, client: ChioClient | None = None, sync_client: SyncChioClient | None = None) -> None:
        self._lock = threading.Lock()
        self._now: Runtime | None = None
        self._client = client
        self._sync_client = sync_client
        setting_changed.connect(self._changed)

    def get(self) -> Runtime:
        """Return the present runtime."""
        found = self._now
        if found is None:
            with self._lock:
                found = self._now = self._now or self._new()
        return found

    def _new(self) -> Runtime:
        given = self._client or self._sync_client
        return Runtime(
            given.settings if given is not None else conf.settings,
            conf.guards(),
            conf.hook("CHIO_EXTRACTOR"),
            conf.hook("CHIO_ON_DECISION"),
            conf.hook("CHIO_ON_RECEIPT"),
            conf.hook("CHIO_REFUSAL_PAGE"),
            capability=conf.hook("CHIO_CAPABILITY"),
            session=session_of,
            client=self._client,
            sync_client=self._sync_client,
            make_client=conf.hook("CHIO_CLIENT"),
            make_sync_client=conf.hook("CHIO_SYNC_CLIENT"),
            document=routes_for_embedded,
            policies=conf.view_policies(),
        )

    def _changed(self, *, setting: str, **_: Any) -> None:
        if setting.startswith(PREFIX) or setting == "ROOT_URLCONF":  # an embedded sidecar has its routes
            with self._lock:
                old, self._now = self._now, None
            if old is not None:
                old.guards.close()
                old.close()


class DjangoAdapter(SyncAdapter):
    """The steps of a Django request, in a thread.

    Args:
        request: Django's request.
        context: its facts, requirement and decision so far.
        path_params: the arguments that the view is called with, by name; those of the URL if left out.
    """

    def __init__(
        self, request: HttpRequest, context: RequestContext, path_params: Mapping[str, Any] | None = None
    ) -> None:
        pipeline = context.runtime.pipeline
        view = DjangoGuardRequest(request, pipeline.singletons, pipeline.limits)
        super().__init__(view, context)
        self._request = request
        self._path_params = path_params

    def locate(self) -> RouteMatch:
        """Return the view that will run: Django's own result, once it has resolved the URL."""
        request = self._request
        resolved = request.resolver_match
        policies = self.context.runtime.policies
        if resolved is None:
            match = find_view(request, policies)
        else:
            match = view_match(resolved, request.method or "", policies)
        return match if self._path_params is None else replace(match, path_params=self._path_params)

    def publish(self, decision: Decision | None) -> None:
        """Put a decision on the state of the guards, and on the request."""
        request = self._request
        setattr(self.view.state, STATE_DECISION, decision)
        receipt = decision.handler_receipt if decision is not None else None
        raw = receipt.raw if receipt is not None else None
        # Views written for the published package read the sidecar's response here (wire protocol, section 11.4).
        known = (
            None if raw is None else {"verdict": raw["verdict"], "receipt": raw, "evidence": raw.get("evidence") or []}
        )
        setattr(request, STATE_DECISION, decision)
        setattr(request, STATE_RECEIPT, raw)
        setattr(request, STATE_EVALUATION, known)
        setattr(request, STATE_PASSTHROUGH, decision.passthrough if decision is not None else None)


class AsyncDjangoAdapter(DjangoAdapter, AsyncAdapter):
    """The steps of a Django request, in an event loop."""


def begin(request: HttpRequest, runtime: Runtime) -> RequestContext:
    """Put a new context on a request and return it."""
    context = RequestContext(runtime, request.META)
    setattr(request, REQUEST_CONTEXT, context)
    return context


def context_of(request: HttpRequest) -> RequestContext | None:
    """Return the context of a request that has come through the middleware."""
    found = getattr(request, REQUEST_CONTEXT, None)
    return found if isinstance(found, RequestContext) else None


def get_chio_receipt(request: HttpRequest) -> HttpReceipt | None:
    """Return the verified receipt of a request, typed; `request.chio_receipt` is the same as a JSON object.

    Returns:
        None if the path is excluded, the request passed without a decision (`fail_open`) or against it (`observe`),
        or no middleware is installed.
    """
    context = context_of(getattr(request, "_request", request))  # Django REST framework wraps its requests
    return context.decision.handler_receipt if context is not None and context.decision is not None else None


def refusal(denial: Denial, request: HttpRequest) -> HttpResponse:
    """Return a refusal of a request with a context: the nested envelope, or a page."""
    context: RequestContext = vars(request)[REQUEST_CONTEXT]
    body, headers = context.document(denial, DjangoGuardRequest(request), nest=True)
    response = HttpResponse(body, status=denial.status)
    for name, value in headers:
        response.headers[name] = value
    return response


def tagged(response: HttpResponseBase, request: HttpRequest, context: RequestContext) -> HttpResponseBase:
    """Put the receipt id on a response and leave everything else of it alone.

    A header of that name from the application is replaced or removed: it cannot claim a receipt that it does not
    have. If a script sent the request (it names its `Origin`), the header is exposed to it.
    """
    name = context.runtime.settings.receipt_header
    value = context.decision.receipt_header if context.decision is not None else None
    if value is not None:
        response.headers[name] = value
        if context.from_script:
            exposed = response.headers.get(EXPOSE_HEADERS)
            response.headers[EXPOSE_HEADERS] = f"{exposed}, {name}" if exposed else name
    elif response.has_header(name):
        del response.headers[name]
    file = request.META.get(ENVIRON_INPUT)
    if file is not None and is_kept(file):
        # The temporary file is removed when the response is done, as Django does with uploaded files.
        response._resource_closers.append(file.close)  # type: ignore[attr-defined]
    return response
