"""A place in a pattern, and what is read alike inside and outside of brackets: properties and escapes."""

from __future__ import annotations

import re
from typing import NoReturn

from chio_core.capabilities.errors import PatternError

SHORTHANDS = frozenset("dDwWsS")
"""Letters that name a shorthand class after a backslash."""

PROPERTIES = frozenset("pP")
"""Letters that start a Unicode property after a backslash."""

_HEX = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|[xuU]\{([0-9A-Fa-f]{1,8})\}")
_CATEGORY = r"L[ulmot]?|M[nce]?|N[dlo]?|P[cdsefio]?|S[cmko]?|Z[lps]?|C[cfo]"
_SCRIPT = r"[A-Z][a-z]+(?:_[A-Z][a-z]+)*"
_PROPERTY = re.compile(rf"[pP](?:[LMNPSZ]|\{{(?:{_CATEGORY}|{_SCRIPT})\}})")
_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B, "a": 0x07}
_PUNCTUATION = frozenset(" !\"#$%&'()*+,-./:;=?@[\\]^_`{|}~")


class Reader:
    """Reads one pattern from its start to its end.

    Args:
        pattern: the pattern as the token has it.

    Attributes:
        at: index of the character that is read next.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    @property
    def char(self) -> str:
        """The character that is read next; empty at the end."""
        return self.pattern[self.at : self.at + 1]

    def sees(self, text: str, *, ahead: int = 0) -> bool:
        """Tell whether `text` stands at the place, or `ahead` characters behind it."""
        return self.pattern.startswith(text, self.at + ahead)

    def property(self) -> str:
        """Read `p{…}` after a backslash that was read."""
        found = _PROPERTY.match(self.pattern, self.at)
        if not found:
            self.refuse("an unsupported Unicode property; use a general category or the name of a script")
        self.at = found.end()
        return f"\\{found.group()}"

    def escaped_literal(self) -> int:
        """Read what follows a backslash and return its code point."""
        char = self.char
        if char and char in "xuU":
            return self._hex()
        self.at += 1
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char not in _PUNCTUATION:
            self.refuse("an unsupported escape")
        return ord(char)

    def _hex(self) -> int:
        found = _HEX.match(self.pattern, self.at)
        if not found:
            self.refuse("an incomplete hexadecimal escape")
        self.at = found.end()
        code = int(next(digits for digits in found.groups() if digits), 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            self.refuse("an escape that is no Unicode character")
        return code

    def refuse(self, why: str) -> NoReturn:
        """Give up on the pattern; the message names the place, counted from 1.

        Raises:
            PatternError: always.
        """
        raise PatternError(f"{why} (near character {self.at + 1})")


def literal(code: int) -> str:
    """Return one character in a form that is a literal everywhere in RE2's syntax."""
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:X}}}"
