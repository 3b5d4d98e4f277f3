"""`doctor`: what stands in the way of a governed application, and what to do about it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.guards.chain import Finding
from chio_core.settings import ChioSettings
from chio_sidecar.cli.application import load
from chio_sidecar.cli.check import check_application, settings_of
from chio_sidecar.cli.options import CliError, compact, emit, printable, say, wants_json
from chio_sidecar.cli.store_place import of_url
from chio_sidecar.doctor import Check, guarded
from chio_sidecar.doctor.environment import Sources, check_distributions, check_names, check_settings, check_versions
from chio_sidecar.doctor.sidecar import check_sidecar
from chio_sidecar.doctor.store import check_store, last_kernel_key

DESCRIPTION = """\
Look at everything that a governed application needs, one line for each thing: ok, warn or fail, and the remedy.
Each setting with its value and source (keyword, environment, .env, default; secrets are not shown), CHIO_* names
that nobody reads, other distributions with the same import names, versions; the sidecar's answer, clock and key,
or an embedded sidecar's store and key file. With MODULE:APP the settings are those of that application, which is
imported and not started, and what `check` finds is told too.

    chio-sidecar doctor main:app

--receipt-db FILE is looked at too, and tells the key of a sidecar elsewhere that does not tell it itself. Nothing
is changed. Exit status 1: something fails.
"""

_SEVERITIES = {"INFO": "ok", "WARN": "warn", "ERROR": "fail"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("app", metavar="MODULE:APP", nargs="?", help="an application, for example main:app")


def run(args: argparse.Namespace) -> int:
    """Print one line for each check; return 1 when one fails."""
    checks = [
        *guarded("version", check_versions),
        *guarded("package", check_distributions),
        *_settings_and_all_that_follows(args),
    ]
    for check in checks:
        emit(compact(check.document()) if wants_json(args) else printable(check.line()))
    counts = {status: sum(check.status == status for check in checks) for status in ("ok", "warn", "fail")}
    say(f"{len(checks)} checks: {counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed")
    return 1 if counts["fail"] else 0


def _settings_and_all_that_follows(args: argparse.Namespace) -> list[Check]:
    try:
        sources = Sources.read(os.environ)
    except ConfigurationError as exc:
        return [Check("settings", "fail", exc.message)]
    base, found = _environment_settings()
    app = _Application(args.app)
    settings = app.settings or base
    if settings is not None:
        known = settings
        found += guarded("settings", lambda: check_settings(known, sources, base=base if app.settings else None))
    found += guarded("environment", lambda: check_names(os.environ, sources))
    found += app.checks
    if settings is not None:
        found += guarded("sidecar", lambda: _sidecar(known, args.receipt_db))
    return found


def _environment_settings() -> tuple[ChioSettings | None, list[Check]]:
    try:
        return ChioSettings(), []
    except ConfigurationError as exc:
        return None, [Check("settings", "fail", exc.message, "correct the variable, or the line in .env")]


def _sidecar(settings: ChioSettings, store: Path | None) -> Iterable[Check]:
    embedded = of_url(settings.sidecar_url)
    if embedded is not None:
        yield Check("clock", "ok", "the sidecar is in the application's process and has the same clock")
        yield from check_store(embedded.path, pinned=settings.trusted_kernel_keys)
        return
    if store is not None:
        yield from check_store(store)
    yield from check_sidecar(settings, last_key=last_kernel_key(store) if store is not None else None)


class _Application:
    """What an application adds: its own settings, and what `check` finds.

    Args:
        place: `MODULE:APP`; None for none.
    """

    def __init__(self, place: str | None) -> None:
        self.settings: ChioSettings | None = None
        self.checks: list[Check] = []
        if place is not None:
            self.checks = guarded("application", lambda: self._look(place))

    def _look(self, place: str) -> list[Check]:
        try:
            app = load(place)
        except CliError as exc:
            return [Check("application", "fail", exc.message, exc.fix)]
        self.settings = settings_of(app)
        return [_of_finding(finding) for finding in check_application(app)]


def _of_finding(finding: Finding) -> Check:
    status: Any = _SEVERITIES[finding.severity]
    return Check(f"application.{finding.category}", status, finding.message)
