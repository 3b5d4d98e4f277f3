"""What a mint call asks for, and the names that follow from it (wire protocol, section 7.3).

The subject key is derived from the label that the caller chose, so everybody can compute its private half: it
labels the token and proves nothing. The id is the same for the same request, so that releasing one token of a
job releases all its later ones too.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from chio_core.models.base import U64, Text
from chio_core.signing import SigningKey
from chio_sidecar.control.access import bad_request, read_model
from chio_sidecar.scopes import parse_scopes

DEFAULT_TTL = 3600
"""Lifetime in seconds when none, or 0, is asked for."""

_NANOS = 1_000_000_000
_KINDS = (
    ("tool_grants", "grants"),
    ("resource_grants", "resource_grants"),
    ("prompt_grants", "prompt_grants"),
)


class Lifetime(BaseModel):
    """The three ways to ask for a lifetime; the first that is present counts."""

    model_config = ConfigDict(frozen=True)

    ttl_seconds: U64 | None = None
    ttl_nanos: U64 | None = None
    ttl: U64 | None = None

    def seconds(self) -> int:
        """Return the lifetime in whole seconds, nanoseconds rounded up."""
        if self.ttl_seconds is not None:
            return self.ttl_seconds or DEFAULT_TTL
        if self.ttl_nanos is not None:
            return _round_up(self.ttl_nanos) or DEFAULT_TTL
        if not self.ttl:
            return DEFAULT_TTL
        return self.ttl if self.ttl < _NANOS else _round_up(self.ttl)


class MintRequest(Lifetime):
    """Body of `POST /v1/capabilities/mint`."""

    subject: Text
    scopes: list[Text] = Field(default_factory=list)
    job_uid: Text = ""

    @classmethod
    def read(cls, document: dict[str, Any]) -> MintRequest:
        """Read the body.

        Raises:
            ControlError: 400.
        """
        wanted = read_model(cls, document, what="capability mint")
        if not wanted.subject.strip():
            raise bad_request("subject must not be empty")
        return wanted

    def subject_key(self) -> str:
        """Return the public key, hex, that stands for the subject's label."""
        seed = hashlib.sha256(self.subject.encode() + b"\0" + self.job_uid.encode()).digest()
        return SigningKey(seed).public_hex

    def scope(self) -> dict[str, Any]:
        """Return the scope as a JSON object.

        Raises:
            InvalidDocument: a scope text that the grammar does not know.
        """
        return parse_scopes(self.scopes)

    def capability_id(self, scope: dict[str, Any]) -> str:
        """Return the id of the token over `scope`; the same request always has the same."""
        document = {"subject": self.subject, "job_uid": self.job_uid, "ttl_seconds": self.seconds()}
        lists = {name: sorted(map(_compact, scope.get(kind, [])), key=str.encode) for name, kind in _KINDS}
        return "sidecar-" + hashlib.sha256(_compact(document | lists).encode()).hexdigest()


def _round_up(nanos: int) -> int:
    return -(-nanos // _NANOS)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
