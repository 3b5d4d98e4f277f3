"""The request body: read once, counted and hashed over all its messages, kept, and given to the application again.

Large bodies wait in a temporary file. After the replay the server's own `receive` is handed back, so that the
application still learns that the client went away.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import threading
from typing import IO

from chio_asgi.types import Message, Receive
from chio_core.evaluation.body_limits import NO_LIMITS, BodyLimits
from chio_core.refusals.response import RequestRefused, body_incomplete, body_too_large, body_too_slow

_PIECE = 64 * 1024


class Body:
    """A request body that has been read to its end.

    Attributes:
        length: bytes counted.
        hash: SHA-256 hex over all of them; None for an empty body.
    """

    __slots__ = ("_file", "_limits", "_lock", "_memory", "hash", "length")

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
            return self._replay_file(self._file, receive)
        return once({"type": "http.request", "body": self._memory, "more_body": False}, receive)

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
        # Whoever reads says from where: a dependency may read all of it while the application is being given it.
        with self._lock:
            file.seek(at)
            return file.read(count)

    def close(self) -> None:
        """Remove the temporary file, if there is one."""
        if self._file is not None and not self._file.closed:
            self._file.close()
            self._limits.give_back(self.length)


async def read_body(receive: Receive, limits: BodyLimits, announced: str | None = None) -> Body:
    """Read a body to its end.

    Args:
        announced: value of `Content-Length`; refuses early, and is never believed otherwise.

    Raises:
        RequestRefused: 413 if more than `limits.max_bytes` came or were announced, 400 if the client went away first,
            408 if the body took longer than `limits.timeout`, 503 if there is no room in temporary files.
    """
    if announced is not None and announced.isdecimal() and int(announced[:20]) > limits.max_bytes:
        raise RequestRefused(body_too_large(limits.max_bytes))
    message: Message | None = None
    if announced is None or announced == "0":
        # The usual request without a body needs no timer.
        message = await receive()
        if not message.get("more_body", False):
            return _whole(message, limits)
    try:
        async with asyncio.timeout(limits.timeout):
            message = message or await receive()
            return await _read_on(message, receive, limits) if message.get("more_body") else _whole(message, limits)
    except TimeoutError:
        raise RequestRefused(body_too_slow(limits.timeout or 0)) from None


def _whole(message: Message, limits: BodyLimits) -> Body:
    """Return the body of a request that came in one message."""
    if message["type"] != "http.request":
        raise RequestRefused(body_incomplete())
    data: bytes = message.get("body", b"")
    if len(data) > limits.max_bytes:
        raise RequestRefused(body_too_large(limits.max_bytes))
    return Body(data, None, len(data), hashlib.sha256(data).hexdigest() if data else None)


async def _read_on(first: Message, receive: Receive, limits: BodyLimits) -> Body:
    digest, length, parts = hashlib.sha256(), 0, [b""]
    file: IO[bytes] | None = None
    spooled = 0
    piece, more = first.get("body", b""), True
    try:
        while True:
            digest.update(piece)
            length += len(piece)
            if length > limits.max_bytes:
                raise RequestRefused(body_too_large(limits.max_bytes))
            if piece:  # empty messages cost nothing, however many come
                parts.append(piece)
            if file is not None or length > limits.spool_bytes:
                limits.take(length - spooled)
                spooled = length
                file = file or tempfile.TemporaryFile()  # noqa: SIM115 - closed by Body.close
                await asyncio.to_thread(file.write, b"".join(parts))
                parts.clear()
            if not more:
                break
            message = await receive()
            if message["type"] != "http.request":
                raise RequestRefused(body_incomplete())
            piece, more = message.get("body", b""), message.get("more_body", False)
    except BaseException:
        limits.give_back(spooled)
        if file is not None:
            file.close()
        raise
    return Body(b"".join(parts), file, length, digest.hexdigest() if length else None, limits)


async def peek(receive: Receive, count: int) -> tuple[bytes, Receive]:
    """Return the first `count` bytes of an unread body, and a `receive` that still gives all of it.

    No more messages are taken from the server than these bytes need.
    """
    taken: list[Message] = []
    parts: list[bytes] = []
    more, size = True, 0
    while more and size < count:
        message = await receive()
        taken.append(message)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message["type"] == "http.request" and message.get("more_body", False)

    async def again() -> Message:
        return taken.pop(0) if taken else await receive()

    return b"".join(parts)[:count], again


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
