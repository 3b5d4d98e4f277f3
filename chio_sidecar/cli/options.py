"""The options that every command takes (wire protocol, section 10.1), and how commands read values and tokens."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from chio_core.errors import ChioError
from chio_sidecar.trust.client import TrustClient


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


SERVICE_TOKEN_VARIABLE = "CHIO_SERVICE_TOKEN"  # noqa: S105 - the name of a variable, not a secret


def add_global_options(
    parser: argparse.ArgumentParser, *, inner: bool, formats: Sequence[str] = ("human", "json")
) -> None:
    """Add the global options to a parser.

    Args:
        parser: the command's parser, or the outermost one.
        inner: a subcommand's parser: an option that is not given there must not hide one given before.
        formats: values of `--format`.
    """
    group = parser.add_argument_group("options that may also stand before the command")

    def add(name: str, **details: Any) -> None:
        group.add_argument(name, default=argparse.SUPPRESS if inner else None, **details)

    add("--control-url", metavar="URL", help="trust service to use")
    add(
        "--control-token",
        metavar="TOKEN",
        help=f"its service token; {SERVICE_TOKEN_VARIABLE} keeps it out of the process list",
    )
    add("--receipt-db", metavar="FILE", type=Path, help="a sidecar's receipt store (SQLite)")
    add("--revocation-db", metavar="FILE", type=Path, help="the trust service's revocations (SQLite)")
    add("--authority-db", metavar="FILE", type=Path, help="the authority's keys (SQLite, mode 0600)")
    add("--authority-seed-file", metavar="FILE", type=Path, help="a signing key: 64 hex digits, mode 0600")
    add("--budget-db", metavar="FILE", type=Path, help="accepted for compatibility; nothing is kept there")
    add("--session-db", metavar="FILE", type=Path, help="accepted for compatibility; nothing is kept there")
    add("--format", choices=formats, help="how results and errors are written (human)")
    flag = argparse.SUPPRESS if inner else False
    group.add_argument("--json", action="store_true", default=flag, help="the same as --format json")


def wants_json(args: argparse.Namespace) -> bool:
    """Tell whether the output is for programs."""
    return bool(args.json) or args.format == "json"


def given_token(option: str | None, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """Return the service token of an option, or else of the environment; None when neither is given.

    Raises:
        CliError: it is blank, or could not be sent in a header.
    """
    source = os.environ if environ is None else environ
    text = source.get(SERVICE_TOKEN_VARIABLE) if option is None else option
    if text is None:
        return None
    if not text.strip():
        raise CliError("the service token is blank", fix=f"give the option or {SERVICE_TOKEN_VARIABLE} a value")
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise CliError(
            "the service token cannot be sent in a header",
            fix="use printable ASCII characters, with no space at either end",
        )
    return SecretStr(text)


def trust_client(args: argparse.Namespace) -> TrustClient:
    """Return a client for the trust service that the options name.

    Raises:
        CliError: there is no usable URL or token among them.
    """
    check_url(args.control_url, option="--control-url")
    token = given_token(args.control_token)
    if token is None:
        raise CliError(
            "--control-url needs the service token",
            fix=f"give --control-token, or set {SERVICE_TOKEN_VARIABLE}",
        )
    return TrustClient(args.control_url, token)


def check_url(url: str, *, option: str) -> None:
    """Return if this is an http or https URL.

    Raises:
        CliError: it is not; its text is not repeated, because it may hold a password.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.password:
        raise CliError(
            f"{option} must be an http:// or https:// URL without a user name",
            fix="for example http://127.0.0.1:8940",
        )


TIMES = "seconds since 1970, 2026-01-31T08:00Z, or so long ago: 90s, 30m, 24h, 7d"
"""What `moment` takes, for the help of an option."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def whole(text: str) -> int:
    """Read a whole number that is not negative.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number")
    return int(text)


def positive(text: str) -> int:
    """Read a whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if (number := whole(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def moment(text: str) -> int:
    """Read a time, absolute or so long ago, as whole seconds since 1970.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    if (ago := re.fullmatch(r"([0-9]{1,9})([smhd])", text)) is not None:
        return max(0, int(time.time()) - int(ago[1]) * _UNITS[ago[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no time: write seconds since 1970, 2026-01-31T08:00Z, or so long ago: 24h"
        ) from None
    # Without an offset it is UTC, as the times in receipts are; this machine's zone would change the answer.
    aware = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return max(0, int(aware.timestamp()))
