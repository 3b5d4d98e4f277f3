"""Which of the two media types of a refusal a client would rather have (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from typing import Final

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"

_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")

Rank = tuple[float, int]
"""Quality (0 to 1) and how closely the range that gave it names a type: 2 by its name, 1 as `application/*`."""


def prefers_problem(accept: str) -> bool:
    """Tell whether `application/problem+json` is wanted more than `application/json`.

    It is with a higher quality, and with the same one where it is named and the other only covered by a wildcard.
    What is equal, `*/*` among it, and what names neither is no: `application/json` is the published form.

    Args:
        accept: the value of `Accept`, lines joined with commas; empty without one. What cannot be read is ignored.
    """
    ranges = [one for one in map(_range, accept.lower().split(",")) if one is not None]
    return _rank(ranges, PROBLEM_JSON) > _rank(ranges, JSON)


def _range(text: str) -> tuple[str, float] | None:
    name, *parameters = (part.strip() for part in text.split(";"))
    quality = "1"
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            quality = value.strip()
    return (name, float(quality)) if _QUALITY.fullmatch(quality) else None


def _rank(ranges: list[tuple[str, float]], name: str) -> Rank:
    # The closest range counts, not the largest quality: `application/json;q=0, */*` does not want JSON.
    for closeness, pattern in ((2, name), (1, "application/*"), (0, "*/*")):
        found = [quality for one, quality in ranges if one == pattern]
        if found:
            return (max(found), closeness) if max(found) else (0.0, 0)
    return (0.0, 0)
