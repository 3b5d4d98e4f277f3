"""Character classes in brackets."""

from __future__ import annotations

import re

from chio_core.capabilities.rust_regex.classes import Classes
from chio_core.capabilities.rust_regex.reader import PROPERTIES, SHORTHANDS, Reader, literal

_POSIX = re.compile(r"\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]")


def read_bracket(reader: Reader, classes: Classes) -> str:
    """Read a class from its opening bracket on and return it in RE2's syntax.

    Args:
        reader: stands at the opening bracket; stands behind the closing one afterwards.
        classes: how the shorthand classes are written.

    Raises:
        PatternError: Rust would refuse the class, or it is one of those that are refused here.
    """
    return _Bracket(reader, classes).read()


class _Bracket:
    r"""One class; what it holds is collected first, because `\W` decides how the whole is written."""

    def __init__(self, reader: Reader, classes: Classes) -> None:
        self.reader = reader
        self.classes = classes
        self.items: list[str] = []
        self.shorthands: set[str] = set()

    def read(self) -> str:
        reader = self.reader
        reader.at += 1
        negated = reader.sees("^")
        reader.at += negated
        self._item()  # a closing bracket at the very start is a character
        while not reader.sees("]"):
            self._item()
        reader.at += 1
        return self._written(negated)

    def _item(self) -> None:
        reader = self.reader
        if posix := _POSIX.match(reader.pattern, reader.at):
            reader.at = posix.end()
            self.items.append(posix.group())
            return
        if any(reader.sees(text) for text in ("[", "&&", "--", "~~")):
            reader.refuse("set operations and nested classes are not supported; escape the character")
        low = self._single()
        if reader.sees("-") and not reader.sees("]", ahead=1):
            self._range(low)
        elif low is not None:
            self.items.append(literal(low))

    def _range(self, low: int | None) -> None:
        reader = self.reader
        reader.at += 1
        if reader.sees("-") or reader.sees("["):
            reader.refuse("a set operation is not supported; escape the character")
        high = self._single()
        if low is None or high is None or high < low:
            reader.refuse("a range whose ends are no characters in order")
        self.items.append(f"{literal(low)}-{literal(high)}")

    def _single(self) -> int | None:
        """Read one character and return its code point; None for a class, which is noted."""
        reader = self.reader
        char = reader.char
        if not char:
            reader.refuse("unclosed character class")
        reader.at += 1
        if char != "\\":
            return ord(char)
        if reader.char in SHORTHANDS:
            self.shorthands.add(reader.char)
            reader.at += 1
            return None
        if reader.char in PROPERTIES:
            self.items.append(reader.property())
            return None
        return reader.escaped_literal()

    def _written(self, negated: bool) -> str:
        if "W" not in self.shorthands:
            return f"[{'^' if negated else ''}{self._content()}]"
        if not negated:
            self.shorthands.discard("W")
            rest = self._content()
            opposite = f"[^{self.classes.word}]"
            return f"(?:{opposite}|[{rest}])" if rest else opposite
        if self.shorthands - {"W", "d"} or set(self.items) - {literal(ord("_"))}:
            self.reader.refuse("\\W in a negated class beside anything but \\d and _")
        digit = "" if "d" in self.shorthands else self.classes.digit
        return f"[{self.classes.letters}{digit}{self.classes.connectors}{'' if self.items else '_'}]"

    def _content(self) -> str:
        classes = self.classes
        written = {
            "d": classes.digit,
            "D": classes.not_digit,
            "w": classes.word,
            "s": classes.space,
            "S": classes.not_space,
        }
        return "".join(self.items) + "".join(written[char] for char in sorted(self.shorthands))
