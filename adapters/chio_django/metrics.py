"""The metrics of the middleware as a view: `path("metrics", chio_django.metrics)`."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from chio_core.errors import ConfigurationError
from chio_core.telemetry.metrics import CONTENT_TYPE
from chio_django.context import context_of


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
