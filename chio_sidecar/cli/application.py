"""`check` and `openapi`, and importing the `MODULE:APP` that these and other commands take.

This is the only module here that imports the application's side, the packages of the frameworks, and only when a
command needs it. An application is known by the class that it, or what it wraps, is an instance of.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chio_core.canonical import sha256_hex
from chio_core.errors import ChioError
from chio_core.guards.chain import Chain, Finding
from chio_core.routes.findings import NOT_GOVERNED, check_governed
from chio_core.settings import ChioSettings
from chio_sidecar.cli.options import wants_json
from chio_sidecar.cli.table import BAD, DOUBTFUL
from chio_sidecar.cli.terminal import CliError, compact, emit, emit_coloured, say

if TYPE_CHECKING:
    from chio_core.routes.document import Document
    from chio_core.routes.listing import ListedRoute
    from chio_sidecar.app import SidecarApp

CHECK_DESCRIPTION = """Print what governs an application: the guards in the order in which they run, what runs without
a decision, which choices are unsafe, and which routes have a requirement that cannot be met, or none. The application
is imported, not started.

    chio-sidecar check main:app
    chio-sidecar check mysite.wsgi:application             Django; or nothing, with DJANGO_SETTINGS_MODULE
    chio-sidecar check "shop:create_app()"                 a function that makes the application

Exit status 1: it is not governed, it is of no framework that is known here, its guards cannot run in this order, or a
route can never be allowed."""

OPENAPI_DESCRIPTION = """\
Write the OpenAPI document of an application for a sidecar: every route with its methods, and the policy of its
dependencies, decorators and settings. The application is imported, not started.

    chio-sidecar openapi main:app --output openapi.json
    chio-sidecar openapi mysite.wsgi:application           Django; or nothing, with DJANGO_SETTINGS_MODULE
    chio-sidecar openapi "shop:create_app()"               a function that makes the application
    chio-sidecar openapi main:app --check openapi.json     in a build: fail if the file is out of date

The document is JSON, or YAML with --format yaml or an --output that ends in .yaml or .yml. Warnings on standard error
name the routes that the sidecar will decide differently than the application suggests.
"""

_COLOURS = {"WARN": DOUBTFUL, "ERROR": BAD}
_MOST_LAYERS = 64

# User name and password in an address, for example in a database driver's message about its DSN.
_USER_INFO = re.compile(r"://\S*@")


def load(place: str | None) -> Any:
    """Import `module:attribute`, the current folder first; `module:factory()` calls the factory.

    Args:
        place: None for the Django project that `DJANGO_SETTINGS_MODULE` names.

    Raises:
        CliError: it does not exist, or importing it fails.
    """
    if place is None:
        if not os.environ.get("DJANGO_SETTINGS_MODULE"):
            raise CliError("no application is named", fix="name MODULE:APP, or set DJANGO_SETTINGS_MODULE")
        place = "django.core.wsgi:get_wsgi_application()"
    module, _, attribute = place.partition(":")
    if not module or not attribute:
        raise CliError(
            f"{place[:200]!r} is not an application; write MODULE:APP", fix="for example main:app, or main:create_app()"
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
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - importing runs arbitrary code
        # The first line alone: validation errors show values below it, some of them secret.
        lines = str(exc).strip().splitlines()
        reason = type(exc).__name__ + (f": {_USER_INFO.sub('://…@', lines[0])[:300]}" if lines else "")
        # The innermost frame of the application: neither of this module, nor of a library.
        own = [
            frame
            for frame in traceback.extract_tb(exc.__traceback__)
            if not frame.filename.startswith(("<frozen", sys.base_prefix))
            and "site-packages" not in frame.filename
            and Path(frame.filename).parent != Path(__file__).parent
        ]
        if own:
            reason += f"; {os.path.relpath(own[-1].filename)}, line {own[-1].lineno}"
        raise CliError(f"{place} cannot be imported ({reason})") from None


@dataclass(frozen=True, slots=True)
class _Known:
    """An application of a framework that is known here.

    Attributes:
        routes: its routes.
        describe: returns its document.
        governed: chain of guards, settings, and class names of the middleware inside; None if nothing governs it.
        findings: what only this framework can find, given the settings.
    """

    routes: list[ListedRoute]
    describe: Callable[[], Document]
    governed: tuple[Chain, ChioSettings, list[str]] | None
    findings: Callable[[ChioSettings], Iterable[Finding]]


def _known(app: Any) -> _Known | None:
    """Return what is known about an application, or about what it wraps; None if that is of no known framework."""
    layers = list(_layers(app))
    kinds = {name: layer for layer in reversed(layers) for name in _frameworks(layer)}
    if "flask" in kinds:
        from chio_flask import listing as flask

        found = kinds["flask"]
        routes = list(flask.list_routes(found))
        return _Known(
            routes, partial(flask.describe, found), _governing(layers), partial(flask.findings, found, routes)
        )
    if "django" in kinds:
        from chio_django import checks
        from chio_django import listing as django

        routes = list(django.list_routes())
        return _Known(routes, django.describe, checks.governing(), partial(checks.findings, routes))
    from chio_asgi import listing as asgi
    from chio_asgi.checkup import application_findings
    from chio_asgi.listing import describe
    from chio_asgi.routing import router_of

    governed = _governing(layers)
    router = router_of(app) if callable(app) and not isinstance(app, type) else None
    if governed is None and not isinstance(getattr(router, "routes", None), list):
        return None
    return _Known(list(asgi.list_routes(app)), partial(describe, app), governed, partial(application_findings, app))


def _frameworks(layer: Any) -> Iterator[str]:
    for one in type(layer).__mro__:
        top = one.__module__.partition(".")[0]
        if (top, one.__name__) in (("flask", "Flask"), ("django", "BaseHandler")):
            yield top


def read_routes(place: str | None) -> Document:
    """Import an application, make the document of its routes, and print its warnings.

    Args:
        place: see `load`.

    Raises:
        CliError: it cannot be imported, or has no routes to read.
    """
    known = _known(load(place))
    if known is None or not known.routes:
        raise CliError(
            f"{place} is not an application with routes to read",
            fix="name an application of FastAPI, Starlette, Django or Flask; MODULE:FUNCTION() calls a function that "
            "makes one",
        )
    document = known.describe()
    for finding in document.findings:
        say(f"{'warning' if finding.severity == 'WARN' else 'note'}: {finding.message}")
    return document


def govern_upstream(app: SidecarApp, upstream: str, *, timeout: float) -> Callable[[], Awaitable[None]]:
    """Let a sidecar forward what it allows to an upstream, and return a function that ends that.

    Its own middleware evaluates. The settings of the environment (`CHIO_*`) count, except those that name the sidecar,
    and `fail_open`.

    Args:
        app: an open sidecar.
        upstream: base URL.
        timeout: seconds until the head of a response.

    Raises:
        ConfigurationError: the environment cannot be used.
    """
    import httpx

    from chio_asgi import ChioASGIConfig, ChioASGIMiddleware
    from chio_core.client.client import ChioClient
    from chio_sidecar.proxy.app import ReverseProxy

    key = app.state.sidecar.key.public_hex
    settings = ChioASGIConfig(
        sidecar_url="http://127.0.0.1",
        trusted_kernel_keys=(key,),
        fail_open=False,
        evaluate_token=app.state.sidecar.config.evaluate_token,
    )
    if "exclude_methods" not in settings.model_fields_set:
        # Frameworks answer OPTIONS themselves; what an upstream does then is not known.
        settings = settings.model_copy(update={"exclude_methods": frozenset()})
    client = ChioClient(settings, transport=httpx.ASGITransport(app))
    proxy = ReverseProxy(app.state.sidecar, upstream, settings, timeout=timeout)
    proxy.governed = ChioASGIMiddleware(proxy.forward, settings, client=client)
    app.proxy = proxy

    async def close() -> None:
        await client.aclose()
        await proxy.aclose()

    return close


def check_application(app: Any) -> list[Finding]:
    """Return the findings about an application of any framework.

    See `chio_asgi.checkup` and `chio_core.routes.findings` for those about routes and handlers; without settings only
    overlapping routes are reported.
    """
    from chio_core.routes.findings import overlap_findings

    known = _known(app)
    if known is None:
        kind = f"{type(app).__module__}.{type(app).__qualname__}"
        text = (
            f"an object of {kind} is no application of FastAPI, Starlette, Django or Flask, so nothing is known about "
            "it; name the application itself, or MODULE:FUNCTION() for a function that makes it"
        )
        return [Finding("ERROR", "not_understood", text)]
    if known.governed is None:
        return [NOT_GOVERNED, *overlap_findings(known.routes)]
    chain, settings, inside = known.governed
    order = Finding("INFO", "middleware_chain", "decide (0)")
    found = [*check_governed(chain, settings, inside=inside), *known.findings(settings)]
    return found if any(one.category == order.category for one in found) else [order, *found]


def settings_of(app: Any) -> ChioSettings | None:
    """Return the settings that govern an application, or None if it is not governed."""
    known = _known(app)
    return known.governed[1] if known is not None and known.governed is not None else None


def _governing(layers: Sequence[Any]) -> tuple[Chain, ChioSettings, list[str]] | None:
    for at, layer in enumerate(layers):
        chain, settings = getattr(layer, "chain", None), getattr(layer, "settings", None)
        if isinstance(chain, Chain) and isinstance(settings, ChioSettings):
            return chain, settings, [type(inner).__name__ for inner in layers[at + 1 :]]
    return None


def _layers(app: Any) -> Iterator[Any]:
    # Applications are nested in each other along `.app`, or `.application`; Flask keeps extensions by name.
    for _ in range(_MOST_LAYERS):
        if app is None or isinstance(app, type):
            return
        extensions = getattr(app, "extensions", None)
        if isinstance(extensions, dict):
            yield from extensions.values()
        build = getattr(app, "build_middleware_stack", None)
        if build is not None:
            app = getattr(app, "middleware_stack", None) or build()
        yield app
        app = getattr(app, "app", None) or getattr(app, "application", None)


def add_check_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `check`."""
    parser.description = CHECK_DESCRIPTION
    parser.set_defaults(run=run_check)
    parser.add_argument("app", metavar="MODULE:APP", nargs="?", help="the application, for example main:app")


def run_check(args: argparse.Namespace) -> int:
    """Print the findings, one per line; return 1 if one of them is an error.

    Raises:
        CliError: the application cannot be imported.
    """
    findings = check_application(load(args.app))
    for finding in findings:
        if wants_json(args):
            emit(compact(asdict(finding)))
        else:
            text = f"{finding.category}: {finding.message}"
            emit_coloured([(f"{finding.severity:5} ", _COLOURS.get(finding.severity, "")), (text, "")])
    return 1 if any(finding.severity == "ERROR" for finding in findings) else 0


def add_openapi_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `openapi`."""
    parser.description = OPENAPI_DESCRIPTION
    parser.set_defaults(run=run_openapi)
    parser.add_argument("app", metavar="MODULE:APP", nargs="?", help="the application, for example main:app")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", metavar="FILE", type=Path, help="write to FILE instead of standard output")
    where.add_argument("--check", metavar="FILE", type=Path, help="write nothing; exit 1 if FILE is out of date")


def run_openapi(args: argparse.Namespace) -> int:
    """Write the document, or compare it with a file; return 1 if that differs.

    Raises:
        CliError: the application cannot be imported, or the file cannot be read or written.
    """
    document = read_routes(args.app)
    path: Path | None = args.output or args.check
    text = document.text
    if args.format == "yaml" or (
        args.format is None and not args.json and path is not None and path.suffix in (".yaml", ".yml")
    ):
        import yaml

        text = yaml.safe_dump(json.loads(text), sort_keys=True)
    if path is None:
        emit(text.removesuffix("\n"))
        return 0

    if args.check is not None:
        try:
            same = path.read_bytes() == text.encode()
        except OSError as exc:
            raise CliError(f"cannot read --check {path}: {exc.strerror}", fix="write it with --output") from None
        say(f"{path} is {'up to date' if same else 'out of date: write it again with --output'}")
        return 0 if same else 1

    # A sidecar that starts meanwhile reads the old document or the new one, never a part of one.
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".openapi-") as folder:
            new = Path(folder, path.name)
            new.write_bytes(text.encode())
            if path.exists():
                new.chmod(path.stat().st_mode & 0o777)
            new.replace(path)
    except OSError as exc:
        raise CliError(f"cannot write --output {path}: {exc.strerror}") from None
    say(f"wrote {document.operations} operations to {path}, policy hash {sha256_hex(text.encode())}")
    return 0
