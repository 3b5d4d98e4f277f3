r"""Run the regular expressions of a token with RE2, in linear time (wire protocol, section 5.5).

The author of a token chooses the pattern and the caller chooses the text, so both are bounded:

* A compiled program takes at most `MAX_PROGRAM_BYTES`; at most 128 patterns are cached.
* One evaluation of a scope may take `WORK_LIMIT` units, about one instruction of a program on one byte of
  text: 0.6 s of searching, or 1.3 s of compiling, in the worst cases measured. A pattern that needs more is
  refused like one that does not compile.

The remaining differences to the Rust crate all refuse. They are those of `rust_regex` and these:

* `\b` and `\B` on a text that is not ASCII are undecided, because RE2 knows word characters of ASCII only.
  Then neither a `regex_match` nor a `memory_write_deny_patterns` holds.
* A program above the limit does not compile (Rust allows about twice as much).

The Unicode tables of the two can differ in recently added characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from chio_core.capabilities.rust_regex import ASCII, UNICODE, translate
from chio_core.capabilities.tokens import ConstraintError, PatternError

MAX_PROGRAM_BYTES = 3 * 1024 * 1024
"""Memory that RE2 may use for one program; enough for `[\\w-]{1,128}`."""

WORK_LIMIT = 100_000_000
"""Units of work that one evaluation of a scope may take."""

_COMPILE_COST = 25  # units for one instruction: compiling counts in proportion to its time


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern: a program for any text, and a smaller one with the same result for ASCII text."""

    any_text: Any
    ascii_text: Any
    has_word_boundary: bool


def compile_pattern(text: str) -> Pattern:
    """Compile a pattern of the Rust `regex` crate.

    Raises:
        PatternError: it does not compile there, or not here.
    """
    compiled = _compiled(text)
    if isinstance(compiled, str):
        raise PatternError(compiled)
    return compiled


@lru_cache(maxsize=128)
def _compiled(text: str) -> Pattern | str:
    # Return a failure instead of raising it, so that it is cached too.
    try:
        wide = translate(text, UNICODE)
        narrow = translate(text, ASCII)
        return Pattern(_program(wide.text), _program(narrow.text), wide.has_word_boundary)
    except PatternError as exc:
        return str(exc)


def _program(text: str) -> Any:
    import re2  # imported on first use, because few processes evaluate a pattern

    options = re2.Options()
    options.log_errors = False  # RE2 would write to stderr, and repeat the pattern there
    options.max_mem = MAX_PROGRAM_BYTES
    options.never_capture = True
    try:
        return re2.compile(text.encode(), options)
    except re2.error as exc:
        detail = exc.args[0] if exc.args else "refused"
        raise PatternError(detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)) from None


class Searcher:
    """Runs the patterns of one evaluation and counts their work.

    Args:
        limit: units of work that may be spent.
    """

    def __init__(self, limit: int = WORK_LIMIT) -> None:
        self._left = limit
        self._compiled: dict[str, Pattern] = {}

    def prepare(self, text: str, *, kind: str) -> Pattern:
        """Compile a pattern, once for each evaluation.

        Args:
            text: the pattern.
            kind: the name of the pattern in the protocol's message.

        Raises:
            ConstraintError: R6x.
        """
        known = self._compiled.get(text)
        if known is not None:
            return known
        try:
            pattern = compile_pattern(text)
        except PatternError as exc:
            raise ConstraintError(f'invalid capability constraint: {kind} "{text}" failed to compile: {exc}') from None
        self._spend(pattern.any_text.programsize * _COMPILE_COST)
        self._compiled[text] = pattern
        return pattern

    def contains(self, pattern: Pattern, text: str, *, undecided: bool) -> bool:
        """Return True if a text contains a match.

        Args:
            pattern: from `prepare`.
            text: valid Unicode.
            undecided: the result if RE2 cannot decide as Rust does.

        Raises:
            ConstraintError: the evaluation needs too much work.
        """
        if text.isascii():
            program = pattern.ascii_text
        elif pattern.has_word_boundary:
            return undecided
        else:
            program = pattern.any_text
        raw = text.encode()
        self._spend(program.programsize * (len(raw) + 1))
        return program.search(raw) is not None

    def _spend(self, units: int) -> None:
        self._left -= units
        if self._left < 0:
            raise ConstraintError("the patterns need too much work for these arguments")
