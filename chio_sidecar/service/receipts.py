"""Building and signing receipts of the April form (wire protocol, sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chio_core.canonical import canonical_json, compact_json, sha256_hex
from chio_core.receipts import signed_bytes
from chio_core.signing import Signed, SigningKey

_MEMBERS = (
    "id",
    "request_id",
    "route_pattern",
    "method",
    "caller_identity_hash",
    "session_id",
    "verdict",
    "evidence",
    "response_status",
    "timestamp",
    "content_hash",
    "policy_hash",
    "capability_id",
    "metadata",
)
_OPTIONAL = frozenset({"session_id", "evidence", "capability_id", "metadata"})

_NATIVE = "native-route"
_PROTOCOLS = ["http", "native"]
_SELECTION = {
    "decision": "select",
    "governedIntentId": None,
    "requestId": "",
    "requestedTargetProtocol": "native",
    "selectedProtocols": _PROTOCOLS,
    "selectedRouteId": _NATIVE,
    "selectedTargetProtocol": "native",
    "sourceProtocol": "http",
}
# Of the hashed object only the request id varies, so its canonical text is made around it once.
_BEFORE_ID, _AFTER_ID = (part.encode() for part in canonical_json(_SELECTION).decode().split('"requestId":""'))


def sign_receipt(key: SigningKey, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the receipt for a body, see `make_receipt`, whose values are any JSON."""
    receipt = _unsigned(key, body)
    receipt["signature"] = key.sign(signed_bytes(receipt))
    return receipt


def make_receipt(key: SigningKey, body: Mapping[str, Any]) -> tuple[dict[str, Any], str, Signed]:
    """Return the receipt for `body`, its text as it is stored, and what was signed for it.

    Members are in written order, empty optionals are left out, key and signature are added. No other receipt shares a
    part of it: that of an embedded sidecar becomes the application's.

    Args:
        key: the sidecar's key.
        body: values of the members up to `metadata`; `session_id`, `evidence`, `capability_id` and `metadata`
            may be absent, None or empty. They are `plain`, see `chio_core.canonical.canonical_json`.

    Raises:
        InvalidDocument: a value has no canonical form, for example a lone surrogate.
    """
    receipt = _unsigned(key, body)
    # `signed_bytes` without its search for members that are not signed: there are none.
    message = canonical_json(receipt, plain=True)
    signed = Signed(key.public_hex, message, key.sign(message))
    # The signature is the last member in written order.
    text = f'{compact_json(receipt, plain=True)[:-1]},"signature":"{signed.signature}"}}'
    receipt["signature"] = signed.signature
    return receipt, text, signed


def _unsigned(key: SigningKey, body: Mapping[str, Any]) -> dict[str, Any]:
    receipt = {name: body[name] for name in _MEMBERS if name not in _OPTIONAL or body.get(name) not in (None, [], ())}
    receipt["kernel_key"] = key.public_hex
    return receipt


def route_selection(request_id: str) -> dict[str, Any]:
    """Return the metadata member that records how the request was routed (wire protocol, section 3.2)."""
    hashed = b"".join((_BEFORE_ID, b'"requestId":', canonical_json(request_id), _AFTER_ID))
    return {
        "routeSelectionId": sha256_hex(hashed),
        "decision": "select",
        "sourceProtocol": "http",
        "requestedTargetProtocol": "native",
        "selectedRouteId": _NATIVE,
        "selectedTargetProtocol": "native",
        "selectedProtocols": [*_PROTOCOLS],
        "candidates": [
            {
                "routeId": _NATIVE,
                "targetProtocol": "native",
                "selectedProtocols": [*_PROTOCOLS],
                "available": True,
            }
        ],
    }
