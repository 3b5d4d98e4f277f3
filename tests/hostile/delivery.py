"""Unusual deliveries: slow, chunked, preceded or followed by other bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chio_core.testing.behaviours import Delivery, Ending, Pause, Step

Cut = Callable[[int, int], int]
"""Takes the lengths of the head and of the whole response; returns the byte at which something happens."""


def stop_at(ending: Ending, cut: int | Cut) -> Delivery:
    """Return a delivery that sends `cut` bytes and then stops.

    Args:
        ending: how it stops.
        cut: a number of bytes, or a function that computes it from the lengths of the head and of the whole response.
    """

    def deliver(head: bytes, body: bytes) -> Iterator[Step]:
        data = head + body
        at = cut(len(head), len(data)) if callable(cut) else cut
        if at > 0:
            yield data[:at]
        yield ending

    return deliver


def drip(cut: int | Cut, *, pieces: int = 1, every: float = 0.02) -> Delivery:
    """Return a delivery that sends the first bytes at once and the rest slowly.

    Args:
        cut: number of bytes that are sent at once.
        pieces: bytes in each later piece.
        every: seconds between two of them.
    """

    def deliver(head: bytes, body: bytes) -> Iterator[Step]:
        data = head + body
        at = cut(len(head), len(data)) if callable(cut) else cut
        if at > 0:
            yield data[:at]
        for start in range(at, len(data), pieces):
            yield Pause(every)
            yield data[start : start + pieces]

    return deliver


def preceded_by(prefix: bytes, ending: Ending | None = None) -> Delivery:
    """Return a delivery that sends other bytes first, for example an interim response.

    Args:
        prefix: the bytes.
        ending: None lets the response follow; otherwise it never comes.
    """

    def deliver(head: bytes, body: bytes) -> Iterator[Step]:
        yield prefix
        yield head + body if ending is None else ending

    return deliver


def followed_by(suffix: bytes, ending: Ending | None = None) -> Delivery:
    """Return a delivery that sends other bytes after the response."""

    def deliver(head: bytes, body: bytes) -> Iterator[Step]:
        yield head + body + suffix
        if ending is not None:
            yield ending

    return deliver


def in_chunks(size: int, *, last_chunk: bool = True) -> Delivery:
    """Return a delivery in the chunked coding (RFC 9112, section 7.1).

    Args:
        size: bytes of each chunk.
        last_chunk: False closes the connection where the end should be announced.
    """

    def deliver(head: bytes, body: bytes) -> Iterator[Step]:
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
        yield b"\r\n".join([lines[0], b"transfer-encoding: chunked", *lines[1:]])
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            yield b"%x\r\n%s\r\n" % (len(piece), piece)
        yield b"0\r\n\r\n" if last_chunk else Ending.CLOSE

    return deliver


def until_closed(head: bytes, body: bytes) -> Iterator[Step]:
    """Deliver a response whose length is not announced: it ends when the connection closes."""
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
    yield b"\r\n".join([lines[0], b"connection: close", *lines[1:]]) + body
    yield Ending.CLOSE
