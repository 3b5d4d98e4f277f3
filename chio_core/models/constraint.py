"""Constraint: one condition of a tool grant, and the shapes of its value (wire protocol, section 5.5).

A type that is not listed here, or a value of another shape, makes the whole token unreadable: a condition that
is not understood must never be skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from chio_core.models.base import Text, WireModel

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


class Constraint(WireModel):
    """One condition on the arguments or the model of a tool call.

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

    def same_as(self, other: Constraint) -> bool:
        """Return True if both state the same; absent, null and empty members of an object are equal."""
        return self.type == other.type and self._essence() == other._essence()

    def _essence(self) -> Any:
        value = self.to_signed().get("value")
        if isinstance(value, dict):
            return {name: item for name, item in value.items() if item is not None and item != []}
        return value
