"""Event loops: LoopThread runs one in a thread, `at_loop_end` closes what was opened in one that ends."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from chio_core.processes import PerProcess

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


class _Running:
    """A loop that runs in its thread."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def end(self, closing: Closing) -> None:
        # Must not wait: the garbage collector runs in any thread, also in this loop's, or in one that holds a lock
        # which the loop needs.
        async def close() -> None:
            try:
                await closing()
            finally:
                self.loop.stop()

        asyncio.run_coroutine_threadsafe(close(), self.loop)


class LoopThread:
    """An event loop in a thread; started at the first use, and again after a fork.

    When this object is garbage-collected, its loop ends as if it was closed, but no thread waits for the end.

    Args:
        name: name of the thread.
        closing: awaited in the loop before it ends; must not hold a reference to the owner of this object, or the
            owner is never collected.
    """

    def __init__(self, name: str, closing: Closing) -> None:
        self._closing = closing
        self._own = PerProcess(partial(_Running, name))
        # At exit too late: the loop's thread is not joined, so it may no longer run.
        weakref.finalize(self, _end, self._own, closing).atexit = False

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop."""
        return self._own.get().loop

    def close(self) -> None:
        """End the loop, and wait for its thread. May be called twice."""
        ended = _end(self._own, self._closing)
        if ended is not None:
            ended.thread.join()


def _end(own: PerProcess[_Running], closing: Closing) -> _Running | None:
    running = own.take()
    if running is not None:
        running.end(closing)
    return running
