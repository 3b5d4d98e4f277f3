"""Request bodies that come as a blocking stream (WSGI, Django): counted and hashed to their end, then read again.

The bytes that are hashed and the bytes that the application reads are the same file. Small bodies stay in
memory, larger ones wait in a temporary file. Nothing here knows a framework.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Generator
from typing import IO, Any, BinaryIO

from chio_core.evaluation.body_limits import NO_LIMITS, BodyLimits
from chio_core.evaluation.governed import KnownBody
from chio_core.refusals.response import Denial, RequestRefused, body_incomplete, body_too_large

_PIECE = 256 * 1024


MeasureSteps = Generator[None, None, KnownBody]
"""Yields between pieces, so that an event loop can do other work; returns length and hash."""


class KeptInput(io.RawIOBase):
    """A one-way stream that can be read again: what was read is kept, the rest is fetched when it is read.

    Args:
        source: has `read(size)`; the end is an empty result.
        length: bytes to expect; None until the end of the source.
        limits: how many bytes stay in memory, and how many may wait in files.
        first: bytes that were read from the source already.
        refusal: the reason why the body cannot be read.

    After a failure every read raises `RequestRefused`: a body with a hole must not be read, evaluated or run.

    Attributes:
        bounded: more than `limits.max_bytes` cannot be read.
        truncated: the source ended before `length` bytes.
        noted: in observe mode the refusal of a body that does not fit in temporary files.
    """

    def __init__(
        self,
        source: Any,
        length: int | None,
        limits: BodyLimits,
        first: bytes = b"",
        refusal: Denial | None = None,
    ) -> None:
        self._source = source
        self._left = length
        self._kept: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=max(1, min(limits.spool_bytes, 2**31)))  # noqa: SIM115 - see close
        self._limits = limits
        self._spooled = 0
        self._size = self._kept.write(first)
        self._at = 0
        self._ended = False
        self._refusal = refusal
        self.bounded = False
        self.truncated = False
        self.noted: Denial | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read from the present position on; see `io.RawIOBase`."""
        self._fetch(self._at + len(buffer))
        self._kept.seek(self._at)
        piece = self._kept.read(len(buffer))
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position; to seek from the end everything is fetched first."""
        if whence == io.SEEK_END:
            self._fetch(None)
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def prefix(self, count: int) -> bytes:
        """Return the first `count` bytes, the position unchanged; no more than these are fetched."""
        self._fetch(count)
        self._kept.seek(0)
        return self._kept.read(count)

    def close(self) -> None:
        """Remove what was kept."""
        if not self._kept.closed:
            self._kept.close()
            self._limits.give_back(self._spooled)
        super().close()

    def _fetch(self, upto: int | None) -> None:
        if self._refusal is not None:
            raise RequestRefused(self._refusal)
        try:
            while not self._ended and (upto is None or self._size < upto):
                want = _PIECE if upto is None else min(_PIECE, upto - self._size)
                want = want if self._left is None else min(want, self._left)
                piece = read_source(self._source, want) if self._left != 0 else b""
                if not piece:
                    self._ended, self.truncated = True, bool(self._left)
                    return
                self._kept.seek(self._size)
                size = self._size + len(piece)
                if self.bounded and size > self._limits.max_bytes:
                    raise RequestRefused(body_too_large(self._limits.max_bytes))
                if size > self._limits.spool_bytes:
                    self.noted = self._limits.take(size - self._spooled) or self.noted
                    self._spooled = size
                self._kept.write(piece)
                self._size = size
                if self._left is not None:
                    self._left -= len(piece)
        except BaseException as exc:
            # The piece that was read is lost, and the next read would continue behind it.
            self._refusal = exc.denial if isinstance(exc, RequestRefused) else body_incomplete()
            raise


def read_source(source: Any, size: int) -> bytes:
    """Read from a server's stream.

    Raises:
        OSError: the body broke off, or is malformed; servers raise their own classes for that (gunicorn's
            `InvalidChunkSize` is no `OSError`).
    """
    try:
        piece: bytes = source.read(size)
    except OSError:
        raise
    except Exception as exc:
        raise OSError(f"the server cannot read the request body: {type(exc).__name__}") from exc
    return piece


def keep(source: Any, length: int | None, limits: BodyLimits, first: bytes = b"") -> BinaryIO:
    """Return a seekable file over a one-way stream; it fetches no more than is read.

    Args:
        source, length, limits, first: see `KeptInput`.
    """
    return io.BufferedReader(KeptInput(source, length, limits, first))


def measure(file: BinaryIO, limits: BodyLimits, source: Any = None) -> MeasureSteps:
    """Count and hash a seekable file from its start, and leave it at its start again.

    Args:
        source: the object that the application reads the body from, see `KnownBody`.

    Raises:
        RequestRefused: more than `limits.max_bytes` (413), or the client went away before the end (400).
    """
    digest, length = hashlib.sha256(), 0
    refusal: Denial | None = None
    try:
        file.seek(0)
        while piece := file.read(_PIECE):
            length += len(piece)
            if length > limits.max_bytes:
                refusal = limits.refuse(body_too_large(limits.max_bytes))
            digest.update(piece)
            if len(piece) == _PIECE:
                yield
        file.seek(0)
    except OSError as exc:
        raise RequestRefused(body_incomplete()) from exc
    raw = getattr(file, "raw", None)
    if isinstance(raw, KeptInput):
        if raw.truncated:
            raise RequestRefused(body_incomplete())
        refusal = refusal or raw.noted
    return KnownBody(length, digest.hexdigest() if length else None, source, refusal)


def unreadable(refusal: Denial) -> BinaryIO:
    """Return a file whose every read raises `RequestRefused`, in place of a body that could not be read."""
    return io.BufferedReader(KeptInput(None, None, NO_LIMITS, refusal=refusal))


def is_kept(file: BinaryIO) -> bool:
    """Return True if a file is of those that `keep` makes, and so must be closed in the end."""
    return isinstance(getattr(file, "raw", None), KeptInput)


def read_from_start(file: BinaryIO, count: int = -1) -> bytes:
    """Return the first `count` bytes of a seekable file, all of them by default, the position unchanged.

    Raises:
        RequestRefused: the body broke off, or is malformed (400), or does not fit in temporary files (503).
    """
    kept = getattr(file, "raw", None)
    try:
        if isinstance(kept, KeptInput) and count >= 0:
            return kept.prefix(count)
        at = file.tell()
        file.seek(0)
        try:
            return file.read(count)
        finally:
            file.seek(at)
    except OSError as exc:
        raise RequestRefused(body_incomplete()) from exc
