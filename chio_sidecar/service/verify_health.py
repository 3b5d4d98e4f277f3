"""What the service answers besides evaluations: `POST /chio/verify`, `GET /chio/health` and `GET /chio/live`."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chio_core.errors import ChioError, InvalidDocument, ReceiptRejected
from chio_core.models.receipt import HttpReceipt
from chio_core.receipts import receipt_id_is_valid, verify_receipt
from chio_core.signing import verify_signature
from chio_sidecar import package_version
from chio_sidecar.http import NO_BEARER, BodyError, parse_object, presents_bearer, read_body
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store import StoreHealth

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
"""Largest body of a receipt to verify, in bytes."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_RESULTS = {"cancel": "cancelled"}
_MESSAGE = b"chio-sidecar-health-probe"


class VerifyEndpoint:
    """Was this receipt changed, and did this sidecar sign it? See wire protocol, section 2.1.

    The response serves both kinds of client. April clients read `valid`: the signature holds under the key that the
    receipt itself names, which does not prove who signed. Newer clients read the report beside it, whose `ok` also
    demands this sidecar's own key.

    Args:
        sidecar: its key is the trusted one.
    """

    def __init__(self, sidecar: SidecarState) -> None:
        self._sidecar = sidecar

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        token = self._sidecar.config.evaluate_token
        if token is not None and not presents_bearer(request.scope["headers"], token):
            status, code, message = NO_BEARER
            return JSONResponse({"error": code, "message": message}, status, {"WWW-Authenticate": "Bearer"})
        try:
            document = parse_object(await read_body(request, MAX_BODY))
            receipt = HttpReceipt.from_wire(document)
        except BodyError:
            return _bad_request("failed to read receipt verification body")
        except InvalidDocument as exc:
            return _bad_request(f"invalid HttpReceipt payload: {exc.message}")
        return JSONResponse(report(receipt, own_key=self._sidecar.key.public_hex))


def report(receipt: HttpReceipt, *, own_key: str) -> dict[str, Any]:
    """Return the response for a receipt.

    Args:
        receipt: as it was received.
        own_key: public key (hex) of this sidecar.
    """
    # Verifiers of the protocol read a receipt into a model and so ignore members that were added to it: what they
    # ignore, the signature need not cover.
    known = {name: value for name, value in receipt.raw.items() if name in HttpReceipt.model_fields}
    signature_valid = _verifies(receipt.raw) or _verifies(known)
    # The id of an April receipt is a name and can only be missing; that of a newer one is a hash.
    id_valid = receipt_id_is_valid(receipt.raw) if receipt.receipt_kind is not None else bool(receipt.id)
    hash_valid = _DIGEST.fullmatch(receipt.content_hash) is not None
    trusted = receipt.kernel_key == own_key
    ok = signature_valid and trusted and id_valid and hash_valid
    result = _RESULTS.get(receipt.verdict.verdict, receipt.verdict.verdict)
    return {
        "valid": signature_valid,
        "ok": ok,
        "authorized": ok and result == "allow",
        "result": result,
        "signature_valid": signature_valid,
        "signer_trusted": trusted,
        "receipt_id_valid": id_valid,
        "parameter_hash_valid": hash_valid,
        "receipt_kind": receipt.receipt_kind,
        "boundary_class": receipt.boundary_class,
        "trust_level": receipt.trust_level,
        "signer_key_hex": receipt.kernel_key,
    }


def _verifies(document: Mapping[str, Any]) -> bool:
    try:
        verify_receipt(document)
    except ReceiptRejected:
        return False
    return True


def _bad_request(message: str) -> Response:
    return JSONResponse({"error": "chio_bad_request", "message": message}, 400)


class HealthEndpoint:
    """Could this sidecar sign and commit a receipt now? 200 if it can, else 503 with the same document.

    The probe signs, verifies the signature, and commits a row to the store's probe table; it adds no receipt. Every
    caller may ask, and a commit is forced to the disk, so a result is repeated for a moment
    (`SidecarConfig.health_seconds`), and simultaneous probes share one commit.

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
