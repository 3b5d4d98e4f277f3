"""The trust service and its HTTP application (wire protocol, section 9)."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chio_core.capabilities import backdated, issue_capability
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.names import LOGGER
from chio_core.signing import normalize_public_key
from chio_sidecar.config import MAX_TTL
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.issuers import WITHDRAW, is_issuer_name, issuer_name, withdrawn
from chio_sidecar.store.place import Place
from chio_sidecar.trust.authorities import Authority, AuthorityStatus, open_authority
from chio_sidecar.trust.messages import (
    IssueRequest,
    ReceiptsQuery,
    RefusalError,
    RevocationQuery,
    RevokeRequest,
    read_message,
    read_query,
    refuse,
)
from chio_sidecar.trust.stores import RevocationStore

log = logging.getLogger(LOGGER)

NO_AUTHORITY = "trust control service requires --authority-seed-file or --authority-db"
NO_REVOCATIONS = "trust control service requires --revocation-db"
NO_CAPABILITY_ID = f"capabilityId names an issuer, whose key would be withdrawn; {WITHDRAW} --control-url URL"
NO_RECEIPTS = "trust control service requires --receipt-db"

_MAX_PAGE = 200
_COUNTS = 100
_CSP = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


@dataclass(frozen=True)
class TrustConfig:
    """Options of the trust service; every file is optional.

    Attributes:
        service_token: the bearer token that every call but `/health` must present.
        receipt_db: a sidecar's store, read for `/v1/receipts/query`, never written.
        max_ttl: longest lifetime of a capability that it issues, in seconds.
        budget_db: accepted and reported by `/health`; never opened.
        session_db: accepted; never opened.
    """

    service_token: SecretStr
    receipt_db: Place | None = None
    revocation_db: Place | None = None
    authority_db: Place | None = None
    authority_seed_file: Path | None = None
    budget_db: Path | None = None
    session_db: Path | None = None
    max_ttl: int = MAX_TTL


class TrustService:
    """The opened authority and stores behind the routes.

    Args:
        config: the options.

    Raises:
        ConfigurationError: a blank token, two authorities, or a file that cannot be used.
    """

    def __init__(self, config: TrustConfig) -> None:
        self.config = config
        self._token = config.service_token.get_secret_value().encode()
        if not self._token.strip():
            raise ConfigurationError("the service token is blank; give --service-token or CHIO_SERVICE_TOKEN a value")
        self.authority = open_authority(config.authority_db, config.authority_seed_file)
        self.revocations = RevocationStore(config.revocation_db) if config.revocation_db else None

    def accepts(self, authorization: list[str]) -> bool:
        """Return True if the `Authorization` headers are exactly one, with the service token."""
        if len(authorization) != 1 or not authorization[0].startswith("Bearer "):
            return False
        presented = authorization[0].removeprefix("Bearer ").encode("latin-1", "replace")
        return hmac.compare_digest(presented, self._token)

    def accepted(self, status: AuthorityStatus) -> AuthorityStatus:
        """Return the status without the trusted keys that were withdrawn."""
        names = [issuer_name(key) for key in status.trusted_keys]
        withdrawn = set() if self.revocations is None else self.revocations.revoked_of(names)
        trusted = (key for key, name in zip(status.trusted_keys, names, strict=True) if name not in withdrawn)
        return replace(status, trusted_keys=tuple(trusted))

    def close(self) -> None:
        """Close every file."""
        if self.authority is not None:
            self.authority.close()
        if self.revocations is not None:
            self.revocations.close()


def create_trust_app(service: TrustService) -> ASGIApp:
    """Return the ASGI application of an opened service; the caller closes the service."""
    routes = _Routes(service)
    failures = (RefusalError, HTTPException, ConfigurationError, sqlite3.Error, Exception)
    starlette = Starlette(
        routes=[
            Route("/health", routes.health),
            Route("/v1/authority", routes.authority),
            Route("/v1/authority", routes.rotate, methods=["POST"]),
            Route("/v1/capabilities/issue", routes.issue, methods=["POST"]),
            Route("/v1/revocations", routes.revocations),
            Route("/v1/revocations", routes.revoke, methods=["POST"]),
            Route("/v1/receipts/query", routes.receipts),
        ],
        exception_handlers=dict.fromkeys(failures, _failure_response),
    )

    # Around Starlette's own error handling: a response of every kind has the header.
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), _CSP]}
            await send(message)

        await starlette(scope, receive, send_with_policy)

    return app


class _Routes:
    """The endpoints. Disk access runs in a thread."""

    def __init__(self, service: TrustService) -> None:
        self._service = service
        # Filter and first row of the store → the last row that was counted, and the matches up to it.
        self._counts: dict[tuple[ReceiptFilter, int], tuple[int, int]] = {}

    async def health(self, _: Request) -> Response:
        authority, config = self._service.authority, self._service.config

        def read_status() -> AuthorityStatus | None:
            try:
                return self._service.accepted(authority.status()) if authority else None
            except (sqlite3.Error, ConfigurationError):
                return None

        status = await asyncio.to_thread(read_status)
        described = _describe(authority, status)
        trusted = described.pop("trustedPublicKeys")
        return JSONResponse(
            {
                "ok": True,
                "leaderUrl": None,
                "selfUrl": None,
                "clustered": False,
                "authority": described | {"available": status is not None, "trustedKeyCount": len(trusted)},
                "stores": {
                    "receiptsConfigured": config.receipt_db is not None,
                    "revocationsConfigured": config.revocation_db is not None,
                    "budgetsConfigured": config.budget_db is not None,
                    "verifierChallengesConfigured": False,
                },
                "federation": {},
                "cluster": {},
            }
        )

    async def authority(self, request: Request) -> Response:
        self._check_token(request)
        authority = self._service.authority
        accepted = self._service.accepted
        status = await asyncio.to_thread(lambda: accepted(authority.status())) if authority else None
        return JSONResponse(_describe(authority, status))

    async def rotate(self, request: Request) -> Response:
        self._check_token(request)
        authority = self._authority()
        status = await asyncio.to_thread(lambda: self._service.accepted(authority.rotate()))
        log.warning("trust authority: the signing key was rotated, generation %d", status.generation)
        return JSONResponse(_describe(authority, status))

    async def issue(self, request: Request) -> Response:
        wanted = await read_message(request, IssueRequest)
        self._check_token(request)
        authority = self._authority()
        digits = wanted.subject_public_key.removeprefix("0x")
        if re.fullmatch("(?:[0-9A-Fa-f]{2})*", digits) is None:
            raise refuse(400, "invalid hex: subjectPublicKey must consist of pairs of hex digits")
        if len(digits) != 64:
            raise refuse(
                400, f"invalid public key: subjectPublicKey has {len(digits) // 2} bytes, an Ed25519 key has 32"
            )
        longest = self._service.config.max_ttl
        if wanted.ttl_seconds > longest:
            raise refuse(400, f"ttlSeconds {wanted.ttl_seconds} is longer than this service allows: {longest} seconds")
        key = await asyncio.to_thread(authority.signing_key)
        revocations = self._service.revocations
        if revocations is not None and await asyncio.to_thread(revocations.is_revoked, issuer_name(key.public_hex)):
            raise refuse(409, f"{withdrawn(key.public_hex)}; make another: chio-sidecar trust rotate")
        try:
            token = issue_capability(
                key,
                subject=normalize_public_key(digits),
                scope=wanted.scope,
                ttl_seconds=wanted.ttl_seconds,
                now=backdated(int(time.time()), wanted.ttl_seconds),
            )
        except InvalidDocument as exc:
            raise refuse(400, exc.message) from None
        return JSONResponse({"capability": token.to_wire()})

    async def revoke(self, request: Request) -> Response:
        wanted = await read_message(request, RevokeRequest)
        self._check_token(request)
        key = wanted.issuer_public_key
        if wanted.capability_id != issuer_name(key or "") and (key is not None or is_issuer_name(wanted.capability_id)):
            raise refuse(400, NO_CAPABILITY_ID)
        try:
            newly = await asyncio.to_thread(self._revocation_store().revoke, wanted.capability_id)
        except InvalidDocument as exc:
            raise refuse(400, exc.message) from None
        return JSONResponse({"capabilityId": wanted.capability_id, "revoked": True, "newlyRevoked": newly})

    async def revocations(self, request: Request) -> Response:
        self._check_token(request)
        query = read_query(request, RevocationQuery)
        store, capability_id = self._revocation_store(), query.capability_id
        ancestors = request.query_params.getlist("ancestorId")
        try:
            found, revoked = await asyncio.to_thread(
                lambda: (store.find(capability_id, max(1, min(query.limit, _MAX_PAGE))), store.revoked_of(ancestors))
            )
        except InvalidDocument as exc:
            raise refuse(400, exc.message) from None
        rows = [{"capabilityId": row.capability_id, "revokedAt": row.revoked_at} for row in found]
        one = {} if capability_id is None else {"capabilityId": capability_id, "revoked": bool(rows)}
        # An extension, for one question about a token and all that it was derived from.
        more = [{"capabilityId": name, "revoked": name in revoked} for name in ancestors]
        head = {"configured": True, "backend": store.backend}
        listed = {"count": len(rows), "revocations": rows} | ({"ancestors": more} if more else {})
        return JSONResponse(head | one | listed)

    async def receipts(self, request: Request) -> Response:
        self._check_token(request)
        query = read_query(request, ReceiptsQuery)
        path = self._service.config.receipt_db
        if path is None:
            raise refuse(409, NO_RECEIPTS)

        def read_page() -> dict[str, Any]:
            # A sidecar creates its store when it starts; until then the list is empty.
            if isinstance(path, Path) and not path.exists():
                return {"totalCount": 0, "nextCursor": None, "receipts": []}
            wanted = ReceiptFilter(**query.model_dump(exclude={"cursor", "limit"}))
            with open_archive(path, option="--receipt-db") as reader:
                page = reader.page(wanted, after=query.cursor, limit=max(1, min(query.limit, _MAX_PAGE)))
                # Each page states the count. Rows never change, so only those since the last page are counted.
                upto, total = self._counts.get((wanted, reader.first), (0, 0))
                total += reader.count(wanted, after=upto)
                if len(self._counts) >= _COUNTS:
                    self._counts.clear()
                self._counts[wanted, reader.first] = (reader.last, total)
                return {"totalCount": total, "nextCursor": page.next, "receipts": page.receipts}

        return JSONResponse(await asyncio.to_thread(read_page))

    def _check_token(self, request: Request) -> None:
        if not self._service.accepts(request.headers.getlist("authorization")):
            headers = {"WWW-Authenticate": "Bearer"}
            raise RefusalError(JSONResponse({"error": "missing or invalid control bearer token"}, 401, headers))

    def _authority(self) -> Authority:
        if self._service.authority is None:
            raise refuse(409, NO_AUTHORITY)
        return self._service.authority

    def _revocation_store(self) -> RevocationStore:
        if self._service.revocations is None:
            raise refuse(409, NO_REVOCATIONS)
        return self._service.revocations


def _describe(authority: Authority | None, status: AuthorityStatus | None) -> dict[str, Any]:
    return {
        "configured": authority is not None,
        "backend": authority.backend if authority else None,
        "publicKey": status.public_key if status else None,
        "generation": status.generation if status else None,
        "rotatedAt": status.rotated_at if status else None,
        "appliesToFutureSessionsOnly": True,
        "trustedPublicKeys": list(status.trusted_keys) if status else [],
    }


def _failure_response(_: Request, exc: Exception) -> Response:
    match exc:
        case RefusalError():
            return exc.response
        case HTTPException():
            return JSONResponse({"error": exc.detail}, exc.status_code, headers=dict(exc.headers or {}))
        case ConfigurationError() | sqlite3.Error():
            log.error("trust service: a store failed: %s", exc)
            return JSONResponse({"error": f"a store of the trust service failed: {exc}"}, 500)
        case _:
            return JSONResponse({"error": "internal error"}, 500)
