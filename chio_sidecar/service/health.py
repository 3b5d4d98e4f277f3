"""`GET /chio/health`: could this sidecar sign and commit a receipt now? And `GET /chio/live`.

The probe signs, verifies the signature, and commits a row to the store's probe table; it adds no receipt. Every caller
may ask, and a commit is forced to the disk, so a result is repeated for a moment (`SidecarConfig.health_seconds`), and
simultaneous probes share one commit.
"""

from __future__ import annotations

import logging
import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chio_core.errors import ChioError
from chio_core.signing import verify_signature
from chio_sidecar import package_version
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store import StoreHealth

log = logging.getLogger(__name__)

_MESSAGE = b"chio-sidecar-health-probe"


class HealthEndpoint:
    """The endpoint; 200 if the sidecar can do its work, else 503 with the same document.

    Args:
        sidecar: the sidecar to probe.
    """

    def __init__(self, sidecar: SidecarState) -> None:
        self._sidecar = sidecar
        self._version = package_version()
        self._latest: tuple[float, dict[str, str], int] | None = None

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        sidecar, began = self._sidecar, time.monotonic()
        if self._latest is None or began - self._latest[0] >= sidecar.config.health_seconds:
            self._latest = (began, *await self._probe())
        _, document, status = self._latest
        return JSONResponse(document, status)

    async def _probe(self) -> tuple[dict[str, str], int]:
        """Return the document and its status."""
        sidecar, health = self._sidecar, StoreHealth(False, "the signing key does not verify its own signature")
        try:
            if verify_signature(sidecar.key.public_hex, _MESSAGE, sidecar.key.sign(_MESSAGE)):
                health = await sidecar.store.health()
        except ChioError as exc:
            log.error("health: %s", exc.message)
            health = StoreHealth(False, exc.message)
        backend = "ephemeral" if sidecar.config.ephemeral else "durable"
        detail = health.detail
        if health.writable and sidecar.config.ephemeral:
            detail = "receipts are kept for this run only, and are lost when the sidecar ends"
        document = {
            "status": "healthy" if health.writable else "unhealthy",
            "version": self._version,
            "receipt_backend": backend,
            "revocation_backend": backend if sidecar.revocations is None else "remote",
            "detail": detail,
        }
        if health.writable:
            document["kernel_key"] = sidecar.key.public_hex  # clients pin this; it is no secret
        return document, 200 if health.writable else 503


async def live(request: Request) -> Response:
    """Answer 200 while the process runs; key and store are not used."""
    return JSONResponse({"status": "alive", "version": package_version()})
