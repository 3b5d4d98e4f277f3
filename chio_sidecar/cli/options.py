"""What the commands share: global options, values, output and errors, and the store that a command reads.

Global options and the form of errors are those of the wire protocol, section 10.1.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

from chio_core.canonical import parse_json
from chio_core.endpoint import is_this_machine
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_sidecar.cli.terminal import CliError, say
from chio_sidecar.store.place import DatabasePlace, Place, is_database, read_place

if TYPE_CHECKING:
    from pydantic import SecretStr

    from chio_sidecar.trust.client import TrustClient

URL_VARIABLE: Final = "CHIO_SIDECAR_URL"
SERVICE_TOKEN_VARIABLE: Final = "CHIO_SERVICE_TOKEN"  # noqa: S105 - the name of a variable, not a secret

EITHER: Final = f"give --receipt-store FILE, or set {URL_VARIABLE}=embedded:FILE"
"""The fix if no store is named."""


def store(text: str) -> Place:
    """Read the path of a file, or the URL of a database."""
    try:
        return read_place(text)
    except ConfigurationError as exc:
        raise argparse.ArgumentTypeError(exc.message) from None


_GLOBAL: Final[dict[str, tuple[str, Any, str]]] = {
    "control_url": ("URL", None, "URL of the trust service"),
    "control_token": (
        "TOKEN",
        None,
        f"its service token; {SERVICE_TOKEN_VARIABLE} keeps it out of the process list",
    ),
    "receipt_store": (
        "FILE",
        store,
        "a sidecar's receipt store (SQLite), or postgresql://…; a command that reads one takes that of"
        f" {URL_VARIABLE}=embedded:FILE by default (environment, .env)",
    ),
    "receipt_db": ("FILE", store, "the same as --receipt-store"),  # the protocol's name
    "revocation_db": ("FILE", store, "the trust service's revocations (SQLite), or a database"),
    "authority_db": ("FILE", store, "the authority's keys (SQLite, mode 0600), or a database"),
    "authority_seed_file": ("FILE", Path, "a signing key: 64 hex digits, mode 0600"),
    # The protocol has these two. Nothing is stored there.
    "budget_db": ("FILE", Path, "never opened; `trust serve` reports in /health that it was given"),
    "session_db": ("FILE", Path, "accepted for compatibility, without effect"),
}
"""The options that may precede every command (wire protocol, section 10.1): placeholder, type and help of each."""


def add_global_options(
    parser: argparse.ArgumentParser,
    *,
    inner: bool,
    formats: Sequence[str] = ("human", "json"),
    reads: Collection[str] = (),
) -> None:
    """Add the global options to a parser.

    Args:
        parser: the command's parser, or the outermost one.
        inner: True for a command's parser: an option that is not given there must not hide one given before.
        formats: values of `--format`.
        reads: those that a command reads. Its help lists no others, though it accepts them.
    """
    group = parser.add_argument_group("options that may also precede the command")
    for name, (placeholder, kind, text) in _GLOBAL.items():
        group.add_argument(
            option_of(name),
            metavar=placeholder,
            type=kind,
            default=argparse.SUPPRESS if inner else None,
            help=argparse.SUPPRESS if inner and name not in reads else text,
        )
    default = argparse.SUPPRESS if inner else None
    group.add_argument("--format", choices=formats, default=default, help="format of results and errors (human)")
    flag = argparse.SUPPRESS if inner else False
    group.add_argument("--json", action="store_true", default=flag, help="the same as --format json")


def note_unused(args: argparse.Namespace, command: str, reads: Collection[str]) -> None:
    """Print a note about each global option that was given and that a command does not read.

    They may precede every command, so a program may give them to all, and reads errors as JSON. A person who gives one
    expects an effect.
    """
    if wants_json(args):
        return
    known = {*reads, *(("receipt_db",) if "receipt_store" in reads else ())}
    for name in _GLOBAL:
        if getattr(args, name) is not None and name not in known:
            say(f"note: {option_of(name)} has no effect on `{command}`")
    if args.control_token is not None and args.control_url is None and "control_token" in known:
        say("note: --control-token has no effect without --control-url")


def note_overridden(args: argparse.Namespace, used: str, *others: str) -> None:
    """Print a note about each of the `others` that was given, and that has no effect beside the argument `used`."""
    for name in others:
        if getattr(args, name) is not None:
            say(f"note: {option_of(name)} has no effect beside {used}")


def option_of(name: str) -> str:
    """Return how an option is written, for the name that its value has in a namespace."""
    return f"--{name.replace('_', '-')}"


def wants_json(args: argparse.Namespace) -> bool:
    """Return True if the output is for programs."""
    return bool(args.json) or args.format == "json"


def given_token(option: str | None) -> SecretStr | None:
    """Return the service token of an option, else of the environment; None if neither is given.

    Raises:
        CliError: it is blank, or cannot be sent in a header.
    """
    text = os.environ.get(SERVICE_TOKEN_VARIABLE) if option is None else option
    if text is None:
        return None
    if not text.strip():
        raise CliError("the service token is blank", fix=f"give the option or {SERVICE_TOKEN_VARIABLE} a value")
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise CliError(
            "the service token cannot be sent in a header",
            fix="use printable ASCII characters, without spaces at either end",
        )
    from pydantic import SecretStr

    return SecretStr(text)


def trust_client(args: argparse.Namespace) -> TrustClient:
    """Return a client of the trust service that the options name.

    Raises:
        CliError: the URL or the token is missing or unusable.
    """
    from chio_sidecar.trust.client import TrustClient

    check_url(args.control_url, option="--control-url")
    token = given_token(args.control_token)
    if token is None:
        raise CliError(
            "--control-url needs the service token",
            fix=f"give --control-token, or set {SERVICE_TOKEN_VARIABLE}",
        )
    warn_of_plain_http(args.control_url, "the service token")
    return TrustClient(args.control_url, token)


def warn_of_plain_http(url: str, secret: str) -> None:
    """Print a warning if a secret is sent to another machine without encryption."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_this_machine(parts.hostname or ""):
        say(f"warning: {secret} is sent to {parts.hostname} without encryption; use https://")


def check_url(url: str, *, option: str) -> None:
    """Return if this is an http or https URL.

    Raises:
        CliError: it is not. The message does not repeat the URL, which may hold a password.
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


# Types of options; each raises argparse.ArgumentTypeError.

TIMES = "seconds since 1970, 2026-01-31T08:00Z, or an age: 90s, 30m, 24h, 7d"
"""The forms that `moment` reads, for the help of an option."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def named(text: str) -> str:
    """Read a name, which is not blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is blank; give a name")
    return text


def whole(text: str) -> int:
    """Read a whole number from 0 on."""
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 0 to {10**18 - 1}")
    return int(text)


def positive(text: str) -> int:
    """Read a whole number from 1 on."""
    if not text.isascii() or not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 1 to {10**18 - 1}")
    return int(text)


def lifetime(text: str) -> int:
    """Read a duration, in seconds or with one of the units of `moment`, as seconds."""
    found = re.fullmatch(r"([0-9]{1,10})([smhd]?)", text)
    if found is None or int(found[1]) < 1:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no lifetime; write seconds, or an amount such as 30m, 24h, 7d"
        )
    return int(found[1]) * _UNITS[found[2] or "s"]


def file_mode(text: str) -> int:
    """Read the permissions of a file in octal."""
    if not re.fullmatch("0?[0-7]{3}", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no mode; write three octal digits, for example 660")
    return int(text, 8)


def moment(text: str) -> int:
    """Read a time, absolute or as an age, as whole seconds since 1970."""
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    if (ago := re.fullmatch(r"([0-9]{1,9})([smhd])", text)) is not None:
        return max(0, int(time.time()) - int(ago[1]) * _UNITS[ago[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a time; write {TIMES}") from None
    # Without an offset it is UTC, as the times in receipts are: the result must not depend on this machine's zone.
    aware = found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return max(0, int(aware.timestamp()))


def public_key(text: str) -> str:
    """Read a public key as 64 lower-case hex digits."""
    from chio_core.signing import normalize_public_key

    try:
        return normalize_public_key(text)
    except InvalidDocument as exc:
        raise argparse.ArgumentTypeError(exc.message) from None


def json_value(text: str) -> Any:
    """Read a JSON document."""
    try:
        return parse_json(text)
    except InvalidDocument as exc:
        raise argparse.ArgumentTypeError(exc.message) from None


@dataclass(frozen=True, slots=True)
class StorePlace:
    """A receipt store that is named; the file may not exist.

    Attributes:
        path: the SQLite file, or the database.
        named_by: the option or the variable, for messages.
        spec: the OpenAPI document of an embedded sidecar, if its URL names one.
    """

    path: Place
    named_by: str
    spec: Path | None = None

    @property
    def file(self) -> Path:
        """The file.

        Raises:
            CliError: the store is in a database.
        """
        if isinstance(self.path, Path):
            return self.path
        raise CliError("this command works with a store in a file", fix="see `chio-sidecar store` for a database")

    @property
    def key_path(self) -> Path:
        """The file of the signing key.

        Raises:
            CliError: the store is in a database, whose URL names none.
        """
        return key_of(self.path)


def key_of(place: Place) -> Path:
    """Return the file of the signing key of a store.

    Raises:
        CliError: the store is in a database, whose URL names none.
    """
    if isinstance(place, Path):
        from chio_sidecar.keys import key_beside  # takes longer to load than most commands take to run

        return key_beside(place)
    if place.key_path is None:
        raise CliError("the URL of the database names no signing key", fix="add ?key=FILE to it")
    return place.key_path


def store_of_url(url: str) -> StorePlace | None:
    """Return the store of an embedded sidecar, or None for any other URL.

    Raises:
        ConfigurationError: it is the URL of a database, and cannot be read.
    """
    kind, _, rest = url.partition(":")
    if kind == "embedded" and is_database(rest):
        place = DatabasePlace.parse(rest)
        document = place.options.get("spec")
        return StorePlace(place, URL_VARIABLE, Path(document) if document else None)
    file, _, query = rest.partition("?")
    if kind != "embedded" or not file:
        return None
    spec = dict(parse_qsl(query)).get("spec")
    return StorePlace(Path(file), URL_VARIABLE, Path(spec) if spec else None)


def store_of_settings() -> StorePlace | None:
    """Return the store of the embedded sidecar that the settings name, or None if they name another sidecar.

    The settings are read as by an application in this folder: `CHIO_SIDECAR_URL` of the environment, else of `.env`.

    Raises:
        ConfigurationError: the settings cannot be used; the message names the one to correct.
    """
    from chio_core.settings import ChioSettings

    return store_of_url(ChioSettings().sidecar_url)


def store_of_options(args: argparse.Namespace) -> StorePlace | None:
    """Return the store that `--receipt-store` or `--receipt-db` names, or None without either.

    The first beats the second, which may stand before every command (wire protocol, section 10.2).
    """
    for name in ("receipt_store", "receipt_db"):
        if path := getattr(args, name, None):
            return StorePlace(path, option_of(name))
    return None


def required_store(args: argparse.Namespace, missing: str) -> StorePlace:
    """Return the store of the options, else of the settings.

    Args:
        args: the parsed arguments.
        missing: the error message if neither names one.

    Raises:
        CliError: neither names one.
        ConfigurationError: no option names one, and the settings cannot be used.
    """
    place = store_of_options(args) or store_of_settings()
    if place is None:
        raise CliError(missing, fix=EITHER)
    return place


def add_trusted_key_option(parser: argparse.ArgumentParser) -> None:
    """Add `--trusted-key`, which may be repeated."""
    parser.add_argument(
        "--trusted-key",
        metavar="HEX",
        action="append",
        type=public_key,
        help="public key of a sidecar; without one a valid signature only shows that nothing was changed",
    )


def say_if_new(option: str, place: Place | None) -> None:
    """Say that a database of the trust service will be made: where one was before, its name is mistyped."""
    if isinstance(place, Path) and not place.exists():
        say(f"making {place} ({option}); if that should name a database that is there, stop and correct the name")
