"""Bearer tokens of callers (RFC 6750, section 2.1): compared in constant time, in one place."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Final

from pydantic import SecretStr

NO_BEARER: Final = (
    401,
    "chio_evaluate_unauthorized",
    "this sidecar evaluates for bearers of its token only: set CHIO_EVALUATE_TOKEN in the application to the value of"
    " CHIO_SIDECAR_EVALUATE_TOKEN",
)
"""Status, code and message for a caller of `/chio/evaluate` or `/chio/verify` without the token."""


def presents_bearer(headers: Iterable[tuple[bytes, bytes]], token: SecretStr) -> bool:
    """Return True if the only `Authorization` header is this bearer token.

    Args:
        headers: of an ASGI scope, names in lower case.
        token: the expected token.
    """
    values = [value for name, value in headers if name == b"authorization"]
    scheme, _, presented = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    matches = hmac.compare_digest(presented.strip(), token.get_secret_value().encode())
    return matches and scheme.lower() == b"bearer"
