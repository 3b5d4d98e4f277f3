"""`check`: the resolved chain of an application, and what is not governed or not safe about it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from chio_core.guards.chain import Chain, Finding
from chio_core.guards.findings import NOT_GOVERNED, check_governed
from chio_core.settings import ChioSettings
from chio_sidecar.cli.application import findings_about, load
from chio_sidecar.cli.options import compact, emit, wants_json

DESCRIPTION = """Tell what governs an application: the guards in the order in which they run, what runs without
a decision, which choices are unsafe, and which routes ask for what cannot work, or for nothing. The application is
imported, not started.

    chio-sidecar check main:app

Exit status 1: it is not governed, its guards cannot stand in this order, or a route can never be allowed."""

_MOST_LAYERS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("app", metavar="MODULE:APP", help="where the application is, for example main:app")


def run(args: argparse.Namespace) -> int:
    """Print the findings, one a line; return 1 when there is an error among them.

    Raises:
        CliError: the application cannot be imported.
    """
    app = load(args.app)
    findings = check_application(app)
    for finding in findings:
        if wants_json(args):
            emit(compact(asdict(finding)))
        else:
            emit(f"{finding.severity:5} {finding.category}: {finding.message}")
    return 1 if any(finding.severity == "ERROR" for finding in findings) else 0


def check_application(app: Any) -> list[Finding]:
    """Return the findings about an application of any framework; Chio is known by its `chain`."""
    layers = list(_layers(app))
    for at, layer in enumerate(layers):
        chain, settings = getattr(layer, "chain", None), getattr(layer, "settings", None)
        if isinstance(chain, Chain) and settings is not None:
            order = Finding("INFO", "middleware_chain", "decide (0)")
            found = check_governed(chain, settings, inside=[type(inner).__name__ for inner in layers[at + 1 :]])
            found += findings_about(app, settings)
            return found if any(f.category == order.category for f in found) else [order, *found]
    return [NOT_GOVERNED, *findings_about(app, None)]


def settings_of(app: Any) -> ChioSettings | None:
    """Return the settings that govern an application; None when nothing governs it."""
    for layer in _layers(app):
        settings = getattr(layer, "settings", None)
        if isinstance(getattr(layer, "chain", None), Chain) and isinstance(settings, ChioSettings):
            return settings
    return None


def _layers(app: Any) -> Iterator[Any]:
    # Flask keeps extensions by name; ASGI applications are nested in each other along `.app`.
    extensions = getattr(app, "extensions", None)
    if isinstance(extensions, dict):
        yield from extensions.values()
    for _ in range(_MOST_LAYERS):
        if app is None:
            return
        build = getattr(app, "build_middleware_stack", None)
        if build is not None:
            app = getattr(app, "middleware_stack", None) or build()
        yield app
        app = getattr(app, "app", None)
