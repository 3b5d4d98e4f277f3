"""Steps: what the pipeline does in an order, and the two ways to run it, in a thread or in an event loop."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")
Steps = Generator[Any, Any, T]
"""Yields results of a `RequestAdapter`'s methods (awaitables, if the adapter is asynchronous)."""


def run(steps: Steps[T]) -> T:
    """Run steps in a thread."""
    step, value = steps.send, None
    while True:
        try:
            value = step(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def run_async(steps: Steps[T]) -> T:
    """Run steps in an event loop: what they yield is awaited."""
    step: Callable[[Any], Any] = steps.send
    value: Any = None
    while True:
        try:
            pending = step(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        try:
            step, value = steps.send, await pending
        except BaseException as exc:  # noqa: BLE001 - the steps handle it, or raise it again
            step, value = steps.throw, exc
