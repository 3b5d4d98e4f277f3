"""PerProcess: sockets, threads and event loops, made again in each process after a fork.

A child has copies of what its parent has opened, but the sockets behind them are shared and the threads exist in the
parent only. It must neither use nor close any of it, and not even let it be collected: the finalizer of an event loop
changes the selector that the parent waits for.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from chio_core.errors import ConfigurationError

T = TypeVar("T")


def greenlets() -> str | None:
    """Return the name of the library that has replaced the threads of this process by greenlets; None without one."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    return "eventlet" if eventlet is not None and eventlet.is_monkey_patched("thread") else None


def require_threads(purpose: str) -> None:
    """Refuse to start a thread that would be a greenlet.

    An event loop in a greenlet runs in the thread of all other greenlets: Django then refuses its ORM to every request,
    and a wait for the loop can stop the whole worker.

    Args:
        purpose: what needs threads, the subject of a sentence.

    Raises:
        ConfigurationError: with the remedy.
    """
    library = greenlets()
    if library is not None:
        raise ConfigurationError(
            f"{purpose} needs threads of the operating system, and {library} has replaced them by greenlets; use"
            " workers with threads (gunicorn -k gthread), or start the sidecar as a process of its own (chio-sidecar"
            " api protect), set CHIO_SIDECAR_URL, and use only guards that do not wait"
        )


def require_asyncio(purpose: str) -> asyncio.AbstractEventLoop:
    """Return the running event loop; refuse one that is not asyncio's, for example Trio's.

    Connections, pools and time limits are asyncio's.

    Args:
        purpose: what needs asyncio, the subject of a sentence.

    Raises:
        ConfigurationError: with the remedy.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            f"{purpose} needs asyncio, and this program runs another event loop (Trio?); start it with asyncio, for"
            " example hypercorn -k asyncio, or uvicorn"
        ) from None


def keep_alive(inherited: object) -> None:
    """Let an object of the parent never be collected, also not when this process ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


class PerProcess(Generic[T]):
    """A value for each process.

    Args:
        make: makes it, at the first use in a process.
        forget: called in a child with the value of its parent.
    """

    def __init__(self, make: Callable[[], T], forget: Callable[[T], object] = keep_alive) -> None:
        self._make = make
        self._forget = forget
        # By process id. The locks too: another thread may have held one at the moment of the fork.
        self._values: dict[int, T] = {}
        self._locks: dict[int, threading.Lock] = {}

    def get(self) -> T:
        """Return the value of this process."""
        pid = os.getpid()
        try:
            return self._values[pid]
        except KeyError:
            with self._locks.setdefault(pid, threading.Lock()):
                if pid not in self._values:
                    self._drop_inherited(pid)
                    self._values[pid] = self._make()
                return self._values[pid]

    def drop(self, value: T) -> None:
        """Forget the value of this process if it is still this one, so that the next use makes another."""
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.Lock()):
            if self._values.get(pid) is value:
                del self._values[pid]

    def take(self) -> T | None:
        """Return the value of this process and forget it, so that the next use makes another; None without one."""
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.Lock()):
            self._drop_inherited(pid)
            return self._values.pop(pid, None)

    def _drop_inherited(self, pid: int) -> None:
        for other in [other for other in self._values if other != pid]:
            self._forget(self._values.pop(other))
