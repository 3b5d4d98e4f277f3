"""An event loop in a thread: nothing waits for it once it has ended, and it is started again."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chio_core.concurrency.loop_thread import LoopEnded, LoopThread
from chio_core.names import LOGGER


async def nothing() -> None: ...


async def answer() -> int:
    return threading.get_ident()


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def raises(error: BaseException) -> None:
    raise error


def in_a_thread(call: Callable[[], Any]) -> Any:
    """Return what a call returns or raises; fail instead of waiting for ever."""
    return ThreadPoolExecutor(1).submit(call).result(20)


@pytest.mark.parametrize("error", [ValueError(), TimeoutError(), SystemExit(), KeyboardInterrupt()])
def test_what_a_coroutine_raises_is_raised_to_the_thread_that_waits_and_the_loop_goes_on(error: BaseException) -> None:
    thread = LoopThread("test", nothing)
    first = thread.run(answer())
    with pytest.raises(type(error)):
        in_a_thread(lambda: thread.run(raises(error)))
    assert in_a_thread(lambda: thread.run(answer())) == first != threading.get_ident()
    thread.close()


def test_a_loop_that_its_own_code_stops_goes_on() -> None:
    thread = LoopThread("test", nothing)

    async def stop() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)

    in_a_thread(lambda: thread.run(stop()))
    assert in_a_thread(lambda: thread.run(answer()))
    thread.close()


def test_a_thread_that_waits_learns_that_the_loop_was_closed() -> None:
    thread = LoopThread("test", nothing)
    started = threading.Event()

    async def begun() -> None:
        started.set()
        await never()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: thread.run(begun()))
        assert started.wait(20)
        thread.close()
        with pytest.raises(LoopEnded):
            waiting.result(20)
    assert in_a_thread(lambda: thread.run(answer()))  # started again
    thread.close()


class Ended(BaseException):
    """What ends a thread from the outside, as gevent does with `GreenletExit`."""


class EndsItsThread(logging.Handler):
    """A handler of the log, because the loop's thread calls no other code outside of the loop."""

    def emit(self, record: logging.LogRecord) -> None:
        raise Ended


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_whose_thread_has_died_is_replaced_and_no_thread_waits_for_it() -> None:
    thread, handler = LoopThread("test", nothing), EndsItsThread()
    dying = thread.running()
    tasks: list[Any] = []

    async def dies() -> None:
        tasks.append(asyncio.current_task())
        raise SystemExit

    logging.getLogger(LOGGER).addHandler(handler)
    try:
        with pytest.raises(LoopEnded):
            in_a_thread(lambda: thread.run(dies()))
    finally:
        logging.getLogger(LOGGER).removeHandler(handler)
    assert not dying.thread.is_alive()
    assert in_a_thread(lambda: thread.run(answer()))
    assert thread.running() is not dying
    thread.close()
    # asyncio logs an exception that nothing has read, whenever the task is collected.
    (task,) = tasks
    assert isinstance(task.exception(), SystemExit)
