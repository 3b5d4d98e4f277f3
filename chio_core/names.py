"""Names that are stored in somebody else's object: headers, request state, settings. Each stands here once."""

from __future__ import annotations

from typing import Final

RECEIPT_HEADER: Final = "X-Chio-Receipt"
"""Default response header with the receipt's id (setting `receipt_header`)."""

EXPOSE_HEADERS: Final = "Access-Control-Expose-Headers"
"""Response header without which a script of another origin cannot read the receipt's id."""

CAPABILITY_HEADER: Final = "X-Chio-Capability"
"""Request header with the capability token, and the one that carries it to the sidecar."""

APPROVAL_HEADER: Final = "X-Chio-Approval"
"""Request header with the id of an approval, or with a GovernedApprovalToken as compact JSON."""

CAPABILITY_QUERY: Final = "chio_capability"
"""Query parameter that may carry the token where it is switched on; never sent on, never hashed."""

TRACEPARENT: Final = "traceparent"
"""W3C trace context header, passed on to the sidecar."""

STATE_RECEIPT: Final = "chio_receipt"
STATE_DECISION: Final = "chio_decision"
STATE_EVALUATION: Final = "chio_evaluation"
STATE_PASSTHROUGH: Final = "chio_passthrough"
STATE_CLIENT: Final = "chio_client"
STATE_CALLER: Final = "chio_caller"
STATE_NAMESPACE: Final = "chio_state"
STATE_CLAIMS: Final = "chio_claims"
STATE_BODY: Final = "chio_body"
STATE_EXTRACTOR: Final = "chio_extractor"
STATE_CLIENT_IP: Final = "client_ip"
STATE_OUTGOING: Final = "chio_outgoing"
STATE_REQUEST_ID: Final = "request_id"

SCOPE_ASKED: Final = "chio.asked"
"""Member of an ASGI scope with the decisions that dependencies of this request have asked for by themselves."""

SCOPE_JUDGED: Final = "chio.judged"
"""Member of an ASGI scope that says which middleware has had this request judged."""

LOGGER: Final = "chio"
"""Name of the logger that everything here writes to."""

DECISION_LOGGER: Final = "chio.decision"
"""Its child that gets one line for each decision, see `chio_core.telemetry.log`."""
