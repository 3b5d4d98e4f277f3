"""`receipt list`: the receipts of a sidecar, one a line (wire protocol, section 10.3).

Each line is the stored receipt with one member more, `verdict.outcome`, which repeats `verdict.verdict` for
people who look there. It is not signed; our verification knows that and leaves it out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from chio_sidecar.cli.options import TIMES, CliError, compact, emit, moment, positive, say, trust_client, whole
from chio_sidecar.cli.store_place import URL_VARIABLE, required_store
from chio_sidecar.records.reader import ReceiptFilter, ReceiptReader

NEITHER = "receipt commands require --receipt-db <path> or --control-url"

_PAGE = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--capability", metavar="ID", help="only those of this capability")
    parser.add_argument("--tool-server", metavar="NAME", help="`http` for all HTTP receipts")
    parser.add_argument("--tool-name", metavar="NAME", help="method and route, for example `POST /echo`")
    parser.add_argument(
        "--outcome",
        choices=["allow", "deny", "cancel", "cancelled", "incomplete"],
        help="only those with this verdict",
    )
    add_store(parser)
    parser.add_argument("--since", metavar="TIME", type=moment, help=f"signed then or later: {TIMES}")
    parser.add_argument("--until", metavar="TIME", type=moment, help="signed then or earlier, written likewise")
    parser.add_argument("--min-cost", metavar="N", type=whole, help="HTTP receipts have no cost: matches none")
    parser.add_argument("--max-cost", metavar="N", type=whole, help="the same")
    parser.add_argument("--limit", metavar="N", type=positive, default=50, help="at most so many (50)")
    parser.add_argument(
        "--cursor",
        metavar="SEQ",
        type=whole,
        default=0,
        help="go on behind this row, the `next_cursor` of a list",
    )


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a store; `--receipt-db`, a global option, is the name that the protocol gives it."""
    parser.add_argument(
        "--receipt-store",
        metavar="FILE",
        type=Path,
        help=f"store of a sidecar (SQLite), also written --receipt-db; default: that of {URL_VARIABLE}=embedded:FILE"
        " (environment, .env)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the receipts, oldest first, and the next cursor when more follow.

    Raises:
        CliError: neither a store nor a service is named.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    if args.control_url:
        return _remote(args)
    store = required_store(args, NEITHER)
    with ReceiptReader(store.path, option=store.named_by) as reader:
        return _local(reader, _filter(args), args.cursor, args.limit)


def annotate(receipt: dict[str, Any]) -> dict[str, Any]:
    """Return the receipt with `verdict.outcome` added."""
    verdict = receipt["verdict"]
    return receipt | {"verdict": verdict | {"outcome": verdict.get("verdict")}}


def _filter(args: argparse.Namespace) -> ReceiptFilter:
    return ReceiptFilter(
        capability_id=args.capability,
        tool_server=args.tool_server,
        tool_name=args.tool_name,
        outcome=args.outcome,
        since=args.since,
        until=args.until,
        min_cost=args.min_cost,
        max_cost=args.max_cost,
    )


def _local(reader: ReceiptReader, wanted: ReceiptFilter, cursor: int, limit: int) -> int:
    rows = reader.rows(wanted, after=cursor)
    for printed, (row, receipt) in enumerate(rows):
        if printed == limit:
            say(f"next_cursor={cursor} total_count={reader.count(wanted)}")
            break
        emit(compact(annotate(receipt)))
        cursor = row
    return 0


def _remote(args: argparse.Namespace) -> int:
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
    cursor, left = args.cursor, args.limit
    with trust_client(args) as client:
        while left > 0:
            page = client.receipts(query | {"cursor": str(cursor), "limit": str(min(left, _PAGE))})
            receipts = page.get("receipts")
            if not isinstance(receipts, list):
                raise CliError("the trust service gave an answer without receipts")
            for receipt in receipts:
                emit(compact(_annotate_foreign(receipt)))
            left -= len(receipts)
            cursor = page.get("nextCursor")
            if cursor is None or not receipts:
                return 0
        say(f"next_cursor={cursor} total_count={page.get('totalCount')}")
    return 0


def _annotate_foreign(receipt: Any) -> Any:
    # Another service may keep tool-call receipts, whose decision stands elsewhere.
    known = isinstance(receipt, dict) and isinstance(receipt.get("verdict"), dict)
    return annotate(receipt) if known else receipt
