"""`capability issue` and `trust serve` (wire protocol, section 9.1)."""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chio_core.capabilities import backdated, issue_capability
from chio_core.capabilities.restrictions import by_sidecar, void_because
from chio_core.capabilities.scope import bound
from chio_core.errors import InvalidDocument
from chio_core.models.capability import ChioScope
from chio_core.models.receipt import explain
from chio_core.signing import NO_SUBJECT, SigningKey, normalize_public_key
from chio_sidecar.cli.options import (
    SERVICE_TOKEN_VARIABLE,
    URL_VARIABLE,
    StorePlace,
    given_token,
    json_value,
    lifetime,
    named,
    positive,
    public_key,
    say_if_new,
    store,
    store_of_options,
    store_of_settings,
    trust_client,
)
from chio_sidecar.cli.terminal import CliError, compact, emit, say
from chio_sidecar.config import MAX_MINTED_TTL, MAX_TTL
from chio_sidecar.records.archive import is_withdrawn
from chio_sidecar.store.issuers import withdrawn
from chio_sidecar.store.place import Place
from chio_sidecar.trust.authorities import DatabaseAuthority, SeedFileAuthority

ISSUE_DESCRIPTION = """\
Print a capability token as one line of ASCII JSON, ready for the X-Chio-Capability header. The trust service at
--control-url issues it, or this command signs it with one of: the sidecar's key beside
--receipt-store (FILE.key), the key of --authority-seed-file, or that of --authority-db. Without any of these it is the
key of the embedded sidecar that CHIO_SIDECAR_URL=embedded:FILE names (environment, .env).
"""

SERVE_DESCRIPTION = f"""\
Issue and revoke capabilities. Every call but /health needs the service token as a bearer token. The variable
{SERVICE_TOKEN_VARIABLE} may hold it instead of the option, which keeps it out of the process list.
"""

ANONYMOUS = "0" * 64
"""The default subject of a token: no particular holder, so every bearer may use it."""


_OPERATIONS = ("invoke", "read_result", "read", "subscribe", "get", "delegate")
_NEWER = {"server_id": "chio_http_authority", "tool_name": "authorize_http_request", "operations": ["invoke"]}


def add_issue_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `capability issue`."""
    parser.description = ISSUE_DESCRIPTION
    parser.set_defaults(run=run_issue)
    parser.add_argument("--server", metavar="NAME", type=named, required=True, help="tool server of the grants")
    parser.add_argument(
        "--tool",
        metavar="NAME",
        type=named,
        required=True,
        action="append",
        help="tool of a grant, repeatable: a grant for each",
    )
    parser.add_argument(
        "--operation", action="append", choices=_OPERATIONS, help="operation of the grants, repeatable (invoke)"
    )
    parser.add_argument(
        "--constraint",
        action="append",
        metavar="JSON",
        type=_constraint,
        help='repeatable, for example \'{"type":"max_length","value":100}\'',
    )
    parser.add_argument("--max-invocations", metavar="N", type=positive, help="how often each grant may be used")
    parser.add_argument("--ttl", metavar="SEC", type=lifetime, default=3600, help="lifetime in seconds (3600), or 24h")
    parser.add_argument(
        "--subject", metavar="HEX", type=_subject, default=ANONYMOUS, help="public key of the holder (all zeros)"
    )
    parser.add_argument(
        "--holder",
        metavar="HEX",
        type=public_key,
        help="only this caller may present it: CallerIdentity.holder in the application",
    )
    parser.add_argument(
        "--for-newer", action="store_true", help="add the grant that newer sidecars require on every request"
    )
    parser.add_argument(
        "--embedded", dest="receipt_store", default=argparse.SUPPRESS, type=store, help=argparse.SUPPRESS
    )


def _subject(text: str) -> str:
    try:
        return normalize_public_key(text)
    except InvalidDocument:
        raise argparse.ArgumentTypeError(NO_SUBJECT) from None


def _constraint(text: str) -> Any:
    document = json_value(text)
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        raise argparse.ArgumentTypeError('a constraint is an object such as {"type":"max_length","value":100}')
    return document


def run_issue(args: argparse.Namespace) -> int:
    """Issue a token and print it.

    Raises:
        CliError: no issuer or more than one is named, or the grant is malformed.
        ConfigurationError: a file, or the settings that would name one, cannot be used.
    """
    longest = MAX_MINTED_TTL if args.control_url else MAX_TTL  # a trust service has its own limit
    if args.ttl > longest:
        raise CliError(f"--ttl is longer than {longest} seconds", fix="issue short-lived tokens; the default is 3600")
    scope = _scope(args)
    place = store_of_options(args)
    issuers = [args.control_url, place, args.authority_seed_file, args.authority_db]
    count = sum(issuer is not None for issuer in issuers)
    if count == 0:
        place = store_of_settings()
    if count > 1 or (count == 0 and place is None):
        raise CliError(
            "exactly one issuer must be named",
            fix="give --control-url, --receipt-store, --authority-seed-file or --authority-db, or without any"
            f" of them set {URL_VARIABLE}=embedded:FILE",
        )
    if args.control_url:
        with trust_client(args) as client:
            token = client.issue(args.subject, scope.to_wire(), args.ttl)
    else:
        if args.authority_db:
            with closing(DatabaseAuthority(args.authority_db, create=False)) as authority:
                key = authority.signing_key()
            if not isinstance(args.authority_db, Path):
                _check_not_withdrawn(args.authority_db, key, fix="make another: chio-sidecar trust rotate")
        else:
            path = place.key_path if place is not None else args.authority_seed_file
            existed = path.exists()
            if place is not None and isinstance(place.path, Path) and not existed:
                _check_new_key(place, path)
            key = SeedFileAuthority(path).signing_key()
            if not existed:
                say(f"created signing key {path}, public key {key.public_hex}")
            if place is not None:
                fix = "give the sidecar another key: docs/operations.md, Changing the sidecar's key"
                _check_not_withdrawn(place.path, key, fix=fix)
        begin = backdated(int(time.time()), args.ttl)
        token = issue_capability(key, subject=args.subject, scope=scope, ttl_seconds=args.ttl, now=begin).to_wire()
    emit(compact(token))
    return 0


def _check_new_key(place: StorePlace, path: Path) -> None:
    """Return if the store is there, and has no receipts that another key signed: a new key may be made beside it.

    Raises:
        CliError: it is not there; the name is a mistake.
        ConfigurationError: the key is lost.
    """
    if not place.file.is_file():
        text = f"there is no receipt store at {place.path} ({place.named_by})"
        raise CliError(text, fix=f"name the sidecar's file; before its first start give --authority-seed-file {path}")
    from chio_sidecar.records.file import refuse_lost_key  # only the first token of a store needs it

    refuse_lost_key(place.path, path)


def _check_not_withdrawn(place: Place, key: SigningKey, *, fix: str) -> None:
    """Return if the key was not withdrawn in a store.

    Raises:
        CliError: it was; a token that it signs would be refused.
        ConfigurationError: the store cannot be read.
    """
    if is_withdrawn(place, key.public_hex):
        raise CliError(withdrawn(key.public_hex), fix=fix)


def _scope(args: argparse.Namespace) -> ChioScope:
    """Return the scope that the options state, and say which parts of it are not enforced here."""
    grants: list[dict[str, Any]] = []
    for tool in dict.fromkeys(args.tool):
        grant = {
            "server_id": args.server,
            "tool_name": tool,
            "operations": list(dict.fromkeys(args.operation or ["invoke"])),
        }
        if args.constraint:
            grant["constraints"] = args.constraint
        if args.holder:
            grant = bound(grant, args.holder)
        if args.max_invocations:
            grant["max_invocations"] = args.max_invocations
        grants.append(grant)
    newer = bound(_NEWER, args.holder) if args.holder else _NEWER
    try:
        scope = ChioScope.model_validate({"grants": [*grants, newer] if args.for_newer else grants})
    except ValidationError as exc:
        raise CliError(f"the grant cannot be used: {explain(exc)}", fix="see --constraint") from None
    if scope.has_unknown_members():
        raise CliError(
            "the grant cannot be used: a constraint has members that are not known, which no signature covers",
            fix="see --constraint",
        )
    # A token may be meant for another kernel, so this is a warning.
    if void := void_because(scope.grants[0]):
        say(
            f"warning: {', '.join(void)} is not enforced here: the sidecar and the middleware of this distribution"
            " refuse this capability for its tool, and where any capability is enough"
        )
    if "require_approval_above" in by_sidecar(scope.grants[0]):
        say(
            "note: require_approval_above is enforced on routes that demand an approval from that amount on, or from a"
            " lower one; others refuse this capability"
        )
    return scope


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `trust serve`."""
    parser.description = SERVE_DESCRIPTION
    parser.set_defaults(run=run_serve)
    parser.add_argument("--listen", metavar="ADDR", default="127.0.0.1:8940", help="HOST:PORT (127.0.0.1:8940)")
    parser.add_argument("--service-token", metavar="TOKEN", help="the bearer token that callers must present")
    parser.add_argument(
        "--max-ttl",
        metavar="SEC",
        type=lifetime,
        default=MAX_TTL,
        help=f"longest lifetime of a token ({MAX_TTL}, a year)",
    )


def run_serve(args: argparse.Namespace) -> int:
    """Run the trust service until it is stopped.

    Raises:
        CliError: it cannot start; the message begins with that.
    """
    # The other commands here start faster without a server.
    from chio_sidecar.cli.serving import bind, serve, starting
    from chio_sidecar.trust.app import TrustConfig, TrustService, create_trust_app

    with starting("chio trust serve"), bind(args.listen) as listener:
        token = given_token(args.service_token)
        if token is None:
            raise CliError("no service token", fix=f"give --service-token, or set {SERVICE_TOKEN_VARIABLE}")
        files = ("revocation_db", "authority_db", "authority_seed_file", "budget_db", "session_db")
        given = {name: getattr(args, name) for name in files}
        place = store_of_options(args)
        given["receipt_db"] = None if place is None else place.path
        if args.revocation_db is None:
            say(
                "warning: without --revocation-db FILE this service revokes nothing, and sidecars that use it refuse"
                " every capability (403, revocation authority is unavailable)"
            )
        if args.authority_db is None and args.authority_seed_file is None:
            say("warning: without --authority-db FILE or --authority-seed-file FILE this service issues no capability")
        say_if_new("--revocation-db", args.revocation_db)
        say_if_new("--authority-db", args.authority_db)
        service = TrustService(TrustConfig(service_token=token, max_ttl=args.max_ttl, **given))

        async def close() -> None:
            await asyncio.to_thread(service.close)

        ready = f"Chio trust control service listening on http://{listener.address}"
        return serve(create_trust_app(service), listener, ready=ready, close=close)
