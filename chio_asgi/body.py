"""The request body: read once, counted and hashed over all its messages, kept, and given to the application again.

Large bodies wait in a temporary file. After the replay the server's own `receive` is handed back, so that the
application still learns that the client went away.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import threading
from collections import deque
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import IO, Any, TypeVar

from chio_asgi.types import Message, Receive
from chio_core.evaluation.body_limits import NO_LIMITS, BodyLimits
from chio_core.names import RECEIVE_BODY
from chio_core.refusals.response import (
    Denial,
    RequestRefused,
    bad_request,
    body_incomplete,
    body_too_large,
    body_too_slow,
)

_PIECE = 64 * 1024

T = TypeVar("T")


class Body:
    """A request body that has been read to its end.

    Attributes:
        length: bytes counted.
        hash: SHA-256 hex over all of them; None for an empty body.
        refusal: in observe mode the refusal of a body that exceeds a limit.
    """

    __slots__ = ("_file", "_limits", "_lock", "_memory", "hash", "length", "refusal")

    def __init__(
        self,
        memory: bytes,
        file: IO[bytes] | None,
        length: int,
        digest: str | None,
        limits: BodyLimits = NO_LIMITS,
    ) -> None:
        self._limits = limits
        self._memory = memory
        self._file = file
        self._lock = threading.Lock()
        self.length = length
        self.hash = digest
        self.refusal: Denial | None = None

    async def read(self) -> bytes:
        """Return the whole body."""
        if self._file is None:
            return self._memory
        return await asyncio.to_thread(self._read_at, self._file, 0, -1)

    async def prefix(self, count: int) -> bytes:
        """Return the first `count` bytes of the body."""
        if self._file is None:
            return self._memory[:count]
        return await asyncio.to_thread(self._read_at, self._file, 0, count)

    def replay(self, receive: Receive) -> Receive:
        """Return a `receive` that gives the body first, and then whatever the server has to say."""
        if self._file is not None:
            replayed = self._replay_file(self._file, receive)
        else:
            replayed = once({"type": "http.request", "body": self._memory, "more_body": False}, receive)
        setattr(replayed, RECEIVE_BODY, self)
        return replayed

    def _replay_file(self, file: IO[bytes], receive: Receive) -> Receive:
        at = 0

        async def replayed() -> Message:
            nonlocal at
            if at >= self.length:
                return await receive()
            piece = await asyncio.to_thread(self._read_at, file, at, _PIECE)
            at = at + len(piece) if piece else self.length
            return {"type": "http.request", "body": piece, "more_body": at < self.length}

        return replayed

    def _read_at(self, file: IO[bytes], at: int, count: int) -> bytes:
        # The reader states the position: a dependency may read all of it while the application is being given it.
        with self._lock:
            file.seek(at)
            return file.read(count)

    def close(self) -> None:
        """Remove the temporary file, if there is one."""
        if self._file is not None and not self._file.closed:
            self._file.close()
            self._limits.give_back(self.length)


class Incoming:
    """A body as the server gives it, message by message, until it was read to its end.

    Once a read has failed or was cancelled, a part of the body is lost: every later read raises `RequestRefused`, and
    the application sees a client that went away.

    Args:
        receive: the server's.
        limits: for the body. All reads together may wait `limits.timeout` seconds.
    """

    __slots__ = ("_left", "_limits", "_receive", "_refusal", "_taken")

    def __init__(self, receive: Receive, limits: BodyLimits = NO_LIMITS) -> None:
        self._receive = receive
        self._limits = limits
        self._left = None if limits.lifted else limits.timeout
        self._taken: deque[Message] = deque()
        self._refusal: Denial | None = None

    def lift(self) -> None:
        """Refuse no body because of its size, or of the time that it takes."""
        self._limits, self._left = self._limits.lift(), None

    async def receive(self) -> Message:
        """Return the next message; those that `peek` has taken come first."""
        if self._refusal is not None:
            return {"type": "http.disconnect"}
        return self._taken.popleft() if self._taken else await self._receive()

    def rest(self) -> Receive:
        """Return the `receive` for all that was not read: the server's own, if nothing was taken from it."""
        return self.receive if self._taken or self._refusal is not None else self._receive

    async def peek(self, count: int) -> bytes:
        """Return the first `count` bytes of an unread body; no more messages are taken than these bytes need.

        Raises:
            RequestRefused: 408 if they took too long, or as an earlier `read` did.
        """
        if self._refusal is not None:
            raise RequestRefused(self._refusal)
        size = sum(len(message.get("body", b"")) for message in self._taken)

        async def take() -> None:
            nonlocal size
            last: Message = self._taken[-1] if self._taken else {"type": "http.request", "more_body": True}
            while size < count and last["type"] == "http.request" and last.get("more_body", False):
                last = await self._receive()
                self._taken.append(last)
                size += len(last.get("body", b""))

        if size < count:
            await self._in_time(take())
        return b"".join(message.get("body", b"") for message in self._taken)[:count]

    async def read(self, announced: str | None = None) -> Body:
        """Read the body to its end.

        Args:
            announced: value of `Content-Length`; refuses early, and is never believed otherwise.

        Raises:
            RequestRefused: 413 if more than `limits.max_bytes` came or were announced, 400 if the client went away
                first, 408 if the body took too long, 503 if there is no room in temporary files.
        """
        limits = self._limits
        if self._refusal is not None:
            raise RequestRefused(self._refusal)
        if announced is not None and announced.isdecimal() and int(announced[:20]) > limits.max_bytes:
            limits.refuse(body_too_large(limits.max_bytes))
        began = asyncio.get_running_loop().time() if limits.lifted else 0.0
        try:
            body = await self._in_time(self._read_on())
            if limits.lifted and limits.timeout is not None:
                slow = asyncio.get_running_loop().time() - began > limits.timeout
                body.refusal = body.refusal or (body_too_slow(limits.timeout) if slow else None)
            return body
        except BaseException as exc:
            cancelled = bad_request("reading the request body was given up before its end", 408)
            self._refusal = exc.denial if isinstance(exc, RequestRefused) else cancelled
            raise

    async def _in_time(self, reading: Coroutine[Any, Any, T]) -> T:
        # A body that is there already, as most are, needs no timer.
        try:
            pending = reading.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._left):
                return await _continued(reading, pending)
        except TimeoutError:
            raise RequestRefused(body_too_slow(self._limits.timeout or 0)) from None
        finally:
            if self._left is not None:
                self._left = max(0.0, self._left - (clock() - began))

    async def _read_on(self) -> Body:
        limits, length, spooled, more = self._limits, 0, 0, True
        digest: hashlib._Hash | None = None
        parts: list[bytes] = []
        file: IO[bytes] | None = None
        refusal: Denial | None = None
        try:
            while more:
                message = self._taken.popleft() if self._taken else await self._receive()
                if message["type"] != "http.request":
                    raise RequestRefused(body_incomplete())
                piece, more = message.get("body", b""), message.get("more_body", False)
                if not (piece or more or length):  # most requests have no body
                    break
                if digest is None:
                    digest = hashlib.sha256(piece)
                else:
                    digest.update(piece)
                length += len(piece)
                if length > limits.max_bytes:
                    refusal = limits.refuse(body_too_large(limits.max_bytes))
                if piece:  # empty messages cost nothing, however many come
                    parts.append(piece)
                # A body of one message is in memory already, so it stays there.
                if length > limits.spool_bytes and (more or length > len(piece)):
                    no_room = limits.take(length - spooled)
                    refusal = refusal or no_room
                    spooled = length
                    file = file or tempfile.TemporaryFile()  # noqa: SIM115 - closed by Body.close
                    await asyncio.to_thread(file.write, b"".join(parts))
                    parts.clear()
        except BaseException:
            limits.give_back(spooled)
            if file is not None:
                file.close()
            raise
        body = Body(b"".join(parts), file, length, digest.hexdigest() if digest and length else None, limits)
        body.refusal = refusal
        return body


@coroutine
def _continued(begun: Coroutine[Any, Any, T], pending: Any) -> Generator[Any, Any, T]:
    """Await the rest of a coroutine whose first step was to wait for `pending`."""
    try:
        while True:
            try:
                value = yield pending
            except BaseException as exc:  # noqa: BLE001 - it is the coroutine's
                pending = begun.throw(exc)
            else:
                pending = begun.send(value)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def once(message: Message, receive: Receive) -> Receive:
    """Return a `receive` that gives one message first, and then what the server sends."""
    pending: Message | None = message

    async def replayed() -> Message:
        nonlocal pending
        if pending is not None:
            first, pending = pending, None
            return first
        return await receive()

    return replayed
