"""Which patterns can match a path? An index that leaves out only patterns that cannot; the router's own test decides.

A pattern is a compiled regular expression. Its text is read up to the first construct that is not known here. That
gives the segments that every matching path has at the same places, because no known parameter contains a slash. The
rest of the pattern is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

_PARAMETERS = (
    # Starlette: str, int, float, uuid
    r"[^/]+",
    r"[0-9]+",
    r"[0-9]+(\.[0-9]+)?",
    r"[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}",
    # Django: slug, uuid; Django REST framework; usual in `re_path`
    r"[-a-zA-Z0-9_]+",
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    r"[^/.]+",
    r"\d+",
    r"\w+",
    r"[-\w]+",
    r"[\w-]+",
)
"""Expressions that match no slash."""

_TOKEN = re.compile(
    # A named parameter, an escaped character, or a character without a meaning; none of them optional or repeated.
    rf"(?:(?P<parameter>\(\?P<\w+>(?:{'|'.join(map(re.escape, _PARAMETERS))})\))"
    r"|\\(?P<escaped>[^A-Za-z0-9])|(?P<plain>[^\\.^$*+?{}\[\]|()]))(?![*+?{])"
)
_ENDS = ("$", r"\Z")


@dataclass(frozen=True, slots=True)
class Shape:
    """What every path is like that a pattern matches.

    Attributes:
        segments: the text of its first segments (`path.split("/")`), None for any text.
        whole: it has these segments and no more.
    """

    segments: tuple[str | None, ...] = ()
    whole: bool = False


ANY = Shape()


def shape_of(pattern: re.Pattern[str] | None) -> Shape:
    """Return the known shape of the paths that match a pattern; `ANY` if nothing is known."""
    # Flags change what a text matches, and beside an alternative nothing that was read has to be there.
    if pattern is None or pattern.flags != re.UNICODE or "|" in pattern.pattern or pattern.pattern[:1] != "^":
        return ANY
    text, place, segments = pattern.pattern, 1, [""]
    mixed: set[int] = set()
    while text[place:] not in _ENDS:
        token = _TOKEN.match(text, place)
        if token is None:
            # The last segment may go on in the unknown part.
            return Shape(_with_parameters(segments[:-1], mixed))
        place = token.end()
        literal = token["escaped"] or token["plain"]
        if literal == "/":
            segments.append("")
        elif literal is None:
            mixed.add(len(segments) - 1)
        else:
            segments[-1] += literal
    return Shape(_with_parameters(segments, mixed), whole=True)


def _with_parameters(segments: Sequence[str], mixed: set[int]) -> tuple[str | None, ...]:
    return tuple(None if number in mixed else segment for number, segment in enumerate(segments))


def uses_only(function: Any, names: Set[str]) -> bool:
    """Return True if the code of a function uses no other names, so that it is the code that was read for an index."""
    return isinstance(function, FunctionType) and names >= set(function.__code__.co_names)


@dataclass(slots=True)
class _Node:
    literal: dict[str, _Node] = field(default_factory=dict)
    other: _Node | None = None
    begun: list[int] = field(default_factory=list)  # patterns that match paths which begin so
    whole: list[int] = field(default_factory=list)  # patterns that match paths which end here


class PathIndex:
    """Finds the patterns that can match a path.

    Args:
        patterns: in the order in which a router tries them; None is one that must always be tried.
    """

    def __init__(self, patterns: Iterable[re.Pattern[str] | None]) -> None:
        self._root, self._count = _Node(), 0
        for number, pattern in enumerate(patterns):
            shape, node = shape_of(pattern), self._root
            for segment in shape.segments:
                if segment is None:
                    node.other = node = node.other or _Node()
                else:
                    node = node.literal.setdefault(segment, _Node())
            (node.whole if shape.whole else node.begun).append(number)
            self._count = number + 1

    def candidates(self, path: str) -> Sequence[int]:
        """Return the numbers of the patterns that can match, ascending: of those that do match, none is missing."""
        if path.endswith("\n"):
            return range(self._count)  # `$` also matches before a last line feed
        nodes, found = [self._root], list(self._root.begun)
        for segment in path.split("/"):
            following = []
            for node in nodes:
                if (child := node.literal.get(segment)) is not None:
                    following.append(child)
                if node.other is not None:
                    following.append(node.other)
            nodes = following
            if not nodes:
                break
            for node in nodes:
                found += node.begun
        else:
            for node in nodes:
                found += node.whole
        found.sort()
        return found
