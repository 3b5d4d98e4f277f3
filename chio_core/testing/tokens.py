"""Capability tokens for tests: really issued, by an authority that everybody knows the key of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chio_core.capabilities import issue_capability, parse_capability
from chio_core.models.capability import Constraint, Operation
from chio_core.signing import SigningKey

NOBODY = "0" * 64
"""The subject: nobody in particular, whoever holds the token."""

STRANGER = SigningKey(bytes([0x77]) * 32)
"""An authority that no sidecar trusts."""

_EXPIRED_TTL = 3600


def grant(
    server: str,
    tool: str,
    operations: Sequence[Operation],
    constraints: Sequence[Constraint | Mapping[str, Any]],
    max_invocations: int | None,
) -> dict[str, Any]:
    """Return a grant as a JSON object."""
    found: dict[str, Any] = {"server_id": server, "tool_name": tool, "operations": list(operations)}
    if constraints:
        found["constraints"] = [one.to_wire() if isinstance(one, Constraint) else dict(one) for one in constraints]
    if max_invocations is not None:
        found["max_invocations"] = max_invocations
    return found


def issue(key: SigningKey, grant: Mapping[str, Any], ttl: int, now: int) -> str:
    """Issue a token and return it as one line of ASCII JSON.

    Args:
        ttl: seconds from now to its end; 0 or less for one that has expired.
        now: seconds since 1970.

    Raises:
        InvalidDocument: the grant is malformed.
    """
    lifetime = ttl if ttl > 0 else _EXPIRED_TTL
    token = issue_capability(
        key, subject=NOBODY, scope={"grants": [dict(grant)]}, ttl_seconds=lifetime, now=now + ttl - lifetime
    )
    return json.dumps(token.to_wire(), separators=(",", ":"))


def id_of(token: str) -> str:
    """Return the id of a token.

    Raises:
        InvalidDocument: this is no token.
    """
    return parse_capability(token).id
