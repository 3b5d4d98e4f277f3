"""What has to be known about the HTTP library: httpx, or httpx2, which has the same classes under another name.

Requests and responses are duck-typed. Only where an object of the library must be made or extended is the
library itself looked up, by the package that the object's class comes from.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any

from chio_core.errors import ConfigurationError


def library_of(thing: Any) -> ModuleType:
    """Return the package (`httpx`, `httpx2`) that a request or response comes from.

    Raises:
        ConfigurationError: it is neither.
    """
    for base in type(thing).__mro__:
        module = sys.modules.get(base.__module__.partition(".")[0])
        if module is not None and hasattr(module, "AsyncByteStream"):
            return module
    raise ConfigurationError(f"{type(thing).__name__} is no request or response of httpx or httpx2")


def copy_of(request: Any) -> Any:
    """Return a copy of a request with headers and extensions of its own; the body is shared.

    Members work on a copy: what they add must not be carried along when the client follows a redirect.
    """
    copy = object.__new__(type(request))
    copy.__dict__.update(request.__dict__)
    copy.headers = request.headers.copy()
    copy.extensions = dict(request.extensions)
    return copy


class TooLarge(Exception):
    """A body has more bytes than are allowed."""


async def read_body(request: Any, limit: int) -> bytes:
    """Return the whole body, at most `limit` bytes; the request can be sent afterwards.

    Raises:
        TooLarge: it is longer.
    """
    if not hasattr(request, "_content"):
        request.stream = _alimited(request.stream, limit)
        await request.aread()
    return _checked(request.content, limit)


def read_body_now(request: Any, limit: int) -> bytes:
    """Do the same for a request of a synchronous client."""
    if not hasattr(request, "_content"):
        request.stream = _limited(request.stream, limit)
        request.read()
    return _checked(request.content, limit)


def _checked(content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise TooLarge
    return content


class _alimited:  # noqa: N801 - a generator in the clothes that the library looks for
    def __init__(self, stream: Any, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._limit
        async for part in self._stream:
            left -= len(part)
            if left < 0:
                raise TooLarge
            yield part


class _limited:  # noqa: N801 - see above
    def __init__(self, stream: Any, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    def __iter__(self) -> Iterator[bytes]:
        left = self._limit
        for part in self._stream:
            left -= len(part)
            if left < 0:
                raise TooLarge
            yield part


def collect(response: Any, limit: int, finished: Callable[[bytes], None]) -> None:
    """Have a function called with the raw body once it has been read to its end.

    The body goes to its reader as before, piece by piece. Nobody is called when it has more than `limit` bytes,
    breaks off, or is not read to its end.
    """
    response.stream = _tee(library_of(response))(response.stream, limit, finished)


class _Collecting:
    def __init__(self, stream: Any, limit: int, finished: Callable[[bytes], None]) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self._left = limit
        self._finished = finished

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield self._keep(part)
        self._end()

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            yield self._keep(part)
        self._end()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self) -> None:
        self._stream.close()

    def _keep(self, part: bytes) -> bytes:
        self._left -= len(part)
        if self._left >= 0:
            self._parts.append(part)
        else:
            self._parts.clear()
        return part

    def _end(self) -> None:
        if self._left >= 0:
            self._finished(b"".join(self._parts))


@lru_cache(maxsize=8)
def _tee(library: ModuleType) -> Any:
    # The client checks that a stream is one of its library's.
    return type("Tee", (_Collecting, library.AsyncByteStream, library.SyncByteStream), {})
