"""`explain`: why a request was refused, and which capability would be accepted."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.models.capability import Operation
from chio_core.models.request import METHODS
from chio_sidecar.cli.options import (
    EITHER,
    check_url,
    json_value,
    key_of,
    public_key,
    store_of_options,
    store_of_settings,
    trust_client,
    wants_json,
)
from chio_sidecar.cli.terminal import CliError, compact, emit, printable, utc
from chio_sidecar.config import trusted_issuers_from
from chio_sidecar.explain import Explanation, Refusal, Trial, Wanted, explain, read_refusal, required_by, try_token
from chio_sidecar.explain.explanation import UNKNOWN_ISSUER, wanted_by
from chio_sidecar.keys import load_key
from chio_sidecar.policy.routes import RouteTable
from chio_sidecar.records.archive import open_archive
from chio_sidecar.store.statements import states_erasure

DESCRIPTION = """\
Print in plain words why a request was refused, by which rule, which capability would be accepted, and the command that
issues it. WHAT is the body of the refusal or a receipt, or one of these on each line, as `receipt list` writes them (a
file, or - for standard input), the id of a receipt or of a request in --receipt-store (with
CHIO_SIDECAR_URL=embedded:FILE: in that file), or a code from the application's log.

    curl -s -X POST http://127.0.0.1:8000/transfers | chio-sidecar explain -

With --token the token is checked by each rule of the sidecar, for the request that the other options describe, and the
result of each rule is printed. With --control-url the trust service is asked what was revoked. Nothing is stored, and
no use of the token is spent. Exit status 1: it would be refused.
"""

_CODE = re.compile(r"chio_[a-z_]{1,60}")
_LONGEST = 1024 * 1024


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `explain`."""
    parser.description = DESCRIPTION
    parser.set_defaults(run=run)
    parser.add_argument(
        "what", metavar="WHAT", nargs="?", help="a file, -, the id of a receipt or a request, or a code"
    )
    parser.add_argument("--spec", metavar="FILE", type=Path, help="OpenAPI document of the sidecar")
    trial = parser.add_argument_group("checking a token")
    trial.add_argument("--token", metavar="FILE", help="the token's text, in a file or - (standard input)")
    trial.add_argument("--method", choices=sorted(METHODS), help="method of the request")
    trial.add_argument("--path", metavar="PATH", help="path of the request, without query")
    trial.add_argument("--server", metavar="NAME", help="tool server that the route requires")
    trial.add_argument("--tool", metavar="NAME", help="tool that it requires")
    trial.add_argument(
        "--operation", action="append", choices=get_args(Operation), help="operation that it requires (invoke)"
    )
    trial.add_argument("--arguments", metavar="JSON", type=json_value, help="arguments that constraints check")
    trial.add_argument("--holder", metavar="HEX", type=public_key, help="the caller: its CallerIdentity.holder")
    trial.add_argument(
        "--trusted-issuer",
        metavar="HEX",
        action="append",
        type=public_key,
        default=[],
        help="key that the sidecar trusts",
    )


def run(args: argparse.Namespace) -> int:
    """Print the explanation, or the result of each rule for the token.

    Raises:
        CliError: nothing to explain is given, or it cannot be read.
    """
    if args.what is None and args.token is None:
        raise CliError("nothing to explain was given", fix="give a file, -, the id of a receipt, or --token")
    if (args.server is None) != (args.tool is None):
        raise CliError("--server and --tool go together", fix="give both, or neither")
    if args.what == args.token == "-":
        raise CliError("standard input cannot be both WHAT and --token", fix="put one of them into a file")
    place = _Place(args)
    wanted: Wanted | None = None
    if args.server is not None:
        wanted = Wanted(args.server, args.tool, tuple(dict.fromkeys(args.operation or ["invoke"])))
    if args.what is not None:
        refusals = _read_refusals(args.what, place)
        if args.token is not None and len(refusals) > 1:
            raise CliError(f"a token is checked for one request, and {args.what} has {len(refusals)}", fix="give one")
        for number, refusal in enumerate(refusals):
            documented = wanted or place.required_by(refusal.method, refusal.route)
            if number and not wants_json(args):
                emit("")
            _print(explain(refusal, wanted=documented, issuer=place.issuer), args)
        if args.token is not None:
            wanted = required_by(refusals[0], wanted or place.required_by(refusals[0].method, refusals[0].route))
    elif wanted is None and place.routes is not None and args.method is not None and args.path is not None:
        wanted = place.required_by(args.method, place.routes.match(args.method, args.path).pattern)
    return _try(args, place, wanted or Wanted()) if args.token is not None else 0


def _print(explanation: Explanation, args: argparse.Namespace) -> None:
    document = explanation.document()
    if wants_json(args):
        emit(compact(document))
        return
    names = {"receipt_id": "receipt", "remedy": "to do", "passes": "would pass", "subject": "request"}
    for name, value in document.items():
        emit(f"{names.get(name, name) + ':':<12} {printable(str(value))}")


class _Place:
    """The receipts, the keys and the document: from the options, else from the embedded sidecar of the settings."""

    def __init__(self, args: argparse.Namespace) -> None:
        # `doctor` reports settings that cannot be used; an explanation does not need them.
        embedded = None
        with suppress(ConfigurationError):
            embedded = store_of_settings()
        found = store_of_options(args) or embedded
        self.store = found.path if found is not None else None
        is_embedded = embedded is not None and self.store == embedded.path
        spec: Path | None = args.spec
        if spec is None and embedded is not None and is_embedded:
            spec = embedded.spec
        self.spec_text = _text_of(spec, "--spec") if spec is not None else None
        self.routes = RouteTable.from_openapi(self.spec_text) if self.spec_text is not None else None
        self.issuer: tuple[str, ...] = UNKNOWN_ISSUER
        if args.control_url:
            check_url(args.control_url, option="--control-url")  # it is printed as part of a command
            self.issuer = ("--control-url", args.control_url)
        elif self.store is not None:
            store = self.store
            self.issuer = ("--receipt-store", str(store) if isinstance(store, Path) else store.url_with_key)

    def required_by(self, method: str | None, pattern: str | None) -> Wanted | None:
        """Return what the document requires on a route; None if it requires nothing, or there is no document."""
        if self.spec_text is None or method is None or pattern is None:
            return None
        return wanted_by(self.spec_text, method, pattern)


def _read_refusals(what: str, place: _Place) -> list[Refusal]:
    if what == "-" or Path(what).is_file():
        try:
            return [read_refusal(one) for one in _documents(_text_of(what, "WHAT"))]
        except InvalidDocument as exc:
            raise CliError(
                f"{'standard input' if what == '-' else what} holds no JSON document: {exc.message}",
                fix="give the body of the refusal alone, without its headers",
            ) from None
    if _CODE.fullmatch(what):
        return [read_refusal({"error": what})]
    if place.store is None:
        raise CliError(
            f"there is no file {what}, and no store to look up the id {what} in",
            fix=f"{EITHER}, or give the body of the refusal as a file or -",
        )
    with open_archive(place.store, option="--receipt-store") as reader:
        receipt = reader.get(what) or reader.get_by_request_id(what)
    if receipt is None:
        raise CliError(f"no receipt and no request {what} in {place.store}", fix="`receipt list` prints the ids")
    if states_erasure(receipt):
        raise CliError(
            f"receipt {receipt.get('id')} was erased on {utc(receipt.get('erased_at'))} for: {receipt.get('reason')}",
            fix=f"verify the record of that: receipt show {receipt.get('id')} --verify",
        )
    return [read_refusal(receipt)]


def _documents(text: str) -> list[Any]:
    """Return the JSON document of a text, or that of each line, as `receipt list` writes them."""
    try:
        return [parse_json(text)]
    except InvalidDocument:
        lines = [line for line in text.splitlines() if line.strip()]
        with suppress(InvalidDocument):
            first = parse_json(lines[0]) if len(lines) > 1 else None
            if isinstance(first, dict):
                return [first, *map(parse_json, lines[1:])]
        raise


def _try(args: argparse.Namespace, place: _Place, wanted: Wanted) -> int:
    token = _text_of(args.token, "--token").strip()
    pinned = trusted_issuers_from(os.environ)
    issuers = {*args.trusted_issuer, *pinned}
    if place.store is not None:
        with suppress(FileNotFoundError, ConfigurationError, CliError):  # the sidecar may keep its key elsewhere
            issuers.add(load_key(key_of(place.store)).public_hex)
    # An embedded sidecar creates its store when it starts; before that nothing is revoked or spent.
    store = place.store
    if isinstance(store, Path) and not args.receipt_store and not store.exists():
        store = None
    with (
        open_archive(store) if store is not None else nullcontext() as reader,
        trust_client(args) if args.control_url else nullcontext() as service,
    ):
        if reader is not None and not pinned:
            issuers.update(reader.authority_keys())
        trial = Trial(
            now=int(time.time()),
            method=args.method,
            path=args.path,
            server=wanted.server,
            tool=wanted.tool,
            operations=wanted.operations,
            arguments=args.arguments,
            holder=args.holder,
            issuers=issuers or None,
            routes=place.routes,
            store=reader,
            service=service,
        )
        steps = try_token(token, trial)
    for step in steps:
        emit(compact(asdict(step)) if wants_json(args) else f"{step.result:7} {step.name}: {printable(step.text)}")
    return 1 if any(step.result == "fail" for step in steps) else 0


def _text_of(place: str | Path, option: str) -> str:
    try:
        if place == "-":
            if sys.stdin is None:
                raise CliError(f"there is no standard input to read {option} from", fix="give a FILE")
            content = sys.stdin.buffer.read(_LONGEST + 1)
        else:
            with open(place, "rb") as file:
                content = file.read(_LONGEST + 1)
        text = content.decode("utf-8")
    except OSError as exc:
        raise CliError(f"cannot read {option} {place}: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise CliError(f"{option} {place} is not UTF-8 text") from None
    if len(content) > _LONGEST:
        raise CliError(f"{option} {place} is longer than {_LONGEST} bytes")
    return text
