"""attenuate: a narrower, shorter-lived capability for an outgoing call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from chio_core.capabilities import (
    DEFAULT_MAX_DEPTH,
    NOT_A_SUBSET,
    CapabilityRejected,
    is_subset,
    issue_capability,
    parse_capability,
    sign_link,
)
from chio_core.capabilities.restrictions import limits_of
from chio_core.models.capability import CapabilityToken, ChioScope, DelegationLink
from chio_core.models.receipt import explain
from chio_core.signing import SigningKey


def attenuate(
    token: str,
    key: SigningKey,
    *,
    scope: ChioScope | Mapping[str, Any],
    ttl_seconds: int = 60,
    subject: str | None = None,
    now: int | None = None,
) -> str:
    """Return the text of a new token that allows a part of the given token's scope.

    The new token is signed by `key`, so the sidecar must trust its public key as an issuer. A delegation link names the
    given token (wire protocol, section 5.4), after the links of the given token itself. The new token expires no later
    than the given one. The new link states the limits of uses and costs of the given token: a sidecar counts what all
    tokens of one descent use, the given token included, against the limits of each of them.

    Args:
        token: text of the capability to narrow; its signature is not verified here.
        key: the key of this service.
        scope: the scope of the new token.
        ttl_seconds: its lifetime, in seconds.
        subject: public key of the new token's holder; default: that of `key`.
        now: whole seconds since 1970; default: this machine's clock.

    Raises:
        CapabilityRejected: the token or the scope cannot be read, the token has expired, it does not allow all of the
            scope, or the chain of links becomes too long.
    """
    parent = parse_capability(token)
    try:
        wanted = scope if isinstance(scope, ChioScope) else ChioScope.model_validate(dict(scope))
    except ValidationError as exc:
        raise CapabilityRejected(f"the scope cannot be read: {explain(exc)}") from None
    except (TypeError, ValueError):  # no mapping: a text such as "shop/order", as `issue` takes it
        raise CapabilityRejected('the scope cannot be read: give a ChioScope, or {"grants": […]}') from None
    if not is_subset(wanted, parent.scope):
        raise CapabilityRejected(NOT_A_SUBSET)
    issued_at = int(time.time()) if now is None else now
    left = parent.expires_at - issued_at
    if left < 1:
        raise CapabilityRejected("capability has expired")
    holder = subject if subject is not None else key.public_hex
    lineage = _lineage(parent, key)
    used = [next(one for one in parent.scope.grants if is_subset(grant, one)) for grant in wanted.grants]
    link = sign_link(
        key,
        capability_id=parent.id,
        delegatee=holder,
        timestamp=max(issued_at, lineage[-1].timestamp) if lineage else issued_at,
        attenuations=limits_of(parent.scope.grants, used),
    )
    child = issue_capability(
        key,
        subject=holder,
        scope=wanted,
        ttl_seconds=min(ttl_seconds, left),
        now=issued_at,
        delegation_chain=(*lineage, link),
    )
    return child.to_header()


def _lineage(parent: CapabilityToken, key: SigningKey) -> Sequence[DelegationLink]:
    """Return the links before the one that `key` adds to a token.

    Raises:
        CapabilityRejected: there are as many as a token may have.
    """
    lineage = parent.delegation_chain
    if len(lineage) >= DEFAULT_MAX_DEPTH:
        raise CapabilityRejected(
            f"delegation depth {len(lineage) + 1} exceeds maximum {DEFAULT_MAX_DEPTH}", rule="delegation"
        )
    if not lineage or lineage[-1].delegatee == key.public_hex:
        return lineage
    # The given token was delegated to another key, which did not sign it on: this service vouches for its descent.
    return [
        sign_link(
            key,
            capability_id=link.capability_id,
            delegatee=key.public_hex,
            timestamp=link.timestamp,
            attenuations=link.attenuations,
        )
        for link in lineage
    ]
