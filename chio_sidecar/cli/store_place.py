"""Which store a command means: the option that names it, else the embedded sidecar of the settings.

The settings are read as an application in this folder reads them: `CHIO_SIDECAR_URL` of the environment, else of the
file `.env`. A store that is named is not made here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

from chio_core.settings import ChioSettings
from chio_sidecar.cli.options import CliError

URL_VARIABLE: Final = "CHIO_SIDECAR_URL"

EITHER: Final = f"give --receipt-store FILE (or --receipt-db FILE), or set {URL_VARIABLE}=embedded:FILE"
"""What to do where no store is named."""

_EMBEDDED = "embedded:"


@dataclass(frozen=True, slots=True)
class StorePlace:
    """A store, and who named it.

    Attributes:
        path: the SQLite file, which may not exist.
        named_by: the option or the variable, for messages.
        spec: the OpenAPI document that an embedded sidecar judges by, where its URL names one.
    """

    path: Path
    named_by: str
    spec: Path | None = None


def of_url(url: str) -> StorePlace | None:
    """Return the store of an embedded sidecar; None for any other URL."""
    if not url.startswith(_EMBEDDED):
        return None
    file, _, query = url.removeprefix(_EMBEDDED).partition("?")
    spec = dict(parse_qsl(query)).get("spec")
    return StorePlace(Path(file), URL_VARIABLE, Path(spec) if spec else None) if file else None


def of_settings() -> StorePlace | None:
    """Return the store of the embedded sidecar that environment or `.env` name; None when they name no such one.

    Raises:
        ConfigurationError: the settings cannot be used; the text names the one to correct.
    """
    return of_url(ChioSettings().sidecar_url)


def of_options(args: argparse.Namespace) -> StorePlace | None:
    """Return the store that `--receipt-store` or `--receipt-db` names; None without either."""
    for name in ("receipt_store", "receipt_db"):
        if path := getattr(args, name, None):
            return StorePlace(path, f"--{name.replace('_', '-')}")
    return None


def store_place(args: argparse.Namespace) -> StorePlace | None:
    """Return the store of the options, else that of the settings; None when neither names one.

    Raises:
        ConfigurationError: no option names one, and the settings cannot be used.
    """
    return of_options(args) or of_settings()


def required_store(args: argparse.Namespace, missing: str) -> StorePlace:
    """Return the store of the options, else that of the settings.

    Args:
        missing: the sentence to say when neither names one.

    Raises:
        CliError: neither names one.
        ConfigurationError: no option names one, and the settings cannot be used.
    """
    place = store_place(args)
    if place is None:
        raise CliError(missing, fix=EITHER)
    return place
