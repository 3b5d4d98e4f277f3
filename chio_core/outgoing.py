"""What a request-only guard can leave for the answer: header lines, and functions to call at the very end.

A guard that only wants to add a header or take the time needs no `next`: it leaves its wish here, and the driver
of each framework puts it on whatever is answered, refusals and streams included. That is why the bundled guards
cost microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from chio_core.names import STATE_OUTGOING
from chio_core.request import GuardRequest

HeaderValue = str | Callable[[], str]
"""A value, or a function that gives it when the head is sent."""


@dataclass(slots=True)
class Outgoing:
    """Wishes for one answer.

    Attributes:
        headers: name, value, and whether a line of the application with that name is replaced (else it stays
            and ours is left out).
        finished: called once with the status that was answered, when the last byte is out or the request failed.
    """

    headers: list[tuple[str, HeaderValue, bool]] = field(default_factory=list)
    finished: list[Callable[[int | None], None]] = field(default_factory=list)

    def add_header(self, name: str, value: HeaderValue, *, replace: bool = True) -> None:
        """Ask for a header line."""
        self.headers.append((name, value, replace))

    def apply(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return header lines with the wishes applied; the order of the rest is kept."""
        for name, value, replace in self.headers:
            lower = name.lower()
            if replace:
                pairs = [pair for pair in pairs if pair[0].lower() != lower]
            elif any(pair[0].lower() == lower for pair in pairs):
                continue
            pairs = [*pairs, (name, value() if callable(value) else value)]
        return pairs

    def finish(self, status: int | None) -> None:
        """Call everybody who wants to know about the end."""
        callbacks, self.finished = self.finished, []
        for callback in callbacks:
            callback(status)


def outgoing(request: GuardRequest) -> Outgoing:
    """Return the wishes for this request's answer, to add to."""
    found = getattr(request.state, STATE_OUTGOING, None)
    if not isinstance(found, Outgoing):
        found = Outgoing()
        setattr(request.state, STATE_OUTGOING, found)
    return found
