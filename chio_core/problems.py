"""Refusals as documents. Two envelopes exist because both are published contracts (wire protocol, section 11).

ASGI, FastAPI and Flask answer flat: `error` is the wire code. Django nests: `error.code` is the published code.

Both carry `type`, which names the kind of problem for good (RFC 9457, section 3.1.1), and where a receipt was
stored, `explain`: the command that tells an operator why this was refused, and what would pass. The media type
stays `application/json`, as published; what RFC 9457 adds are further members.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from chio_core.response import Denial

EXPLAIN: Final = "chio-sidecar explain"
"""The command of the member `explain`; the receipt's id follows."""

_PROBLEM: Final = "urn:chio:problem:"

# What a shell takes as one plain word. The id comes out of a receipt, and people paste the line.
_PLAIN_WORD = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.:-]{0,127}", re.ASCII)

_NOT_OF_A_NAME = re.compile(r"[^0-9a-z]+")

_NESTED_CODES = {
    "chio_access_denied": "CHIO_GUARD_DENIED",
    "chio_approval_required": "CHIO_APPROVAL_REQUIRED",
    "chio_bad_request": "CHIO_BAD_REQUEST",
    "chio_body_too_large": "CHIO_BODY_TOO_LARGE",
    "chio_capability_required": "CHIO_CAPABILITY_REQUIRED",
    "chio_evaluation_failed": "CHIO_INTERNAL_ERROR",
    "chio_invalid_receipt": "CHIO_INVALID_RECEIPT",
    "chio_policy_not_enforced": "CHIO_POLICY_NOT_ENFORCED",
    "chio_sidecar_unreachable": "CHIO_SIDECAR_UNAVAILABLE",
    "chio_timeout": "CHIO_SIDECAR_UNAVAILABLE",
}


def problem_type(code: str) -> str:
    """Return the URI that names a kind of problem, for example `urn:chio:problem:capability-required`.

    Args:
        code: wire code, or the code of a guard of the application.
    """
    return _PROBLEM + _NOT_OF_A_NAME.sub("-", code.lower().removeprefix("chio_")).strip("-")


def explain_command(receipt_id: str | None) -> str | None:
    """Return the command line that explains a refusal; None without a receipt, or for an id that is no plain word."""
    if receipt_id is None or not _PLAIN_WORD.fullmatch(receipt_id):
        return None
    return f"{EXPLAIN} {receipt_id}"


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
        "type": problem_type(denial.code),
        "explain": explain_command(denial.receipt_id),
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
