"""Names of issuers in the list of revoked capabilities: revoking one withdraws the issuer's key."""

from __future__ import annotations

import re

from chio_core.errors import InvalidDocument
from chio_core.names import ISSUER_PREFIX

WITHDRAW = "to withdraw a key: chio-sidecar trust revoke --issuer KEY"
"""What to do about a name of an issuer in the place of an id."""


def issuer_name(public_key: str) -> str:
    """Return the name of an issuer in the list of revoked capabilities: revoking it withdraws the key.

    Args:
        public_key: 64 hex digits.
    """
    return f"{ISSUER_PREFIX}{public_key}"


def is_issuer_name(name: str) -> bool:
    """Return True if a name in the list of revoked capabilities is that of an issuer."""
    return name.startswith(ISSUER_PREFIX)


def withdrawn(public_key: str) -> str:
    """Return the reason for which nothing is signed with a key whose issuer was withdrawn."""
    return f"the key {public_key} was withdrawn, so no capability that it signs is accepted"


def check_revocable(name: str) -> None:
    """Return if a name can be added to the list of revoked capabilities.

    Raises:
        InvalidDocument: it is a whole token, which would stay valid; or it begins as the name of an issuer, and no
            public key follows, so it would withdraw no key.
    """
    if name.lstrip().startswith("{") and '"id"' in name:
        raise InvalidDocument("a whole token is no id, and would stay valid; send its member id")
    if is_issuer_name(name) and re.fullmatch("[0-9a-f]{64}", name.removeprefix(ISSUER_PREFIX)) is None:
        raise InvalidDocument(f"after {ISSUER_PREFIX} must be a public key: 64 lower-case hex digits; {WITHDRAW}")
