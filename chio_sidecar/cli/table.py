"""Lists for people: a table that fits the terminal, and that is never cut where there is none."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from chio_sidecar.cli.terminal import emit_coloured, is_terminal, printable

GOOD, BAD, DOUBTFUL = "32", "31", "33"
"""Colours of a cell: green, red, yellow."""

_BOLD = "1"
_GAP = 2  # columns of the terminal between two cells
_INDENT = 4  # of a line that continues a row
_PADDED = 60  # columns up to which cells are aligned where nothing is cut
_MEASURED = 200  # rows that decide how wide the columns are


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading.
        fits: columns of the terminal that an ordinary text needs; a longer one is cut. None: it never is, as an id,
            which people copy.
        grows: True if a longer text gets what the terminal has left.
        colour: returns the colour of a cell, one of this module's constants, or "".
    """

    title: str
    fits: int | None = None
    grows: bool = False
    colour: Callable[[str], str] = lambda text: ""


class Table:
    """Prints rows below a heading. Columns for which the terminal is too narrow continue on the next line.

    The first rows decide how wide the columns are; the heading is printed with them.

    Args:
        columns: from left to right.
        grows: True if rows follow that are not known yet: columns then use the whole terminal.
    """

    def __init__(self, columns: Sequence[Column], *, grows: bool = False) -> None:
        self._columns = columns
        self._grows = grows
        self._width = shutil.get_terminal_size().columns if is_terminal() else None
        self._lines: list[list[tuple[int, int]]] = []  # of a row: number and width of each column

    def print(self, rows: Iterable[Sequence[str]]) -> bool:
        """Print rows, and return False if there was none.

        Raises:
            OutputError: standard output is closed or full.
            BrokenPipeError: its reader has ended.
        """
        shown = ([printable(text) for text in row] for row in rows)
        first: list[list[str]] = []
        try:
            first.extend(islice(shown, _MEASURED))
        finally:  # the rows before one that cannot be read are printed
            if first and not self._lines:
                self._lines = self._layout(first)
                self._row([column.title for column in self._columns], lambda number, text: _BOLD)
            for row in first:
                self._row(row, lambda number, text: self._columns[number].colour(text))
        for row in shown:
            self._row(row, lambda number, text: self._columns[number].colour(text))
        return bool(first)

    def _layout(self, rows: Sequence[Sequence[str]]) -> list[list[tuple[int, int]]]:
        wanted = [
            max(columns_of(column.title), *(columns_of(row[number]) for row in rows))
            for number, column in enumerate(self._columns)
        ]
        if self._width is None:
            return [[(number, min(want, _PADDED)) for number, want in enumerate(wanted)]]

        # Each column gets its least width, on a new line if the one before is full.
        fits = [column.fits or want for column, want in zip(self._columns, wanted, strict=True)]
        widths = fits if self._grows else list(map(min, fits, wanted))
        lines: list[list[int]] = [[]]
        left = self._width
        for number, width in enumerate(widths):
            if lines[-1] and width + _GAP > left:
                lines.append([])
                left = self._width - _INDENT
            left -= width + (_GAP if lines[-1] else 0)
            lines[-1].append(number)

        # What is left of a line goes to those that grow; the one that needs least comes first.
        for at, line in enumerate(lines):
            left = self._width - (_INDENT if at else 0) - sum(widths[number] + _GAP for number in line) + _GAP
            growing = sorted((wanted[number], number) for number in line if self._columns[number].grows)
            for place, (want, number) in enumerate(growing):
                share = left // (len(growing) - place)
                more = max(0, share if self._grows else min(want - widths[number], share))
                widths[number] += more
                left -= more
        return [[(number, widths[number]) for number in line] for line in lines]

    def _row(self, texts: Sequence[str], colour: Callable[[int, str], str]) -> None:
        for at, line in enumerate(self._lines):
            if at and not any(texts[number] for number, _ in line):
                continue
            parts = [(" " * _INDENT, "")] if at else []
            for number, width in line:
                text = texts[number]
                if self._width is not None and self._columns[number].fits is not None:
                    text = shortened(text, width)
                parts += [(text, colour(number, texts[number])), (" " * (max(0, width - columns_of(text)) + _GAP), "")]
            emit_coloured(parts)


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a printable text takes (Unicode Standard Annex 11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(char) in ("Mn", "Me") else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def shortened(text: str, width: int) -> str:
    """Return a text that takes at most `width` columns; one that was cut ends with an ellipsis."""
    if columns_of(text) <= width:
        return text
    mark = "…" if printable("…") == "…" else "..."
    left, end = width - len(mark), 0
    while end < len(text) and (left := left - columns_of(text[end])) >= 0:
        end += 1
    return text[:end] + mark
