"""The trust service: it issues and revokes capabilities (`chio-sidecar trust serve`)."""

from __future__ import annotations

from chio_sidecar.trust.app import create_trust_app
from chio_sidecar.trust.service import TrustConfig, TrustService

__all__ = ["TrustConfig", "TrustService", "create_trust_app"]
