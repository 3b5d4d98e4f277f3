"""The final receipt of a proxied request: its decision, and the status that the client got.

It copies the decision receipt, with id, time, status and metadata of its own (wire protocol, section 3.2). The real
proxy stores it in place of the decision receipt. Here a decision is durable before the request is forwarded, so both
are stored; as a store has one receipt for each request id, the final one's is `final:` and that of the decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chio_core.canonical import compact_json, sha256_hex
from chio_core.errors import InvalidDocument
from chio_sidecar.service.receipts import sign_receipt
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store import NewReceipt, Stored, StoreUnavailable

_KEPT = ("chio_kernel_receipt_id", "route_selection")


async def store_outcome(sidecar: SidecarState, decision: Mapping[str, Any] | None, status: int) -> str:
    """Store the final receipt of a request and return its id, once it is durable.

    Args:
        sidecar: its key and store.
        decision: the verified decision receipt, as it was received.
        status: of the response.

    Raises:
        StoreUnavailable: nothing was stored.
        InvalidDocument: there is no decision receipt to copy.
    """
    if decision is None:
        raise InvalidDocument("the decision's receipt is not known as it was received")
    request_id, metadata = f"final:{decision['request_id']}", decision.get("metadata") or {}
    receipt = sign_receipt(
        sidecar.key,
        {
            **decision,
            "id": str(sidecar.ids.new()),
            "request_id": request_id,
            "response_status": status,
            "timestamp": sidecar.now(),
            # An approval, a budget or what observe mode would have refused is recorded once, with the decision.
            "metadata": {
                "chio_http_status_scope": "final",
                "chio_decision_receipt_id": decision["id"],
                **{name: metadata[name] for name in _KEPT if name in metadata},
            },
        },
    )
    text = compact_json(receipt)
    outcome = await sidecar.store.append(NewReceipt(receipt["id"], request_id, sha256_hex(text.encode()), text))
    if not isinstance(outcome, Stored):
        raise StoreUnavailable("this request has a final receipt already")
    return str(receipt["id"])
