"""The trust service's HTTP application (wire protocol, section 9)."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chio_core.capabilities import issue_capability
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.names import LOGGER
from chio_core.signing import normalize_public_key
from chio_sidecar.records.reader import ReceiptFilter
from chio_sidecar.trust.authorities import Authority, AuthorityStatus
from chio_sidecar.trust.messages import (
    IssueRequest,
    ReceiptsQuery,
    RefusalError,
    RevocationQuery,
    RevokeRequest,
    read_message,
    read_query,
    refuse,
    unauthorized,
)
from chio_sidecar.trust.revocations import BACKEND, RevocationStore
from chio_sidecar.trust.service import TrustService

log = logging.getLogger(LOGGER)

NO_AUTHORITY = "trust control service requires --authority-seed-file or --authority-db"
NO_REVOCATIONS = "trust control service requires --revocation-db"
NO_RECEIPTS = "trust control service requires --receipt-db"

_MAX_PAGE = 200
_CSP = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


def create_trust_app(service: TrustService) -> ASGIApp:
    """Return the ASGI application that answers for an opened service; the caller closes the service."""
    routes = _Routes(service)
    app = Starlette(
        routes=[
            Route("/health", routes.health),
            Route("/v1/authority", routes.authority),
            Route("/v1/authority", routes.rotate, methods=["POST"]),
            Route("/v1/capabilities/issue", routes.issue, methods=["POST"]),
            Route("/v1/revocations", routes.revocations),
            Route("/v1/revocations", routes.revoke, methods=["POST"]),
            Route("/v1/receipts/query", routes.receipts),
        ],
        exception_handlers={
            RefusalError: _refusal,
            HTTPException: _http_error,
            ConfigurationError: _store_error,
            sqlite3.Error: _store_error,
            Exception: _internal_error,
        },
    )
    return _with_content_security_policy(app)


class _Routes:
    """The endpoints. Whatever touches a disk runs in a thread."""

    def __init__(self, service: TrustService) -> None:
        self._service = service

    async def health(self, _: Request) -> Response:
        config = self._service.config
        return JSONResponse(
            {
                "ok": True,
                "leaderUrl": None,
                "selfUrl": None,
                "clustered": False,
                "authority": await asyncio.to_thread(self._authority_health),
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

    def _authority_health(self) -> dict[str, Any]:
        authority = self._service.authority
        try:
            status = authority.status() if authority else None
        except (sqlite3.Error, ConfigurationError):
            status = None
        document = _describe(authority, status)
        trusted = document.pop("trustedPublicKeys")
        return document | {"available": status is not None, "trustedKeyCount": len(trusted)}

    async def authority(self, request: Request) -> Response:
        self._check(request)
        authority = self._service.authority
        status = await asyncio.to_thread(authority.status) if authority else None
        return JSONResponse(_describe(authority, status))

    async def rotate(self, request: Request) -> Response:
        self._check(request)
        authority = self._authority()
        status = await asyncio.to_thread(authority.rotate)
        log.warning("trust authority: the signing key was rotated, generation %d", status.generation)
        return JSONResponse(_describe(authority, status))

    async def issue(self, request: Request) -> Response:
        wanted = await read_message(request, IssueRequest)
        self._check(request)
        authority = self._authority()
        subject = _subject(wanted.subject_public_key)
        key = await asyncio.to_thread(authority.signing_key)
        try:
            token = issue_capability(key, subject=subject, scope=wanted.scope, ttl_seconds=wanted.ttl_seconds)
        except InvalidDocument as exc:
            raise refuse(400, exc.message) from None
        return JSONResponse({"capability": token.to_wire()})

    async def revoke(self, request: Request) -> Response:
        wanted = await read_message(request, RevokeRequest)
        self._check(request)
        store = self._revocation_store()
        newly = await asyncio.to_thread(store.revoke, wanted.capability_id)
        return JSONResponse({"capabilityId": wanted.capability_id, "revoked": True, "newlyRevoked": newly})

    async def revocations(self, request: Request) -> Response:
        self._check(request)
        query = read_query(request, RevocationQuery)
        store, wanted = self._revocation_store(), query.capability_id
        found = await asyncio.to_thread(store.find, wanted, max(1, min(query.limit, _MAX_PAGE)))
        rows = [{"capabilityId": row.capability_id, "revokedAt": row.revoked_at} for row in found]
        one = {} if wanted is None else {"capabilityId": wanted, "revoked": bool(rows)}
        head = {"configured": True, "backend": BACKEND}
        return JSONResponse(head | one | {"count": len(rows), "revocations": rows})

    async def receipts(self, request: Request) -> Response:
        self._check(request)
        query = read_query(request, ReceiptsQuery)
        if self._service.config.receipt_db is None:
            raise refuse(409, NO_RECEIPTS)
        return JSONResponse(await asyncio.to_thread(self._receipts_page, query))

    def _receipts_page(self, query: ReceiptsQuery) -> dict[str, Any]:
        wanted = ReceiptFilter(**query.model_dump(exclude={"cursor", "limit"}))
        limit = max(1, min(query.limit, _MAX_PAGE))
        reader = self._service.open_receipts()
        if reader is None:
            return {"totalCount": 0, "nextCursor": None, "receipts": []}
        try:
            page = reader.page(wanted, after=query.cursor, limit=limit)
            return {"totalCount": reader.count(wanted), "nextCursor": page.next, "receipts": page.receipts}
        finally:
            reader.close()

    def _check(self, request: Request) -> None:
        if not self._service.accepts(request.headers.getlist("authorization")):
            raise unauthorized()

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


def _subject(text: str) -> str:
    digits = text.removeprefix("0x")
    try:
        size = len(bytes.fromhex(digits)) if not any(map(str.isspace, digits)) else None
    except ValueError:
        size = None
    if size is None:
        raise refuse(400, "invalid hex: subjectPublicKey must consist of pairs of hex digits")
    if size != 32:
        raise refuse(400, f"invalid public key: subjectPublicKey has {size} bytes, an Ed25519 key has 32")
    return normalize_public_key(digits)


def _refusal(request: Request, exc: Exception) -> Response:
    return exc.response if isinstance(exc, RefusalError) else _internal_error(request, exc)


def _http_error(request: Request, exc: Exception) -> Response:
    if not isinstance(exc, HTTPException):
        return _internal_error(request, exc)
    return JSONResponse({"error": exc.detail}, exc.status_code, headers=dict(exc.headers or {}))


def _store_error(_: Request, exc: Exception) -> Response:
    log.error("trust service: a store failed: %s", exc)
    return JSONResponse({"error": f"a store of the trust service failed: {exc}"}, 500)


def _internal_error(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "internal error"}, 500)


def _with_content_security_policy(app: ASGIApp) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), _CSP]}
            await send(message)

        await app(scope, receive, send_with_header)

    return wrapped
