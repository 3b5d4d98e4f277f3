"""Names under which Chio stores values in objects that other projects own, each defined once.

Headers, request state, ASGI scopes, WSGI environments, applications, views, loggers, lists of revocations.
"""

from __future__ import annotations

from typing import Final

RECEIPT_HEADER: Final = "X-Chio-Receipt"
"""Response header with the receipt's id (default of the setting `receipt_header`)."""

EXPOSE_HEADERS: Final = "Access-Control-Expose-Headers"
"""Response header without which a script of another origin cannot read the receipt's id."""

CAPABILITY_HEADER: Final = "X-Chio-Capability"
"""Request header with the capability token, from the caller and to the sidecar."""

APPROVAL_HEADER: Final = "X-Chio-Approval"
"""Request header with the id of an approval, or with a GovernedApprovalToken as compact JSON."""

CAPABILITY_QUERY: Final = "chio_capability"
"""Query parameter that may carry the token (setting `capability_in_query`); never forwarded, never hashed."""

ISSUER_PREFIX: Final = "issuer:"
"""In a list of revocations a public key with this before it withdraws all capabilities of its issuer."""

TRACEPARENT: Final = "traceparent"
"""W3C trace context header, forwarded to the sidecar."""

# Attributes of the request's state: `request.state` (ASGI), `request` and `request.chio_state` (Django), `flask.g`
# and `g.chio_state` (Flask). STATE_CLIENT and STATE_PIPELINE are attributes of `app.state`.
STATE_RECEIPT: Final = "chio_receipt"
STATE_DECISION: Final = "chio_decision"
STATE_EVALUATION: Final = "chio_evaluation"
STATE_PASSTHROUGH: Final = "chio_passthrough"
STATE_CLIENT: Final = "chio_client"
STATE_PIPELINE: Final = "chio_pipeline"
STATE_CALLER: Final = "chio_caller"
STATE_NAMESPACE: Final = "chio_state"
STATE_CLAIMS: Final = "chio_claims"
STATE_CLIENT_IP: Final = "client_ip"
STATE_RESPONSE_HOOKS: Final = "chio_response_hooks"
STATE_REQUEST_ID: Final = "request_id"

SCOPE_REQUEST: Final = "chio.request"
"""Key in an ASGI scope: what is known about the request, see `chio_asgi.decide.ASGIRequest`."""

RECEIVE_BODY: Final = "chio_body"
"""Attribute of the ASGI `receive` that gives the application the evaluated body: that `chio_asgi.body.Body`."""

ENVIRON_INPUT: Final = "chio.input"
"""Key in a WSGI environment: the body, once it can be read again."""

ENVIRON_CONTEXT: Final = "chio.context"
"""Key in a WSGI environment: the `RequestContext` of the request."""

# Keys in the environment of `chio_wsgi`, where the application reads the outcome.
ENVIRON_RECEIPT: Final = "chio.receipt"
ENVIRON_DECISION: Final = "chio.decision"
ENVIRON_PASSTHROUGH: Final = "chio.passthrough"

REQUEST_CONTEXT: Final = "_chio_context"
"""Attribute of Django's `HttpRequest`: its `RequestContext`."""

FLASK_EXTENSION: Final = "chio"
"""Key in `flask.Flask.extensions`: the extension's state for one application."""

VIEW_RULES: Final = "chio_rules"
"""Attribute of a view function: the tuple of its rules, outermost first."""

# Keys in the `extensions` of an httpx request; HTTPX_DECISION, HTTPX_CACHE and HTTPX_SECONDS of a response.
HTTPX_HOP: Final = "chio_hop"
HTTPX_TICKET: Final = "chio_ticket"
HTTPX_CALL: Final = "chio_call"
HTTPX_DECISION: Final = "chio_decision"

HTTPX_CACHE: Final = "chio_cache"
"""`hit` for a response out of the cache."""

HTTPX_SECONDS: Final = "chio_seconds"
"""What the middleware `Timing` measured, in seconds."""

LOGGER: Final = "chio"
"""Name of the logger that everything here writes to."""

DECISION_LOGGER: Final = "chio.decision"
"""Child logger that gets one line for each decision, see `chio_core.telemetry.log`."""

REFUSAL_LOGGER: Final = "chio.refusal"
"""Child logger that warns of refusals, see `chio_core.telemetry.notices`."""
