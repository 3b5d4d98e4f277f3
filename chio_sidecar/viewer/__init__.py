"""The receipts viewer: a page that lists, opens and verifies the receipts of a store, on this machine only."""

from __future__ import annotations

from chio_sidecar.viewer.app import VIEWER_PATH, create_viewer_app, viewer_routes

__all__ = ["VIEWER_PATH", "create_viewer_app", "viewer_routes"]
