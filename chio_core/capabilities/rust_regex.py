r"""Translate regular expressions of the Rust `regex` crate into RE2's syntax (wire protocol, section 5.5).

The two languages look alike and differ where it hurts. Nothing is passed on unseen: every construct is read
here and written anew, and what is not listed is refused with `PatternError`.

Translated, because RE2 means something else:

* `\d`, `\w`, `\s` and their opposites are Unicode classes in Rust and ASCII classes in RE2;
* capturing groups become plain ones, literals become code points, `\u00e9` becomes `\x{e9}`.

Refused, because Rust refuses it while RE2 does not: `\C`, `\Q…\E`, octal escapes, a `{` that starts no count,
`[\w-z]`, names that start with a digit, flags that occur twice.

Refused here although Rust compiles it (a refused pattern denies the request, so this errs on the safe side):

* set operations and nesting in brackets: `[a&&b]`, `[a--b]`, `[a~~b]`, `[a[b]]`;
* `\W` in a negated bracket beside anything but `\d` and `_`;
* the flags `x`, `u` and `R`; names of groups beyond ASCII letters, digits and `_`;
* `\b{start}` and its kind, `\<`, `\>`, a repetition of a repetition (`a**`), counts above 1000 and with spaces;
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


@dataclass(frozen=True, slots=True)
class Classes:
    r"""How `\d`, `\w` and `\s` are written inside an RE2 bracket.

    Attributes:
        letters: what `\w` holds beside digits and connectors.
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
        r"""The content of a bracket that is `\w`."""
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
"""The classes as Rust means them."""

ASCII = Classes(
    letters="A-Za-z",
    digit="0-9",
    connectors="",
    space=r"\x{9}-\x{D} ",
    not_digit=r"\x{0}-/:-\x{10FFFF}",
    not_space=r"\x{0}-\x{8}\x{E}-\x{1F}\x{21}-\x{10FFFF}",
)
"""The same classes as far as ASCII text can tell, for a program that is a hundred times smaller."""


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
        has_word_boundary: it holds `\b` or `\B`, which RE2 decides by ASCII alone.
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
    return _Translator(pattern, classes).run()


class _Translator:
    """One pass over one pattern."""

    def __init__(self, pattern: str, classes: Classes) -> None:
        self.reader = Reader(pattern)
        self.classes = classes
        self.depth = 0
        self.names: set[str] = set()
        self.has_word_boundary = False
        self.repeatable = False  # a repetition may follow
        self.out: list[str] = []

    def run(self) -> Translation:
        while self.reader.char:
            self._step(self.reader.char)
        if self.depth:
            self.reader.refuse("unclosed group")
        return Translation("".join(self.out), self.has_word_boundary)

    def _step(self, char: str) -> None:
        if char in "*+?{":
            self._repetition(char)
        elif char == "(":
            self._open_group()
        elif char == ")":
            self._close_group()
        elif char == "|":
            self._emit("|", repeatable=False)
        elif char == "[":
            self._emit(read_bracket(self.reader, self.classes), length=0)
        elif char == "\\":
            self._escape()
        else:
            self._emit(char if char in "^$." else literal(ord(char)))

    def _emit(self, text: str, *, repeatable: bool = True, length: int = 1) -> None:
        self.out.append(text)
        self.repeatable = repeatable
        self.reader.at += length

    def _repetition(self, char: str) -> None:
        text, length = self._count() if char == "{" else (char, 1)
        if not self.repeatable:
            self.reader.refuse("nothing to repeat, or a repetition of a repetition")
        if self.reader.sees("?", ahead=length):
            text, length = f"{text}?", length + 1
        self._emit(text, repeatable=False, length=length)

    def _count(self) -> tuple[str, int]:
        found = _COUNT.match(self.reader.pattern, self.reader.at)
        if not found:
            self.reader.refuse("'{' starts no count such as {2} or {2,5}; write \\{ for the character")
        low, comma, high = found.groups()
        if max(int(low), int(high or 0)) > MAX_COUNT:
            self.reader.refuse(f"a count above {MAX_COUNT}")
        if high and int(high) < int(low):
            self.reader.refuse("a count whose end is below its start")
        upper = str(int(high)) if high else ""
        return f"{{{int(low)}{comma or ''}{upper}}}", len(found.group())

    def _open_group(self) -> None:
        if not self.reader.sees("(?"):
            self._enter("(?:", 1)
            return
        found = _GROUP.match(self.reader.pattern, self.reader.at)
        if not found:
            self.reader.refuse("an unsupported group: look-around, back-references and comments do not exist")
        if found["name"]:
            self._note_name(found["name"])
            self._enter("(?:", len(found.group()))
            return
        flags = found["on"] + (found["off"] or "").removeprefix("-")
        if len(set(flags)) != len(flags) or (found["end"] == ")" and not flags):
            self.reader.refuse("flags that occur twice or are missing")
        if found["end"] == ")":
            self._emit(found.group(), repeatable=False, length=len(found.group()))
        else:
            self._enter(found.group(), len(found.group()))

    def _note_name(self, name: str) -> None:
        if name in self.names:
            self.reader.refuse("a group name that occurs twice")
        self.names.add(name)

    def _enter(self, text: str, length: int) -> None:
        self.depth += 1
        if self.depth > MAX_NESTING:
            self.reader.refuse(f"more than {MAX_NESTING} nested groups")
        self._emit(text, repeatable=False, length=length)

    def _close_group(self) -> None:
        self.depth -= 1
        if self.depth < 0:
            self.reader.refuse("unopened group")
        self._emit(")")

    def _escape(self) -> None:
        reader = self.reader
        reader.at += 1
        if reader.char in SHORTHANDS:
            self._emit(self._shorthand(reader.char))
        elif reader.char in _ASSERTIONS:
            self._assertion(reader.char)
        elif reader.char in PROPERTIES:
            self._emit(reader.property(), length=0)
        else:
            self._emit(literal(reader.escaped_literal()), length=0)

    def _assertion(self, char: str) -> None:
        if char in "bB":
            self.has_word_boundary = True
            if self.reader.sees("{", ahead=1):
                self.reader.refuse("a word boundary before '{'")
        self._emit(f"\\{char}")

    def _shorthand(self, char: str) -> str:
        content = {"d": self.classes.digit, "w": self.classes.word, "s": self.classes.space}[char.lower()]
        return f"[{'^' if char.isupper() else ''}{content}]"
