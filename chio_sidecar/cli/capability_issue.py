"""`capability issue`: make a capability token, by a trust service or with a key at hand."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chio_core.canonical import parse_json
from chio_core.capabilities import issue_capability
from chio_core.errors import InvalidDocument
from chio_core.models.capability import ChioScope
from chio_core.models.receipt import explain
from chio_core.signing import SigningKey, normalize_public_key
from chio_sidecar.cli.options import CliError, emit, positive, say, trust_client
from chio_sidecar.cli.store_place import URL_VARIABLE, of_settings
from chio_sidecar.keys import key_beside, load_or_create_key
from chio_sidecar.trust.authorities import SqliteAuthority

DESCRIPTION = """\
Print a capability token as one line of ASCII JSON, ready for the X-Chio-Capability header. It is issued by the
trust service at --control-url, or signed here with one of: the sidecar's key of --embedded or --receipt-store
(FILE.key), the key of --authority-seed-file, or that of --authority-db. Without any of these it is the key of the
embedded sidecar that CHIO_SIDECAR_URL=embedded:FILE names (environment, .env).
"""

NOBODY = "0" * 64
"""The subject when none is named: nobody in particular, whoever holds the token."""

_ISSUERS = (
    "give --control-url, --embedded, --receipt-store, --authority-seed-file or --authority-db, or without any of them"
    f" set {URL_VARIABLE}=embedded:FILE"
)
_OPERATIONS = ("invoke", "read_result", "read", "subscribe", "get", "delegate")
_NEWER = {"server_id": "chio_http_authority", "tool_name": "authorize_http_request", "operations": ["invoke"]}
_LONGEST = 10 * 366 * 24 * 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--server", metavar="NAME", required=True, help="tool server that the grant names")
    parser.add_argument("--tool", metavar="NAME", required=True, help="tool that the grant names")
    parser.add_argument(
        "--operation", action="append", choices=_OPERATIONS, help="what is granted, repeatable (invoke)"
    )
    parser.add_argument(
        "--constraint",
        action="append",
        metavar="JSON",
        type=_constraint,
        help='repeatable, for example \'{"type":"max_length","value":100}\'',
    )
    parser.add_argument("--max-invocations", metavar="N", type=positive, help="how often the grant may be used")
    parser.add_argument("--ttl", metavar="SEC", type=positive, default=3600, help="lifetime in seconds (3600)")
    parser.add_argument(
        "--subject", metavar="HEX", type=_subject, default=NOBODY, help="public key of the holder (all zeros)"
    )
    parser.add_argument(
        "--for-newer", action="store_true", help="add the grant that newer sidecars want on every request"
    )
    parser.add_argument("--embedded", metavar="FILE", type=Path, help="store of an embedded sidecar")
    parser.add_argument("--receipt-store", metavar="FILE", type=Path, help="store of a sidecar")


def run(args: argparse.Namespace) -> int:
    """Issue a token and print it.

    Raises:
        CliError: no issuer, or more than one, is named, or the grant is malformed.
        ConfigurationError: a file, or the settings that would name one, cannot be used.
    """
    if args.ttl > _LONGEST:
        raise CliError("--ttl is longer than ten years", fix="issue short-lived tokens; the default is 3600")
    scope = _scope(args)
    token = _issue(args, scope)
    emit(json.dumps(token, separators=(",", ":")))
    return 0


def _scope(args: argparse.Namespace) -> ChioScope:
    grant: dict[str, Any] = {
        "server_id": args.server,
        "tool_name": args.tool,
        "operations": list(dict.fromkeys(args.operation or ["invoke"])),
    }
    if args.constraint:
        grant["constraints"] = args.constraint
    if args.max_invocations:
        grant["max_invocations"] = args.max_invocations
    try:
        return ChioScope.model_validate({"grants": [grant, _NEWER] if args.for_newer else [grant]})
    except ValidationError as exc:
        raise CliError(f"the grant cannot be used: {explain(exc)}", fix="see --constraint") from None


def _issue(args: argparse.Namespace, scope: ChioScope) -> dict[str, Any]:
    store = args.receipt_store or args.receipt_db
    issuers = [args.control_url, args.embedded, store, args.authority_seed_file, args.authority_db]
    named = sum(issuer is not None for issuer in issuers)
    place = of_settings() if named == 0 else None
    if named > 1 or (named == 0 and place is None):
        raise CliError("exactly one issuer must be named", fix=_ISSUERS)
    if args.control_url:
        with trust_client(args) as client:
            return client.issue(args.subject, scope.to_wire(), args.ttl)
    if args.authority_db:
        key = _authority_key(args.authority_db)
    else:
        beside = place.path if place is not None else args.embedded or store
        key = _file_key(key_beside(beside) if beside else args.authority_seed_file)
    return issue_capability(key, subject=args.subject, scope=scope, ttl_seconds=args.ttl).to_wire()


def _file_key(path: Path) -> SigningKey:
    existed = path.exists()
    key = load_or_create_key(path)
    if not existed:
        say(f"created signing key {path}, public key {key.public_hex}")
    return key


def _authority_key(path: Path) -> SigningKey:
    if not path.exists():
        raise CliError(f"there is no authority database at {path}", fix="`trust serve --authority-db` makes one")
    authority = SqliteAuthority(path)
    try:
        return authority.signing_key()
    finally:
        authority.close()


def _constraint(text: str) -> Any:
    try:
        document = parse_json(text)
    except InvalidDocument as exc:
        raise argparse.ArgumentTypeError(exc.message) from None
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        raise argparse.ArgumentTypeError('a constraint is an object such as {"type":"max_length","value":100}')
    return document


def _subject(text: str) -> str:
    try:
        return normalize_public_key(text)
    except InvalidDocument as exc:
        raise argparse.ArgumentTypeError(exc.message) from None
