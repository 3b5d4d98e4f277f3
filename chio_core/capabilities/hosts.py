"""The host rule of `domain_exact` and `domain_glob` (wire protocol, section 5.5).

The rule errs on the refusing side: `report.txt` reads like a host and must match. Two readings of a text
are possible when it holds more than one `@`, or a character that only turns into ASCII when it is
lower-cased (the Kelvin sign). Such a text is returned as `AMBIGUOUS`, which no value and no glob matches.
"""

from __future__ import annotations

AMBIGUOUS = ""
"""Stands for a host that could be read in two ways."""

_HOST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")

# Unicode's White_Space; `str.strip()` alone would also take U+001C to U+001F.
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def host_of(text: str) -> str | None:
    """Return the host that a string of the arguments names, lower-cased; None when it names none."""
    rest = text.strip(_SPACE)
    _, mark, after = rest.partition("://")
    authority = after if mark else rest
    for end in "/?#":
        authority = authority.partition(end)[0]
    raw = authority.rpartition("@")[2].partition(":")[0].strip(".")
    host = raw.lower()
    if host != "localhost" and ("." not in host or not _HOST.issuperset(host)):
        return None
    return AMBIGUOUS if authority.count("@") > 1 or not raw.isascii() else host


def host_equals(value: str, host: str) -> bool:
    """Tell whether a host is the value of a `domain_exact` constraint."""
    return host != AMBIGUOUS and host == _ascii_lower(value.strip(_SPACE).strip("."))


def host_matches(glob: str, host: str) -> bool:
    """Tell whether a host matches the value of a `domain_glob` constraint; `*` is any run, even none."""
    if host == AMBIGUOUS:
        return False
    first, *rest = _ascii_lower(glob).split("*")
    if not rest:
        return host == first
    *middle, last = rest
    if len(host) < len(first) + len(last) or not host.startswith(first) or not host.endswith(last):
        return False
    # Leftmost fits are enough: a later fit of one piece leaves less room for the next ones.
    start, end = len(first), len(host) - len(last)
    for piece in middle:
        found = host.find(piece, start, end)
        if found < 0:
            return False
        start = found + len(piece)
    return True


def _ascii_lower(text: str) -> str:
    # Only ASCII: a value with another letter can never equal a host, and must not become one.
    return text.lower() if text.isascii() else text
