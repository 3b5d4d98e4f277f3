"""How the values of options are read: types for `argparse`, which names the option when one raises."""

from __future__ import annotations

import argparse
import re
import time
from datetime import UTC, datetime

TIMES = "seconds since 1970, 2026-01-31T08:00Z, or so long ago: 90s, 30m, 24h, 7d"
"""What `moment` takes, for the help of an option."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def whole(text: str) -> int:
    """Read a whole number that is not negative.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number")
    return int(text)


def positive(text: str) -> int:
    """Read a whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if (number := whole(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def moment(text: str) -> int:
    """Read a time, absolute or so long ago, as whole seconds since 1970.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    if (ago := re.fullmatch(r"([0-9]{1,9})([smhd])", text)) is not None:
        return max(0, int(time.time()) - int(ago[1]) * _UNITS[ago[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no time: write seconds since 1970, 2026-01-31T08:00Z, or so long ago: 24h"
        ) from None
    # Without an offset it is UTC, as the times in receipts are; this machine's zone would change the answer.
    aware = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return max(0, int(aware.timestamp()))
