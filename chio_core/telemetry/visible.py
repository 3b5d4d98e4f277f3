"""Log lines of INFO that are visible where logging is not configured: there, Python shows only warnings."""

from __future__ import annotations

import logging

from chio_core.names import LOGGER

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
