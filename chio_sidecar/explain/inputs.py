"""The input of `explain`: the facts about one refusal, read from any document that states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from chio_core.errors import InvalidDocument
from chio_sidecar.policy.approvals import APPROVAL_ID
from chio_sidecar.policy.rules import rule_of
from chio_sidecar.records.observed import enforcement

_PUBLISHED_CODES: Final = {
    "CHIO_GUARD_DENIED": "chio_access_denied",
    "CHIO_INTERNAL_ERROR": "chio_evaluation_failed",
    "CHIO_SIDECAR_UNAVAILABLE": "chio_sidecar_unreachable",
    "InvalidReceipt": "chio_invalid_receipt",
    "MalformedRequest": "chio_bad_request",
    "RequestBodyTooLarge": "chio_body_too_large",
    "SidecarError": "chio_evaluation_failed",
    "SidecarUnavailable": "chio_sidecar_unreachable",
}
"""Codes of the published envelopes whose wire code has another name (wire protocol, section 11)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Facts about one refusal, or about one decision if it was read from a receipt.

    Attributes:
        verdict: of the sidecar; None if the document does not state it.
        code: wire code of a problem document; None for a receipt.
        rule: id of the rule that refused, from a receipt of this kind of sidecar.
        reason: the exact text.
        status: HTTP status, if known.
        route: route pattern of the receipt.
        details: further texts of the deny, for example `required_scope`, `hint` and `approval_id`.
        observed: the application was in observe mode, so the request ran.
        requires: what its route requires, `server/tool` or a text without a slash for any; stated in observe mode only.
        capability_id: of the valid capability that was presented.
    """

    verdict: str | None = None
    code: str | None = None
    rule: str | None = None
    reason: str | None = None
    guard: str | None = None
    status: int | None = None
    receipt_id: str | None = None
    request_id: str | None = None
    method: str | None = None
    route: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    observed: bool = False
    requires: str | None = None
    capability_id: str | None = None

    @property
    def allowed(self) -> bool:
        """True if the sidecar allowed the request."""
        return self.verdict == "allow" and self.code is None

    @property
    def waits(self) -> bool:
        """True if the request waits for an approval."""
        return self.verdict == "incomplete" and "approval_id" in self.details

    @property
    def lacks_capability(self) -> bool:
        """True if the request was allowed, and its route requires a capability that was not presented."""
        return self.allowed and self.requires is not None and self.capability_id is None


def read_refusal(document: Any) -> Refusal:
    """Read a problem document (flat or nested), a receipt, an evaluate response or an error of the sidecar.

    Raises:
        InvalidDocument: a document of another kind.
    """
    if isinstance(document, Mapping):
        if isinstance(document.get("receipt"), Mapping):
            return _of_receipt(document["receipt"])
        if isinstance(document.get("verdict"), Mapping):
            return _of_receipt(document)
        if isinstance(document.get("detail"), Mapping):  # FastAPI's own envelope, without `add_chio`
            return read_refusal(document["detail"])
        if isinstance(document.get("error"), Mapping):
            return _of_problem(document["error"], document["error"].get("code"))
        if isinstance(document.get("error"), str):
            return _of_problem(document, document["error"])
    raise InvalidDocument(
        "the document is neither a refusal nor a receipt; give the body of the refused response, or a receipt as JSON"
    )


def _of_receipt(receipt: Mapping[str, Any]) -> Refusal:
    verdict = receipt.get("verdict")
    if not isinstance(verdict, Mapping) or not isinstance(verdict.get("verdict"), str):
        raise InvalidDocument("the receipt states no verdict")
    metadata = receipt.get("metadata")
    approval_id = _text(metadata.get(APPROVAL_ID)) if isinstance(metadata, Mapping) else None
    stated = enforcement(receipt)
    return Refusal(
        verdict=verdict["verdict"],
        rule=rule_of(receipt),
        reason=_text(verdict.get("reason")),
        guard=_text(verdict.get("guard")),
        status=_number(verdict.get("http_status")),
        receipt_id=_text(receipt.get("id")),
        request_id=_text(receipt.get("request_id")),
        method=_text(receipt.get("method")),
        route=_text(receipt.get("route_pattern")),
        details=_details(verdict) | ({} if approval_id is None else {"approval_id": approval_id}),
        observed=stated.get("mode") == "observe",
        requires=_text(stated.get("requires")),
        capability_id=_text(receipt.get("capability_id")),
    )


def _of_problem(problem: Mapping[str, Any], stated: Any) -> Refusal:
    code = _text(stated) or ""
    if code not in _PUBLISHED_CODES and not code.lower().startswith("chio_") and "guard" not in problem:
        # The published ASGI envelope has the guard's name in this place.
        code, problem = "chio_access_denied", {"guard": code, **problem}
    beside = {name: problem[name] for name in ("approval_id", "resume_path") if isinstance(problem.get(name), str)}
    return Refusal(
        code=_PUBLISHED_CODES.get(code, code.lower()),
        reason=_text(problem.get("message")),
        guard=_text(problem.get("guard")),
        status=_number(problem.get("status")),
        receipt_id=_text(problem.get("receipt_id") or problem.get("kernel_receipt_id")),
        details=_details(problem) | beside,
    )


def _details(holder: Mapping[str, Any]) -> dict[str, str]:
    details = holder.get("details")
    if not isinstance(details, Mapping):
        return {}
    return {str(name): str(value) for name, value in details.items() if isinstance(value, (str, int))}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
