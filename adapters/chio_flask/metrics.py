"""The metrics of the extension as a view: `app.add_url_rule("/metrics", view_func=chio_flask.metrics)`."""

from __future__ import annotations

from flask import Response, request

from chio_core.errors import ConfigurationError
from chio_core.telemetry.metrics import CONTENT_TYPE
from chio_flask.context import context_in


def metrics() -> Response:
    """Answer with the metrics of this process, for Prometheus.

    The view is governed like any other: exclude its path (`CHIO_EXCLUDE_PATHS`), or let the scraper be allowed. It
    tells how much traffic there is and how it was judged, and protects that no further.

    Raises:
        ConfigurationError: the application is not governed.
    """
    context = context_in(request.environ)
    if context is None:
        raise ConfigurationError("chio_flask.metrics needs a governed application: Chio(app)")
    page = context.runtime.telemetry.metrics.render()
    return Response(page, content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})
