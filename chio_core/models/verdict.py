"""Verdict, its details, and the evidence behind it (wire protocol, sections 1.3 and 1.4)."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from chio_core.models.base import U16, Flag, Text, WireModel


class GuardEvidence(WireModel):
    """What one guard of the sidecar, or one local guard, said."""

    guard_name: Text
    verdict: Flag
    details: Text | None = None


class Verdict(WireModel):
    """The decision. Only `allow` lets a request through; every other text refuses, known or not.

    Attributes:
        verdict: `allow`, `deny`, `cancel`, `incomplete`, or a text of a protocol to come.
        http_status: status to answer a deny with; None when the sidecar stated none.
        details: further strings of a deny, for example `required_scope`, `reason_code` and `hint`.
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
