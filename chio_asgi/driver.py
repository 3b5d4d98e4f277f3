"""The application as the innermost step of a chain with `next`-style members.

The application runs in one separate task, for any number of members. Only the head of its response passes through the
chain, which may change it; the rest goes straight to the server. So streams stay streams, and a timeout around `next`
cancels the application and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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
        app: the application.
        scope: its scope.
        receive: returns its `receive`, with the body replayed; called when the application starts.
        send: the server's `send`.
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
        """True once the application was called."""
        return self._task is not None

    async def __call__(self, request: GuardRequest) -> Downstream:
        """Start the application and return the head of its response; an error before the head is raised here."""
        if self._task is not None:
            raise RuntimeError("next() was called twice for one request")

        def ended(task: asyncio.Task[None]) -> None:
            if self._head.done():
                return
            if task.cancelled():
                self._head.cancel()
            else:
                error = task.exception() or RuntimeError("the application ended without a response")
                self._head.set_exception(error)
                self._head.exception()  # marks it as retrieved: a cancelled chain does not wait for it any more

        self._task = asyncio.ensure_future(self._app(self._scope, self._receive(), self._gated))
        self._task.add_done_callback(ended)
        try:
            return await self._head
        except asyncio.CancelledError:
            await self.cancel()
            raise

    async def release(self, head: Downstream) -> None:
        """Send the response with this head, and wait until the application is done.

        Raises:
            Exception: any error of the application after its head.
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
        """Stop the application if it still runs, without its response."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _gated(self, message: Message) -> None:
        if self._gate_open or (message["type"] not in _HEADS and not self._head.done()):
            await self._send(message)
            if self._end is not None and self._end(message):
                self._finish()
            return
        status = message.get("status") or _STATUS.get(message["type"], 200)
        pairs = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in message.get("headers") or ())
        head = Downstream(status=status, headers=pairs)
        if not self._head.done():
            self._head.set_result(head)
        while self._released is None:
            # The application may stop waiting (its own timeout) and send something else, so each wait has a new future.
            self._waiting = self._loop.create_future()
            await self._waiting
        self._gate_open = True
        self._end = End(message)
        if self._released is not head:
            lines = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in self._released.headers]
            message = {**message, "headers": lines}
            if "status" in message:
                message["status"] = self._released.status
        await self._send(message)

    def _finish(self) -> None:
        if self._released is not None:
            callbacks = self._released.finished
            waiting, callbacks[:] = list(callbacks), []
            for callback in waiting:
                call_at_the_end(callback)
