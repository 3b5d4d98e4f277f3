"""One call of `POST /chio/evaluate` as the scripted sidecar reads it, and the genuine documents that respond to it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chio_core.canonical import parse_json, sha256_hex
from chio_core.capabilities import matching_grants, parse_capability
from chio_core.capabilities.restrictions import GRANT, Enforced, choose_grant, statement
from chio_core.capabilities.scope import without_holder
from chio_core.errors import InvalidDocument
from chio_core.evaluation.outcomes import test_hint
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
from chio_core.models.request import CallerIdentity, content_hash
from chio_core.names import CAPABILITY_HEADER
from chio_core.receipts import signed_bytes
from chio_core.signing import SigningKey

ALLOW: Mapping[str, Any] = {"verdict": "allow"}
DENY: Mapping[str, Any] = {"verdict": "deny", "reason": NO_CAPABILITY, "guard": CAPABILITY_GUARD, "http_status": 403}
SCRIPTED: Mapping[str, Any] = {"guard_name": POLICY_GUARD, "verdict": True, "details": "scripted"}
"""Evidence of an allow; that of the route's demands follows it."""

DECISION_METADATA: Mapping[str, Any] = {"chio_http_status_scope": "decision"}
"""`metadata` of a receipt about a decision."""

POLICY_HASH = sha256_hex(b"scripted sidecar\n")
"""`policy_hash` of every receipt made here: SHA-256 of the text `scripted sidecar` and a newline."""

_NEWER: Mapping[str, Any] = {
    "receipt_kind": "mediated_decision",
    "boundary_class": "prevent",
    "tool_origin": "caller_executed",
    "redaction_mode": "none",
    "trust_level": "mediated",
}


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """One call of `POST /chio/evaluate`.

    Attributes:
        document: the JSON object in the body.
        headers: header lines of the call, names in lower case; the first of repeated names.
        body: the bytes of the body.
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
        """The path of the governed request."""
        return str(self.document.get("path", ""))

    @property
    def method(self) -> str:
        """The method of the governed request."""
        return str(self.document.get("method", ""))

    @property
    def route(self) -> str:
        """The path template of the route, or the plain path if the application named no template."""
        return str(self.document.get("route_pattern", ""))

    @property
    def requires(self) -> str | None:
        """The tool that the route requires, for example `payments/transfer`; None if it names no tool."""
        server, tool = self.document.get("tool_server"), self.document.get("tool_name")
        return None if server is None and tool is None else f"{server}/{tool}"

    def is_about(self, method: str | None = None, path: str | None = None) -> bool:
        """Return True if the governed request has this method and path.

        Args:
            method: None for any.
            path: the path of a request, or the template of its route (`/pets/{id}`); None for any.
        """
        return (method is None or method.upper() == self.method) and path in (None, self.path, self.route)

    @property
    def capability_text(self) -> str | None:
        """The capability token in the headers of the call, as text."""
        return self.headers.get(CAPABILITY_HEADER.lower())

    @property
    def capability_id(self) -> str | None:
        """The id in the token, unverified; None if there is no token, or no JSON object with an id."""
        try:
            token = parse_json(self.capability_text or "")
        except InvalidDocument:
            return None
        found = token.get("id") if isinstance(token, dict) else None
        return found if isinstance(found, str) else None

    def hinted(self, verdict: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a verdict that tells a test how to present the capability that the request lacks."""
        server, tool = self.document.get("tool_server"), self.document.get("tool_name")
        hint = test_hint(server, tool)
        if server is None:
            hint += f"; where the route requires nothing, also chio.allow({self.method!r}, {self.route!r})"
        return {**verdict, "details": {"hint": hint}}

    def caller_hash(self) -> str:
        """Return the hash of the caller (wire protocol, section 3.5)."""
        return self.caller.identity_hash()

    def content_hash(self, route_pattern: str | None = None) -> str:
        """Return the hash of the content (wire protocol, section 3.4).

        Args:
            route_pattern: None for that of the document.
        """
        members = self.document
        pattern = members["route_pattern"] if route_pattern is None else route_pattern
        query, body_hash = members.get("query", {}), members.get("body_hash")
        return content_hash(members["method"], pattern, members["path"], query, body_hash)

    def demands_met(self, how: str = "scripted") -> list[dict[str, Any]]:
        """Return evidence that the route's demands (approval, budget) are met; empty if it has none.

        Args:
            how: end of the evidence, after the text that the client looks for.
        """
        intent, limits = self.document.get("governed_intent"), self.document.get("budget")
        met = []
        if intent is not None:
            met.append((APPROVAL_GUARD, approval_evidence(approval_from(intent))))
        if limits is not None:
            met.append((BUDGET_GUARD, budget_evidence(budget_from(limits))))
        return [{"guard_name": guard, "verdict": True, "details": f"{start}{how}"} for guard, start in met]

    @property
    def caller(self) -> CallerIdentity:
        """The caller that the request states."""
        return CallerIdentity.model_validate(self.document["caller"])

    def grant_enforced(self) -> dict[str, Any] | None:
        """Return the statement that the restrictions of the capability's grant are enforced; None without any."""
        server, tool = self.document.get("tool_server"), self.document.get("tool_name")
        if self.capability_text is None or server is None or tool is None:
            return None
        try:
            token = parse_capability(self.capability_text)
            arguments = without_holder(self.document.get("arguments"), token)
            matching = matching_grants(token, server, tool, arguments, holder=self.caller.holder)
        except InvalidDocument:
            return None
        found = choose_grant(token, matching, Enforced(costs=True, approval_from=0)) if matching else None
        return statement(token.scope.grants[found], found) if isinstance(found, int) else None

    def receipt(
        self, verdict: Mapping[str, Any] = ALLOW, *, newer: bool = False, key: SigningKey | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Return a signed receipt for this request.

        Args:
            verdict: the verdict object that it records.
            newer: the newer profile (wire protocol, section 3.6) instead of the April one.
            key: the signer; this sidecar's own key by default.
            changes: members to set before signing; None removes a member.
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
        if verdict.get("verdict") == "allow":
            if met := self.demands_met():
                members["evidence"] = [SCRIPTED, *met]
            if (grant := self.grant_enforced()) is not None:
                members["metadata"] = {**DECISION_METADATA, GRANT: grant}
        return make_receipt(key or self.key, {**members, **changes}, verdict, newer=newer)

    def response(
        self,
        verdict: Mapping[str, Any] = ALLOW,
        *,
        receipt: Mapping[str, Any] | None = None,
        newer: bool = False,
        **changes: Any,
    ) -> dict[str, Any]:
        """Return an EvaluateResponse (wire protocol, section 1.3).

        Args:
            verdict: the verdict at the top.
            receipt: by default a genuine one with the same verdict.
            newer, changes: see `receipt`.
        """
        found = self.receipt(verdict, newer=newer, **changes) if receipt is None else dict(receipt)
        return {"verdict": dict(verdict), "receipt": found, "evidence": found.get("evidence") or []}

    def response_bytes(self, verdict: Mapping[str, Any] = ALLOW, **changes: Any) -> bytes:
        """Return `response` as compact JSON."""
        return compact(self.response(verdict, **changes))


def compact(document: Any) -> bytes:
    """Return JSON without white space, non-ASCII characters escaped."""
    return json.dumps(document, separators=(",", ":")).encode()


def make_receipt(
    key: SigningKey, members: Mapping[str, Any], verdict: Mapping[str, Any], *, newer: bool = False
) -> dict[str, Any]:
    """Return a signed receipt as a JSON object (wire protocol, sections 3.1 and 3.6).

    Args:
        key: the signer.
        members: content of the receipt: request, route, hashes, timestamp. They replace the defaults; None removes a
            member.
        verdict: the verdict object.
        newer: the newer profile, whose id is the hash of the content.
    """
    # Section 3.1: the status is 200 for allow, the deny's own status, 500 for everything else.
    if verdict.get("verdict") == "allow":
        evidence, status = SCRIPTED, 200
    else:
        guard, stated = str(verdict.get("guard", "ScriptedGuard")), verdict.get("http_status", 403)
        evidence = {"guard_name": guard, "verdict": False, "details": "scripted"}
        status = stated if verdict.get("verdict") == "deny" and isinstance(stated, int) else 500
    body: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "verdict": dict(verdict),
        **(_NEWER if newer else {}),
        "evidence": [dict(evidence)],
        "response_status": status,
        "policy_hash": POLICY_HASH,
        "metadata": dict(DECISION_METADATA),
        **members,
    }
    return seal({name: value for name, value in body.items() if value is not None}, key)


def seal(document: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """Return a receipt signed again with `key`: new `kernel_key`, `signature` and, if it is a newer one, `id`.

    An attacker with another key can do this, or a sidecar that signs what it should not.

    Raises:
        InvalidDocument: the receipt has no canonical form.
    """
    body = {name: value for name, value in document.items() if name != "signature"}
    body["kernel_key"] = key.public_hex
    if "receipt_kind" in body:
        body.pop("id", None)
        body = {"id": sha256_hex(signed_bytes(body)), **body}
    return {**body, "signature": key.sign(signed_bytes(body))}
