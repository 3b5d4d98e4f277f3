"""Capability tokens for tests."""

from __future__ import annotations

from chio_core.capabilities import issue_capability
from chio_core.signing import SigningKey

ISSUER = SigningKey(bytes([0x31]) * 32)
SUBJECT = SigningKey(bytes([0x32]) * 32).public_hex


def token(*grants: tuple[str, str] | tuple[str, str, str]) -> dict[str, str]:
    """Return request headers with a token for these (server, tool[, operation])."""
    scope = {
        "grants": [
            {"server_id": grant[0], "tool_name": grant[1], "operations": [*grant[2:], "invoke"]} for grant in grants
        ]
    }
    issued = issue_capability(ISSUER, subject=SUBJECT, scope=scope, ttl_seconds=3600)
    return {"X-Chio-Capability": issued.to_header()}
