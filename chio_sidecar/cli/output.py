"""What commands print: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from chio_core.errors import ChioError


class CliError(ChioError):
    """A command cannot do its work.

    Args:
        message: one sentence.
        code: short name of the kind of error.
        fix: what to do about it.
        context: where it happened.
    """

    code = "chio_cli"

    def __init__(
        self,
        message: str,
        *,
        code: str = "chio_cli",
        fix: str | None = None,
        context: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix
        self.context = context


def say(text: str) -> None:
    """Print a line for people to standard error."""
    print(text, file=sys.stderr, flush=True)


def emit(text: str) -> None:
    """Print a line of the result to standard output."""
    print(text)


def compact(document: Any) -> str:
    """Return a document as one line of ASCII JSON: paths are written by strangers, and terminals obey controls."""
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"))


def printable(text: str) -> str:
    """Return a text that moves no cursor and breaks no line: what standard output cannot show stands as an escape."""
    plain = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    encoding = sys.stdout.encoding or "ascii"
    return plain.encode(encoding, "backslashreplace").decode(encoding)


def report_error(exc: ChioError, *, as_json: bool) -> None:
    """Print an error to standard error, for people or as one JSON object (wire protocol, section 10.1)."""
    fix = exc.fix if isinstance(exc, CliError) else None
    context = exc.context if isinstance(exc, CliError) else None
    if as_json:
        document = {"code": exc.code, "message": exc.message, "context": context, "suggested_fix": fix}
        return say(compact(document))
    say(f"error [{exc.code}]: {exc.message}")
    if context:
        say(f"context: {compact(context)}")
    if fix:
        say(f"suggested fix: {fix}")
    return None
