"""CapabilityToken and its parts (wire protocol, section 5.1).

The signature covers the members of this model, not the token's text: `to_signed()` leaves out unknown members,
absent optionals and empty lists (section 5.2). `to_wire()` keeps unknown members.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, StrictBool, field_validator, model_validator
from pydantic_core import PydanticCustomError

from chio_core.models.base import U32, U64, Text, WireModel
from chio_core.names import ISSUER_PREFIX

CAPABILITY_SCHEMA = "chio.capability.v1"
"""Value of the member `schema` of the newer form."""

Operation = Literal["invoke", "read_result", "read", "subscribe", "get", "delegate"]
"""Operations that a grant can allow; snake_case on the wire."""

_KEY = re.compile(r"(?:0x)?[0-9A-Fa-f]{64}|p256:[0-9A-Fa-f]{130}|p384:[0-9A-Fa-f]{194}")
_SIGNATURE = re.compile(r"[0-9A-Fa-f]{128}|p(?:256|384):[0-9A-Fa-f]+")


def _key(text: str) -> str:
    if not _KEY.fullmatch(text):
        raise PydanticCustomError("capability", "a public key is written as 64 hex digits")
    return text.removeprefix("0x").lower()


def _signature(text: str) -> str:
    if not _SIGNATURE.fullmatch(text):
        raise PydanticCustomError("capability", "a signature is written as 128 hex digits")
    return text


def _id(text: str) -> str:
    if text.startswith(ISSUER_PREFIX):
        raise PydanticCustomError("capability", "an id must not begin with issuer:, which names a key to withdraw")
    return text


CapabilityId = Annotated[Text, AfterValidator(_id)]
"""The id of a token: no name of an issuer, which no command would revoke as a token."""

PublicKey = Annotated[Text, AfterValidator(_key)]
"""A public key, normalised to lower case without `0x`. Keys of other curves can be read but never verify."""

Signature = Annotated[Text, AfterValidator(_signature)]
"""A signature as hex text."""


class _SignedModel(WireModel):
    def to_signed(self) -> dict[str, Any]:
        """Return the JSON object that a signature covers: known members only, absent and empty ones left out."""
        members = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: _signed(value)
            for name, value in members.items()
            if value is not None and not (name in self.omit_empty and not value)
        }

    def has_unknown_members(self) -> bool:
        """Return True if it or a part of it has members that the protocol does not list.

        The signature does not cover them, and what they restrict is not known.
        """
        if any(value is not None for value in (self.model_extra or {}).values()):
            return True
        for part in vars(self).values():
            for one in part if isinstance(part, list) else (part,):
                if isinstance(one, _SignedModel) and one.has_unknown_members():
                    return True
        return False


def _signed(value: Any) -> Any:
    if isinstance(value, _SignedModel):
        return value.to_signed()
    if isinstance(value, list):
        return [_signed(item) for item in value]
    return value


SAFETY_TIERS = ("low", "standard", "high", "restricted")
"""Safety tiers of a model, from the lowest to the highest."""

_U64_MAX = 2**64 - 1


class _Shape(NamedTuple):
    """The value that a type needs: its test, its description, and the members that are signed of an object."""

    fits: Callable[[Any], bool]
    words: str
    members: tuple[str, ...] = ()


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _U64_MAX


def _one_of(*words: str) -> _Shape:
    return _Shape(lambda value: isinstance(value, str) and value in words, f"one of {', '.join(words)}")


_TEXT = _Shape(lambda value: isinstance(value, str), "a string")
_TEXTS = _Shape(_texts, "an array of strings")
_COUNT = _Shape(_count, "an integer from 0 to 2**64 - 1")
_MODEL = _Shape(
    lambda value: (
        isinstance(value, dict)
        and _texts(value.get("allowed_model_ids", []))
        and value.get("min_safety_tier") in (None, *SAFETY_TIERS)
    ),
    "an object of allowed_model_ids and min_safety_tier",
    ("allowed_model_ids", "min_safety_tier"),
)
_THRESHOLD = _Shape(
    lambda value: isinstance(value, dict) and _count(value.get("threshold_units")),
    "an object with threshold_units",
    ("threshold_units",),
)

_SHAPES: Mapping[str, _Shape] = MappingProxyType(
    {
        "path_prefix": _TEXT,
        "domain_exact": _TEXT,
        "domain_glob": _TEXT,
        "regex_match": _TEXT,
        "max_length": _COUNT,
        "max_args_size": _COUNT,
        "custom": _Shape(lambda value: _texts(value) and len(value) == 2, "an array of a key and a text"),
        "audience_allowlist": _TEXTS,
        "memory_store_allowlist": _TEXTS,
        "memory_write_deny_patterns": _TEXTS,
        "model_constraint": _MODEL,
        "governed_intent_required": _Shape(lambda value: value is None, "left out"),
        "require_approval_above": _THRESHOLD,
        "seller_exact": _TEXT,
        "minimum_runtime_assurance": _one_of("none", "basic", "attested", "verified"),
        "minimum_autonomy_tier": _one_of("direct", "delegated", "autonomous"),
        "table_allowlist": _TEXTS,
        "column_denylist": _TEXTS,
        "max_rows_returned": _COUNT,
        "operation_class": _one_of("read_only", "read_write", "admin"),
        "content_review_tier": _one_of("none", "basic", "strict"),
        "max_transaction_amount_usd": _TEXT,
        "require_dual_approval": _Shape(lambda value: isinstance(value, bool), "true or false"),
    }
)

CONSTRAINT_TYPES = frozenset(_SHAPES)
"""The types of the protocol's table; all others are refused."""


class Constraint(_SignedModel):
    """One condition on the arguments or the model of a tool call (wire protocol, section 5.5).

    A type that is not listed here, or a value of another shape, makes the whole token unreadable: a condition that
    is not understood must never be skipped.

    Attributes:
        type: one of `CONSTRAINT_TYPES`.
        value: JSON value of the shape that the type needs; None for `governed_intent_required`.
    """

    type: Text
    value: Any = None

    @model_validator(mode="after")
    def _is_understood(self) -> Constraint:
        shape = _SHAPES.get(self.type)
        if shape is None:
            raise PydanticCustomError("capability", "the constraint type is unknown")
        if not shape.fits(self.value):
            raise PydanticCustomError(
                "capability",
                "the value of {type} must be {words}",
                {"type": self.type, "words": shape.words},
            )
        return self

    def to_signed(self) -> dict[str, Any]:
        """Return the JSON object that a signature covers: members of the protocol only."""
        if self.value is None:
            return {"type": self.type}
        members = _SHAPES[self.type].members
        value = {name: self.value[name] for name in members if name in self.value} if members else self.value
        return {"type": self.type, "value": value}

    def has_unknown_members(self) -> bool:
        """Return True if it has members that the protocol does not list, also inside its value."""
        members = _SHAPES[self.type].members
        inside = bool(members) and any(self.value[name] is not None for name in set(self.value).difference(members))
        return inside or super().has_unknown_members()

    def same_as(self, other: Constraint) -> bool:
        """Return True if both state the same; absent, null and empty members of an object are equal."""
        return self.type == other.type and self._essence() == other._essence()

    def _essence(self) -> Any:
        value = self.to_signed().get("value")
        if isinstance(value, dict):
            return {name: item for name, item in value.items() if item is not None and item != []}
        return value


class MonetaryAmount(_SignedModel):
    """An amount of money in whole units of a currency; the protocol does not say how large a unit is."""

    units: U64
    currency: Text


class ToolGrant(_SignedModel):
    """Permission to use one tool, or with `*` every tool, of one or every server.

    Attributes:
        constraints: all of them must hold.
        max_invocations: most uses; None without limit.
        dpop_required: the caller must prove that it holds the subject's key.
    """

    omit_empty: ClassVar[frozenset[str]] = frozenset({"constraints"})

    server_id: Text
    tool_name: Text
    operations: list[Operation]
    constraints: list[Constraint] = Field(default_factory=list)
    max_invocations: U32 | None = None
    max_cost_per_invocation: MonetaryAmount | None = None
    max_total_cost: MonetaryAmount | None = None
    dpop_required: StrictBool | None = None

    def lacks(self, operations: Iterable[str]) -> list[str]:
        """Return the operations that it does not grant, sorted: one grant must contain all of them."""
        return sorted(set(operations).difference(self.operations))


class ResourceGrant(_SignedModel):
    """Permission for the resources whose URI the pattern covers (a trailing `*` covers the rest)."""

    uri_pattern: Text
    operations: list[Operation]


class PromptGrant(_SignedModel):
    """Permission for the prompts whose name the pattern covers (a trailing `*` covers the rest)."""

    prompt_name: Text
    operations: list[Operation]


class ChioScope(_SignedModel):
    """The grants of a token; an empty scope allows no tool, resource or prompt."""

    omit_empty: ClassVar[frozenset[str]] = frozenset({"grants", "resource_grants", "prompt_grants"})

    grants: list[ToolGrant] = Field(default_factory=list)
    resource_grants: list[ResourceGrant] = Field(default_factory=list)
    prompt_grants: list[PromptGrant] = Field(default_factory=list)


_TOOL = ("server_id", "tool_name")
_ATTENUATIONS = {
    "remove_tool": _TOOL,
    "remove_operation": (*_TOOL, "operation"),
    "add_constraint": (*_TOOL, "constraint"),
    "reduce_budget": (*_TOOL, "max_invocations"),
    "reduce_cost_per_invocation": (*_TOOL, "max_cost_per_invocation"),
    "reduce_total_cost": (*_TOOL, "max_total_cost"),
    "shorten_expiry": ("new_expires_at",),
}


class Attenuation(_SignedModel):
    """How a delegator narrowed the capability; `type` says which of the other members count.

    Attributes:
        new_expires_at: whole seconds since 1970.
    """

    type: Literal[
        "remove_tool",
        "remove_operation",
        "add_constraint",
        "reduce_budget",
        "reduce_cost_per_invocation",
        "reduce_total_cost",
        "shorten_expiry",
    ]
    server_id: Text | None = None
    tool_name: Text | None = None
    operation: Operation | None = None
    constraint: Constraint | None = None
    max_invocations: U32 | None = None
    max_cost_per_invocation: MonetaryAmount | None = None
    max_total_cost: MonetaryAmount | None = None
    new_expires_at: U64 | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> Attenuation:
        missing = [name for name in _ATTENUATIONS[self.type] if getattr(self, name) is None]
        if missing:
            raise PydanticCustomError(
                "capability", "a {type} attenuation needs {needs}", {"type": self.type, "needs": ", ".join(missing)}
            )
        return self

    def to_signed(self) -> dict[str, Any]:
        """Return the JSON object that a signature covers: the members of its type only."""
        return {"type": self.type} | {name: _signed(getattr(self, name)) for name in _ATTENUATIONS[self.type]}


class DelegationLink(_SignedModel):
    """One step of a delegation, signed by the delegator.

    Attributes:
        timestamp: whole seconds since 1970.
    """

    omit_empty: ClassVar[frozenset[str]] = frozenset({"attenuations"})

    capability_id: CapabilityId
    delegator: PublicKey
    delegatee: PublicKey
    attenuations: list[Attenuation] = Field(default_factory=list)
    timestamp: U64
    signature: Signature

    def newer_members(self) -> dict[str, Any]:
        """Return the members that only newer issuers write and sign: `scope_hash`, if it is present."""
        scope_hash = (self.model_extra or {}).get("scope_hash")
        return {} if scope_hash is None else {"scope_hash": scope_hash}

    def has_unknown_members(self) -> bool:
        """Return True if it has members that neither generation of the protocol lists."""
        extra = any(value is not None for name, value in (self.model_extra or {}).items() if name != "scope_hash")
        return extra or any(one.has_unknown_members() for one in self.attenuations)


class CapabilityToken(_SignedModel):
    """A signed permission. Its text is a secret: every holder may use it.

    Attributes:
        issued_at: first valid second, since 1970.
        expires_at: first second, since 1970, at which it is no longer valid.
        algorithm: None for Ed25519; other algorithms can be read, but never verify.
    """

    omit_empty: ClassVar[frozenset[str]] = frozenset({"delegation_chain"})

    id: CapabilityId
    issuer: PublicKey
    subject: PublicKey
    scope: ChioScope
    issued_at: U64
    expires_at: U64
    delegation_chain: list[DelegationLink] = Field(default_factory=list)
    algorithm: Literal["ed25519", "p256", "p384"] | None = None
    signature: Signature

    @field_validator("algorithm")
    @classmethod
    def _ed25519_goes_without_saying(cls, value: str | None) -> str | None:
        return None if value == "ed25519" else value

    def to_header(self) -> str:
        """Return the token as the text of the header `X-Chio-Capability`: compact ASCII JSON."""
        return json.dumps(self.to_wire(), separators=(",", ":"))

    def to_cookie(self) -> str:
        """Return the token as the value of a cookie: `to_header` in base64url, so without quotes, commas and spaces."""
        return urlsafe_b64encode(self.to_header().encode()).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"CapabilityToken(id={self.id!r}, issuer={self.issuer})"

    __str__ = __repr__
