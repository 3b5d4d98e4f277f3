"""The differences that docs/frameworks.md lists: a table that people read and tests hold the stacks to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "frameworks.md"
HEADING = "| requests | stacks | what differs | why |"

VERSIONS = "The table is about: "

_QUOTED = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Difference:
    """One facet of one request in which one stack is not like the reference."""

    request: str
    stack: str
    facet: str

    def __str__(self) -> str:
        return f"{self.request} · {self.stack} · {self.facet}"


@dataclass(frozen=True)
class Row:
    """One row: every request, on every stack, in every facet that it names; `*` matches anything."""

    requests: tuple[str, ...]
    stacks: tuple[str, ...]
    facets: tuple[str, ...]
    why: str

    def parts(self) -> Iterator[Difference]:
        """Yield what the row claims, patterns included."""
        for request in self.requests:
            for stack in self.stacks:
                for facet in self.facets:
                    yield Difference(request, stack, facet)


def read() -> list[Row]:
    """Read the table."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEADING) + 2
    end = next((at for at in range(start, len(lines)) if not lines[at].startswith("|")), len(lines))
    return [_row(line) for line in lines[start:end]]


def versions() -> dict[str, str]:
    """Read which versions, as `MAJOR.MINOR`, the table is about: parsers and routers change their minds."""
    (line,) = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(VERSIONS))
    return dict(part.split() for part in line.removeprefix(VERSIONS).rstrip(".").split(","))


def explains(part: Difference, found: Difference) -> bool:
    """Tell whether a claim of the table covers a difference that was found."""
    same_stack, same_facet = part.stack == found.stack, fnmatchcase(found.facet, part.facet)
    return same_stack and same_facet and fnmatchcase(found.request, part.request)


def unexplained(found: Iterable[Difference], rows: Iterable[Row]) -> list[Difference]:
    """Return the differences that no row covers."""
    claims = [part for row in rows for part in row.parts()]
    return [one for one in found if not any(explains(part, one) for part in claims)]


def outdated(found: Iterable[Difference], rows: Iterable[Row]) -> list[Difference]:
    """Return the claims that nothing bears out any more."""
    known = list(found)
    return [part for row in rows for part in row.parts() if not any(explains(part, one) for one in known)]


def _row(line: str) -> Row:
    requests, stacks, facets, why = (cell.strip() for cell in line.strip().strip("|").split(" | "))
    return Row(_quoted(requests), _quoted(stacks), _quoted(facets), why)


def _quoted(cell: str) -> tuple[str, ...]:
    return tuple(_QUOTED.findall(cell))
