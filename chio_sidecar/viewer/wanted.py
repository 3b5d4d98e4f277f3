"""The viewer's filters, and how they are written in a query string."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chio_core.errors import InvalidDocument

_LONGEST = 2_000
_DIGITS = 18


@dataclass(frozen=True)
class Wanted:
    """Which receipts are wanted; None asks nothing.

    Attributes:
        verdict: exactly this verdict, for example `deny`.
        method: exactly this method, for example `GET`.
        route: text in the route pattern; ASCII letters in any case.
        caller: text in the hash of the caller's identity.
        capability: text in the capability's id.
        since: signed at this second since 1970 or later.
        until: signed at this second or earlier.
    """

    verdict: str | None = None
    method: str | None = None
    route: str | None = None
    caller: str | None = None
    capability: str | None = None
    since: int | None = None
    until: int | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Wanted:
        """Read the filters of a query; a blank one asks nothing, and so does a name that is not known.

        Raises:
            InvalidDocument: a value cannot be used.
        """
        return cls(
            verdict=_parameter_text(query, "verdict"),
            method=_parameter_text(query, "method"),
            route=_parameter_text(query, "route"),
            caller=_parameter_text(query, "caller"),
            capability=_parameter_text(query, "capability"),
            since=number_of(query, "since"),
            until=number_of(query, "until"),
        )

    def parameters(self) -> dict[str, Any]:
        """Return the parameters of the query."""
        return dict(vars(self))


def _parameter_text(query: Mapping[str, str], name: str) -> str | None:
    text = query.get(name, "").strip()
    if len(text) > _LONGEST:
        raise InvalidDocument(f"{name} is longer than {_LONGEST} characters")
    return text or None


def number_of(query: Mapping[str, str], name: str) -> int | None:
    """Return a whole number of a query, or None when it is blank.

    Raises:
        InvalidDocument: it is no whole number.
    """
    text = query.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > _DIGITS:
        raise InvalidDocument(f"{name} must be a whole number that is not negative")
    return int(text)
