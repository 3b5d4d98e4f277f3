"""The options that every command takes (wire protocol, section 10.1), and how commands read values and tokens."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from chio_sidecar.cli.output import CliError
from chio_sidecar.trust.client import TrustClient

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
