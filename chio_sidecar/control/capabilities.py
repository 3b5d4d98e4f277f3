"""Minting, releasing and validating capabilities (wire protocol, sections 7.3, 7.4 and 7.6)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from chio_core.capabilities import (
    DEFAULT_MAX_DEPTH,
    CapabilityRejected,
    is_subset,
    issue_capability,
    parse_capability,
    verify_capability,
)
from chio_core.errors import InvalidDocument
from chio_core.models.base import U64, Text
from chio_core.models.capability import CapabilityToken, ChioScope
from chio_core.models.demands import REVOKED
from chio_core.signing import SigningKey, normalize_public_key
from chio_sidecar.control.access import ControlError, bad_request, control_endpoint, read_model
from chio_sidecar.policy.engine import AUTHORITY_UNAVAILABLE
from chio_sidecar.service.revocation import AuthorityUnavailable
from chio_sidecar.service.state import SidecarState

_OPERATIONS = {
    "invoke": "invoke",
    "call": "invoke",
    "exec": "invoke",
    "execute": "invoke",
    "read_result": "read_result",
    "result": "read_result",
    "read": "read",
    "subscribe": "subscribe",
    "watch": "subscribe",
    "get": "get",
    "delegate": "delegate",
}


def parse_scopes(texts: Iterable[str]) -> dict[str, Any]:
    """Translate scope texts to the JSON object of a scope; lists that stay empty are left out.

    Raises:
        InvalidDocument: a text that the grammar does not know; the message is the protocol's own.
    """
    scope: dict[str, list[dict[str, Any]]] = {"grants": [], "resource_grants": [], "prompt_grants": []}
    for text in texts:
        kind, grant = _parse(text)
        scope[kind].append(grant)
    return {kind: grants for kind, grants in scope.items() if grants}


def _parse(raw: str) -> tuple[str, dict[str, Any]]:
    parts = [part for part in (piece.strip() for piece in raw.split(":")) if part]
    match parts:
        case ["tools", name, *more]:
            return "grants", _tool("*", ":".join([name, *more]), "invoke")
        case [tool, operation]:
            return "grants", _tool("*", tool, _operation(operation, write="invoke"))
        case ["tool", server, tool, operation]:
            return "grants", _tool(server, tool, _operation(operation))
        case ["resource", uri, operation]:
            return "resource_grants", {"uri_pattern": uri, "operations": [_operation(operation)]}
        case ["prompt", name, operation]:
            return "prompt_grants", {"prompt_name": name, "operations": [_operation(operation)]}
    raise InvalidDocument(f"unsupported controller scope syntax: {raw}")


def _tool(server: str, tool: str, operation: str) -> dict[str, Any]:
    return {"server_id": server, "tool_name": tool, "operations": [operation]}


def _operation(text: str, *, write: str | None = None) -> str:
    # Only the two-part form knows `write`: there it means that the tool may be called.
    found = write if write and text.lower() == "write" else _OPERATIONS.get(text.lower())
    if found is None:
        raise InvalidDocument(f"unsupported controller scope operation: {text}")
    return found


DEFAULT_TTL = 3600
"""Lifetime in seconds when none, or 0, is asked for."""

_NANOS = 1_000_000_000
_KINDS = (
    ("tool_grants", "grants"),
    ("resource_grants", "resource_grants"),
    ("prompt_grants", "prompt_grants"),
)


class Lifetime(BaseModel):
    """The three ways to ask for a lifetime; the first that is present counts."""

    model_config = ConfigDict(frozen=True)

    ttl_seconds: U64 | None = None
    ttl_nanos: U64 | None = None
    ttl: U64 | None = None

    def seconds(self) -> int:
        """Return the lifetime in whole seconds, nanoseconds rounded up."""
        if self.ttl_seconds is not None:
            return self.ttl_seconds or DEFAULT_TTL
        if self.ttl_nanos is not None:
            return _round_up(self.ttl_nanos) or DEFAULT_TTL
        if not self.ttl:
            return DEFAULT_TTL
        return self.ttl if self.ttl < _NANOS else _round_up(self.ttl)


class MintRequest(Lifetime):
    """Body of `POST /v1/capabilities/mint`."""

    subject: Text
    scopes: list[Text] = Field(default_factory=list)
    job_uid: Text = ""

    @classmethod
    def read(cls, document: dict[str, Any]) -> MintRequest:
        """Read the body.

        Raises:
            ControlError: 400.
        """
        wanted = read_model(cls, document, what="capability mint")
        if not wanted.subject.strip():
            raise bad_request("subject must not be empty")
        return wanted

    def subject_key(self) -> str:
        """Return the public key, hex, that stands for the subject's label."""
        seed = hashlib.sha256(self.subject.encode() + b"\0" + self.job_uid.encode()).digest()
        return SigningKey(seed).public_hex

    def scope(self) -> dict[str, Any]:
        """Return the scope as a JSON object.

        Raises:
            InvalidDocument: a scope text that the grammar does not know.
        """
        return parse_scopes(self.scopes)

    def capability_id(self, scope: dict[str, Any]) -> str:
        """Return the id of the token over `scope`; the same request always has the same."""
        document = {"subject": self.subject, "job_uid": self.job_uid, "ttl_seconds": self.seconds()}
        lists = {name: sorted(map(_compact, scope.get(kind, [])), key=str.encode) for name, kind in _KINDS}
        return "sidecar-" + hashlib.sha256(_compact(document | lists).encode()).hexdigest()


def _round_up(nanos: int) -> int:
    return -(-nanos // _NANOS)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_MINT, _RELEASE = "chio_capability_mint_failed", "chio_capability_release_failed"
_VALIDATION = "chio_capability_validation_failed"

# The protocol words the findings of a validation in its own way.
_REASONS = {
    "R3": "capability issuer is not trusted",
    "R4": "capability signature did not verify",
    "R5a": "capability is not yet valid",
    "R5b": "capability has expired",
}


class IssueRequest(Lifetime):
    """Body of `POST /v1/capabilities` in its own form; the subject is a public key."""

    subject: Text
    scope: ChioScope
    job_uid: Text = ""


class ReleaseRequest(BaseModel):
    """Body of `POST /v1/capabilities/release`; only the id counts."""

    capability_id: Text
    job_uid: Text | None = None
    reason: Text | None = None


class Expectations(BaseModel):
    """What a validation may ask for beside the token itself."""

    expected_subject: Text | None = None
    expected_scope: ChioScope | None = None


class AttenuationRequest(BaseModel):
    """Body of `POST /v1/capabilities/attenuate`."""

    parent_token: dict[str, Any]
    new_scope: ChioScope


def capability_routes(state: SidecarState) -> list[BaseRoute]:
    """Return the routes of `/v1/capabilities`."""
    calls = _Calls(state)
    return [
        control_endpoint(state, "/v1/capabilities/mint", calls.mint, what="capability mint", failure=_MINT),
        control_endpoint(state, "/v1/capabilities/release", calls.release, what="capability release", failure=_RELEASE),
        control_endpoint(state, "/v1/capabilities", calls.issue, what="capability", failure=_MINT),
        control_endpoint(
            state,
            "/v1/capabilities/validate",
            calls.validate,
            what="capability validation",
            failure=_VALIDATION,
        ),
        control_endpoint(
            state,
            "/v1/capabilities/attenuate",
            calls.attenuate,
            what="capability attenuation",
            failure=_MINT,
        ),
    ]


class _Calls:
    def __init__(self, state: SidecarState) -> None:
        self._state = state

    async def mint(self, document: dict[str, Any], _: bytes) -> Response:
        return JSONResponse({"capability": self._minted(document).to_wire()})

    async def issue(self, document: dict[str, Any], _: bytes) -> Response:
        if "scope" not in document:
            return JSONResponse(self._minted(document).to_wire())
        wanted = read_model(IssueRequest, document, what="capability")
        token = self._signed(_key(wanted.subject, "subject"), wanted.scope.to_wire(), wanted.seconds(), None)
        return JSONResponse(token.to_wire())

    async def release(self, document: dict[str, Any], _: bytes) -> Response:
        capability_id = read_model(ReleaseRequest, document, what="capability release").capability_id.strip()
        if not capability_id:
            raise bad_request("capability_id must not be empty")
        if self._state.config.ephemeral:
            raise ControlError(500, _RELEASE, "persistent receipt_db must be configured for capability release")
        await self._state.store.revoke(capability_id)
        return JSONResponse({"released": True})

    async def validate(self, document: dict[str, Any], _: bytes) -> Response:
        expected = read_model(Expectations, document, what="capability validation")
        fields = {name: value for name, value in document.items() if name not in Expectations.model_fields}
        try:
            token = parse_capability(fields)
        except CapabilityRejected as exc:
            raise bad_request(f"invalid capability validation payload: {exc.reason}") from None
        mismatch = _mismatch(token, expected)
        reason = await self._revocation(token) or self._finding(token) or mismatch
        answer: dict[str, Any] = {"valid": reason is None}
        if reason is not None:
            answer["reason"] = reason
        return JSONResponse(answer | {"expires_at": token.expires_at, "capability_id": token.id})

    async def attenuate(self, document: dict[str, Any], _: bytes) -> Response:
        read_model(AttenuationRequest, document, what="capability attenuation")
        return JSONResponse(
            {
                "error": "chio_attenuation_requires_subject_signer",
                "message": "only the holder of the subject's key can narrow a capability and sign that",
                "authorization": False,
            },
            403,
        )

    def _minted(self, document: dict[str, Any]) -> CapabilityToken:
        wanted = MintRequest.read(document)
        try:
            scope = wanted.scope()
        except InvalidDocument as exc:
            raise bad_request(exc.message) from None
        return self._signed(wanted.subject_key(), scope, wanted.seconds(), wanted.capability_id(scope))

    def _signed(self, subject: str, scope: dict[str, Any], seconds: int, capability_id: str | None) -> CapabilityToken:
        try:
            return issue_capability(
                self._state.key,
                subject=subject,
                scope=scope,
                ttl_seconds=seconds,
                now=self._state.now(),
                capability_id=capability_id,
            )
        except InvalidDocument as exc:
            raise bad_request(exc.message) from None

    async def _revocation(self, token: CapabilityToken) -> str | None:
        # A longer chain is refused for its length in any case.
        links = token.delegation_chain[:DEFAULT_MAX_DEPTH]
        lineage = [token.id, *(link.capability_id for link in links)]
        known = [await self._state.store.is_revoked(capability_id) for capability_id in lineage]
        if any(known):
            return REVOKED
        if self._state.revocations is None:
            return None
        try:
            return REVOKED if await self._state.revocations.first_revoked(lineage) else None
        except AuthorityUnavailable:
            return AUTHORITY_UNAVAILABLE

    def _finding(self, token: CapabilityToken) -> str | None:
        try:
            verify_capability(
                token,
                trusted_issuers=self._state.trusted_issuers,
                now=self._state.now(),
                accept_schema_form=self._state.config.accept_schema_form,
            )
        except CapabilityRejected as exc:
            return _REASONS.get(exc.rule, f"delegation chain: {exc.reason}")
        return None


def _mismatch(token: CapabilityToken, expected: Expectations) -> str | None:
    subject = expected.expected_subject
    if subject is not None and token.subject != _key(subject, "expected_subject"):
        return "capability subject does not match expected_subject"
    if expected.expected_scope is not None and not is_subset(expected.expected_scope, token.scope):
        return "expected_scope is not a subset of capability scope"
    return None


def _key(text: str, name: str) -> str:
    try:
        return normalize_public_key(text)
    except InvalidDocument as exc:
        raise bad_request(f"{name} is no public key: {exc.message}") from None
