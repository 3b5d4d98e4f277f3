"""The sidecar's control plane: `/v1/*`, `/approvals/*` and `/metrics` (wire protocol, section 7)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from chio_core.telemetry.metrics import CONTENT_TYPE
from chio_sidecar.control.access import guarded_route
from chio_sidecar.control.approvals import approval_routes
from chio_sidecar.control.capabilities import capability_routes
from chio_sidecar.control.receipts import receipt_routes
from chio_sidecar.service.state import SidecarState

__all__ = ["routes"]


def routes(state: SidecarState) -> list[BaseRoute]:
    """Return the routes of the control plane, each under the access rules of `chio_sidecar.control.access`."""

    # The page shows how much traffic there is, how much of it is refused, and whether the store is in trouble. So a
    # scraper on another machine needs the control token (`authorization.credentials_file` in its configuration).
    async def metrics(_: Request) -> Response:
        page = state.metrics.render(lambda: state.store)
        return Response(page, media_type=None, headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})

    return [
        *capability_routes(state),
        *receipt_routes(state),
        *approval_routes(state),
        guarded_route(state, "/metrics", metrics, failure="internal_error"),
    ]
