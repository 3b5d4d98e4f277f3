"""`api protect`: run the sidecar (wire protocol, section 10.2)."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chio_core.errors import ConfigurationError
from chio_core.signing import SigningKey, normalize_public_key
from chio_sidecar.cli.options import (
    check_url,
    file_mode,
    given_token,
    lifetime,
    positive,
    say_if_new,
    store_of_options,
    trust_client,
    warn_of_plain_http,
)
from chio_sidecar.cli.terminal import CliError, say
from chio_sidecar.config import (
    MAX_MINTED_TTL,
    SidecarConfig,
    control_token_from,
    evaluate_token_from,
    options_of_place,
    trusted_approvers_from,
    trusted_issuers_from,
)
from chio_sidecar.store.place import DatabasePlace, Place
from chio_sidecar.trust.client import is_loopback_url

if TYPE_CHECKING:
    from chio_sidecar.app import SidecarApp

PLACES = ("/openapi.json", "/openapi.yaml", "/swagger.json", "/api-docs")
"""Paths at which the upstream may have its OpenAPI document, in this order."""

DESCRIPTION = """\
Evaluate HTTP requests for applications: evaluate, verify and health under /chio/, the control plane under /v1/
and /approvals/. Applications call it through their middleware; or it is a reverse proxy in front of --upstream, which
needs none: requests for all other paths are evaluated, and forwarded if they are allowed. Routes and policy come from
MODULE:APP, or from --spec, or else from the OpenAPI document of --upstream; one of the three is needed.

It accepts capabilities that it issued itself, or that are signed by the keys in CHIO_TRUSTED_ISSUER_KEY (one key) and
CHIO_TRUSTED_ISSUER_KEYS (comma list). If both are unset, it accepts those of the authority in the database of the store
and of the one at --control-url, including keys that they add later; otherwise it follows no authority.
CHIO_SIDECAR_CONTROL_TOKEN is the bearer token of the control plane; without it only loopback callers may use the
control plane. CHIO_SIDECAR_EVALUATE_TOKEN is the bearer token of applications, which have it as CHIO_EVALUATE_TOKEN;
without it every process that reaches the address gets decisions.
"""

NO_DOCUMENT = "failed to parse OpenAPI spec: "
"""How the error about an OpenAPI document begins (wire protocol, section 10.2)."""

UPSTREAM_SECONDS = 20
"""Seconds until the head of a response of the upstream, by default (wire protocol, section 8)."""

_SECONDS = 3.0
_LARGEST = 10 * 1024 * 1024


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `api protect`."""
    parser.description = DESCRIPTION
    parser.set_defaults(run=run)
    application = parser.add_mutually_exclusive_group()
    application.add_argument(
        "app",
        metavar="MODULE:APP",
        nargs="?",
        help="the application, for example main:app; it is imported, and this sidecar reads its routes",
    )
    application.add_argument(
        "--upstream", metavar="URL", help="the running application: allowed requests are forwarded to it"
    )
    parser.add_argument(
        "--upstream-timeout",
        metavar="SEC",
        type=positive,
        default=UPSTREAM_SECONDS,
        help=f"how long the upstream may take until its response begins ({UPSTREAM_SECONDS})",
    )
    parser.add_argument("--spec", metavar="FILE", type=Path, help="OpenAPI 3 document, JSON or YAML")
    parser.add_argument(
        "--strict-spec", action="store_true", help="do not start if the document holds policy that would be ignored"
    )
    parser.add_argument(
        "--listen", metavar="ADDR", default="127.0.0.1:9090", help="HOST:PORT or unix:PATH (127.0.0.1:9090)"
    )
    parser.add_argument(
        "--socket-mode",
        metavar="MODE",
        type=file_mode,
        help="permissions of a unix:PATH, in octal: who may write to the file may ask for decisions (660)",
    )
    parser.add_argument(
        "--max-ttl",
        metavar="SEC",
        type=lifetime,
        default=MAX_MINTED_TTL,
        help=f"longest lifetime in seconds of a capability that the control plane issues ({MAX_MINTED_TTL})",
    )
    parser.add_argument(
        "--max-evaluations-per-second",
        metavar="N",
        type=positive,
        help="refuse more with 503, before anything is signed or stored (no limit)",
    )
    parser.add_argument(
        "--max-unknown-paths-per-second",
        metavar="N",
        type=positive,
        help="refuse more with 429 of paths that the document does not describe, which then take nothing of the limit"
        " above (they count as all others)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the sidecar until it is stopped.

    Raises:
        CliError: it cannot start; the message begins with that.
    """
    from chio_sidecar.app import create_app
    from chio_sidecar.cli.application import govern_upstream
    from chio_sidecar.cli.serving import SOCKET_MODE, bind, serve, starting

    named = store_of_options(args)
    store: Place | None = None if named is None else named.path
    with starting("chio api protect"), contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(args.listen, mode=args.socket_mode or SOCKET_MODE))
        if store is None:
            # Only then: a process that is killed cannot remove its temporary folder.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="chio-sidecar-"))
            store = Path(folder, "receipts.sqlite3")
        config = configuration(args, store)
        app = create_app(config)
        try:
            app.state.sidecar.open()
        except ConfigurationError as exc:
            if args.spec is None or not exc.message.startswith(NO_DOCUMENT):
                raise
            raise CliError(f"{exc.message} (--spec {args.spec})", fix="name an OpenAPI 3 document") from None
        if config.signing_key is None:
            key = app.state.sidecar.key.public_hex
            say(f"chio api protect: receipts are signed by this key: CHIO_TRUSTED_KERNEL_KEYS={key}")
        routes = len(app.state.sidecar.routes)
        close = [app.state.close]
        if args.upstream is None:
            ready = f"chio api protect: governing {routes} routes of {args.app or args.spec}"
        else:
            refuse_shadows(app, config.spec_text, strict=args.strict_spec)
            close.insert(0, govern_upstream(app, args.upstream, timeout=args.upstream_timeout))
            ready = f"chio api protect: proxying {routes} routes to {args.upstream}"

        async def close_all() -> None:
            for one in close:
                await one()

        return serve(
            app,
            listener,
            ready=f"{ready} on {listener.address}",
            close=close_all,
            forwards=args.upstream is not None,
            evaluate=app.evaluate,
        )


def refuse_shadows(app: SidecarApp, spec_text: str | None, *, strict: bool) -> None:
    """Warn of routes of the upstream that clients cannot reach, because their path is the sidecar's own.

    Raises:
        CliError: there are some, and `strict`.
    """
    from chio_sidecar.policy.openapi import load

    paths = {} if spec_text is None else load(spec_text).get("paths") or {}
    if shadowed := sorted(path for path in paths if app.owns(path)):
        text = f"the sidecar answers {', '.join(shadowed)} itself and does not forward it to the upstream"
        if strict:
            raise CliError(text, fix="serve it under another path, or leave out --strict-spec")
        say(f"warning: {text}")


def configuration(args: argparse.Namespace, store: Place) -> SidecarConfig:
    """Return the sidecar's options.

    Args:
        args: the parsed arguments.
        store: the store; temporary if the arguments name none.

    Raises:
        CliError: arguments contradict each other, or a document or the trust service cannot be read.
        ConfigurationError: a variable of the environment cannot be used.
    """
    check_arguments(args)
    authority = authority_options(args, store)
    spec_text = read_spec(args)
    if spec_text is None and args.max_unknown_paths_per_second is not None:
        say("warning: --max-unknown-paths-per-second limits nothing, because there is no OpenAPI document")
    ephemeral = store_of_options(args) is None
    signing_key = None
    if ephemeral and args.authority_seed_file is None:
        signing_key = SigningKey.generate()
        say(
            f"chio api protect: signing with a key for this run only, {signing_key.public_hex};"
            " give --receipt-store or --authority-seed-file for one that lasts"
        )
    if ephemeral:
        say("chio api protect: receipts are kept for this run only; give --receipt-store FILE to keep them")
    seed = {} if args.authority_seed_file is None else {"key_path": args.authority_seed_file}
    options = options_of_place(store) | seed | authority
    return SidecarConfig(
        ephemeral=ephemeral,
        signing_key=signing_key,
        spec_text=spec_text,
        strict_spec=args.strict_spec,
        trusted_approvers=trusted_approvers_from(os.environ),
        control_token=control_token_from(os.environ),
        evaluate_token=evaluate_token_from(os.environ),
        max_ttl=args.max_ttl,
        max_per_second=args.max_evaluations_per_second,
        max_unknown_per_second=args.max_unknown_paths_per_second,
        **options,
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Return if the arguments name an application, and do not contradict each other.

    Raises:
        CliError: they do not.
    """
    if args.upstream is not None:
        check_url(args.upstream, option="--upstream")
    elif args.app is None and args.spec is None:
        raise CliError(
            "nothing says which application is governed",
            fix="give MODULE:APP, or --spec FILE with its OpenAPI document, or --upstream URL to be its reverse proxy",
        )
    if args.socket_mode is not None and not args.listen.startswith("unix:"):
        raise CliError(
            "--socket-mode is about the file of a Unix socket", fix="give --listen unix:PATH, or leave it out"
        )
    if args.control_token and not args.control_url:
        raise CliError(
            "--control-token is the bearer token of the trust service at --control-url, which is not given",
            fix="to protect this sidecar's own control plane set CHIO_SIDECAR_CONTROL_TOKEN",
        )
    if args.control_url and args.revocation_db:
        raise CliError("--control-url and --revocation-db name two lists of revocations", fix="give only one")


def authority_options(args: argparse.Namespace, store: Place) -> dict[str, Any]:
    """Return the options of `SidecarConfig` that say whose capabilities count, and where they are revoked.

    Args:
        args: the parsed arguments.
        store: the store; a database may have an authority of its own.

    Raises:
        CliError: the trust service cannot be read.
        ConfigurationError: a variable of the environment cannot be used.
    """
    pinned = trusted = trusted_issuers_from(os.environ)
    revocations: dict[str, Any] = {}
    if args.control_url:
        if not pinned:
            with trust_client(args) as client:
                keys = client.authority().get("trustedPublicKeys") or []
            trusted = frozenset(normalize_public_key(str(key)) for key in keys)
            say(f"chio api protect: trusting the authority at --control-url: {', '.join(sorted(trusted)) or 'no keys'}")
        else:
            say(
                "chio api protect: trusting only the issuers in CHIO_TRUSTED_ISSUER_KEY and CHIO_TRUSTED_ISSUER_KEYS:"
                " when the authority at --control-url changes its key, add the new one there and restart, or unset both"
                " to follow the authority"
            )
            warn_of_plain_http(args.control_url, "the service token")
        revocations = revocations_of_service(args)
    elif args.revocation_db:
        say_if_new("--revocation-db", args.revocation_db)
        revocations = revocations_of_file(args.revocation_db)
    has_authority = bool(args.control_url) or isinstance(store, DatabasePlace)
    return {"trusted_issuers": trusted, "follow_authority": has_authority and not pinned, **revocations}


def revocations_of_service(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a sidecar that queries the trust service at `--control-url`."""
    from chio_sidecar.trust.client import open_carrier

    return {
        "control_url": args.control_url,
        "control_service_token": given_token(args.control_token),
        "control_carrier": partial(open_carrier, args.control_url),
    }


def revocations_of_file(path: Place) -> dict[str, Any]:
    """Return the options of a sidecar that looks up revocations in a file or a database of a trust service.

    A trust service inside this process reads them: the sidecar has only one way to look up revocations.
    """
    from pydantic import SecretStr

    from chio_core.client.in_process import InProcessCarrier
    from chio_sidecar.trust.app import TrustConfig, TrustService, create_trust_app

    token = SecretStr(secrets.token_hex(32))
    service = TrustService(TrustConfig(service_token=token, revocation_db=path))
    return {
        "control_url": "http://127.0.0.1",
        "control_service_token": token,
        "control_carrier": partial(InProcessCarrier, create_trust_app(service)),
    }


def read_spec(args: argparse.Namespace) -> str | None:
    """Return the OpenAPI document of the application, or None if its upstream has none.

    Raises:
        CliError: two documents are named, or the one that is named cannot be read.
    """
    path: Path | None = args.spec
    if args.app is not None:
        if path is not None:
            raise CliError("MODULE:APP and --spec are two documents of one application", fix="give only one")
        from chio_sidecar.cli.application import read_routes

        return read_routes(args.app).text
    if path is None:
        return discover_spec(args.upstream)
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as exc:
        raise CliError(f"cannot read --spec {path}: {exc.strerror}", fix="name an OpenAPI 3 document") from None
    except UnicodeDecodeError:
        raise CliError(f"--spec {path} is not UTF-8 text", fix="name an OpenAPI 3 document") from None


def discover_spec(upstream: str) -> str | None:
    """Return the first non-empty OpenAPI document that the upstream serves, or None after a warning.

    Args:
        upstream: base URL of the application.
    """
    import httpx

    deadline = time.monotonic() + _SECONDS
    failure, reached = "", False
    with httpx.Client(timeout=_SECONDS, trust_env=not is_loopback_url(upstream)) as client:
        for place in PLACES:
            body = bytearray()
            try:
                with client.stream("GET", upstream.rstrip("/") + place) as response:
                    reached = True
                    # Streamed: the size and the time of a response that never ends are bounded.
                    for chunk in response.iter_bytes() if response.is_success else ():
                        body += chunk
                        if len(body) > _LARGEST or time.monotonic() > deadline:
                            body.clear()
                            break
                text = body.decode("utf-8")
            except httpx.TransportError as exc:
                failure, text = type(exc).__name__, ""
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeDecodeError):
                reached, text = True, ""
            if text.strip():
                say(f"chio api protect: using the OpenAPI document at {place} of the upstream")
                return text
            if time.monotonic() > deadline:
                break
    if reached:
        say(
            "warning: no OpenAPI document was found at the upstream, so routes are decided by their method only;"
            " use --spec to provide one, or name the application as MODULE:APP"
        )
    else:
        say(
            f"warning: the upstream {upstream} does not answer ({failure}), so routes are decided by their method only;"
            " start it before this sidecar, use --spec to provide its OpenAPI document, or name the application as"
            " MODULE:APP"
        )
    return None
