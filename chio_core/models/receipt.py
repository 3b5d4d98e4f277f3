"""HttpReceipt of both wire profiles, the response that carries it, and the routes that a receipt may open.

Source: wire protocol, sections 1.3, 3.1, 3.6 and 6.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, ValidationError, field_validator

from chio_core.errors import InvalidDocument
from chio_core.models.base import U16, U64, Flag, Text, WireModel

RULE: Final = "chio_rule"
"""Member of a receipt's metadata: the id of the rule of this project's sidecar that refused."""


class GuardEvidence(WireModel):
    """The result of one guard, of the sidecar or local."""

    guard_name: Text
    verdict: Flag
    details: Text | None = None


class Verdict(WireModel):
    """The sidecar's decision. Only `allow` lets a request through; every other text refuses, known or not.

    Attributes:
        verdict: `allow`, `deny`, `cancel`, `incomplete`, or a text of a later protocol.
        http_status: status of the refusal; None if the sidecar stated none.
        details: further members, for example `required_scope`, `reason_code` and `hint`.
    """

    verdict: Text
    reason: Text | None = None
    guard: Text | None = None
    http_status: U16 | None = None
    details: dict[str, Any] | None = None

    @field_validator("details", mode="before")
    @classmethod
    def _details_are_an_object(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("details must be left out or be an object")
        return value

    @property
    def is_allow(self) -> bool:
        """True for exactly `allow`."""
        return self.verdict == "allow"


class HttpReceipt(WireModel):
    """The signed record of one decision.

    A receipt from a sidecar keeps its JSON object as it was received, in `raw`: the signature covers that object,
    so it is the one to store or forward. Times are whole seconds since 1970.
    """

    omit_empty: ClassVar[frozenset[str]] = frozenset({"evidence", "actor_chain"})

    id: Text
    request_id: Text
    route_pattern: Text
    method: Text
    caller_identity_hash: Text
    session_id: Text | None = None
    verdict: Verdict
    receipt_kind: Text | None = None
    boundary_class: Text | None = None
    observation_outcome: Text | None = None
    tool_origin: Text | None = None
    redaction_mode: Text | None = None
    actor_chain: list[dict[str, Any]] | None = None
    evidence: list[GuardEvidence] | None = None
    response_status: U16
    timestamp: U64
    content_hash: Text
    policy_hash: Text
    trust_level: Text | None = None
    capability_id: Text | None = None
    metadata: Any = None
    kernel_key: Text
    signature: Text

    @classmethod
    def from_wire(cls, document: Mapping[str, Any]) -> HttpReceipt:
        """Read a receipt from its JSON object, and keep that as `raw`.

        Raises:
            InvalidDocument: a member is missing or has the wrong type.
        """
        try:
            receipt: HttpReceipt = cls.__pydantic_validator__.validate_python(document)
        except ValidationError as exc:
            raise InvalidDocument(f"not an HttpReceipt: {explain(exc)}") from None
        receipt.__dict__["_raw"] = dict(document)  # beside the fields: a private attribute would cost as much as these
        return receipt

    @property
    def raw(self) -> dict[str, Any]:
        """The JSON object as it was received; that of `to_wire` for a receipt made here."""
        raw: dict[str, Any] | None = self.__dict__.get("_raw")
        return raw if raw is not None else self.to_wire()


class EvaluateResponse(WireModel):
    """Response of `POST /chio/evaluate`."""

    verdict: Verdict
    receipt: HttpReceipt
    evidence: list[GuardEvidence] = Field(default_factory=list)
    execution_nonce: Any = None


class ChioPassthrough(WireModel):
    """Reason why a request ran without an allow; never a receipt.

    Attributes:
        mode: `allow_without_receipt` without a decision (`fail_open`); `observe` if a refusal was only recorded.
        error: wire code: `chio_sidecar_unreachable` or `chio_timeout`, in observe mode that of the refusal.
        message: text of the failure; in observe mode that of the refusal.
    """

    mode: Literal["allow_without_receipt", "observe"] = "allow_without_receipt"
    error: Text
    message: Text


def explain(exc: ValidationError) -> str:
    """Return the first place of a validation error and its rule, without any input."""
    first = exc.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "document"
    return f"{place}: {first['msg']}"


def shape(template: str) -> tuple[str, ...]:
    """Return the segments of a template, each parameter (with its convertor) as `{}`.

    `/pets/{petId}` and `/pets/{id:int}` have the same shape. Results are not cached: the client chooses the paths.
    """
    return tuple("{}" if part[:1] == "{" and part[-1:] == "}" else part for part in template.split("/"))


def covers(template: str, path: str) -> bool:
    """Return True if a template's segments match a path's (wire protocol, section 6.2)."""
    wanted, given = shape(template), path.split("/")
    return len(wanted) == len(given) and all(a in ("{}", b) for a, b in zip(wanted, given, strict=True))


def acceptable_pattern(pattern: str, path: str, template: str | None) -> bool:
    """Return True if a receipt that states `pattern` may open the route `template` for `path`.

    The pattern must be the plain path (the sidecar does not know the route), or the template of the route that
    runs, whatever the names of its parameters. If the template is unknown, the pattern must at least cover the path.
    A path that is itself spelled like a template (`/pets/{x}`) proves nothing by being equal to the pattern.
    """
    if pattern == path and ("{" not in path or "{}" not in shape(path)):
        return True
    if template is None:
        return covers(pattern, path)
    return shape(pattern) == shape(template)
