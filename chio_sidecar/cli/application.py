"""`MODULE:APP` on the command line: importing an application, and the document for a sidecar that its routes make.

The one place here that looks at the application's side, `chio_asgi`, and only when a command asks for it.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chio_core.errors import ChioError
from chio_core.guards.chain import Finding
from chio_core.settings import ChioSettings
from chio_sidecar.cli.options import CliError, say

if TYPE_CHECKING:
    from chio_asgi.document import Document

_USER_INFO = re.compile(r"://\S*@")
"""User name and password in an address, for example in what a database driver says about its DSN."""


def load(place: str) -> Any:
    """Import `module:attribute`, the current folder first; `module:factory()` calls the factory.

    Raises:
        CliError: there is no such thing, or importing it fails.
    """
    module, _, attribute = place.partition(":")
    if not module or not attribute:
        raise CliError(
            f"{place[:200]!r} is no application; write MODULE:APP", fix="for example main:app, or main:create_app()"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    name = attribute.removesuffix("()")
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found if name == attribute else found()  # type: ignore[operator]
    except ChioError as exc:
        raise CliError(f"{place} cannot be imported: {exc.message}", code=exc.code) from None
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - importing runs whatever is written there
        raise CliError(f"{place} cannot be imported ({_reason(exc)})") from None


def read_routes(place: str) -> Document:
    """Import an application, make the document of its routes, and say what to look out for.

    Args:
        place: `module:attribute`.

    Raises:
        CliError: it cannot be imported, or has no routes to read.
    """
    from chio_asgi.document import describe

    app = load(place)

    if not callable(app) or isinstance(app, type) or not _has_routes(app):
        raise CliError(
            f"{place} is no application with routes to read",
            fix="name a FastAPI or Starlette application; a function that makes one is called by MODULE:FUNCTION()",
        )
    document = describe(app)
    for finding in document.findings:
        say(f"{'warning' if finding.severity == 'WARN' else 'note'}: {finding.message}")
    return document


def findings_about(app: Any, settings: ChioSettings | None) -> list[Finding]:
    """Return what routes and handlers have to tell, see `chio_asgi.checkup`; without settings, of the routes alone."""
    from chio_asgi.checkup import application_findings
    from chio_asgi.document import overlap_findings

    return list(overlap_findings(app) if settings is None else application_findings(app, settings))


def _has_routes(app: Any) -> bool:
    from chio_asgi.routing import router_of

    router = router_of(app)
    return router is not None and isinstance(getattr(router, "routes", None), list)


def _reason(exc: BaseException) -> str:
    """Return what went wrong and where, in one line: validation errors show values, some of them secret, below it."""
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if not frame.filename.startswith("<frozen")]
    own = [frame for frame in frames if Path(frame.filename).parent != Path(__file__).parent and _is_ours(frame)]
    lines = str(exc).strip().splitlines()
    said = _USER_INFO.sub("://…@", lines[0])[:300] if lines else ""
    text = f"{type(exc).__name__}: {said}" if said else type(exc).__name__
    return f"{text}; {os.path.relpath(own[-1].filename)}, line {own[-1].lineno}" if own else text


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return "site-packages" not in frame.filename and not frame.filename.startswith(sys.base_prefix)
