"""ChioHttpRequest: the request of `POST /chio/evaluate` (wire protocol, section 1.1)."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.models.base import U64, Text, WireModel
from chio_core.models.caller import CallerIdentity

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]

METHODS: frozenset[str] = frozenset(get_args(Method))
"""The methods that the protocol knows."""

SAFE_METHODS: frozenset[str] = frozenset({"GET", "HEAD", "OPTIONS"})
"""The methods that need no capability by default (wire protocol, section 6.3)."""


class ModelMetadata(WireModel):
    """The model on whose behalf a tool is called."""

    model_id: Text
    safety_tier: Literal["low", "standard", "high", "restricted"] | None = None
    provider: Text | None = None
    provenance_class: Literal["asserted", "observed", "verified"] = "asserted"


class ChioHttpRequest(WireModel):
    """One incoming HTTP request, described for a decision.

    Attributes:
        body_hash: SHA-256 hex of the body bytes; None for an empty body.
        body_length: number of bytes that were read, not a header's claim.
        timestamp: whole seconds since 1970, by the client's clock.
        governed_intent: the approval that the route demands, see `chio_core.models.demands.ApprovalDemand`. The
            protocol's newer state reserves this name and `approval_token`.
        approval_token: the approval that the caller presents: its id, or a GovernedApprovalToken object.
        budget: what the request spends, see `chio_core.models.demands.BudgetDemand`; unknown to other sidecars.
        further_to: id of the receipt that allowed this request before, if the route has another demand, see
            `chio_core.evaluation.exchange`; unknown to other sidecars.
        enforcement: `{"mode": "observe", "requires"?, "lacks"?, "refused"?: "413 …", "framework"?: "flask"}`
            if the application only observes; `lacks` are operations that the capability does not grant, and `refused`
            is the refusal of a request that is not evaluated otherwise.
    """

    request_id: Text
    method: Method
    route_pattern: Text
    path: Text
    query: dict[str, Text] = Field(default_factory=dict)
    headers: dict[str, Text] = Field(default_factory=dict)
    caller: CallerIdentity
    body_hash: Text | None = None
    body_length: U64 = 0
    session_id: Text | None = None
    capability_id: Text | None = None
    tool_server: Text | None = None
    tool_name: Text | None = None
    arguments: Any = None
    model_metadata: ModelMetadata | None = None
    timestamp: U64
    governed_intent: dict[str, Any] | None = None
    approval_token: Any = None
    budget: dict[str, Any] | None = None
    further_to: Text | None = None
    enforcement: dict[str, Any] | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object in protocol order, which is the order of the fields above."""
        wire = {
            name: value
            for name, value in self.__dict__.items()
            if value is not None and (value or name not in ("query", "headers"))
        }
        wire["caller"] = self.caller.to_wire()
        if self.model_metadata is not None:
            wire["model_metadata"] = self.model_metadata.to_wire()
        wire.update(self.model_extra or {})
        return wire

    def content_hash(self, route_pattern: str) -> str:
        """Return the content hash that a receipt must carry (wire protocol, section 3.4).

        Args:
            route_pattern: the pattern that the receipt states.
        """
        return content_hash(self.method, route_pattern, self.path, self.query, self.body_hash)


def content_hash(method: str, route_pattern: str, path: str, query: dict[str, str], body_hash: str | None) -> str:
    """Return SHA-256 over the canonical binding of a request (wire protocol, section 3.4)."""
    binding = {
        "method": method,
        "route_pattern": route_pattern,
        "path": path,
        "query": query,
        "body_hash": body_hash,
    }
    return sha256_hex(canonical_json(binding))
