"""Capability tokens and delegation links: make and sign (wire protocol, sections 5.2 and 5.4)."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from chio_core.capabilities.tokens import link_signing_text, signing_text
from chio_core.errors import InvalidDocument
from chio_core.models.base import WireModel
from chio_core.models.capability import (
    CAPABILITY_SCHEMA,
    Attenuation,
    CapabilityToken,
    ChioScope,
    DelegationLink,
)
from chio_core.models.receipt import explain
from chio_core.signing import SigningKey

_Model = TypeVar("_Model", bound=WireModel)

_UNSIGNED = "0" * 128


def issue_capability(
    key: SigningKey,
    *,
    subject: str,
    scope: ChioScope | Mapping[str, Any],
    ttl_seconds: int,
    now: int | None = None,
    capability_id: str | None = None,
    delegation_chain: Iterable[DelegationLink] = (),
    schema_form: bool = False,
) -> CapabilityToken:
    """Make and sign a token.

    Args:
        key: the issuer's key.
        subject: public key, as hex, of whom the token is for.
        scope: what it allows.
        ttl_seconds: how long it is valid, at least 1.
        now: start of its validity in whole seconds since 1970; None is this machine's clock.
        capability_id: its id; None makes `cap-` and a UUID of version 7.
        delegation_chain: signed links that are put into the token as they are.
        schema_form: sign the newer form and write `schema`; April verifiers refuse such a token.

    Raises:
        InvalidDocument: the subject is no key, the scope is malformed, or the times are out of range.
    """
    draft = _validated(
        CapabilityToken,
        {
            "id": capability_id or f"cap-{_uuid7()}",
            "issuer": key.public_hex,
            "subject": subject,
            "scope": scope.to_wire() if isinstance(scope, ChioScope) else dict(scope),
            **_validity(now, ttl_seconds),
            "delegation_chain": [link.to_wire() for link in delegation_chain],
            "signature": _UNSIGNED,
        }
        | ({"schema": CAPABILITY_SCHEMA} if schema_form else {}),
    )
    return draft.model_copy(update={"signature": key.sign(signing_text(draft, schema_form=schema_form))})


def _validity(now: int | None, ttl_seconds: int) -> dict[str, int]:
    if ttl_seconds < 1:
        raise InvalidDocument("a capability token must be valid for at least 1 second; raise ttl_seconds")
    issued_at = int(time.time()) if now is None else now
    return {"issued_at": issued_at, "expires_at": issued_at + ttl_seconds}


def sign_link(
    key: SigningKey,
    *,
    capability_id: str,
    delegatee: str,
    timestamp: int,
    attenuations: Iterable[Attenuation] = (),
) -> DelegationLink:
    """Make a link by which the holder of `key` hands a capability on.

    Args:
        key: the delegator's key.
        capability_id: id of the capability that is handed on.
        delegatee: public key, as hex, of who receives it.
        timestamp: whole seconds since 1970.
        attenuations: how it is narrowed.

    Raises:
        InvalidDocument: the delegatee is no key, or the timestamp is out of range.
    """
    draft = _validated(
        DelegationLink,
        {
            "capability_id": capability_id,
            "delegator": key.public_hex,
            "delegatee": delegatee,
            "attenuations": [item.to_wire() for item in attenuations],
            "timestamp": timestamp,
            "signature": _UNSIGNED,
        },
    )
    return draft.model_copy(update={"signature": key.sign(link_signing_text(draft))})


def _validated(model: type[_Model], members: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(members)
    except ValidationError as exc:
        raise InvalidDocument(f"cannot sign this {model.__name__}: {explain(exc)}") from None


def _uuid7() -> uuid.UUID:
    # RFC 9562, section 5.7: 48 bits of milliseconds, then version, variant and 74 random bits.
    stamp = time.time_ns() // 1_000_000 & (1 << 48) - 1
    low = secrets.randbits(62) | 0b10 << 62
    return uuid.UUID(int=stamp << 80 | 7 << 76 | secrets.randbits(12) << 64 | low)
