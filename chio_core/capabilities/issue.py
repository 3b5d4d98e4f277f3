"""Make and sign capability tokens and delegation links (wire protocol, sections 5.2 and 5.4)."""

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
        subject: public key, in hex, of the holder.
        scope: the grants.
        ttl_seconds: validity, at least 1.
        now: start of the validity in whole seconds since 1970; None is this machine's clock.
        capability_id: its id; None makes `cap-` and a UUID of version 7.
        delegation_chain: signed links that are put into the token unchanged.
        schema_form: sign the newer form and write `schema`; April verifiers refuse such a token.

    Raises:
        InvalidDocument: the subject is no key, the scope is malformed, or the times are out of range.
    """
    if ttl_seconds < 1:
        raise InvalidDocument("a capability token must be valid for at least 1 second; raise ttl_seconds")
    issued_at = int(time.time()) if now is None else now
    if not capability_id:
        # UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, version, variant and 74 random bits.
        stamp = time.time_ns() // 1_000_000 & (1 << 48) - 1
        low = secrets.randbits(62) | 0b10 << 62
        capability_id = f"cap-{uuid.UUID(int=stamp << 80 | 7 << 76 | secrets.randbits(12) << 64 | low)}"
    draft = _validated(
        CapabilityToken,
        {
            "id": capability_id,
            "issuer": key.public_hex,
            "subject": subject,
            "scope": scope.to_wire() if isinstance(scope, ChioScope) else dict(scope),
            "issued_at": issued_at,
            "expires_at": issued_at + ttl_seconds,
            "delegation_chain": [link.to_wire() for link in delegation_chain],
            "signature": _UNSIGNED,
        }
        | ({"schema": CAPABILITY_SCHEMA} if schema_form else {}),
    )
    return draft.model_copy(update={"signature": key.sign(signing_text(draft, schema_form=schema_form))})


def sign_link(
    key: SigningKey,
    *,
    capability_id: str,
    delegatee: str,
    timestamp: int,
    attenuations: Iterable[Attenuation] = (),
) -> DelegationLink:
    """Make and sign a link by which the holder of `key` delegates a capability.

    Args:
        key: the delegator's key.
        capability_id: id of the delegated capability.
        delegatee: public key, in hex, of the receiver.
        timestamp: whole seconds since 1970.
        attenuations: how the capability is narrowed.

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
