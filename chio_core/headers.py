"""Header lines as guards read them: case-insensitive, repeated lines joined (RFC 9110, section 5.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from chio_core.names import APPROVAL_HEADER, CAPABILITY_HEADER


def single_headers(capability: str = CAPABILITY_HEADER, api_key: str = "x-api-key") -> frozenset[str]:
    """Return the headers, in lower case, that may stand only once in a request: two lines could mean two things.

    Args:
        capability, api_key: names that the settings give to these two (`capability_header`, `api_key_header`).
    """
    own = frozenset({capability.lower(), api_key.lower(), APPROVAL_HEADER.lower()})
    return own | {"authorization", "content-length", "content-type", "host"}


class HeaderLines(Mapping[str, str]):
    """A read-only mapping over header lines.

    `lines["x-a"]` joins repeated lines with a comma; `lines.values_of("x-a")` gives each by itself.

    Args:
        pairs: names and values in the order in which they were sent.

    Attributes:
        repeated: names, in lower case, that stand in more than one line.
    """

    __slots__ = ("_lines", "repeated")

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._lines: dict[str, list[str]] = {}
        self.repeated: set[str] = set()
        for name, value in pairs:
            lines = self._lines.setdefault(name.lower(), [])
            lines.append(value)
            if len(lines) > 1:
                self.repeated.add(name.lower())

    def values_of(self, name: str) -> Sequence[str]:
        """Return each line of the header `name`; empty when there is none."""
        return self._lines.get(name.lower(), ())

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._lines[name.lower()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)
