"""`explain`: why a request was refused, and which capability would pass."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Collection
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.models.capability import Operation
from chio_core.models.request import METHODS
from chio_core.signing import normalize_public_key
from chio_sidecar.cli.options import CliError, check_url, compact, emit, printable, wants_json
from chio_sidecar.cli.store_place import EITHER, StorePlace, of_options, of_settings
from chio_sidecar.config import trusted_issuers_from
from chio_sidecar.explain import Explanation, Refusal, Trial, Wanted, explain, read_refusal, required_by, try_token
from chio_sidecar.explain.explanation import UNKNOWN_ISSUER, wanted_by
from chio_sidecar.keys import key_beside, load_key
from chio_sidecar.policy.routes import RouteTable
from chio_sidecar.records.reader import ReceiptReader

DESCRIPTION = """\
Tell in plain words why a request was refused, by which rule, which capability would pass, and the command that
issues one. WHAT is the body of the refused answer or a receipt (a file, or - for standard input), or the id of a
receipt or of a request in --receipt-store (with CHIO_SIDECAR_URL=embedded:FILE: in that file).

    curl -s -X POST http://127.0.0.1:8000/transfers | chio-sidecar explain -

With --token the token is held against each rule of the sidecar, for the request that the other options describe,
and each rule says what it found. Nothing is stored, and no use of the token is spent. Exit status 1: it would be
refused.
"""

_LONGEST = 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("what", metavar="WHAT", nargs="?", help="a file, -, or the id of a receipt or a request")
    parser.add_argument("--receipt-store", metavar="FILE", type=Path, help="store in which ids are looked up")
    parser.add_argument("--spec", metavar="FILE", type=Path, help="OpenAPI document that the sidecar judges by")
    trial = parser.add_argument_group("trying a token")
    trial.add_argument("--token", metavar="FILE", help="the token's text, in a file or - (standard input)")
    trial.add_argument("--method", choices=sorted(METHODS), help="of the request")
    trial.add_argument("--path", metavar="PATH", help="of the request, without query")
    trial.add_argument("--server", metavar="NAME", help="tool server that the route asks for")
    trial.add_argument("--tool", metavar="NAME", help="tool that it asks for")
    trial.add_argument(
        "--operation", action="append", choices=get_args(Operation), help="operation that it asks for (invoke)"
    )
    trial.add_argument("--arguments", metavar="JSON", type=_json, help="what constraints are held against")
    trial.add_argument(
        "--trusted-issuer", metavar="HEX", action="append", type=_key, default=[], help="key that the sidecar trusts"
    )


def run(args: argparse.Namespace) -> int:
    """Print the explanation, or what each rule says about the token.

    Raises:
        CliError: there is nothing to explain, or it cannot be read.
    """
    if args.what is None and args.token is None:
        raise CliError("say what is to be explained", fix="give a file, -, the id of a receipt, or --token")
    if (args.server is None) != (args.tool is None):
        raise CliError("--server and --tool go together", fix="give both, or neither")
    if args.what == args.token == "-":
        raise CliError("standard input cannot be both WHAT and --token", fix="put one of them into a file")
    place = _Place(args)
    wanted = Wanted(args.server, args.tool, _operations(args)) if args.server is not None else None
    if args.what is not None:
        refusal = _refusal(args.what, place)
        wanted = wanted or _of_route(place, refusal)
        _print(explain(refusal, wanted=wanted, issuer=place.issuer), args)
        wanted = wanted or required_by(refusal)
    elif wanted is None:
        wanted = place.required_at(args.method, args.path)
    return _try(args, place, wanted) if args.token is not None else 0


class _Place:
    """Where receipts and keys are: the options, else the embedded sidecar of the environment."""

    def __init__(self, args: argparse.Namespace) -> None:
        embedded = _embedded()
        found = of_options(args) or embedded
        self.store = found.path if found is not None else None
        is_embedded = embedded is not None and self.store == embedded.path
        spec: Path | None = args.spec
        if spec is None and embedded is not None and is_embedded:
            spec = embedded.spec
        self.spec_text = _text_of(spec, "--spec") if spec is not None else None
        self.issuer: tuple[str, ...] = UNKNOWN_ISSUER
        if args.control_url:
            check_url(args.control_url, option="--control-url")  # it is printed as part of a command
            self.issuer = ("--control-url", args.control_url)
        elif self.store is not None:
            name = "--embedded" if is_embedded else "--receipt-store"
            self.issuer = (name, str(self.store))

    def required_at(self, method: str | None, path: str | None) -> Wanted | None:
        """Return what the document says that a request asks for; None when it says nothing, or there is none."""
        if self.spec_text is None or method is None or path is None:
            return None
        pattern = RouteTable.from_openapi(self.spec_text).match(method, path).pattern
        return wanted_by(self.spec_text, method, pattern)

    def issuers(self, named: Collection[str]) -> Collection[str] | None:
        """Return the keys whose capabilities count; None when none is known."""
        found = {*named, *trusted_issuers_from(os.environ)}
        if self.store is not None:
            with suppress(FileNotFoundError, ConfigurationError):  # the sidecar may keep its key elsewhere
                found.add(load_key(key_beside(self.store)).public_hex)
        return found or None


def _embedded() -> StorePlace | None:
    try:
        return of_settings()
    except ConfigurationError:
        return None  # `doctor` says what is wrong with the settings; an explanation does not need them


def _refusal(what: str, place: _Place) -> Refusal:
    if what == "-" or Path(what).is_file():
        return read_refusal(_document(what))
    if place.store is None:
        raise CliError(
            f"there is no file {what}, and no store to look up the id {what} in",
            fix=f"{EITHER}, or give the body of the refused answer as a file or -",
        )
    with ReceiptReader(place.store, option="--receipt-store") as reader:
        receipt = reader.get(what) or reader.get_by_request_id(what)
    if receipt is None:
        raise CliError(f"no receipt and no request {what} in {place.store}", fix="`receipt list` prints the ids")
    return read_refusal(receipt)


def _of_route(place: _Place, refusal: Refusal) -> Wanted | None:
    if place.spec_text is None or refusal.method is None or refusal.route is None:
        return None
    return wanted_by(place.spec_text, refusal.method, refusal.route)


def _print(explanation: Explanation, args: argparse.Namespace) -> None:
    document = explanation.document()
    if wants_json(args):
        return emit(compact(document))
    names = {"receipt_id": "receipt", "remedy": "to do", "passes": "would pass", "subject": "request"}
    for name, value in document.items():
        emit(f"{names.get(name, name) + ':':<12} {printable(str(value))}")
    return None


def _try(args: argparse.Namespace, place: _Place, wanted: Wanted | None) -> int:
    named = wanted or Wanted()
    # An embedded sidecar makes its store when it starts; before that nothing is revoked or spent.
    store = place.store if place.store is not None and (args.receipt_store or place.store.exists()) else None
    with ReceiptReader(store) if store is not None else nullcontext() as reader:
        steps = try_token(
            _text_of(args.token, "--token").strip(),
            Trial(
                now=int(time.time()),
                method=args.method,
                path=args.path,
                server=named.server,
                tool=named.tool,
                operations=named.operations,
                arguments=args.arguments,
                issuers=place.issuers(args.trusted_issuer),
                routes=RouteTable.from_openapi(place.spec_text) if place.spec_text is not None else None,
                store=reader,
            ),
        )
    for step in steps:
        emit(compact(asdict(step)) if wants_json(args) else f"{step.result:7} {step.name}: {printable(step.text)}")
    return 1 if any(step.result == "fail" for step in steps) else 0


def _operations(args: argparse.Namespace) -> tuple[str, ...]:
    return tuple(dict.fromkeys(args.operation or ["invoke"]))


def _document(place: str) -> Any:
    try:
        return parse_json(_text_of(place, "WHAT"))
    except InvalidDocument as exc:
        raise CliError(
            f"{'standard input' if place == '-' else place} holds no JSON document: {exc.message}",
            fix="give the body of the refused answer alone, without its headers",
        ) from None


def _text_of(place: str | Path, option: str) -> str:
    try:
        if place == "-":
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


def _json(text: str) -> Any:
    try:
        return parse_json(text)
    except InvalidDocument as exc:
        raise argparse.ArgumentTypeError(exc.message) from None


def _key(text: str) -> str:
    try:
        return normalize_public_key(text)
    except InvalidDocument as exc:
        raise argparse.ArgumentTypeError(exc.message) from None
