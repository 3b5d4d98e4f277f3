"""The application as the innermost step of a chain with `next`-style members.

The application runs in one task of its own, however many members there are. Only the head of its answer is
handed over; the chain sees it, may change it, and then everything that follows goes straight to the server. So
streams stay streams, and a timeout around `next` cancels the application and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from chio_asgi.send import End
from chio_asgi.types import ASGIApp, Message, Receive, Scope, Send
from chio_core.guards.response_hooks import call_at_the_end
from chio_core.refusals.response import Downstream
from chio_core.request import GuardRequest

_HEADS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start", "websocket.close"})
_STATUS = {"websocket.accept": 101, "websocket.close": 403}


class Application:
    """One call of the application.

    Args:
        app: what to call.
        scope: what to call it with.
        receive: gives the `receive` to call it with, the body replayed; asked when it starts.
        send: gets every message in the end.

    Attributes:
        started: the application was called.
    """

    def __init__(self, app: ASGIApp, scope: Scope, receive: Callable[[], Receive], send: Send) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._head: asyncio.Future[Downstream] = self._loop.create_future()
        self._released: Downstream | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._gate_open = False
        self._end: End | None = None

    @property
    def started(self) -> bool:
        """Return True if the application was called."""
        return self._task is not None

    async def __call__(self, request: GuardRequest) -> Downstream:
        """Start the application and return the head of its answer; what it raises first is raised here."""
        if self._task is not None:
            raise RuntimeError("next() was called twice for one request")
        self._task = asyncio.ensure_future(self._app(self._scope, self._receive(), self._gated))
        self._task.add_done_callback(self._ended)
        try:
            return await self._head
        except asyncio.CancelledError:
            await self.cancel()
            raise

    async def release(self, head: Downstream) -> None:
        """Let the answer go out under this head, and wait until the application is done.

        Raises:
            Exception: whatever the application raises after its head.
        """
        self._released = head
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        try:
            if self._task is not None:
                await self._task
        except asyncio.CancelledError:
            await self.cancel()
            raise
        finally:
            self._finish()

    async def cancel(self) -> None:
        """Stop the application if it still runs; its answer is not wanted."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _gated(self, message: Message) -> None:
        if self._gate_open or (message["type"] not in _HEADS and not self._head.done()):
            await self._send(message)
            if self._end is not None and self._end(message):
                self._finish()
            return
        head = _head_of(message)
        if not self._head.done():
            self._head.set_result(head)
        while self._released is None:
            # The application may stop waiting (after a timeout) and send something else: a new future for each message.
            self._waiting = self._loop.create_future()
            await self._waiting
        self._gate_open = True
        self._end = End(message)
        await self._send(message if self._released is head else _with_head(message, self._released))

    def _finish(self) -> None:
        if self._released is not None:
            callbacks = self._released.finished
            waiting, callbacks[:] = list(callbacks), []
            for callback in waiting:
                call_at_the_end(callback)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._head.done():
            return
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            self._head.cancel()
        else:
            self._head.set_exception(error or RuntimeError("the application ended without an answer"))
            self._head.exception()  # mark it as retrieved: the wait may be over


def _head_of(message: Message) -> Downstream:
    status = message.get("status") or _STATUS.get(message["type"], 200)
    pairs = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers") or ())
    return Downstream(status=status, headers=pairs)


def _with_head(message: Message, head: Downstream) -> Message:
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in head.headers]
    changed: dict[str, Any] = {**message, "headers": pairs}
    if "status" in message:
        changed["status"] = head.status
    return changed
