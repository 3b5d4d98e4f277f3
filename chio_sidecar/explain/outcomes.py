"""The wire codes of refusals in plain words: those of `chio_core.evaluation.outcomes` and a sidecar's own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

DOCTOR: Final = "chio-sidecar doctor"

_NOT_DECIDED = "No decision could be had, so the handler did not run: "
_NOT_ASKED = "The sidecar was not asked: "

OUTCOMES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "chio_access_denied": (
            "The sidecar judged the request and did not allow it; its decision is recorded in a receipt.",
            "read the reason; the receipt holds the evidence",
        ),
        "chio_capability_required": (
            "This route runs only with a capability, and none was presented.",
            "present one in the X-Chio-Capability header",
        ),
        "chio_approval_required": (
            "A person has to approve this request before it can run.",
            "have it approved, then repeat the same request with the approval's id in X-Chio-Approval",
        ),
        "chio_policy_not_enforced": (
            "The sidecar allowed the request, but its receipt does not say that it looked at the route's approval"
            " or budget, or nobody knows which route's budget that was, so the allow does not count.",
            "use a sidecar that knows approvals and budgets, for example chio-sidecar of this distribution; inside of a"
            " mount with parameters, govern the application around it instead",
        ),
        "chio_sidecar_unreachable": (
            _NOT_DECIDED + "there was no connection to the sidecar.",
            "start the sidecar, or correct CHIO_SIDECAR_URL",
        ),
        "chio_timeout": (
            _NOT_DECIDED + "the sidecar did not answer within CHIO_TIMEOUT.",
            "see what keeps the sidecar busy: its disk, its store, or a trust service that does not answer",
        ),
        "chio_evaluation_failed": (
            _NOT_DECIDED + "the sidecar's answer was no decision (another status than 200, or a broken document).",
            "read the log of the sidecar, and that of the application, which names the status",
        ),
        "chio_invalid_receipt": (
            "The sidecar's receipt does not count: it does not verify, its key is not trusted, its time is too far"
            " from this clock, or it belongs to another request. The application's log names the rule.",
            "pin the sidecar's key in CHIO_TRUSTED_KERNEL_KEYS, and compare the clocks and the routes of both",
        ),
        "chio_bad_request": (
            _NOT_ASKED + "the request could mean two things, or none that can be judged.",
            "correct the request; the message names the place",
        ),
        "chio_body_too_large": (
            _NOT_ASKED + "the body is larger than CHIO_MAX_BODY_BYTES.",
            "send less, or raise the limit",
        ),
        "chio_configuration": (
            "The application is set up in a way that cannot work.",
            "read its log, and run `chio-sidecar check MODULE:APP`",
        ),
        "chio_guard_failed": (
            "A guard of the application broke, which refuses.",
            "read the application's log; the message names the guard",
        ),
        "chio_address_blocked": (_NOT_ASKED + "a guard of the application refuses this address.", "ask its operator"),
        "chio_rate_limited": (
            _NOT_ASKED + "a guard of the application saw too many requests of this caller.",
            "wait as long as Retry-After says",
        ),
        "chio_rate_limit_unavailable": (
            _NOT_ASKED + "the place where a guard counts requests does not answer.",
            "start it (for example Redis), then repeat the request",
        ),
        "chio_unauthorized": (
            _NOT_ASKED + "a guard of the application wants a bearer token that verifies.",
            "present a valid one in the Authorization header",
        ),
        "chio_keys_unavailable": (
            _NOT_ASKED + "the keys of the bearer token's issuer cannot be fetched.",
            "see whether the issuer answers, then repeat the request",
        ),
        "chio_receipt_persistence_failed": (
            _NOT_DECIDED + "the sidecar could not store the receipt, and hands out no decision without one.",
            "see whether the store's disk is full, or another process holds the file",
        ),
        "chio_receipt_sign_failed": (
            _NOT_DECIDED + "the sidecar could not sign the receipt.",
            "read the sidecar's log",
        ),
        "chio_request_id_conflict": (
            _NOT_DECIDED + "the request id has a receipt already, for other content.",
            "use a new request_id for each request",
        ),
        "chio_overloaded": (
            _NOT_DECIDED + "more requests waited for the sidecar than may.",
            "repeat it later; give the sidecar a faster disk, or the application fewer connections",
        ),
        "chio_control_forbidden": (
            "The sidecar's control plane does not answer this caller.",
            "ask it from the same machine, or with its bearer (CHIO_SIDECAR_CONTROL_TOKEN)",
        ),
    }
)
"""What each code means, and what to do."""

SEE_THE_SIDECAR: Final = frozenset(
    {"chio_sidecar_unreachable", "chio_timeout", "chio_evaluation_failed", "chio_invalid_receipt"}
)
"""Codes of which `chio-sidecar doctor` knows more."""

NOT_DECIDED: Final = frozenset({code for code, (why, _) in OUTCOMES.items() if why.startswith(_NOT_DECIDED)})
"""Codes of requests about which nobody decided anything."""
