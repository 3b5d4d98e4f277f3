r"""Translate regular expressions of the Rust `regex` crate into RE2's syntax (wire protocol, section 5.5).

The two languages look alike and differ in security-relevant details. So every construct is parsed and written
again, and a construct that is not listed is refused with `PatternError`.

Translated, because RE2 means something else:

* `\d`, `\w`, `\s` and their opposites are Unicode classes in Rust and ASCII classes in RE2;
* capturing groups become plain ones, literals become code points, `\u00e9` becomes `\x{e9}`.

Refused, because Rust refuses it while RE2 does not: `\C`, `\Q…\E`, octal escapes, a `{` that starts no count,
`[\w-z]`, names that start with a digit, flags that occur twice.

Refused here although Rust compiles it (a refused pattern denies the request, so this errs on the safe side):

* set operations and nesting in brackets: `[a&&b]`, `[a--b]`, `[a~~b]`, `[a[b]]`;
* `\W` in a negated bracket beside anything but `\d` and `_`;
* the flags `x`, `u` and `R`; names of groups beyond ASCII letters, digits and `_`;
* `\b{start}` and similar, `\<`, `\>`, a repetition of a repetition (`a**`), counts above 1000 and with spaces;
* properties beyond general categories and the plain names of scripts, and `\p{C}` (RE2 leaves out unassigned
  characters); more than 60 nested groups.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from chio_core.capabilities.tokens import PatternError

__all__ = ["ASCII", "MAX_COUNT", "MAX_NESTING", "UNICODE", "Classes", "Translation", "translate"]


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
        at: index of the next character.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    @property
    def char(self) -> str:
        """The next character; empty at the end."""
        return self.pattern[self.at : self.at + 1]

    def sees(self, text: str, *, ahead: int = 0) -> bool:
        """Return True if the rest, `ahead` characters from here, starts with `text`."""
        return self.pattern.startswith(text, self.at + ahead)

    def property(self) -> str:
        """Read `p{…}` after a backslash."""
        found = _PROPERTY.match(self.pattern, self.at)
        if not found:
            self.refuse("an unsupported Unicode property; use a general category or the name of a script")
        self.at = found.end()
        return f"\\{found.group()}"

    def escaped_literal(self) -> int:
        """Read the character after a backslash and return its code point."""
        char = self.char
        if not char or char not in "xuU":
            self.at += 1
            if char in _CONTROLS:
                return _CONTROLS[char]
            if char not in _PUNCTUATION:
                self.refuse("an unsupported escape")
            return ord(char)
        found = _HEX.match(self.pattern, self.at)
        if not found:
            self.refuse("an incomplete hexadecimal escape")
        self.at = found.end()
        code = int(next(digits for digits in found.groups() if digits), 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            self.refuse("an escape that is no Unicode character")
        return code

    def refuse(self, why: str) -> NoReturn:
        """Refuse the pattern; the message states the position, counted from 1.

        Raises:
            PatternError: always.
        """
        raise PatternError(f"{why} (near character {self.at + 1})")


def literal(code: int) -> str:
    """Return a character in a form that is a literal everywhere in RE2's syntax."""
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:X}}}"


@dataclass(frozen=True, slots=True)
class Classes:
    r"""How `\d`, `\w` and `\s` are written inside an RE2 bracket.

    Attributes:
        letters: characters of `\w` that are neither digits nor connectors.
        connectors: connecting punctuation without `_`.
    """

    letters: str
    digit: str
    connectors: str
    space: str
    not_digit: str
    not_space: str

    @property
    def word(self) -> str:
        r"""The content of a bracket with the meaning of `\w`."""
        return f"{self.letters}{self.digit}{self.connectors}_"


# Unicode's Alphabetic is L, Nl, some of M, and the circled letters; `\w` adds all of M and the two joiners.
UNICODE = Classes(
    letters=(
        r"\p{L}\p{Nl}\p{M}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169}\x{1F170}-\x{1F189}"
        r"\x{200C}\x{200D}"
    ),
    digit=r"\p{Nd}",
    connectors=r"\x{203F}\x{2040}\x{2054}\x{FE33}\x{FE34}\x{FE4D}-\x{FE4F}\x{FF3F}",
    space=(r"\x{9}-\x{D} \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"),
    not_digit=r"\P{Nd}",
    not_space=(
        r"\x{0}-\x{8}\x{E}-\x{1F}\x{21}-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF}"
        r"\x{200B}-\x{2027}\x{202A}-\x{202E}\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF}"
    ),
)
"""The classes with Rust's meaning."""

ASCII = Classes(
    letters="A-Za-z",
    digit="0-9",
    connectors="",
    space=r"\x{9}-\x{D} ",
    not_digit=r"\x{0}-/:-\x{10FFFF}",
    not_space=r"\x{0}-\x{8}\x{E}-\x{1F}\x{21}-\x{10FFFF}",
)
"""The same classes for ASCII text only, for a program that is a hundred times smaller."""


_POSIX = re.compile(r"\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]")


def read_bracket(reader: Reader, classes: Classes) -> str:
    """Read a class from its opening bracket on and return it in RE2's syntax.

    Args:
        reader: at the opening bracket; afterwards behind the closing one.
        classes: how the shorthand classes are written.

    Raises:
        PatternError: Rust would refuse the class, or it is one of those that are refused here.
    """
    items: list[str] = []
    shorthands: set[str] = set()
    reader.at += 1
    negated = reader.sees("^")
    reader.at += negated
    first = True  # a closing bracket at the very start is a character
    while first or not reader.sees("]"):
        first = False
        if posix := _POSIX.match(reader.pattern, reader.at):
            reader.at = posix.end()
            items.append(posix.group())
            continue
        if any(reader.sees(text) for text in ("[", "&&", "--", "~~")):
            reader.refuse("set operations and nested classes are not supported; escape the character")
        low = _read_member(reader, items, shorthands)
        if reader.sees("-") and not reader.sees("]", ahead=1):
            reader.at += 1
            if reader.sees("-") or reader.sees("["):
                reader.refuse("a set operation is not supported; escape the character")
            high = _read_member(reader, items, shorthands)
            if low is None or high is None or high < low:
                reader.refuse("a range whose ends are no characters in order")
            items.append(f"{literal(low)}-{literal(high)}")
        elif low is not None:
            items.append(literal(low))
    reader.at += 1

    # RE2 has no Unicode `\W`, so a class with it is written as an alternative, or, negated, as the rest of `\w`.
    written = {
        "d": classes.digit,
        "D": classes.not_digit,
        "w": classes.word,
        "s": classes.space,
        "S": classes.not_space,
    }
    content = "".join(items) + "".join(written[char] for char in sorted(shorthands - {"W"}))
    if "W" not in shorthands:
        return f"[{'^' if negated else ''}{content}]"
    if not negated:
        opposite = f"[^{classes.word}]"
        return f"(?:{opposite}|[{content}])" if content else opposite
    if shorthands - {"W", "d"} or set(items) - {literal(ord("_"))}:
        reader.refuse("\\W in a negated class beside anything but \\d and _")
    digit = "" if "d" in shorthands else classes.digit
    return f"[{classes.letters}{digit}{classes.connectors}{'' if items else '_'}]"


def _read_member(reader: Reader, items: list[str], shorthands: set[str]) -> int | None:
    """Read one character and return its code point; for a class, add it to one of the two and return None."""
    char = reader.char
    if not char:
        reader.refuse("unclosed character class")
    reader.at += 1
    if char != "\\":
        return ord(char)
    if reader.char in SHORTHANDS:
        shorthands.add(reader.char)
        reader.at += 1
        return None
    if reader.char in PROPERTIES:
        items.append(reader.property())
        return None
    return reader.escaped_literal()


MAX_NESTING = 60
"""Deepest nesting of groups. Rust allows 250 levels of its tree, of which one group can take four."""

MAX_COUNT = 1000
"""Largest number in a counted repetition; RE2's own limit."""

_COUNT = re.compile(r"\{([0-9]{1,9})(?:(,)([0-9]{1,9})?)?\}")
_GROUP = re.compile(r"\(\?(?:P?<(?P<name>[A-Za-z_][A-Za-z0-9_]*)>|(?P<on>[imsU]*)(?P<off>-[imsU]+)?(?P<end>[:)]))")
_ASSERTIONS = frozenset("AzbB")


class Translation(NamedTuple):
    r"""A pattern in RE2's syntax.

    Attributes:
        text: the pattern.
        has_word_boundary: it contains `\b` or `\B`, which RE2 decides by ASCII alone.
    """

    text: str
    has_word_boundary: bool


def translate(pattern: str, classes: Classes = UNICODE) -> Translation:
    """Write a Rust pattern in RE2's syntax.

    Args:
        pattern: the pattern as the token has it.
        classes: how the three shorthand classes are written.

    Raises:
        PatternError: Rust would refuse it, or it is one of the constructs that are refused here.
    """
    reader = Reader(pattern)
    names: set[str] = set()
    out: list[str] = []
    depth = 0
    has_word_boundary = repeatable = False
    while char := reader.char:
        text, length, repeats = char, 1, char not in "*+?{(|"
        if char in "*+?{":
            text, length = _read_repetition(reader)
            if not repeatable:
                reader.refuse("nothing to repeat, or a repetition of a repetition")
        elif char == "(":
            text, length, opened = _read_group(reader, names)
            depth += opened
            if depth > MAX_NESTING:
                reader.refuse(f"more than {MAX_NESTING} nested groups")
        elif char == ")":
            depth -= 1
            if depth < 0:
                reader.refuse("unopened group")
        elif char == "[":
            text, length = read_bracket(reader, classes), 0
        elif char == "\\":
            reader.at += 1
            char = reader.char
            if char in SHORTHANDS:
                content = {"d": classes.digit, "w": classes.word, "s": classes.space}[char.lower()]
                text = f"[{'^' if char.isupper() else ''}{content}]"
            elif char in _ASSERTIONS:
                text = f"\\{char}"
                has_word_boundary |= char in "bB"
                if char in "bB" and reader.sees("{", ahead=1):
                    reader.refuse("a word boundary before '{'")
            elif char in PROPERTIES:
                text, length = reader.property(), 0
            else:
                text, length = literal(reader.escaped_literal()), 0
        elif char not in "|^$.":
            text = literal(ord(char))
        out.append(text)
        reader.at += length
        repeatable = repeats
    if depth:
        reader.refuse("unclosed group")
    return Translation("".join(out), has_word_boundary)


def _read_repetition(reader: Reader) -> tuple[str, int]:
    """Return the repetition in RE2's syntax, and its length."""
    text, length = reader.char, 1
    if text == "{":
        found = _COUNT.match(reader.pattern, reader.at)
        if not found:
            reader.refuse("'{' starts no count such as {2} or {2,5}; write \\{ for the character")
        low, comma, high = found.groups()
        if max(int(low), int(high or 0)) > MAX_COUNT:
            reader.refuse(f"a count above {MAX_COUNT}")
        if high and int(high) < int(low):
            reader.refuse("a count whose end is below its start")
        text, length = f"{{{int(low)}{comma or ''}{int(high) if high else ''}}}", len(found.group())
    return (f"{text}?", length + 1) if reader.sees("?", ahead=length) else (text, length)


def _read_group(reader: Reader, names: set[str]) -> tuple[str, int, int]:
    """Return the start of a group in RE2's syntax, its length, and 1 if it opens a group (0 for flags alone)."""
    if not reader.sees("(?"):
        return "(?:", 1, 1
    found = _GROUP.match(reader.pattern, reader.at)
    if not found:
        reader.refuse("an unsupported group: look-around, back-references and comments do not exist")
    length = len(found.group())
    if name := found["name"]:
        if name in names:
            reader.refuse("a group name that occurs twice")
        names.add(name)
        return "(?:", length, 1
    flags = found["on"] + (found["off"] or "").removeprefix("-")
    if len(set(flags)) != len(flags) or (found["end"] == ")" and not flags):
        reader.refuse("flags that occur twice or are missing")
    return found.group(), length, int(found["end"] == ":")
