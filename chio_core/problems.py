"""Refusals as documents. Two envelopes exist because both are published contracts (wire protocol, section 11).

ASGI, FastAPI and Flask answer flat: `error` is the wire code. Django nests: `error.code` is the published code.
"""

from __future__ import annotations

import json
from typing import Any

from chio_core.response import Denial

_NESTED_CODES = {
    "chio_access_denied": "CHIO_GUARD_DENIED",
    "chio_approval_required": "CHIO_APPROVAL_REQUIRED",
    "chio_bad_request": "CHIO_BAD_REQUEST",
    "chio_body_too_large": "CHIO_BODY_TOO_LARGE",
    "chio_capability_required": "CHIO_CAPABILITY_REQUIRED",
    "chio_evaluation_failed": "CHIO_INTERNAL_ERROR",
    "chio_invalid_receipt": "CHIO_INVALID_RECEIPT",
    "chio_sidecar_unreachable": "CHIO_SIDECAR_UNAVAILABLE",
    "chio_timeout": "CHIO_SIDECAR_UNAVAILABLE",
}


def flat(denial: Denial) -> dict[str, Any]:
    """Return the flat envelope: `error`, `message`, `status`, and what is known of the rest."""
    document = {
        "error": denial.code,
        "message": denial.message,
        "status": denial.status,
        "receipt_id": denial.receipt_id,
        "suggestion": denial.suggestion,
        "guard": denial.guard,
        "details": denial.details or None,
    }
    return {name: value for name, value in document.items() if value is not None}


def nested(denial: Denial) -> dict[str, Any]:
    """Return the nested envelope: `{"error": {"code", "message", "guard"?, "details"?, …}}`."""
    code = _NESTED_CODES.get(denial.code, denial.code.upper())
    error = {name: value for name, value in flat(denial).items() if name not in ("error", "status")}
    return {"error": {"code": code, **error}}


def render(denial: Denial, *, nest: bool = False) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """Return body and headers of a refusal, ready to be sent.

    Args:
        nest: the envelope of Django instead of the flat one.
    """
    body = json.dumps(nested(denial) if nest else flat(denial), ensure_ascii=True).encode()
    headers = (
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
        *denial.headers,
    )
    return body, headers
