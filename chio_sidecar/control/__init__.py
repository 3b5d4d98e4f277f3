"""The sidecar's control plane: `/v1/*` and `/approvals/*` (wire protocol, section 7)."""

from __future__ import annotations

from starlette.routing import BaseRoute

from chio_sidecar.control.approvals import approval_routes
from chio_sidecar.control.capabilities import capability_routes
from chio_sidecar.control.jobs import job_routes
from chio_sidecar.control.metrics import metrics_routes
from chio_sidecar.service.state import SidecarState

__all__ = ["routes"]


def routes(state: SidecarState) -> list[BaseRoute]:
    """Return the routes of the control plane, each guarded as `chio_sidecar.control.access` says."""
    return [*capability_routes(state), *job_routes(state), *approval_routes(state), *metrics_routes(state)]
