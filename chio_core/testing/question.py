"""Asked: one question as the scripted sidecar read it, and the genuine documents that would answer it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument
from chio_core.models.caller import CallerIdentity
from chio_core.models.demands import (
    APPROVAL_GUARD,
    BUDGET_GUARD,
    CAPABILITY_GUARD,
    NO_CAPABILITY,
    POLICY_GUARD,
    approval_evidence,
    approval_from,
    budget_evidence,
    budget_from,
)
from chio_core.models.request import content_hash
from chio_core.names import CAPABILITY_HEADER
from chio_core.signing import SigningKey
from chio_core.testing.receipts import make_receipt

ALLOW: Mapping[str, Any] = {"verdict": "allow"}
DENY: Mapping[str, Any] = {
    "verdict": "deny",
    "reason": NO_CAPABILITY,
    "guard": CAPABILITY_GUARD,
    "http_status": 403,
}
SCRIPTED: Mapping[str, Any] = {"guard_name": POLICY_GUARD, "verdict": True, "details": "scripted"}
"""Evidence of an allow, before that of the demands of the route."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to `POST /chio/evaluate`.

    Attributes:
        document: the question, parsed.
        headers: header lines of the call, names in lower case; of repeated names the first.
        body: the bytes of the question.
        key: the key that this sidecar signs with.
        now: seconds since 1970 on this sidecar's clock.
    """

    document: Mapping[str, Any]
    headers: Mapping[str, str]
    body: bytes
    key: SigningKey
    now: float

    @property
    def path(self) -> str:
        """The path that is asked about."""
        return str(self.document.get("path", ""))

    @property
    def method(self) -> str:
        """The method that is asked about."""
        return str(self.document.get("method", ""))

    @property
    def route(self) -> str:
        """The path template of the route, or the plain path where there is none."""
        return str(self.document.get("route_pattern", ""))

    @property
    def requires(self) -> str | None:
        """What the route asks for, for example `payments/transfer`; None where it names no tool."""
        server, tool = self.document.get("tool_server"), self.document.get("tool_name")
        return None if server is None and tool is None else f"{server}/{tool}"

    def is_about(self, method: str | None = None, path: str | None = None) -> bool:
        """Tell whether this is asked about a request.

        Args:
            method: None for any.
            path: the path of a request, or the template of its route (`/pets/{id}`); None for any.
        """
        return (method is None or method.upper() == self.method) and path in (None, self.path, self.route)

    @property
    def capability_text(self) -> str | None:
        """The capability token that came with the question, unread."""
        return self.headers.get(CAPABILITY_HEADER.lower())

    @property
    def capability_id(self) -> str | None:
        """The id that this token states; nothing about it is verified here."""
        try:
            token = parse_json(self.capability_text or "")
        except InvalidDocument:
            return None
        found = token.get("id") if isinstance(token, dict) else None
        return found if isinstance(found, str) else None

    def caller_hash(self) -> str:
        """Return the hash of the caller that the question names (wire protocol, section 3.5)."""
        return CallerIdentity.model_validate(self.document["caller"]).identity_hash()

    def content_hash(self, route_pattern: str | None = None) -> str:
        """Return the hash of the content asked about (section 3.4), under this pattern or the question's own."""
        asked = self.document
        pattern = asked["route_pattern"] if route_pattern is None else route_pattern
        return content_hash(asked["method"], pattern, asked["path"], asked.get("query", {}), asked.get("body_hash"))

    def demands_met(self, how: str = "scripted") -> list[dict[str, Any]]:
        """Return the evidence that the demands of the route are met; empty where it has none.

        Args:
            how: what it says after the words that the client looks for.
        """
        intent, limits = self.document.get("governed_intent"), self.document.get("budget")
        said = []
        if intent is not None:
            said.append((APPROVAL_GUARD, approval_evidence(approval_from(intent))))
        if limits is not None:
            said.append((BUDGET_GUARD, budget_evidence(budget_from(limits))))
        return [{"guard_name": guard, "verdict": True, "details": f"{start}{how}"} for guard, start in said]

    def receipt(
        self, verdict: Mapping[str, Any] = ALLOW, *, newer: bool = False, key: SigningKey | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Return a signed receipt for this question.

        Args:
            verdict: the verdict object that it records.
            newer: the newer profile (section 3.6) instead of the April one.
            key: who signs; this sidecar's own key by default.
            changes: members to set before signing; None takes a member out.
        """
        members: dict[str, Any] = {
            "request_id": self.document["request_id"],
            "route_pattern": self.document["route_pattern"],
            "method": self.document["method"],
            "caller_identity_hash": self.caller_hash(),
            "session_id": self.document.get("session_id"),
            "content_hash": self.content_hash(changes.get("route_pattern")),
            "timestamp": int(self.now),
            "capability_id": self.capability_id,
        }
        if verdict.get("verdict") == "allow" and (met := self.demands_met()):
            members["evidence"] = [SCRIPTED, *met]
        return make_receipt(key or self.key, {**members, **changes}, verdict, newer=newer)

    def answer(
        self,
        verdict: Mapping[str, Any] = ALLOW,
        *,
        receipt: Mapping[str, Any] | None = None,
        newer: bool = False,
        **changes: Any,
    ) -> dict[str, Any]:
        """Return an EvaluateResponse (section 1.3).

        Args:
            verdict: the verdict on top.
            receipt: the receipt in it; by default a genuine one with the same verdict.
            newer, changes: see `receipt`.
        """
        found = self.receipt(verdict, newer=newer, **changes) if receipt is None else dict(receipt)
        return {"verdict": dict(verdict), "receipt": found, "evidence": found.get("evidence") or []}

    def answer_bytes(self, verdict: Mapping[str, Any] = ALLOW, **changes: Any) -> bytes:
        """Return `answer` as compact JSON."""
        return compact(self.answer(verdict, **changes))


def compact(document: Any) -> bytes:
    """Return a JSON value as compact text, non-ASCII characters escaped."""
    return json.dumps(document, separators=(",", ":")).encode()
