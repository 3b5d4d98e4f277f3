"""Event loops: LoopThread runs one in a thread, `at_loop_end` closes what was opened in one that ends.

`timed` names the functions of the application that hold an event loop, and with it all other requests.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial, wraps
from time import perf_counter
from types import coroutine
from typing import Any, Final, ParamSpec, TypeVar

from chio_core.concurrency.processes import PerProcess, require_threads
from chio_core.names import LOGGER

log = logging.getLogger(LOGGER)

T = TypeVar("T")

Closing = Callable[[], Coroutine[Any, Any, None]]
"""Returns what is awaited in the loop before it ends."""


async def at_loop_end(closing: Closing) -> AsyncGenerator[None]:
    """Let the running loop await `closing` when it ends, also where the application has no lifespan.

    A loop that ends closes its asynchronous generators (`loop.shutdown_asyncgens`): `asyncio.run`, its `Runner`, uvloop
    and `async_to_sync` see to that.

    Returns:
        A generator to keep. `await generator.aclose()` awaits `closing` now.
    """

    async def waiting() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await closing()

    generator = waiting()
    with suppress(ResourceWarning):  # where warnings are errors, and the loop has ended already
        await anext(generator)
    return generator


ALIVE_SECONDS = 1.0
"""Time after which a waiting thread checks that the loop still runs."""

_LAST_SECONDS = 5.0
"""Time that unfinished coroutines get when their loop ends."""


class LoopEnded(RuntimeError):
    """The event loop ended before a coroutine in it was done."""


class Running:
    """A loop that runs in its thread."""

    def __init__(self, name: str) -> None:
        require_threads(f"the event loop {name}")
        self.loop = asyncio.new_event_loop()
        self._ending = False
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine in the loop.

        Raises:
            LoopEnded: the loop has ended.
        """
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError as exc:
            work.close()
            raise LoopEnded(str(exc)) from None

    def check(self) -> None:
        """Check that the loop runs; the caller waits for something in it.

        Raises:
            LoopEnded: it does not.
        """
        if not self.thread.is_alive():
            raise LoopEnded(f"the event loop of the thread {self.thread.name} has ended")

    def _run(self) -> None:
        # Code in the loop may raise SystemExit, which asyncio lets out of the loop, or stop the loop. Other requests
        # still need it, and the coroutine that raised the exception gives it to the thread that waits.
        try:
            while not self._ending:
                try:
                    self.loop.run_forever()
                except (SystemExit, KeyboardInterrupt) as exc:
                    log.warning("chio: %s in the event loop of the thread %s", type(exc).__name__, self.thread.name)
            self.loop.run_until_complete(_finish())
        finally:
            self.loop.close()

    def end(self, closing: Closing) -> None:
        """End the loop, without waiting for it.

        The garbage collector calls this in any thread, also in this loop's, or in one that holds a lock which the loop
        needs.
        """

        async def close() -> None:
            try:
                await closing()
            finally:
                self._ending = True
                self.loop.stop()

        if self.thread.is_alive():
            asyncio.run_coroutine_threadsafe(close(), self.loop)


class LoopThread:
    """An event loop in a thread; started at the first use, and again after a fork or if the thread has died.

    When this object is garbage-collected, its loop ends as if it was closed, but no thread waits for the end.

    Args:
        name: name of the thread.
        closing: awaited in the loop before it ends; must not hold a reference to the owner of this object, or the
            owner is never collected.
    """

    def __init__(self, name: str, closing: Closing) -> None:
        self._closing = closing
        self._own = PerProcess(partial(Running, name))
        # At exit too late: the loop's thread is not joined, so it may no longer run.
        weakref.finalize(self, _end, self._own, closing).atexit = False

    def running(self) -> Running:
        """Return the loop and its thread."""
        found = self._own.get()
        if not found.thread.is_alive():
            self._own.drop(found)
            found = self._own.get()
        return found

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop."""
        return self.running().loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and return its result; what it raises is raised here.

        Raises:
            LoopEnded: the loop ended before.
        """
        running = self.running()
        done = running.start(work)
        try:
            while True:
                try:
                    return result_of(done, ALIVE_SECONDS)
                except TimeoutError:
                    if done.done():
                        return result_of(done)
                    running.check()
        except LoopEnded:
            raise
        except BaseException:
            done.cancel()  # no thread waits for it any more
            raise

    def close(self) -> None:
        """End the loop, and wait for its thread. May be called twice."""
        ended = _end(self._own, self._closing)
        if ended is not None:
            ended.thread.join()


def result_of(done: Future[T], timeout: float | None = None) -> T:
    """Return the result of a coroutine.

    Raises:
        LoopEnded: it was cancelled.
        TimeoutError: it is not done after `timeout` seconds.
    """
    try:
        return done.result(timeout)
    except CancelledError:
        raise LoopEnded("the coroutine was cancelled, as all are whose event loop ends") from None


async def _finish() -> None:
    # The threads that wait for unfinished coroutines must learn that these will not go on.
    unfinished = asyncio.all_tasks() - {asyncio.current_task()}
    for task in unfinished:
        task.cancel()
    if unfinished:
        await asyncio.wait(unfinished, timeout=_LAST_SECONDS)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _end(own: PerProcess[Running], closing: Closing) -> Running | None:
    running = own.take()
    if running is not None:
        running.end(closing)
    return running


P = ParamSpec("P")


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
