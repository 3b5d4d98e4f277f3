"""`doctor`: check everything that a governed application needs, and name the remedies."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Literal

from chio_core.errors import ConfigurationError
from chio_core.settings import ChioSettings
from chio_sidecar.cli.options import store_of_options, store_of_url, wants_json
from chio_sidecar.cli.table import BAD, DOUBTFUL, GOOD
from chio_sidecar.cli.terminal import CliError, compact, emit, emit_coloured, say
from chio_sidecar.doctor import Check, guarded
from chio_sidecar.doctor.environment import Sources, check_distributions, check_names, check_settings, check_versions
from chio_sidecar.doctor.store import check_place
from chio_sidecar.records.file import last_kernel_key

DESCRIPTION = """\
Check everything that a governed application needs, one line for each check: ok, warn or fail, and the remedy.
Each setting with its value and source (keyword, environment, .env, default; secrets are not shown), CHIO_* names
that no setting has, other distributions with the same import names, versions; the sidecar's response, clock, key
and bearer token, or an embedded sidecar's store and key file. With MODULE:APP the settings are those of that
application, which is imported and not started, and the findings of `check` are included.

    chio-sidecar doctor main:app

--receipt-db FILE is checked too; it also shows the key of a sidecar elsewhere that does not publish it. Nothing is
changed. Exit status 1: a check fails.
"""

_COLOURS = {"ok": GOOD, "warn": DOUBTFUL, "fail": BAD}
_STATUS: dict[str, Literal["ok", "warn", "fail"]] = {"INFO": "ok", "WARN": "warn", "ERROR": "fail"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `doctor`."""
    parser.description = DESCRIPTION
    parser.set_defaults(run=run)
    parser.add_argument("app", metavar="MODULE:APP", nargs="?", help="an application, for example main:app")


def run(args: argparse.Namespace) -> int:
    """Print one line for each check; return 1 if one fails."""
    checks = [
        *guarded("version", check_versions),
        *guarded("package", check_distributions),
        *check_environment(args),
    ]
    for check in checks:
        if wants_json(args):
            emit(compact(check.document()))
        else:
            word, _, text = check.line().partition(" ")
            emit_coloured([(word, _COLOURS[check.status]), (f" {text}", "")])
    counts = {status: sum(check.status == status for check in checks) for status in ("ok", "warn", "fail")}
    warnings = f"{counts['warn']} warning{'' if counts['warn'] == 1 else 's'}"
    say(f"{len(checks)} checks: {counts['ok']} ok, {warnings}, {counts['fail']} failed")
    return 1 if counts["fail"] else 0


def check_environment(args: argparse.Namespace) -> list[Check]:
    """Return the checks of settings, application and sidecar; each step goes on with what the others could read."""
    try:
        sources = Sources.read(os.environ)
    except ConfigurationError as exc:
        return [Check("settings", "fail", exc.message)]
    checks: list[Check] = []
    try:
        base = ChioSettings()
    except ConfigurationError as exc:
        base = None
        checks.append(Check("settings", "fail", exc.message, "correct the variable, or the line in .env"))

    # The application comes first: its settings count before those of the environment. It is reported after them.
    own: list[ChioSettings | None] = []

    def check_app() -> Iterator[Check]:
        from chio_sidecar.cli.application import check_application, load, settings_of

        try:
            app = load(args.app)
        except CliError as exc:
            yield Check("application", "fail", exc.message, exc.fix)
            return
        own.append(settings_of(app))
        for finding in check_application(app):
            yield Check(f"application.{finding.category}", _STATUS[finding.severity], finding.message)

    app_checks = guarded("application", check_app) if args.app is not None else []
    of_app = own[0] if own else None
    settings = of_app or base
    if settings is not None:
        checks += guarded("settings", lambda: check_settings(settings, sources, base=base if of_app else None))
    checks += guarded("environment", lambda: check_names(os.environ, sources))
    checks += app_checks

    def check_endpoint(settings: ChioSettings) -> Iterator[Check]:
        named, embedded = store_of_options(args), store_of_url(settings.sidecar_url)
        if named is not None and (embedded is None or named.path != embedded.path):
            yield from check_place(named.path)
        if embedded is not None:
            yield Check("clock", "ok", "the sidecar is in the application's process and has the same clock")
            yield from check_place(embedded.path, pinned=settings.trusted_kernel_keys)
            return
        from chio_sidecar.doctor.sidecar import check_sidecar

        last_key = last_kernel_key(named.path) if named is not None else None
        yield from check_sidecar(settings, last_key=last_key)

    if settings is not None:
        checks += guarded("sidecar", lambda: check_endpoint(settings))
    return checks
