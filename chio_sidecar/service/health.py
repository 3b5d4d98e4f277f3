"""`GET /chio/health`: could this sidecar sign and commit a receipt now? And `GET /chio/live`.

The probe signs, verifies the signature, and commits a row to the store's probe table; it adds no receipt. Probes
that arrive together share one commit.
"""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chio_core.errors import ChioError
from chio_core.signing import verify_signature
from chio_sidecar.service.metrics import package_version
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store import StoreHealth

log = logging.getLogger(__name__)

_MESSAGE = b"chio-sidecar-health-probe"


class HealthEndpoint:
    """The endpoint; 200 when the sidecar can do its work, else 503 with the same document.

    Args:
        sidecar: what is probed.
    """

    def __init__(self, sidecar: SidecarState) -> None:
        self._sidecar = sidecar
        self._version = package_version()

    async def answer(self, request: Request) -> Response:
        """Answer one call."""
        health = await self._probe()
        config = self._sidecar.config
        document = {
            "status": "healthy" if health.writable else "unhealthy",
            "version": self._version,
            "receipt_backend": "ephemeral" if config.ephemeral else "durable",
            "revocation_backend": _revocation_backend(self._sidecar),
            "detail": health.detail,
        }
        if health.writable:
            document["kernel_key"] = self._sidecar.key.public_hex  # what clients pin; no secret
        return JSONResponse(document, 200 if health.writable else 503)

    async def _probe(self) -> StoreHealth:
        try:
            key = self._sidecar.key
            if not verify_signature(key.public_hex, _MESSAGE, key.sign(_MESSAGE)):
                return StoreHealth(writable=False, detail="the signing key does not verify its own signature")
            return await self._sidecar.store.health()
        except ChioError as exc:
            log.error("health: %s", exc.message)
            return StoreHealth(writable=False, detail=exc.message)


async def live(request: Request) -> Response:
    """Answer 200 while the process runs; nothing is asked of key and store."""
    return JSONResponse({"status": "alive", "version": package_version()})


def _revocation_backend(sidecar: SidecarState) -> str:
    if sidecar.revocations is not None:
        return "remote"
    return "ephemeral" if sidecar.config.ephemeral else "durable"
