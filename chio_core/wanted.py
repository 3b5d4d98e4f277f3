"""Log lines that an object was added for: they are visible where no logging is set up too."""

from __future__ import annotations

import logging
import sys


def is_wanted(logger: logging.Logger, level: int) -> bool:
    """Return True if `log_wanted` would write a line of this level."""
    return logger.isEnabledFor(level) or (level >= logging.INFO and not _is_set_up(logger))


def log_wanted(logger: logging.Logger, level: int, text: str, *values: object) -> None:
    """Log a line; without any handler or level in the way, write one of INFO or above to standard error.

    Python itself shows only warnings then (`logging.lastResort`), and servers set up no logger but their own.

    Args:
        logger: the logger.
        level: of the line.
        text, values: as for `logging.Logger.log`.
    """
    if logging.INFO <= level < logging.WARNING and not _is_set_up(logger):
        sys.stderr.write(f"{text % values}\n")
    else:
        logger.log(level, text, *values)


def _is_set_up(logger: logging.Logger) -> bool:
    own: logging.Logger | None = logger
    while own is not None and own is not logging.root:
        if own.handlers or own.level:
            return True
        own = own.parent
    return bool(logging.root.handlers)
