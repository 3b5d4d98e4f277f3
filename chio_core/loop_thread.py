"""LoopThread: one event loop in one thread, for asynchronous parts of synchronous frameworks."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

Closing = Callable[[], Coroutine[Any, Any, None]]
"""Returns what is awaited in the loop before it ends."""


class LoopThread:
    """An event loop in a thread; started at the first use, and again after a fork.

    When this object is garbage-collected, its loop ends as if it was closed, but no thread waits for the end.

    Args:
        name: name of the thread.
        closing: awaited in the loop before it ends; must not hold a reference to the owner of this object, or the
            owner is never collected.
    """

    def __init__(self, name: str, closing: Closing) -> None:
        self._name = name
        self._closing = closing
        self._lock = threading.Lock()
        self._process: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop."""
        with self._lock:
            if self._loop is None or self._process != os.getpid():
                self._process, self._loop = os.getpid(), asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
                self._finalizer = weakref.finalize(self, _end, self._loop, self._closing)
                # After a fork the thread does not exist: joining it would hang at exit.
                self._finalizer.atexit = False
            return self._loop

    def close(self) -> None:
        """End the loop, and wait for its thread. May be called twice."""
        with self._lock:
            finalizer, thread = self._finalizer, self._thread
            here = self._process == os.getpid()
            self._loop = self._thread = self._finalizer = None
        if finalizer is not None and thread is not None and here:
            finalizer()
            thread.join()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, closing: Closing) -> None:
    # Must not wait: the garbage collector runs in any thread, also in this loop's, or in one that holds a lock which
    # the loop needs.
    async def close() -> None:
        try:
            await closing()
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(close(), loop)
