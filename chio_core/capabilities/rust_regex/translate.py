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
from typing import NamedTuple

from chio_core.capabilities.rust_regex.brackets import read_bracket
from chio_core.capabilities.rust_regex.classes import UNICODE, Classes
from chio_core.capabilities.rust_regex.reader import PROPERTIES, SHORTHANDS, Reader, literal

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
