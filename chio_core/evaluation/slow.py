"""Names the functions of the application that hold the event loop, and with it all other requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from functools import wraps
from time import perf_counter
from types import coroutine
from typing import Any, Final, ParamSpec, TypeVar

from chio_core.names import LOGGER

log = logging.getLogger(LOGGER)

P = ParamSpec("P")
T = TypeVar("T")

SLOW_MS: Final = 50.0
"""Milliseconds without a pause after which a function is named in a warning."""


def timed(kind: str, function: Callable[P, T]) -> Callable[P, T]:
    """Return the same function, which is named in a warning if it holds an event loop.

    Args:
        kind: what it is, for example `hook`.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        started = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            _warn(kind, function, perf_counter() - started)

    return call


@coroutine
def timed_steps(kind: str, function: Callable[..., Any], work: Awaitable[T]) -> Generator[Any, Any, T]:
    """Await what an `async def` function has returned, step by step, with the same warning for each step."""
    steps = work.__await__()
    value: Any = None
    error: BaseException | None = None
    while True:
        started = perf_counter()
        try:
            if error is not None and hasattr(steps, "throw"):
                waits_for = steps.throw(error)
            elif value is not None and hasattr(steps, "send"):
                waits_for = steps.send(value)
            else:
                waits_for = next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            _warn(kind, function, perf_counter() - started)
        try:
            value, error = (yield waits_for), None
        except BaseException as exc:  # noqa: BLE001 - also a cancellation is raised inside
            value, error = None, exc


def _warn(kind: str, function: Callable[..., Any], seconds: float) -> None:
    if seconds * 1e3 <= SLOW_MS:
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return  # in a thread no other request waits for it
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    log.warning("chio: %s %s blocked the event loop for %.0f ms", kind, name, seconds * 1e3)
