"""`receipt list`, `receipt show` and `receipt verify` (wire protocol, section 10.3)."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_sidecar.cli.options import (
    EITHER,
    TIMES,
    add_store_option,
    add_trusted_key_option,
    moment,
    positive,
    required_store,
    store_of_options,
    store_of_settings,
    trust_client,
    wants_json,
    whole,
)
from chio_sidecar.cli.terminal import CliError, compact, emit, escaped, printable, say
from chio_sidecar.records import bundle
from chio_sidecar.records.archive import ReceiptArchive, ReceiptFilter, open_archive

NEITHER = "receipt commands require --receipt-db <path> or --control-url"

COUNTED = 50_000
"""Rows of a store in which `receipt list` counts the matches of a filter without being told to."""

_PAGE = 200


def add_list_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt list`."""
    parser.set_defaults(run=run_list)
    parser.add_argument("--capability", metavar="ID", help="only those of this capability")
    parser.add_argument("--tool-server", metavar="NAME", help="`http` for all HTTP receipts")
    parser.add_argument("--tool-name", metavar="NAME", help="method and route, for example `POST /echo`")
    parser.add_argument(
        "--outcome",
        choices=["allow", "deny", "cancel", "cancelled", "incomplete"],
        help="only those with this verdict",
    )
    add_store_option(parser)
    parser.add_argument("--since", metavar="TIME", type=moment, help=f"signed then or later: {TIMES}")
    parser.add_argument("--until", metavar="TIME", type=moment, help="signed then or earlier, in the same forms")
    parser.add_argument("--min-cost", metavar="N", type=whole, help="HTTP receipts have no cost: matches none")
    parser.add_argument("--max-cost", metavar="N", type=whole, help="the same")
    parser.add_argument("--limit", metavar="N", type=positive, default=50, help="print at most N (50)")
    parser.add_argument("--newest-first", action="store_true", help="begin with the newest receipt")
    parser.add_argument("--cursor", metavar="SEQ", type=whole, help="continue behind the `next_cursor` of a list")
    parser.add_argument(
        "--count",
        action="store_true",
        help=f"count the matches in more than {COUNTED} rows too, which reads the whole store",
    )


def run_list(args: argparse.Namespace) -> int:
    """Print the receipts, oldest first if not stated otherwise, and the next cursor if more follow.

    The total count is printed beside the cursor if it follows from the row numbers, or from a bounded number of rows.

    Each line is the stored receipt with one more member, `verdict.outcome`, which repeats `verdict.verdict` for readers
    that expect it there. It is not signed; `receipt verify` leaves it out.

    Raises:
        CliError: neither a store nor a service is named, or the service cannot list newest first.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    if args.control_url:
        if args.newest_first:
            raise CliError(
                "a trust service lists the oldest receipts first", fix="name the store, --receipt-store FILE"
            )
        return _list_remote(args)
    wanted = ReceiptFilter(
        capability_id=args.capability,
        tool_server=args.tool_server,
        tool_name=args.tool_name,
        outcome=args.outcome,
        since=args.since,
        until=args.until,
        min_cost=args.min_cost,
        max_cost=args.max_cost,
    )
    store = required_store(args, NEITHER)
    with open_archive(store.path, option=store.named_by) as reader:
        cursor = args.cursor
        if not args.newest_first:
            _note_archived(reader)
        start = {"before": cursor} if args.newest_first else {"after": cursor or 0}
        for printed, (row, receipt) in enumerate(reader.rows(wanted, newest_first=args.newest_first, **start)):
            if printed == args.limit:
                is_cheap = wanted.is_empty or reader.last - reader.first < COUNTED
                total = f" total_count={reader.count(wanted)}" if is_cheap or args.count else ""
                say(f"next_cursor={cursor}{total}")
                break
            emit(compact(_with_outcome(receipt)))
            cursor = row
    return 0


def _note_archived(reader: ReceiptArchive) -> None:
    """Print where the receipts before the first one of the store are."""
    if (found := reader.archived()) is not None:
        say(f"note: receipts 1 to {found[0]} are archived, the newest of them in {escaped(found[1])}")


def _list_remote(args: argparse.Namespace) -> int:
    names = {
        "capabilityId": args.capability,
        "toolServer": args.tool_server,
        "toolName": args.tool_name,
        "outcome": args.outcome,
        "since": args.since,
        "until": args.until,
        "minCost": args.min_cost,
        "maxCost": args.max_cost,
    }
    query = {name: str(value) for name, value in names.items() if value is not None}
    cursor, left = args.cursor or 0, args.limit
    with trust_client(args) as client:
        while left > 0:
            page = client.receipts(query | {"cursor": str(cursor), "limit": str(min(left, _PAGE))})
            receipts = page.get("receipts")
            if not isinstance(receipts, list):
                raise CliError("the trust service sent a response without receipts")
            for receipt in receipts:
                emit(compact(_with_outcome(receipt)))
            left -= len(receipts)
            cursor = page.get("nextCursor")
            if cursor is None or not receipts:
                return 0
        say(f"next_cursor={cursor} total_count={page.get('totalCount')}")
    return 0


def _with_outcome(receipt: Any) -> Any:
    # Another service may have tool-call receipts, which have a decision and no verdict.
    verdict = receipt.get("verdict") if isinstance(receipt, dict) else None
    if not isinstance(verdict, dict):
        return receipt
    return receipt | {"verdict": verdict | {"outcome": verdict.get("verdict")}}


def add_show_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt show`."""
    parser.set_defaults(run=run_show)
    parser.add_argument("id", metavar="ID", help="id of the receipt")
    parser.add_argument("--verify", action="store_true", help="verify its signature; exit 1 if that fails")
    add_store_option(parser)
    add_trusted_key_option(parser)


def run_show(args: argparse.Namespace) -> int:
    """Print a receipt of the store.

    Raises:
        CliError: no store is named, or it holds no such receipt.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    store = required_store(args, "receipt show needs a store")
    with open_archive(store.path, option=store.named_by) as reader:
        receipt, archived = reader.get(args.id), reader.archived()
    if receipt is None:
        older = f"; older ones are in archives such as {archived[1]}: name one with --receipt-store" if archived else ""
        raise CliError(f"no receipt {args.id} in {store.path}", fix=f"`receipt list` prints the ids{older}")
    emit(compact(receipt) if wants_json(args) else json.dumps(receipt, ensure_ascii=True, indent=2))
    if not args.verify:
        return 0
    result = _verify(receipt, args.trusted_key)
    note_untrusted(args.trusted_key)
    say(result.text())
    if not result.valid:
        return 1
    about = f"{receipt['method']} {receipt['route_pattern']}, request {receipt['request_id']}"
    say(printable(f"signed by {receipt['kernel_key']}, about {about}"))
    return 0


@dataclass(frozen=True)
class Verification:
    """The result for one receipt.

    Attributes:
        receipt_id: None if the receipt has none.
        rule: the rule that failed; None if all hold.
    """

    receipt_id: str | None
    rule: str | None = None
    message: str | None = None

    @property
    def valid(self) -> bool:
        """True if every rule holds."""
        return self.rule is None

    def text(self) -> str:
        """Return a line for people."""
        name = escaped(self.receipt_id) if self.receipt_id else "?"  # a forged id may hold line breaks
        return f"{name} valid" if self.valid else f"{name} INVALID {self.rule}: {self.message}"

    def document(self) -> dict[str, Any]:
        """Return a line for programs."""
        document: dict[str, Any] = {"id": self.receipt_id, "valid": self.valid}
        return document if self.valid else document | {"rule": self.rule, "message": self.message}


def add_verify_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt verify`."""
    parser.set_defaults(run=run_verify)
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="one receipt per line, one as `receipt show` prints it, or a bundle of the viewer; -: standard input; "
        "default: the store that is named, or standard input if it is a pipe",
    )
    add_store_option(parser)
    add_trusted_key_option(parser)


def run_verify(args: argparse.Namespace) -> int:
    """Print one line for each receipt; return 1 if one is invalid.

    Raises:
        CliError: the file cannot be read, or holds no receipt.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    count = failed = 0
    with _receipts(args) as receipts:
        for document in receipts:
            result = _verify(document, args.trusted_key)
            count, failed = count + 1, failed + (not result.valid)
            emit(compact(result.document()) if wants_json(args) else result.text())
    note_untrusted(args.trusted_key)
    say(f"{count} receipt{'' if count == 1 else 's'}: {count - failed} valid, {failed} invalid")
    if not count:
        raise CliError(
            "there was no receipt to verify",
            fix=f"see whether the command that prints them failed; for a whole store {EITHER}",
        )
    return 1 if failed else 0


def _verify(document: Any, trusted_keys: list[str] | None) -> Verification:
    from chio_core.receipts import verify_receipt

    if isinstance(document, InvalidDocument):
        return Verification(None, "shape", document.message)
    if not isinstance(document, dict):
        return Verification(None, "shape", "the line holds no JSON object")
    found = document.get("id")
    name = found if isinstance(found, str) else None
    try:
        verify_receipt(document, trusted_keys=trusted_keys)
    except ReceiptRejected as exc:
        return Verification(name, exc.rule, exc.message)
    return Verification(name)


def note_untrusted(trusted_keys: list[str] | None) -> None:
    """Print what a verification without trusted keys does not show."""
    if not trusted_keys:
        say(
            "note: no --trusted-key was given, so this shows that nothing was changed since the signing, not who signed"
        )


@contextmanager
def _receipts(args: argparse.Namespace) -> Iterator[Iterable[Any]]:
    """Give the receipts that the arguments name: parsed JSON, or the InvalidDocument of a line that is not JSON."""
    store = None
    if args.file is None:
        store = store_of_options(args)
        # What is piped in counts before the settings: if the command before the pipe failed, the settings' store must
        # not be reported as valid instead. A terminal and /dev/null are not pipes.
        try:
            piped = not stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode)
        except AttributeError:
            piped = False  # the process was started without standard input
        except (OSError, ValueError):
            piped = True  # a Python object replaces standard input
        if store is None and not piped:
            store = store_of_settings()
    if store is not None:
        with open_archive(store.path, option=store.named_by) as reader:
            _note_archived(reader)
            yield (receipt for _, receipt in reader.rows(ReceiptFilter()))
    elif args.file in (None, "-"):
        if sys.stdin is None:
            raise CliError("there is no standard input to read receipts from", fix=f"give a FILE, or {EITHER}")
        if args.file is None and sys.stdin.isatty():
            say(f"reading receipts from this terminal, one per line; for a store {EITHER}")
        yield _parse(sys.stdin.buffer)
    else:
        try:
            with open(args.file, "rb") as file:
                yield _parse(file)
        except OSError as exc:
            raise CliError(f"cannot read {args.file}: {exc.strerror}") from None


def _parse(lines: IO[bytes]) -> Iterator[Any]:
    for line in _documents(lines):
        try:
            document = parse_json(line)
            texts = bundle.texts_of(document)
        except InvalidDocument as exc:
            yield exc
            continue
        if texts is None:
            yield document
            continue
        for text in texts:
            try:
                yield parse_json(text)
            except InvalidDocument as exc:
                yield exc


def _documents(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join the lines of a receipt as `receipt show` prints it: from a `{` alone to a `}` alone."""
    open_lines: list[bytes] = []
    for line in lines:
        if open_lines or line.rstrip() == b"{":
            open_lines.append(line)
            if line.rstrip() == b"}":
                yield b"".join(open_lines)
                open_lines = []
        elif line.strip():
            yield line
    yield from filter(bytes.strip, open_lines)  # never closed: each line is a document
