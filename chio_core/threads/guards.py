"""Runs the asynchronous guard chain for synchronous frameworks.

The guards are the same `async def` functions everywhere. In a synchronous framework they run in one event loop, in a
separate thread (connection pools belong to a loop), and the view stays in the thread of the server: at the decision
and at the handler the chain hands over to the waiting thread, and continues when that is done. Guards that say
`waits = False` and take no `next` need none of this: they are stepped where they are.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import queue
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, TypeVar

from chio_core.concurrency.loop_thread import ALIVE_SECONDS, LoopEnded, LoopThread, Running, result_of
from chio_core.concurrency.processes import require_threads
from chio_core.errors import ConfigurationError
from chio_core.guards.chain import Chain, DecisionMember, Guard, around
from chio_core.guards.run import ChainRun
from chio_core.models.receipt import GuardEvidence
from chio_core.refusals.response import AnyResponse, Denial
from chio_core.refusals.streams import Stream, aclose_all, close_all, encoded
from chio_core.request import GuardRequest

T = TypeVar("T")

_END: Final = object()
DecideFunction = Callable[[], Awaitable[Denial | None]]

_DECIDE: contextvars.ContextVar[DecideFunction] = contextvars.ContextVar("chio_decide")


class _Decide(DecisionMember):
    """Calls the decision that the running request has set."""

    async def __call__(self, request: GuardRequest) -> Denial | None:
        return await _DECIDE.get()()


class ChainRunner:
    """Guards around a decision and a handler that are given for each request.

    Args:
        guards: guards, or a `Chain` of them.

    Raises:
        ConfigurationError: this order of guards cannot work.

    Attributes:
        chain: all members, `decide` included.
        members: the same, in their order.
        is_empty: True if there is nothing but the decision.
    """

    def __init__(self, guards: Chain | Sequence[Guard | Chain] = ()) -> None:
        self.chain = around(guards, _Decide())
        self.members = self.chain.freeze()
        self.is_empty = len(self.members) == 1
        self._wraps = any(member.wraps for member in self.members)
        waits = any(getattr(member.guard, "waits", True) for member in self.members if not member.is_decide)
        self._steps = not self._wraps and not waits
        self._thread = LoopThread("chio-guards", self.chain.aclose)
        if not self._steps:
            require_threads("a guard that waits or takes next")

    async def arun(
        self,
        request: GuardRequest,
        evidence: list[GuardEvidence],
        decide: DecideFunction,
        handler: Callable[[], Awaitable[AnyResponse]],
    ) -> AnyResponse:
        """Run the chain in the present event loop.

        Args:
            evidence: list for the evidence of the guards.
            decide: makes the decision; returns the refusal or None.
            handler: runs the application and returns the head of its response; or a refusal.
        """
        answer = await self._inside(request, evidence, decide, handler if self._wraps else None)
        return answer if answer is not None else await handler()

    def run(
        self,
        request: GuardRequest,
        evidence: list[GuardEvidence],
        decide: Callable[[], Denial | None],
        handler: Callable[[], AnyResponse],
    ) -> AnyResponse:
        """Run the chain for the present thread, in which `decide` and `handler` are called; see `arun`."""
        if self._steps:
            answer = _step(self._inside(request, evidence, _awaitable(decide), None, slow_guard_ms=math.inf))
        else:
            desk = _Desk()
            hand_over = (lambda: desk.hand_over(handler)) if self._wraps else None
            work = self._inside(request, evidence, lambda: desk.hand_over(decide), hand_over)
            answer = desk.serve(work, self._thread.running())
        return answer if answer is not None else handler()

    async def _inside(
        self,
        request: GuardRequest,
        evidence: list[GuardEvidence],
        decide: DecideFunction,
        handler: Callable[[], Awaitable[AnyResponse]] | None,
        slow_guard_ms: float | None = None,  # infinite where a slow guard holds nothing but its own request
    ) -> AnyResponse | None:
        token = _DECIDE.set(decide)
        slow = self.chain.slow_guard_ms if slow_guard_ms is None else slow_guard_ms
        run = ChainRun(self.members, (lambda _: handler()) if handler else None, evidence, slow)
        try:
            return await run.before(request)
        finally:
            _DECIDE.reset(token)

    def pieces(self, stream: Stream) -> ThreadStream:
        """Return a stream of a guard's response as an iterable for a WSGI server."""
        return ThreadStream(stream, self._thread)

    def close(self) -> None:
        """Close the guards that hold something open, and end their thread; both are made again when needed."""
        self._thread.close()


class ThreadStream:
    """Reads a stream in the server's thread; an asynchronous one in the loop of the guards.

    Args:
        stream: the stream.
        thread: has the loop.
    """

    def __init__(self, stream: Stream, thread: LoopThread) -> None:
        self._stream = stream
        self._thread = thread
        self._closed = False
        self._async = aiter(stream) if isinstance(stream, AsyncIterable) else None
        self._sync = None if isinstance(stream, AsyncIterable) else iter(stream)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._sync is not None:
            return encoded(next(self._sync))
        piece = self._thread.run(_next(self._async))
        if piece is _END:
            raise StopIteration
        return encoded(piece)

    def close(self) -> None:
        """Close the stream, as a WSGI server does at its end and when the client is gone."""
        if self._closed:
            return
        self._closed = True
        if self._sync is not None:
            close_all(self._sync, self._stream)
        else:
            self._thread.run(aclose_all(self._async, self._stream))


async def _next(source: Any) -> Any:
    return await anext(source, _END)


class _Desk:
    """Where a thread waits for functions that the chain, in another thread, has it call."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    async def hand_over(self, function: Callable[[], T]) -> T:
        """Have a function called in the waiting thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            # What is no Exception (SystemExit) belongs to the thread, not to the loop, which it would end.
            try:
                outcome = function()
            except Exception as exc:  # noqa: BLE001 - the chain raises it
                loop.call_soon_threadsafe(_settle, future, None, exc)
            else:
                loop.call_soon_threadsafe(_settle, future, outcome, None)

        self._jobs.put(job)
        return await future

    def serve(self, work: Coroutine[Any, Any, T], running: Running) -> T:
        """Run a coroutine in the loop and do what it hands over until it is done; return its result.

        Raises:
            LoopEnded: the loop ended before.
        """
        done = running.start(work)
        done.add_done_callback(lambda _: self._jobs.put(None))
        try:
            while True:
                try:
                    job = self._jobs.get(timeout=ALIVE_SECONDS)
                except queue.Empty:
                    running.check()
                    continue
                if job is None:
                    return result_of(done)
                job()
        except LoopEnded:
            raise
        except BaseException:
            done.cancel()  # the handler, or this thread, has ended
            raise


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return  # a timeout around `next` has ended the wait
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError("the view raised StopIteration"))
    else:
        future.set_exception(error)


def _awaitable(function: Callable[[], T]) -> Callable[[], Coroutine[Any, Any, T]]:
    async def call() -> T:
        return function()

    return call


def _step(work: Coroutine[Any, Any, T]) -> T:
    # In a copied context: a coroutine that is stepped by hand would change the thread's.
    context = contextvars.copy_context()
    try:
        context.run(work.send, None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    context.run(work.close)
    raise ConfigurationError("a guard that says `waits = False` has waited for something")
