"""`check`: the resolved chain of an application, and what is not governed or not safe about it."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from chio_core.chain import Chain, Finding
from chio_core.checkup import NOT_GOVERNED, check_governed
from chio_core.errors import ChioError
from chio_sidecar.cli.options import wants_json
from chio_sidecar.cli.output import CliError, compact, emit

DESCRIPTION = """Tell what governs an application: the guards in the order in which they run, what runs without
a decision, and which choices are unsafe. The application is imported, not started.

    chio-sidecar check main:app

Exit status 1: it is not governed, or its guards cannot stand in this order."""

_MOST_LAYERS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("app", metavar="MODULE:APP", help="where the application is, for example main:app")


def run(args: argparse.Namespace) -> int:
    """Print the findings, one a line; return 1 when there is an error among them.

    Raises:
        CliError: the application cannot be imported.
    """
    findings = check_application(load(args.app))
    for finding in findings:
        if wants_json(args):
            emit(compact(asdict(finding)))
        else:
            emit(f"{finding.severity:5} {finding.category}: {finding.message}")
    return 1 if any(finding.severity == "ERROR" for finding in findings) else 0


def load(place: str) -> Any:
    """Import `module:attribute`, the current folder first.

    Raises:
        CliError: there is no such thing, or importing it fails.
    """
    module, _, attribute = place.partition(":")
    if not module or not attribute:
        raise CliError("say where the application is: MODULE:APP", fix="for example chio-sidecar check main:app")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except ChioError:
        raise
    except Exception as exc:  # noqa: BLE001 - importing runs whatever is written there
        raise CliError(f"{place} cannot be imported ({type(exc).__name__}: {exc})") from None
    return found


def check_application(app: Any) -> list[Finding]:
    """Return the findings about an application of any framework; Chio is known by its `chain`."""
    layers = list(_layers(app))
    for at, layer in enumerate(layers):
        chain, settings = getattr(layer, "chain", None), getattr(layer, "settings", None)
        if isinstance(chain, Chain) and settings is not None:
            order = Finding("INFO", "middleware_chain", "decide (0)")
            found = check_governed(chain, settings, inside=[type(inner).__name__ for inner in layers[at + 1 :]])
            return found if any(f.category == order.category for f in found) else [order, *found]
    return [NOT_GOVERNED]


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
