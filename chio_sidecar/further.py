"""Further questions, without any I/O: is the receipt that one names good for not demanding twice (`chio_core.evaluation.exchange`)?

The document's approval and budget were met by the first question about a request. Nothing but the receipt of that
very request counts for it: an allow that this sidecar has signed, by this document, within the last minute. A
receipt that does not fit is refused and not ignored: to demand again would put a question to a person, or spend, for
a request that was allowed already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.evaluation.exchange import is_further
from chio_core.models.capability import CapabilityToken
from chio_core.models.receipt import HttpReceipt
from chio_core.models.request import ChioHttpRequest
from chio_core.receipts import verify_receipt
from chio_sidecar.policy.routes import RouteRule
from chio_sidecar.store import StoredReceipt

FURTHER_GUARD: Final = "FurtherGuard"
"""Guard of refusals that are about the receipt which a further question names."""

WITHIN: Final = 60
"""Seconds after its receipt in which a request may have further questions."""

UNKNOWN: Final = "the question is further to receipt {id}, which this sidecar has not stored"
NO_ALLOW: Final = "the question is further to receipt {id}, which is no allow of a first question by this sidecar"
OTHER: Final = "the question is further to receipt {id}, which is for another request"
TOO_OLD: Final = "the question is further to receipt {id}, which was not signed within the last {within} s"



class NotFurther(Exception):
    """The receipt that a question names does not count.

    Attributes:
        reason: exact text of the verdict.
    """

    def __init__(self, reason: str, receipt_id: str) -> None:
        self.reason = reason.format(id=receipt_id[:_LONGEST_ID], within=WITHIN)
        super().__init__(self.reason)


First = HttpReceipt | NotFurther | None
"""What a question names as the receipt of the first: an allow of this sidecar, one that does not count, or none."""


def read_first(receipt_id: str, stored: StoredReceipt | None, key: str) -> First:
    """Return the receipt that a question names, or why it does not count for any.

    Args:
        receipt_id: as the question has it.
        stored: what the store has under this id.
        key: this sidecar's public key, hex.
    """
    if stored is None:
        return NotFurther(UNKNOWN, receipt_id)
    try:
        receipt = verify_receipt(_parsed(stored.receipt_json), trusted_keys=(key,))
    except (InvalidDocument, ReceiptRejected):
        return NotFurther(NO_ALLOW, receipt_id)
    decides = isinstance(receipt.metadata, dict) and receipt.metadata.get("chio_http_status_scope") == "decision"
    if not decides or not receipt.verdict.is_allow or is_further(receipt):
        return NotFurther(NO_ALLOW, receipt_id)
    return receipt


def check_first(
    first: HttpReceipt,
    request: ChioHttpRequest,
    rule: RouteRule,
    capability: CapabilityToken | None,
    policy_hash: str,
    now: int,
) -> None:
    """Make sure that a receipt is for this request, by this document, and recent.

    Raises:
        NotFurther: it is not.
    """
    wanted: Mapping[str, Any] = {
        "method": request.method,
        "content_hash": request.content_hash(rule.pattern),
        "caller_identity_hash": request.caller.identity_hash(),
        "session_id": request.session_id,
        "route_pattern": rule.pattern,
        "capability_id": None if capability is None else capability.id,
        "policy_hash": policy_hash,
    }
    if any(getattr(first, name) != value for name, value in wanted.items()):
        raise NotFurther(OTHER, first.id)
    if abs(now - first.timestamp) > WITHIN:
        raise NotFurther(TOO_OLD, first.id)


def has_been_met(rule: RouteRule) -> RouteRule:
    """Return a rule without the demands that the first question has met."""
    return replace(rule, approval=None, budget=None)


def _parsed(text: str) -> Mapping[str, Any]:
    document = parse_json(text)
    if not isinstance(document, dict):
        raise InvalidDocument("a JSON object is expected")
    return document
