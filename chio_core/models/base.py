"""WireModel: the base of all documents, which keeps unknown members, and the types of JSON values."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

U64 = Annotated[int, Field(strict=True, ge=0, le=2**64 - 1)]
"""A JSON integer of the range u64; `1.0` and `true` are refused."""

U32 = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]
"""A JSON integer of the range u32."""

U16 = Annotated[int, Field(strict=True, ge=0, le=2**16 - 1)]
"""A JSON integer of the range u16."""

Flag = Annotated[bool, Field(strict=True)]
"""A JSON boolean; `"yes"` and `1` are refused."""

Text = Annotated[str, Field(strict=True)]
"""A JSON string."""


class WireModel(BaseModel):
    """A frozen document of the protocol.

    Subclasses list in `omit_empty` the members that are left out if they are empty.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    omit_empty: ClassVar[frozenset[str]] = frozenset()

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object: members in protocol order, absent optionals left out, unknown ones last."""
        members = {name: getattr(self, name) for name in type(self).model_fields}
        members.update(self.model_extra or {})
        return {
            name: _wire(value)
            for name, value in members.items()
            if value is not None and not (name in self.omit_empty and not value)
        }


def _wire(value: Any) -> Any:
    if isinstance(value, WireModel):
        return value.to_wire()
    if isinstance(value, (list, tuple)):
        return [_wire(item) for item in value]
    return value
