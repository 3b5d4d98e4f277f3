"""Print the line of the start where logging is not configured: Python prints warnings there and nothing below."""

from __future__ import annotations

import logging

from chio_core.names import LOGGER

log = logging.getLogger(LOGGER)

_ANNOUNCED: set[str] = set()


def announce(line: str) -> None:
    """Log a line at INFO; where logging is not configured at all, print it as Python prints warnings, once a process.

    Levels that the application has set count: a logger above INFO, or `logging.disable`, keeps the line quiet.
    """
    if log.hasHandlers():
        log.info("chio: %s", line)
        return
    quiet = log.disabled or log.level > logging.INFO or log.manager.disable >= logging.INFO
    if logging.lastResort is not None and not quiet and line not in _ANNOUNCED:
        _ANNOUNCED.add(line)
        logging.lastResort.handle(log.makeRecord(LOGGER, logging.INFO, "", 0, "chio: %s", (line,), None))
