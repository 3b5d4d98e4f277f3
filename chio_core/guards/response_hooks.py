"""Response headers and end-of-request callbacks that a guard queues before the response exists.

A guard that only adds a header or measures the time needs no `next`: it queues a `header_change` here, and the driver
of each framework applies it to every response, refusals and streams included. That keeps such guards at microseconds.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from chio_core.errors import ConfigurationError
from chio_core.names import LOGGER, STATE_RESPONSE_HOOKS
from chio_core.request import GuardRequest

log = logging.getLogger(LOGGER)

_BREAK = re.compile(r"[\r\n\0]")

HeaderValue = str | Callable[[], str]
"""A value, or a function that returns it when the head is sent."""

HeaderChange = tuple[str, str, HeaderValue, bool]
"""Name in lower case, name as written, value, and whether it replaces a header of the application."""


def header_change(name: str, value: HeaderValue, *, replace: bool = True) -> HeaderChange:
    """Return the change that adds one header; it can be added to many responses.

    Args:
        replace: replace the application's header of that name; otherwise that one stays and this one is left out.

    Raises:
        ConfigurationError: a line break in name or value.
    """
    if _BREAK.search(name) or (isinstance(value, str) and _BREAK.search(value)):
        raise ConfigurationError(f"header {name!r} contains a line break")
    return name.lower(), name, value, replace


@dataclass(slots=True)
class ResponseHooks:
    """Pending response changes for one request.

    Attributes:
        headers: changes in the order of the guards, outermost first; the last one for a header counts.
        finished: called once with the response's status (None without a response), after the last byte or the failure.
    """

    headers: list[HeaderChange] = field(default_factory=list)
    finished: list[Callable[[int | None], None]] = field(default_factory=list)

    def add_header(self, name: str, value: HeaderValue, *, replace: bool = True) -> None:
        """Add a header to the response; see `header_change`.

        Raises:
            ConfigurationError: a line break in name or value.
        """
        self.headers.append(header_change(name, value, replace=replace))

    def lines(self) -> dict[str, tuple[str, str, bool]]:
        """Return name, value and `replace` of each header to add, by its name in lower case."""
        found: dict[str, tuple[str, str, bool]] = {}
        for lower, name, value, replace in self.headers:
            if replace or lower not in found:
                found[lower] = (name, value if isinstance(value, str) else value(), replace)
        return found

    def apply(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return header lines with the changes applied; the others keep their order."""
        lines = self.lines()
        given = {name.lower() for name, _ in pairs}
        kept = [pair for pair in pairs if pair[0].lower() not in lines or not lines[pair[0].lower()][2]]
        return kept + [(name, value) for key, (name, value, replace) in lines.items() if replace or key not in given]

    def finish(self, status: int | None) -> None:
        """Call the callbacks, once; their exceptions are logged."""
        callbacks, self.finished = self.finished, []
        for callback in callbacks:
            call_at_the_end(lambda callback=callback: callback(status))  # type: ignore[misc]


def call_at_the_end(callback: Callable[[], None]) -> None:
    """Call a function at the end of a request. The response is sent: an exception is only logged."""
    try:
        callback()
    except Exception:
        log.exception("chio: a callback at the end of a request failed")


def response_hooks(request: GuardRequest) -> ResponseHooks:
    """Return the pending response changes of a request."""
    found = getattr(request.state, STATE_RESPONSE_HOOKS, None)
    if not isinstance(found, ResponseHooks):
        found = ResponseHooks()
        setattr(request.state, STATE_RESPONSE_HOOKS, found)
    return found
