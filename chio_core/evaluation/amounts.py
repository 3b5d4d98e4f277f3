"""Amounts in a request: `from_path`, `from_query`, `from_body`, and how they are read.

The amount that is evaluated must be the amount that the handler reads. So anything that two readers could read
differently is refused: a query parameter or a member of the body that occurs twice, a body that is not JSON in UTF-8,
a number that is not a plain whole number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from chio_core.canonical import parse_json
from chio_core.concurrency.loop_thread import timed
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.models.demands import MAX_UNITS, is_units
from chio_core.refusals.response import RequestRefused, bad_request
from chio_core.request import MAX_QUERY_FIELDS, RequestView

_DIGITS: Final = re.compile(r"[0-9]{1,19}")
_JSON_TYPE: Final = re.compile(r"application/(?:[a-z0-9!#$&^_.+-]+\+)?json", re.IGNORECASE)
_CHARSET: Final = re.compile(r';\s*charset\s*=\s*"?utf-8"?\s*(?=;|$)', re.IGNORECASE)
_UNITS: Final = f"must be a whole number from 0 to {MAX_UNITS}, written in plain digits"


@dataclass(frozen=True, slots=True)
class Facts:
    """What requirements are computed from.

    Attributes:
        path_params: converted path parameters of the route.
        view: the request; None where nothing but the path parameters is known.
        body: the whole body; None for a websocket handshake.
    """

    path_params: Mapping[str, Any]
    view: RequestView | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class FromPath:
    """The amount is a path parameter: `/pay/{amount}`."""

    name: str

    def read(self, facts: Facts) -> int:
        """Return the amount.

        Raises:
            RequestRefused: the parameter is no whole number.
            ConfigurationError: the route has no such parameter.
        """
        if self.name not in facts.path_params:
            raise ConfigurationError(f"from_path({self.name!r}): the route has no path parameter of this name")
        return _units(facts.path_params[self.name], f"path parameter {self.name}")


@dataclass(frozen=True, slots=True)
class FromQuery:
    """The amount is a query parameter: `/pay?amount=12`."""

    name: str

    def read(self, facts: Facts) -> int:
        """Return the amount.

        Raises:
            RequestRefused: the parameter is missing, repeated, or no whole number; or the query has more
                than `MAX_QUERY_FIELDS` fields.
            ConfigurationError: nothing is known about the query here.
        """
        if facts.view is None:
            raise ConfigurationError(f"from_query({self.name!r}) needs a request: only path parameters are known here")
        values = [value for name, value in _query_pairs(facts.view) if name == self.name]
        if len(values) != 1:
            how = "is missing" if not values else "occurs more than once"
            raise RequestRefused(bad_request(f"query parameter {self.name} {how}"))
        return _units(values[0], f"query parameter {self.name}")


@dataclass(frozen=True, slots=True)
class FromBody:
    """The amount is a member of the JSON body; `amount.units` is the member `units` of the member `amount`."""

    path: str

    def read(self, facts: Facts) -> int:
        """Return the amount.

        Raises:
            RequestRefused: the body is no JSON document that has only one reading, or the member is missing or no
                whole number.
            ConfigurationError: the request can have no body.
        """
        if facts.view is None or facts.body is None:
            raise ConfigurationError(
                f"from_body({self.path!r}): a websocket handshake has no body; use from_path, from_query or a number"
            )
        _check_kind(facts.view, self.path)
        try:
            found = parse_json(facts.body)
        except InvalidDocument:
            raise RequestRefused(
                bad_request(f"body is no JSON document with one reading, but {self.path} is needed")
            ) from None
        for name in self.path.split("."):
            if not isinstance(found, dict) or name not in found:
                raise RequestRefused(bad_request(f"body member {self.path} is missing"))
            found = found[name]
        if isinstance(found, str):
            raise RequestRefused(bad_request(f"body member {self.path} {_UNITS} and no quotes"))
        return _units(found, f"body member {self.path}")


Source = FromPath | FromQuery | FromBody
Amount = int | Source | Callable[[Mapping[str, Any]], int] | None
"""A whole number, its place in the request, a function of the path parameters, or None: unknown."""


def from_path(name: str) -> FromPath:
    """Return the source for an amount that is a path parameter.

    Raises:
        ConfigurationError: an empty name.
    """
    return FromPath(_named(name, "from_path"))


def from_query(name: str) -> FromQuery:
    """Return the source for an amount that is a query parameter; it must occur exactly once.

    Raises:
        ConfigurationError: an empty name.
    """
    return FromQuery(_named(name, "from_query"))


def from_body(path: str) -> FromBody:
    """Return the source for an amount that is a member of the JSON body.

    Args:
        path: names of members, from the outside in, with dots between them: `amount.units`.

    Raises:
        ConfigurationError: an empty name in the path.
    """
    if not all(_named(path, "from_body").split(".")):
        raise ConfigurationError(f"from_body({path!r}) has an empty name between its dots")
    return FromBody(path)


def check_amount(amount: Any, place: str) -> None:
    """Refuse at the start what can never be an amount.

    Args:
        place: how to name it, for example `RequireApproval(amount=…)`.

    Raises:
        ConfigurationError: neither a whole number, a source, a function nor None.
    """
    if amount is None or isinstance(amount, Source) or (callable(amount) and not isinstance(amount, type)):
        return
    check_units(amount, place)


def check_units(value: Any, place: str) -> None:
    """Refuse at the start what is no number of units.

    Raises:
        ConfigurationError: a boolean, no integer, negative, or above `MAX_UNITS`.
    """
    if not is_units(value):
        raise ConfigurationError(f"{place} takes a whole number from 0 to {MAX_UNITS}")


def read_amount(amount: Amount, facts: Facts, place: str) -> int | None:
    """Return the amount of one request, None where it is unknown.

    Args:
        place: how to name a function that gives no number.

    Raises:
        RequestRefused: the request does not clearly say it.
        ConfigurationError: a function gave something else than an integer, or a source cannot be used here.
    """
    if amount is None or isinstance(amount, int):
        return amount
    if isinstance(amount, Source):
        return amount.read(facts)
    found: Any = timed("function for an amount", amount)(facts.path_params)
    if isinstance(found, bool) or not isinstance(found, int):
        raise ConfigurationError(f"the function at {place} returned a {type(found).__name__} and not an int")
    return _units(found, f"the value of {place}")


def check_query(facts: Facts) -> None:
    """Refuse a query with a repeated parameter: an approval is bound to one reading of the request.

    The sidecar gets one value of each parameter, and a handler may read all of them.

    Args:
        facts: without a request there is nothing to refuse.

    Raises:
        RequestRefused: a parameter occurs more than once, or there are more than `MAX_QUERY_FIELDS`.
    """
    names = [] if facts.view is None else [name for name, _ in _query_pairs(facts.view)]
    if len(set(names)) != len(names):
        raise RequestRefused(
            bad_request("a query parameter occurs more than once, and an approval is for one reading of it only")
        )


def reads_body(amount: Any) -> bool:
    """Return True if the body has to be read for an amount."""
    return isinstance(amount, FromBody)


def _query_pairs(view: RequestView) -> list[tuple[str, str]]:
    try:
        return parse_qsl(view.query_string, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise RequestRefused(bad_request("query cannot be decoded, or has too many fields")) from None


def _units(value: Any, place: str) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if not is_units(value):
        raise RequestRefused(bad_request(f"{place} {_UNITS}"))
    return value


def _check_kind(view: RequestView, path: str) -> None:
    lines = view.header_values("content-type")
    kind, _, options = (lines[0] if lines else "").partition(";")
    utf8 = options.lower().count("charset") == len(_CHARSET.findall(";" + options))
    if not _JSON_TYPE.fullmatch(kind.strip()) or not utf8:
        raise RequestRefused(
            bad_request(f"body must be JSON in UTF-8 (content-type application/json): {path} is evaluated", 415)
        )
    if any(line.strip().lower() not in ("", "identity") for line in view.header_values("content-encoding")):
        raise RequestRefused(bad_request(f"body must not be compressed: {path} is evaluated", 415))


def _named(name: str, place: str) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"{place} needs a name")
    return name
