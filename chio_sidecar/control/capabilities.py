"""Minting, issuing, releasing and validating capabilities (wire protocol, sections 7.3, 7.4 and 7.6)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from chio_core.capabilities import (
    CapabilityRejected,
    backdated,
    is_subset,
    issue_capability,
    parse_capability,
    verify_capability,
    verify_token_chain,
)
from chio_core.errors import InvalidDocument
from chio_core.models.base import U64, Text
from chio_core.models.capability import CapabilityToken, ChioScope
from chio_core.models.demands import REVOKED
from chio_core.signing import SigningKey, normalize_public_key
from chio_sidecar.control.access import ControlError, bad_request, control_endpoint, read_model
from chio_sidecar.policy.rules import Rule
from chio_sidecar.service.revocation import AuthorityUnavailable, revocable
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store.issuers import WITHDRAW, is_issuer_name, issuer_name, withdrawn

DEFAULT_TTL = 3600
"""Lifetime in seconds if a request gives none, or 0."""

_NANOS = 1_000_000_000

# Names of the lists in the document that an id is the hash of, and in a scope.
_KINDS = (
    ("tool_grants", "grants"),
    ("resource_grants", "resource_grants"),
    ("prompt_grants", "prompt_grants"),
)
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

_MINT, _RELEASE = "chio_capability_mint_failed", "chio_capability_release_failed"
_VALIDATION = "chio_capability_validation_failed"

# The protocol's reasons for the rules of `verify_capability`.
_REASONS = {
    "R3": "capability issuer is not trusted",
    "R4": "capability signature did not verify",
    "R5a": "capability is not yet valid",
    "R5b": "capability has expired",
}


def parse_scopes(texts: Iterable[str]) -> dict[str, Any]:
    """Translate scope texts to the JSON object of a scope, without empty lists.

    Raises:
        InvalidDocument: a text does not follow the grammar; the message is the protocol's.
    """
    scope: dict[str, Any] = {}

    def tool(server: str, name: str, operation: str) -> None:
        grant = {"server_id": server, "tool_name": name, "operations": [operation]}
        scope.setdefault("grants", []).append(grant)

    for text in texts:
        match [part for piece in text.split(":") if (part := piece.strip())]:
            case ["tools", name, *more]:
                tool("*", ":".join([name, *more]), "invoke")
            case [name, operation]:
                # Only this form knows `write`: it means that the tool may be called.
                tool("*", name, "invoke" if operation.lower() == "write" else _operation(operation))
            case ["tool", server, name, operation]:
                tool(server, name, _operation(operation))
            case ["resource", uri, operation]:
                resource = {"uri_pattern": uri, "operations": [_operation(operation)]}
                scope.setdefault("resource_grants", []).append(resource)
            case ["prompt", name, operation]:
                prompt = {"prompt_name": name, "operations": [_operation(operation)]}
                scope.setdefault("prompt_grants", []).append(prompt)
            case _:
                raise InvalidDocument(f"unsupported controller scope syntax: {text}")
    return scope


def _operation(text: str) -> str:
    if (found := _OPERATIONS.get(text.lower())) is None:
        raise InvalidDocument(f"unsupported controller scope operation: {text}")
    return found


class Lifetime(BaseModel):
    """The three members that give a lifetime; the first that is present counts."""

    model_config = ConfigDict(frozen=True)

    ttl_seconds: U64 | None = None
    ttl_nanos: U64 | None = None
    ttl: U64 | None = None

    def seconds(self) -> int:
        """Return the lifetime in whole seconds, nanoseconds rounded up."""
        if self.ttl_seconds is not None:
            return self.ttl_seconds or DEFAULT_TTL
        if self.ttl_nanos is not None:
            return -(-self.ttl_nanos // _NANOS) or DEFAULT_TTL
        # `ttl` is in seconds, unless that would be a billion of them.
        ttl = self.ttl or DEFAULT_TTL
        return ttl if ttl < _NANOS else -(-ttl // _NANOS)


class MintRequest(Lifetime):
    """Body of `POST /v1/capabilities/mint`."""

    subject: Text
    scopes: list[Text] = Field(default_factory=list)
    job_uid: Text = ""

    def subject_key(self) -> str:
        """Return the public key, hex, that represents the subject's label."""
        seed = hashlib.sha256(self.subject.encode() + b"\0" + self.job_uid.encode()).digest()
        return SigningKey(seed).public_hex

    def capability_id(self, scope: dict[str, Any]) -> str:
        """Return the id of the token over `scope`; it is the same for the same request."""
        document: dict[str, Any] = {"subject": self.subject, "job_uid": self.job_uid, "ttl_seconds": self.seconds()}
        for name, kind in _KINDS:
            document[name] = sorted(map(_compact, scope.get(kind, [])), key=str.encode)
        return "sidecar-" + hashlib.sha256(_compact(document).encode()).hexdigest()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class IssueRequest(Lifetime):
    """Body of `POST /v1/capabilities`; the subject is a public key."""

    subject: Text
    scope: ChioScope
    job_uid: Text = ""


class ReleaseRequest(BaseModel):
    """Body of `POST /v1/capabilities/release`; only the id matters."""

    capability_id: Text
    job_uid: Text | None = None
    reason: Text | None = None


class Expectations(BaseModel):
    """What `POST /v1/capabilities/validate` may check besides the token."""

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
        control_endpoint(state, f"/v1/capabilities{path}", handler, what=what, failure=failure)
        for path, handler, what, failure in (
            ("/mint", calls.mint, "capability mint", _MINT),
            ("/release", calls.release, "capability release", _RELEASE),
            ("", calls.issue, "capability", _MINT),
            ("/validate", calls.validate, "capability validation", _VALIDATION),
            ("/attenuate", calls.attenuate, "capability attenuation", _MINT),
        )
    ]


class _Calls:
    def __init__(self, state: SidecarState) -> None:
        self._state = state

    async def mint(self, document: dict[str, Any], _: bytes) -> Response:
        return JSONResponse({"capability": (await self._minted(document)).to_wire()})

    async def issue(self, document: dict[str, Any], _: bytes) -> Response:
        if "scope" not in document:
            return JSONResponse((await self._minted(document)).to_wire())
        wanted = read_model(IssueRequest, document, what="capability")
        token = await self._signed(_key(wanted.subject, "subject"), wanted.scope.to_wire(), wanted.seconds(), None)
        return JSONResponse(token.to_wire())

    async def release(self, document: dict[str, Any], _: bytes) -> Response:
        capability_id = read_model(ReleaseRequest, document, what="capability release").capability_id.strip()
        if not capability_id:
            raise bad_request("capability_id must not be empty")
        if is_issuer_name(capability_id):
            raise bad_request(f"capability_id names an issuer, whose key would be withdrawn; {WITHDRAW}")
        if self._state.config.ephemeral:
            raise ControlError(500, _RELEASE, "persistent receipt_db must be configured for capability release")
        try:
            await self._state.store.revoke(capability_id)
        except InvalidDocument as exc:
            raise bad_request(exc.message) from None
        return JSONResponse({"released": True})

    async def validate(self, document: dict[str, Any], _: bytes) -> Response:
        expected = read_model(Expectations, document, what="capability validation")
        fields = {name: value for name, value in document.items() if name not in Expectations.model_fields}
        try:
            token = parse_capability(fields)
        except CapabilityRejected as exc:
            raise bad_request(f"invalid capability validation payload: {exc.reason}") from None

        await self._state.refresh_issuers(token.issuer)
        # One reason is reported. Each check below overrides the reasons of those above it: a revocation comes first.
        reason = None
        if expected.expected_scope is not None and not is_subset(expected.expected_scope, token.scope):
            reason = "expected_scope is not a subset of capability scope"
        subject = expected.expected_subject
        if subject is not None and token.subject != _key(subject, "expected_subject"):
            reason = "capability subject does not match expected_subject"
        try:
            verify_capability(
                token,
                trusted_issuers=self._state.trusted_issuers,
                now=self._state.now(),
                accept_schema_form=self._state.config.accept_schema_form,
            )
            verify_token_chain(token, accept_newer=self._state.config.accept_schema_form)
        except CapabilityRejected as exc:
            reason = _REASONS.get(exc.rule, f"delegation chain: {exc.reason}")
        names = revocable(token)
        revoked = [name for name in names if await self._state.store.is_revoked(name)]
        if not revoked and self._state.revocations is not None:
            try:
                revoked = [name for name in [await self._state.revocations.first_revoked(names)] if name is not None]
            except AuthorityUnavailable:
                reason = Rule.AUTHORITY_UNAVAILABLE.text
        if revoked:
            reason = _REASONS["R3"] if all(map(is_issuer_name, revoked)) else REVOKED

        report: dict[str, Any] = {"valid": reason is None} | ({} if reason is None else {"reason": reason})
        return JSONResponse(report | {"expires_at": token.expires_at, "capability_id": token.id})

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

    async def _minted(self, document: dict[str, Any]) -> CapabilityToken:
        wanted = read_model(MintRequest, document, what="capability mint")
        if not wanted.subject.strip():
            raise bad_request("subject must not be empty")
        try:
            scope = parse_scopes(wanted.scopes)
        except InvalidDocument as exc:
            raise bad_request(exc.message) from None
        return await self._signed(wanted.subject_key(), scope, wanted.seconds(), wanted.capability_id(scope))

    async def _signed(
        self, subject: str, scope: dict[str, Any], seconds: int, capability_id: str | None
    ) -> CapabilityToken:
        longest = self._state.config.max_ttl
        if seconds > longest:
            raise bad_request(f"cannot sign this CapabilityToken: it would be valid for more than {longest} seconds")
        public = self._state.key.public_hex
        if await self._is_withdrawn(issuer_name(public)):
            raise ControlError(409, _MINT, f"{withdrawn(public)}; give the sidecar another key and restart it")
        try:
            return issue_capability(
                self._state.key,
                subject=subject,
                scope=scope,
                ttl_seconds=seconds,
                now=backdated(self._state.now(), seconds),
                capability_id=capability_id,
            )
        except InvalidDocument as exc:
            raise bad_request(exc.message) from None

    async def _is_withdrawn(self, issuer: str) -> bool:
        """Return True if this sidecar, or the trust service that it asks, has withdrawn the key of an issuer."""
        if await self._state.store.is_revoked(issuer):
            return True
        if self._state.revocations is None:
            return False
        try:
            return await self._state.revocations.first_revoked((issuer,)) is not None
        except AuthorityUnavailable:
            return False  # no capability is accepted before the service is back


def _key(text: str, name: str) -> str:
    try:
        return normalize_public_key(text)
    except InvalidDocument as exc:
        raise bad_request(f"{name} is not a public key: {exc.message}") from None
