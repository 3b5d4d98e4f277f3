"""`api protect`: run the sidecar (wire protocol, section 10.2)."""

from __future__ import annotations

import argparse
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from chio_core.errors import ChioError
from chio_core.signing import SigningKey, normalize_public_key
from chio_sidecar.app import create_app
from chio_sidecar.cli.application import read_routes
from chio_sidecar.cli.options import CliError, check_url, given_token, say, trust_client
from chio_sidecar.cli.serving import bind, serve
from chio_sidecar.config import SidecarConfig, control_token_from, trusted_approvers_from, trusted_issuers_from
from chio_sidecar.trust.app import TrustConfig, TrustService, create_trust_app
from chio_sidecar.trust.client import is_loopback_url

PLACES = ("/openapi.json", "/openapi.yaml", "/swagger.json", "/api-docs")
"""Paths that are asked, in this order."""

_SECONDS = 3.0
_LARGEST = 10 * 1024 * 1024
_NOTHING = (
    "no OpenAPI document was found at the upstream, so routes are judged by their method only;"
    " use --spec to provide one, or name the application as MODULE:APP"
)


def discover_spec(upstream: str, *, transport: httpx.BaseTransport | None = None) -> str | None:
    """Return the first non-empty document that the application offers, or None after one warning line.

    Args:
        upstream: base URL of the application.
        transport: stands in for the network.
    """
    deadline = time.monotonic() + _SECONDS
    failure, answered = "", False
    with httpx.Client(timeout=_SECONDS, trust_env=not is_loopback_url(upstream), transport=transport) as client:
        for place in PLACES:
            text = None
            try:
                text = _fetch(client, upstream.rstrip("/") + place, deadline)
                answered = True
            except httpx.TransportError as exc:
                failure = type(exc).__name__
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeDecodeError):
                answered = True
            if text:
                say(f"chio api protect: using the OpenAPI document at {place} of the upstream")
                return text
            if time.monotonic() > deadline:
                break
    say(f"warning: {_NOTHING if answered else _no_answer(upstream, failure)}")
    return None


def _no_answer(upstream: str, failure: str) -> str:
    return (
        f"the upstream {upstream} does not answer ({failure}), so routes are judged by their method only; start it"
        " before this sidecar, use --spec to provide its OpenAPI document, or name the application as MODULE:APP"
    )


def _fetch(client: httpx.Client, url: str, deadline: float) -> str | None:
    with client.stream("GET", url) as answer:
        if not answer.is_success:
            return None
        body = bytearray()
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > _LARGEST or time.monotonic() > deadline:
                return None
    return body.decode("utf-8") if body.strip() else None


DESCRIPTION = """\
Judge HTTP requests for applications: evaluate, verify and health under /chio/, the control plane under /v1/
and /approvals/. This sidecar is no reverse proxy: applications ask it through their middleware. It knows their
routes and policy from MODULE:APP, or from --spec, or else asks --upstream for its OpenAPI document.

Keys whose capabilities are accepted, besides the sidecar's own: those in CHIO_TRUSTED_ISSUER_KEY (one) and
CHIO_TRUSTED_ISSUER_KEYS (comma list). When both are unset and --control-url is given, those of its authority
at the start, and keys that it names later. CHIO_SIDECAR_CONTROL_TOKEN is the bearer of the control plane; without
it only loopback may call.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    application = parser.add_mutually_exclusive_group(required=True)
    application.add_argument(
        "app",
        metavar="MODULE:APP",
        nargs="?",
        help="the application, for example main:app; imported, and its routes are what this sidecar knows",
    )
    application.add_argument(
        "--upstream", metavar="URL", help="the running application; asked for its OpenAPI document"
    )
    parser.add_argument("--spec", metavar="FILE", type=Path, help="OpenAPI 3 document, JSON or YAML")
    parser.add_argument(
        "--strict-spec", action="store_true", help="do not start with a document that holds policy nobody would read"
    )
    parser.add_argument(
        "--listen", metavar="ADDR", default="127.0.0.1:9090", help="HOST:PORT or unix:PATH (127.0.0.1:9090)"
    )
    parser.add_argument(
        "--receipt-store",
        metavar="FILE",
        type=Path,
        help="SQLite file; default --receipt-db, else a temporary one",
    )


def run(args: argparse.Namespace) -> int:
    """Run the sidecar until it is stopped.

    Raises:
        CliError: it cannot start; the message says so first.
    """
    try:
        with bind(args.listen) as listener, _configuration(args) as config:
            app = create_app(config)
            app.state.sidecar.open()
            if config.signing_key is None:
                key = app.state.sidecar.key.public_hex
                say(f"chio api protect: receipts are signed by this key: CHIO_TRUSTED_KERNEL_KEYS={key}")
            ready = f"{_ready(args, len(app.state.sidecar.routes))} on {listener.address}"
            return serve(app, listener, ready=ready, close=app.state.close)
    except ChioError as exc:
        fix = exc.fix if isinstance(exc, CliError) else None
        raise CliError(f"failed to start chio api protect: {exc.message}", code=exc.code, fix=fix) from None


def _spec(args: argparse.Namespace) -> str | None:
    if args.app is not None:
        if args.spec is not None:
            raise CliError("MODULE:APP and --spec are two documents of one application", fix="give only one")
        return read_routes(args.app).text
    return _read_spec(args.spec) if args.spec else discover_spec(args.upstream)


def _ready(args: argparse.Namespace, routes: int) -> str:
    if args.upstream is None:
        return f"chio api protect: judging {routes} routes of {args.app}"
    # The protocol fixes the line, and scripts wait for it; what it says of proxying is said right before it.
    say("chio api protect: this sidecar judges requests and forwards none; the upstream's middleware has to ask it")
    return f"chio api protect: proxying {routes} routes to {args.upstream}"


@contextmanager
def _configuration(args: argparse.Namespace) -> Iterator[SidecarConfig]:
    if args.upstream is not None:
        check_url(args.upstream, option="--upstream")
    trusted = _trusted_issuers(args)
    revocations = _revocations(args)
    spec = _spec(args)
    store = args.receipt_store or args.receipt_db
    with tempfile.TemporaryDirectory(prefix="chio-sidecar-") as folder:
        yield SidecarConfig(
            store_path=store or Path(folder, "receipts.sqlite3"),
            ephemeral=store is None,
            key_path=args.authority_seed_file,
            signing_key=_random_key() if store is None and args.authority_seed_file is None else None,
            spec_text=spec,
            strict_spec=args.strict_spec,
            trusted_issuers=trusted,
            follow_authority=bool(args.control_url) and not trusted_issuers_from(os.environ),
            trusted_approvers=trusted_approvers_from(os.environ),
            control_token=control_token_from(os.environ),
            **revocations,
        )


def _revocations(args: argparse.Namespace) -> dict[str, Any]:
    if args.control_token and not args.control_url:
        raise CliError(
            "--control-token is the bearer for the trust service of --control-url, and there is none",
            fix="to protect this sidecar's own control plane set CHIO_SIDECAR_CONTROL_TOKEN",
        )
    if args.control_url:
        if args.revocation_db:
            raise CliError("--control-url and --revocation-db name two lists of revocations", fix="give only one")
        return {"control_url": args.control_url, "control_service_token": given_token(args.control_token)}
    if not args.revocation_db:
        return {}
    # A trust service inside this process reads the file: the sidecar has one way to ask about revocations.
    token = SecretStr(secrets.token_hex(32))
    service = TrustService(TrustConfig(service_token=token, revocation_db=args.revocation_db))
    return {
        "control_url": "http://127.0.0.1",
        "control_service_token": token,
        "control_transport": httpx.ASGITransport(create_trust_app(service)),
    }


def _random_key() -> SigningKey:
    key = SigningKey.generate()
    say(
        f"chio api protect: signing with a key for this run only, {key.public_hex};"
        " give --receipt-store or --authority-seed-file for one that lasts"
    )
    return key


def _trusted_issuers(args: argparse.Namespace) -> frozenset[str]:
    pinned = trusted_issuers_from(os.environ)
    if pinned or not args.control_url:
        return pinned
    with trust_client(args) as client:
        keys = client.authority().get("trustedPublicKeys") or []
    found = frozenset(normalize_public_key(str(key)) for key in keys)
    say(f"chio api protect: trusting the authority at --control-url: {', '.join(sorted(found)) or 'no keys'}")
    return found


def _read_spec(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as exc:
        raise CliError(f"cannot read --spec {path}: {exc.strerror}", fix="name an OpenAPI 3 document") from None
    except UnicodeDecodeError:
        raise CliError(f"--spec {path} is not UTF-8 text", fix="name an OpenAPI 3 document") from None
