"""The arguments of a tool call as constraints see them: strings with their keys, members, and a size."""

from __future__ import annotations

import json
import math
from typing import Any

from chio_core.errors import InvalidDocument


class Arguments:
    """Arguments, walked once.

    Only JSON is accepted: a value that the walk cannot see into, such as a path object, would slip past every
    condition.

    Args:
        value: a JSON value: None, bool, int, float, str, list or tuple, or dict with string keys.

    Attributes:
        leaves: every string at any depth with the key that it stands under; an element of an array has the
            key of the array, a bare string has None.
        members: every member of every object at any depth.

    Raises:
        InvalidDocument: the value is not JSON.
    """

    def __init__(self, value: Any) -> None:
        self._value = value
        self._float_excess = 0
        self.leaves: list[tuple[str | None, str]] = []
        self.members: list[tuple[str, Any]] = []
        self._walk(value)

    @property
    def size(self) -> int:
        """Bytes of the compact JSON text, as the protocol counts them."""
        text = json.dumps(self._value, ensure_ascii=False, separators=(",", ":"))
        return len(text.encode()) + self._float_excess

    def _walk(self, value: Any) -> None:
        # A list of what is still to be seen instead of recursion: the caller chooses the depth.
        waiting: list[tuple[str | None, Any]] = [(None, value)]
        while waiting:
            key, item = waiting.pop()
            if isinstance(item, str):
                self.leaves.append((key, _checked_text(item)))
            elif isinstance(item, dict):
                for name, member in item.items():
                    self.members.append((_checked_text(name), member))
                    waiting.append((name, member))
            elif isinstance(item, (list, tuple)):
                waiting.extend((key, element) for element in item)
            else:
                self._check_scalar(item)

    def _check_scalar(self, item: Any) -> None:
        if item is None or isinstance(item, bool):
            return
        try:
            number = float(item) if isinstance(item, (int, float)) else math.nan
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise InvalidDocument(f"arguments must be JSON; a value of type {type(item).__name__} is not")
        if isinstance(item, float):
            self._float_excess += len(_float_text(item)) - len(repr(item))


def _checked_text(text: Any) -> str:
    if not isinstance(text, str):
        raise InvalidDocument(f"arguments must be JSON; a key of type {type(text).__name__} is not")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidDocument("arguments must be JSON; a lone surrogate is no text") from None
    return text


def _float_text(number: float) -> str:
    # Rust writes 1e16 and 0.00001 where Python writes 1e+16 and 1e-05.
    mantissa, mark, exponent = repr(number).partition("e")
    if not mark:
        return mantissa
    if exponent == "-05":
        sign = "-" if number < 0 else ""
        return f"{sign}0.0000{mantissa.lstrip('-').replace('.', '')}"
    return f"{mantissa}e{int(exponent)}"
