"""What the commands write, and their errors: in one place, without controls that a terminal obeys.

The functions here escape whatever a terminal obeys in the texts that they are given, except line breaks between lines.
Colours and the progress line are the only controls that are written.

The form of errors is that of the wire protocol, section 10.1.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final, TextIO, TypeVar

from chio_core.errors import ChioError

T = TypeVar("T")

_REFRESH: Final = 0.2  # seconds between two states of a progress line
_ERASE: Final = "\r\x1b[K"


class CliError(ChioError):
    """A command cannot do its work.

    Args:
        message: one sentence.
        code: short name of the kind of error.
        fix: how to correct it.
        context: details for programs.
    """

    def __init__(
        self, message: str, *, code: str = "chio_cli", fix: str | None = None, context: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix
        self.context = context


class OutputError(CliError):
    """Standard output is closed, or what it leads to is full."""


def say(text: str) -> None:
    """Print lines for people to standard error; without one, or if it is full, they are lost."""
    try:
        _write(sys.stderr, "\n".join(map(printable, text.split("\n"))))
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def emit(text: str) -> None:
    """Print lines of the result to standard output.

    Raises:
        OutputError: it is closed or full.
        BrokenPipeError: its reader has ended.
    """
    _emit("\n".join(map(printable, text.split("\n"))))


def emit_coloured(parts: Iterable[tuple[str, str]]) -> None:
    """Print one line of texts, each with its colour: parameters of the control SGR (ECMA-48, section 8.3.117), or "".

    Colours are for terminals, and for those who did not set `NO_COLOR` (https://no-color.org).

    Raises:
        OutputError, BrokenPipeError: as `emit`.
    """
    wanted = is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    plain = ((printable(text), colour) for text, colour in parts)
    _emit("".join(f"\x1b[{colour}m{text}\x1b[0m" if wanted and colour else text for text, colour in plain).rstrip())


def is_terminal() -> bool:
    """Return True if standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def _emit(text: str) -> None:
    if sys.stdout is None:  # the shell's `>&-`
        raise OutputError("standard output is closed", fix="send it to a file, a pipe or /dev/null")
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise OutputError(f"cannot write standard output: {exc.strerror}") from None


def emit_exactly(text: bytes) -> None:
    """Print a line of the result, byte for byte; a terminal gets it as `emit` prints it.

    Raises:
        OutputError, BrokenPipeError: as `emit`.
    """
    if sys.stdout is None or is_terminal():
        return emit(text.decode("utf-8", "backslashreplace"))
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text + b"\n")
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise OutputError(f"cannot write standard output: {exc.strerror}") from None
    return None


def flush_output() -> None:
    """Write what standard output still holds.

    Raises:
        OutputError, BrokenPipeError: as `emit`. Python then writes nothing at its end either.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as exc:
        _discard(sys.stdout)
        if isinstance(exc, BrokenPipeError):
            raise
        raise OutputError(f"cannot write standard output: {exc.strerror}") from None


def _write(stream: TextIO | None, text: str) -> None:
    _LINE.erase()
    if stream is not None:
        stream.write(text + "\n")


def wait_for_more(seconds: float) -> None:
    """Wait until there may be more to print.

    Raises:
        BrokenPipeError: the reader of standard output has ended, which a command that only waits would never notice.
    """
    try:
        poll = select.poll()
        poll.register(sys.stdout, 0)
    except (AttributeError, OSError, TypeError, ValueError):  # no poll in Windows; no file descriptor, or no output
        return time.sleep(seconds)
    events = poll.poll(seconds * 1_000)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in events):
        raise BrokenPipeError
    if events:
        time.sleep(seconds)
    return None


def progress(items: Iterable[T], noun: str, total: int | None = None) -> Iterator[T]:
    """Yield the items, and show on standard error how many there were, how fast, and the time left.

    Nothing is shown if standard error is no terminal.

    Args:
        noun: what the items are, in the plural.
        total: how many there will be; None if it is not known, which shows no time left.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield from items
        return
    began = shown = time.monotonic()
    try:
        for count, item in enumerate(items, 1):
            now = time.monotonic()
            if now - shown >= _REFRESH:
                shown, rate = now, count / (now - began)
                left = f", {max(0, total - count) / rate:,.0f} s left" if total is not None else ""
                of = f" of {total:,}" if total is not None else ""
                _LINE.show(f"{count:,}{of} {noun}, {rate:,.0f} a second{left}")
            yield item
    finally:
        _LINE.erase()


class _ProgressLine:
    """The line of a progress on standard error; what is printed meanwhile takes its place."""

    visible = False

    def show(self, text: str) -> None:
        self._write(_ERASE + text)
        self.visible = True

    def erase(self) -> None:
        if self.visible:
            self.visible = False
            self._write(_ERASE)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            if sys.stderr is not None:
                sys.stderr.write(text)
                sys.stderr.flush()


_LINE = _ProgressLine()


def _discard(stream: TextIO | None) -> None:
    # Python would try again, and complain, when it flushes at exit.
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class TerminalHandler(logging.Handler):
    """Prints records of the log with `say`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        say(self.format(record))


def compact(document: Any) -> str:
    """Return a document as one line of ASCII JSON: strangers choose paths and names, and terminals obey controls."""
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"))


def escaped(value: Any) -> str:
    """Return the text of a value with JSON's escapes, in ASCII: it moves no cursor and breaks no line."""
    return compact(str(value))[1:-1]


def printable(text: str) -> str:
    """Return a text with escapes for line breaks, controls, and characters that standard output cannot show."""
    if text.isascii() and text.isprintable():
        return text
    plain = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return plain.encode(encoding, "backslashreplace").decode(encoding)


def utc(seconds: Any) -> str:
    """Return a time in UTC, ISO 8601; what is no time stays what it is."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (TypeError, ValueError, OverflowError, OSError):
        return "" if seconds is None else str(seconds)


def report_error(exc: ChioError, *, as_json: bool) -> None:
    """Print an error to standard error, for people or as one JSON object."""
    fix = exc.fix if isinstance(exc, CliError) else None
    context = exc.context if isinstance(exc, CliError) else None
    if as_json:
        return say(compact({"code": exc.code, "message": exc.message, "context": context, "suggested_fix": fix}))
    say(printable(f"error [{exc.code}]: {exc.message}"))  # also its line breaks: the message may quote a stranger
    if context:
        say(f"context: {compact(context)}")
    if fix:
        say(printable(f"suggested fix: {fix}"))
    return None
