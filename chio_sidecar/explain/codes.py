"""What each wire code of a refusal means, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from chio_core.evaluation.exchange import UNKNOWN_PATH_LIMIT

UNDECIDED: Final = {
    "chio_sidecar_unreachable": (
        "the sidecar cannot be reached.",
        "start the sidecar, or correct CHIO_SIDECAR_URL",
    ),
    "chio_timeout": (
        "the sidecar did not answer within CHIO_TIMEOUT.",
        "check what keeps the sidecar busy: its disk, its store, or a trust service that does not answer",
    ),
    "chio_evaluation_failed": (
        "the sidecar's response was no decision (another status than 200, or a broken document).",
        "read the application's log: it states the status, code and reason of the sidecar; `explain CODE` explains"
        " the code",
    ),
    "chio_receipt_persistence_failed": (
        "the sidecar could not store the receipt, and returns no decision without one.",
        "check whether the store's disk is full, or another process holds the file",
    ),
    "chio_receipt_sign_failed": ("the sidecar could not sign the receipt.", "read the sidecar's log"),
    "chio_request_id_conflict": (
        "the request id has a receipt already, for other content.",
        "use a new request_id for each request",
    ),
    "chio_overloaded": (
        "too many requests, or request bodies, were waiting; the application's log states which.",
        "repeat the request later; raise CHIO_MAX_CONNECTIONS, move calls that block the event loop into threads, or"
        " give the sidecar a faster disk; for bodies raise CHIO_MAX_SPOOLED_BYTES",
    ),
}
"""Codes of requests without a decision: why there is none, and what to do."""

_EARLY: Final = {
    "chio_bad_request": (
        "the request is malformed or ambiguous.",
        "correct the request; the message names the place",
    ),
    "chio_body_too_large": ("the body is larger than CHIO_MAX_BODY_BYTES.", "send less, or raise the limit"),
    "chio_address_blocked": ("a guard of the application refuses this address.", "contact its operator"),
    "chio_rate_limited": (
        "a guard of the application saw too many requests of this caller.",
        "wait as long as Retry-After says",
    ),
    "chio_rate_limit_unavailable": (
        "the place where a guard counts requests does not answer.",
        "start it (for example Redis), then repeat the request",
    ),
    "chio_unauthorized": (
        "a guard of the application requires a valid bearer token.",
        "present one in the Authorization header",
    ),
    "chio_keys_unavailable": (
        "the keys of the bearer token's issuer cannot be fetched.",
        "check whether the issuer answers, then repeat the request",
    ),
}
OUTCOMES: Final[Mapping[str, tuple[str, str]]] = {
    "chio_access_denied": (
        "The sidecar evaluated the request and did not allow it; a receipt records the decision.",
        "read the reason; the receipt holds the evidence",
    ),
    "chio_capability_required": (
        "This route requires a capability, and none was presented.",
        "present one in the X-Chio-Capability header",
    ),
    "chio_approval_required": (
        "A person has to approve this request before it can run.",
        "have it approved, then repeat the same request with the approval's id in X-Chio-Approval",
    ),
    "chio_policy_not_enforced": (
        "The sidecar allowed the request, but its receipt does not state that the route's approval or budget was"
        " checked, or the route's budget cannot be determined, so the allow does not count.",
        "use a sidecar that supports approvals and budgets, for example chio-sidecar of this distribution; within a"
        " mount with parameters, govern the outer application instead",
    ),
    "chio_invalid_receipt": (
        "The sidecar's receipt does not count: it does not verify, its key is not trusted, its time is too far"
        " from this clock, or it belongs to another request. The application's log names the rule.",
        "pin the sidecar's key in CHIO_TRUSTED_KERNEL_KEYS, and compare the clocks and the routes of both",
    ),
    "chio_configuration": (
        "The application is configured in a way that cannot work.",
        "read its log, and run `chio-sidecar check MODULE:APP`",
    ),
    "chio_guard_failed": (
        "A guard of the application failed, so the request is refused.",
        "read the application's log; the message names the guard",
    ),
    "chio_control_forbidden": (
        "The sidecar's control plane does not serve this caller.",
        "call it from the same machine, or with its bearer (CHIO_SIDECAR_CONTROL_TOKEN)",
    ),
    UNKNOWN_PATH_LIMIT: (
        "The sidecar had too many evaluations of paths that its OpenAPI document does not describe.",
        "describe the path in the document if it is one of the application's, or raise --max-unknown-paths-per-second",
    ),
    "chio_evaluate_unauthorized": (
        "The sidecar evaluates for bearers of its token only, and this application presented none or another one.",
        "set CHIO_EVALUATE_TOKEN in the application to the value of the sidecar's CHIO_SIDECAR_EVALUATE_TOKEN",
    ),
    **{
        code: (f"There is no decision, so the handler did not run: {why}", fix)
        for code, (why, fix) in UNDECIDED.items()
    },
    **{code: (f"The sidecar was not called: {why}", fix) for code, (why, fix) in _EARLY.items()},
}
"""What each wire code means, and what to do: those of `chio_core.evaluation.outcomes` and a sidecar's own."""
