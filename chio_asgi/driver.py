"""The application as the innermost step of a chain with `next`-style members.

The application runs in one task of its own, however many members there are. Only the head of its answer is
handed over; the chain sees it, may change it, and then everything that follows goes straight to the server. So
streams stay streams, and a timeout around `next` cancels the application and nothing else.
"""

from __future__ import annotations

import asyncio
from typing import Any

from chio_asgi.types import ASGIApp, Message, Receive, Scope, Send
from chio_core.request import GuardRequest
from chio_core.response import Downstream

_HEADS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start", "websocket.close"})
_STATUS = {"websocket.accept": 101, "websocket.close": 403}


class Application:
    """One call of the application.

    Args:
        app, scope, receive, send: the ASGI call to make; `send` gets every message in the end.
    """

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._head: asyncio.Future[Downstream] = asyncio.get_running_loop().create_future()
        self._released: asyncio.Future[Downstream] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._original: Downstream | None = None

    async def __call__(self, request: GuardRequest) -> Downstream:
        """Start the application and return the head of its answer; what it raises first is raised here."""
        if self._task is not None:
            raise RuntimeError("next() was called twice for one request")
        self._task = asyncio.ensure_future(self._app(self._scope, self._receive, self._gated))
        self._task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(self._head)
        except asyncio.CancelledError:
            await self.cancel()
            raise

    async def release(self, head: Downstream) -> None:
        """Let the answer go out under this head, and wait until the application is done.

        Raises:
            Exception: whatever the application raises after its head.
        """
        if not self._released.done():
            self._released.set_result(head)
        try:
            if self._task is not None:
                await self._task
        except asyncio.CancelledError:
            await self.cancel()
            raise
        finally:
            for callback in head.finished:
                callback()

    async def cancel(self) -> None:
        """Stop the application if it still runs; its answer is not wanted."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _gated(self, message: Message) -> None:
        if message["type"] in _HEADS and not self._head.done():
            head = self._original = _head_of(message)
            self._head.set_result(head)
            released = await self._released
            if released is not head:
                message = _with_head(message, released)
        await self._send(message)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._head.done():
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._head.set_exception(error)
            self._head.exception()  # somebody else may have been told already
        elif task.cancelled():
            self._head.cancel()
        else:
            self._head.set_exception(RuntimeError("the application ended without an answer"))
            self._head.exception()


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
