"""Bodies that are sent piece by piece: files, server-sent events, and any iterable of bytes or text.

A stream is read while it is sent, and closed at its end, when the client goes away, and if it is never sent.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import re
import stat
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from chio_core.errors import ConfigurationError
from chio_core.names import LOGGER

log = logging.getLogger(LOGGER)

Piece = bytes | str
Stream = Iterable[Piece] | AsyncIterable[Piece]
"""A body in pieces; text is sent as UTF-8."""

Body = bytes | Stream

Event = str | Mapping[str, Any]
"""The data of a server-sent event, or its fields `data`, `event`, `id` and `retry`."""

BODILESS: Final = frozenset({204, 304})
"""Statuses whose responses have no body (RFC 9110, section 6.4.1)."""

_END: Final = object()
_PIECE = 64 * 1024
_LINES = re.compile(r"\r\n|\r|\n")


class FileStream:
    """The content of a file as it is when it is sent, in as many bytes as it has now.

    Args:
        path: a regular file; it is opened when the first piece is read.

    Attributes:
        size: bytes.
        modified: seconds since 1970.

    Raises:
        OSError: it does not exist, or is no regular file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        found = self._path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise IsADirectoryError(f"{path} is no regular file")
        self.size = found.st_size
        self.modified = found.st_mtime

    def __iter__(self) -> Iterator[bytes]:
        left = self.size
        with self._path.open("rb") as file:
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    raise OSError(f"{self._path} became shorter while it was sent")
                left -= len(piece)
                yield piece


def event_stream(events: Iterable[Event] | AsyncIterable[Event]) -> Stream:
    """Return server-sent events as a stream (HTML Standard, section 9.2.6); closed together with `events`."""
    return _AsyncEvents(events) if isinstance(events, AsyncIterable) else _Events(events)


def event_text(event: Event) -> str:
    """Return the text of one event; data that is no text is written as JSON.

    Raises:
        ConfigurationError: an unknown field, or a line break in `event` or `id`.
    """
    fields = {"data": event} if isinstance(event, str) else event
    lines = []
    for name, value in fields.items():
        if name == "data":
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            lines += [f"data: {line}" for line in _LINES.split(text)]
        elif name in ("event", "id", "retry") and not _LINES.search(str(value)):
            lines.append(f"{name}: {value}")
        else:
            raise ConfigurationError(f"a server-sent event has no field {name!r} with this value")
    return "\n".join([*lines, "", ""])


class _Events:
    def __init__(self, events: Iterable[Event]) -> None:
        self._events = events
        self._source = iter(events)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return event_text(next(self._source))

    def close(self) -> None:
        close_all(self._source, self._events)


class _AsyncEvents:
    def __init__(self, events: AsyncIterable[Event]) -> None:
        self._events = events
        self._source = aiter(events)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        return event_text(await anext(self._source))

    async def aclose(self) -> None:
        await aclose_all(self._source, self._events)


def encoded(piece: Any) -> bytes:
    """Return a piece as bytes.

    Raises:
        TypeError: it is neither bytes nor text.
    """
    if isinstance(piece, str):
        return piece.encode()
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise TypeError(f"the body of a Response consists of bytes or text, not of {type(piece).__name__}")
    return bytes(piece)


class StreamReader:
    """Reads a stream in an event loop. An iterable that is not asynchronous is advanced in a thread, as it may block.

    Args:
        stream: the stream.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._async = aiter(stream) if isinstance(stream, AsyncIterable) else None
        self._sync = None if isinstance(stream, AsyncIterable) else iter(stream)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            if self._async is not None:
                return encoded(await anext(self._async))
            piece = await asyncio.to_thread(self._step)
            if piece is _END:
                raise StopAsyncIteration
            return encoded(piece)
        except BaseException:  # the end, a failure, or a cancellation
            await self.aclose()
            raise

    def _step(self) -> Any:
        try:
            with self._lock:
                return _END if self._closed or self._sync is None else next(self._sync, _END)
        finally:
            if self._closed:  # in the meantime
                self._close_sync()

    async def aclose(self) -> None:
        """Close the stream. If a thread waits for a piece, nothing waits here: that thread closes the stream then."""
        if self._closed:
            return
        self._closed = True
        if self._async is not None:
            await aclose_all(self._async, self._stream)
        elif not self._lock.locked():
            await self._loop.run_in_executor(None, self._close_sync)

    def _close_sync(self) -> None:
        with self._lock:
            sync, self._sync = self._sync, None
            if sync is not None:
                close_all(sync, self._stream)

    def close(self) -> None:
        """Close the stream soon, from any thread; nothing if its loop has ended."""
        if not self._closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._close_soon)

    def _close_soon(self) -> None:
        self._closing = self._loop.create_task(self.aclose())


def close_all(*sources: Any) -> None:
    """Close those of an iterator and its iterable that can be closed."""
    for one in sources:
        getattr(one, "close", _nothing)()


async def aclose_all(*sources: Any) -> None:
    """Close those of an asynchronous iterator and its iterable that can be closed."""
    for one in sources:
        if hasattr(one, "aclose"):
            await one.aclose()


async def discard(stream: Stream | None) -> None:
    """Close a stream that will not be sent; an exception is only logged."""
    close = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    if close is None:
        return
    try:
        closing = close()
        if inspect.isawaitable(closing):
            await closing
    except Exception:
        log.exception("chio: a response that was not sent could not be closed")


def _nothing() -> None: ...
