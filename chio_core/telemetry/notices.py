"""What a person at the terminal sees: warnings about refusals, and lines of INFO where logging is not configured.

There Python prints warnings and nothing below (`logging.lastResort`). So the first refusal of a route for a reason is
one WARNING with what to do about it (logger `chio.refusal`), and the same refusal is quiet for ten minutes then. The
log of decisions (`chio_core.telemetry.log`) has every decision, at its own level. `log_visibly` prints a line of INFO
as Python prints warnings.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from chio_core.evaluation.outcomes import Decision
from chio_core.models.demands import CAPABILITY_GUARD
from chio_core.models.receipt import RULE
from chio_core.names import LOGGER, REFUSAL_LOGGER
from chio_core.refusals.problems import explain_command
from chio_core.refusals.response import Denial
from chio_core.telemetry.log import level_of, shown

log = logging.getLogger(REFUSAL_LOGGER)

QUIET_SECONDS: Final = 600.0
"""How long a refusal of the same route for the same reason is not repeated."""

MAX_KNOWN: Final = 1_000
"""Most refusals that are remembered."""


class Notices:
    """The warnings about refusals of one application.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], tuple[float, int]] = {}

    def note(self, decision: Decision, method: str, path: str, template: str | None) -> None:
        """Warn of a refusal, unless it was warned of lately. An allow, and what is logged as an error, is left out.

        Args:
            method, path: as the client sent them.
            template: of the route; None if it is not known. All paths without one count as one route.
        """
        denial = decision.denial
        if denial is None or level_of(decision) != logging.INFO or not log.isEnabledFor(logging.WARNING):
            return
        with suppress(Exception):  # a handler or filter of the application failed; the refusal stands
            metadata = decision.receipt.metadata if decision.receipt is not None else None
            rule = metadata.get(RULE) if isinstance(metadata, dict) else None
            key = (method, template or "", denial.code, denial.guard or "", str(rule))
            if (earlier := self._due(key)) is None:
                return
            log.warning(
                "chio: refused %s %s: %d %s: %s.%s%s",
                shown(method),
                shown(template or path),
                denial.status,
                shown(denial.code),
                shown(denial.message),
                remedy(decision, denial),
                f" ({earlier} more since the last warning)" if earlier else "",
            )

    def _due(self, key: tuple[str, ...]) -> int | None:
        """Return how many refusals were not warned of since the last warning; None if it is too early for another."""
        now = self._clock()
        with self._lock:
            began, count = self._known.get(key, (now - QUIET_SECONDS, 0))
            if now - began < QUIET_SECONDS:
                self._known[key] = (began, count + 1)
                return None
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = (now, 0)
        return count


def remedy(decision: Decision, denial: Denial) -> str:
    """Return what a developer can do about a refusal, each sentence with a blank before it."""
    explain = explain_command(denial.receipt_id)
    more = f" Details: {explain}" if explain is not None else ""
    command = denial.details.get("hint")
    if denial.guard != CAPABILITY_GUARD or command is None:
        return (f" To do: {shown(denial.suggestion)}." if denial.suggestion else "") + more
    ways = f"present a capability ({command})"
    if decision.requirement is None or not decision.requirement.capability:
        # Nothing but the method needs the capability: writes are refused by default.
        ways += ", or declare that the route has no side effects, or exclude its path (CHIO_EXCLUDE_PATHS)"
    return f" To do: {ways}; CHIO_OBSERVE=true records refusals and refuses nothing.{more}"


_ANNOUNCED: set[str] = set()


def is_visible(logger: logging.Logger, level: int) -> bool:
    """Return True if `log_visibly` would write a line of this level."""
    return logger.isEnabledFor(level) or _needs_last_resort(logger, level)


def log_visibly(logger: logging.Logger, level: int, text: str, *values: object) -> None:
    """Log a line; where no handler is set up, print one of INFO as Python prints warnings (`logging.lastResort`).

    Levels that the application has set count: a logger above INFO, or `logging.disable`, keeps the line quiet.

    Args:
        logger: the logger.
        level: of the line.
        text, values: as for `logging.Logger.log`.
    """
    if _needs_last_resort(logger, level) and logging.lastResort is not None:
        logging.lastResort.handle(logger.makeRecord(logger.name, level, "", 0, text, values, None))
    else:
        logger.log(level, text, *values)


def announce(line: str) -> None:
    """Log a line of the start at INFO, visibly; where logging is not configured, once a process."""
    logger = logging.getLogger(LOGGER)
    if not logger.hasHandlers():
        if line in _ANNOUNCED:
            return
        _ANNOUNCED.add(line)
    log_visibly(logger, logging.INFO, "chio: %s", line)


def _needs_last_resort(logger: logging.Logger, level: int) -> bool:
    if not logging.INFO <= level < logging.WARNING or logger.hasHandlers() or logger.disabled:
        return False
    own: logging.Logger | None = logger
    while own is not None and own is not logging.root and not own.level:
        own = own.parent
    # The root's own level, WARNING, is the default and not a choice.
    set_level = own.level if own is not None and own is not logging.root else logging.NOTSET
    return level >= set_level and level > logger.manager.disable
