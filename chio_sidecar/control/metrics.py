"""`GET /metrics`: for Prometheus, under the access rules of the control plane.

The page reveals no request, but how much traffic there is, how much of it is refused, and when the store is in trouble.
So it is for callers on this machine, or for those with the control token (`authorization.credentials_file` in the
scraper's configuration).
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chio_core.telemetry.metrics import CONTENT_TYPE
from chio_sidecar.control.access import ControlError, check_access, refusal
from chio_sidecar.service.state import SidecarState

METRICS_PATH = "/metrics"


def metrics_routes(state: SidecarState) -> list[Route]:
    """Return the route of the page."""

    async def answer(request: Request) -> Response:
        try:
            check_access(request, state.config.control_token)
        except ControlError as exc:
            return refusal(exc)
        page = state.metrics.render(lambda: state.store)
        return Response(page, media_type=None, headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})

    return [Route(METRICS_PATH, answer, methods=["GET"])]
