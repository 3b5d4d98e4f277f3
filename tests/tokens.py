"""Capability tokens for all tests that do not test tokens themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chio_core.capabilities import issue_capability
from chio_core.signing import SigningKey

ISSUER = SigningKey(bytes([0x31]) * 32)

Grant = tuple[str, ...] | Mapping[str, Any]
"""Server, tool and operations besides `invoke`; or a grant as a JSON object, which may leave out its operations."""


def token(*grants: Grant, key: SigningKey = ISSUER, **options: Any) -> str:
    """Return the text of a token with these grants; options are those of `issue_capability`."""
    scope = {
        "grants": [
            {"operations": ["invoke"], **grant}
            if isinstance(grant, Mapping)
            else {"server_id": grant[0], "tool_name": grant[1], "operations": [*grant[2:], "invoke"]}
            for grant in grants
        ]
    }
    options = {"subject": key.public_hex, "ttl_seconds": 24 * 3600, **options}
    return issue_capability(key, scope=scope, **options).to_header()


def with_token(*grants: Grant, **options: Any) -> dict[str, str]:
    """Return the request headers of a caller who presents such a token."""
    return {"X-Chio-Capability": token(*grants, **options)}
