"""`receipt list` and `receipt show` (wire protocol, section 10.3)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from chio_sidecar.cli.options import (
    TIMES,
    add_trusted_key_option,
    moment,
    note_overridden,
    positive,
    required_store,
    trust_client,
    wants_json,
    whole,
)
from chio_sidecar.cli.receipt_follow import follow
from chio_sidecar.cli.receipt_verify import note_archived, note_untrusted, verified
from chio_sidecar.cli.table import BAD, DOUBTFUL, GOOD, Column, Table
from chio_sidecar.cli.terminal import (
    CliError,
    compact,
    emit,
    emit_exactly,
    is_terminal,
    printable,
    say,
    utc,
)
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.store.statements import states_erasure

if TYPE_CHECKING:
    from chio_sidecar.trust.client import TrustClient

NEITHER = "receipt commands require --receipt-db <path> or --control-url"

COUNTED = 50_000
"""Rows of a store in which `receipt list` counts the matches of a filter without being told to."""

LIST_DESCRIPTION = """\
Print receipts: on a terminal a table, newest first; elsewhere one line of JSON for each, oldest first, which other
programs and `receipt verify` read. --format human prints the table elsewhere too, and --json JSON on a terminal.
With --follow the newest are last.
"""

_LIMIT = 50
_PAGE = 200
_FILTERS = {
    "capability": ("capability_id", "capabilityId"),
    "tool_server": ("tool_server", "toolServer"),
    "tool_name": ("tool_name", "toolName"),
    "outcome": ("outcome", "outcome"),
    "since": ("since", "since"),
    "until": ("until", "until"),
    "min_cost": ("min_cost", "minCost"),
    "max_cost": ("max_cost", "maxCost"),
}
"""For each option: the condition on a store, and the query parameter of a trust service."""
_OF_A_STORE = {
    "raw": "a trust service does not send the stored text",
    "newest_first": "a trust service lists the oldest receipts first",
    "follow": "a trust service is asked once",
    "count": "a trust service always counts",
}
_VERDICTS = {"allow": GOOD, "deny": BAD}
_COLUMNS = (
    Column("TIME", fits=20),
    Column("VERDICT", fits=10, colour=lambda verdict: _VERDICTS.get(verdict, DOUBTFUL)),
    Column("METHOD", fits=8),
    Column("ROUTE", fits=16, grows=True),
    Column("REASON", fits=32, grows=True),
    Column("ID"),
)


def add_list_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt list`."""
    parser.description = LIST_DESCRIPTION
    parser.set_defaults(run=run_list)
    parser.add_argument("--capability", metavar="ID", help="only those of this capability")
    parser.add_argument("--tool-server", metavar="NAME", help="`http` for all HTTP receipts")
    parser.add_argument("--tool-name", metavar="NAME", help="method and route, for example `POST /echo`")
    parser.add_argument(
        "--outcome",
        choices=["allow", "deny", "cancel", "cancelled", "incomplete"],
        help="only those with this verdict",
    )
    parser.add_argument("--since", metavar="TIME", type=moment, help=f"signed then or later: {TIMES}")
    parser.add_argument("--until", metavar="TIME", type=moment, help="signed then or earlier, in the same forms")
    parser.add_argument("--min-cost", metavar="N", type=whole, help="HTTP receipts have no cost: matches none")
    parser.add_argument("--max-cost", metavar="N", type=whole, help="the same")
    parser.add_argument(
        "--limit", metavar="N", type=positive, help="print at most N (50); with --follow, begin with the newest N"
    )
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--newest-first", action="store_true", help="begin with the newest receipt, as the table does")
    order.add_argument("--oldest-first", action="store_true", help="begin with the oldest, as the JSON lines do")
    parser.add_argument(
        "--raw", action="store_true", help="print each receipt byte for byte as it is stored: what was signed, no more"
    )
    parser.add_argument("--cursor", metavar="SEQ", type=whole, help="continue behind the `next_cursor` of a list")
    parser.add_argument(
        "--follow", action="store_true", help="print the newest receipts, then each as it is stored, until Ctrl-C"
    )
    parser.add_argument(
        "--count",
        action="store_true",
        help=f"count the matches in more than {COUNTED} rows too, which reads the whole store",
    )


def run_list(args: argparse.Namespace) -> int:
    """Print the receipts, and the next cursor if more follow.

    The total count is printed beside the cursor if it follows from the row numbers, or from a bounded number of rows.

    A line of JSON is the stored receipt with one more member, `verdict.outcome`, which repeats `verdict.verdict` for
    readers that expect it there. It is not signed; `receipt verify` leaves it out. With `--raw` it is the stored text.

    Raises:
        CliError: neither a store nor a service is named, or an option has no effect with another.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    if args.raw and args.format is not None:
        raise CliError("--raw prints the stored text, which has no other format", fix="leave --format out")
    is_table = not args.raw and not wants_json(args) and (args.format == "human" or is_terminal())
    show = _printer(args, is_table=is_table)
    if args.control_url:
        for option, reason in _OF_A_STORE.items():
            if getattr(args, option):
                raise CliError(reason, fix="name the store, --receipt-store FILE")
        note_overridden(args, "--control-url", "receipt_store", "receipt_db")
        return _list_remote(args, show)
    wanted = ReceiptFilter(**{member: getattr(args, option) for option, (member, _) in _FILTERS.items()})
    newest_first = args.newest_first or (is_table and not args.oldest_first)
    limit = args.limit or _LIMIT
    store = required_store(args, NEITHER)
    if args.follow:
        _check_follow(args)
        follow(store, wanted, show, after=args.cursor, newest=args.limit or _LIMIT, raw=args.raw)
    with open_archive(store.path, option=store.named_by) as reader:
        cursor = args.cursor
        if not newest_first:
            note_archived(reader)
        start = {"before": cursor} if newest_first else {"after": cursor or 0}
        rows = (reader.stored_rows if args.raw else reader.rows)(wanted, newest_first=newest_first, **start)
        more = False

        def page() -> Iterator[Any]:
            nonlocal cursor, more
            for printed, (row, receipt) in enumerate(rows):
                more = printed == limit
                if more:
                    return
                cursor = row
                yield receipt

        show(page())
        if newest_first and not more:
            note_archived(reader)
        if more:
            is_cheap = wanted.is_empty or reader.last - reader.first < COUNTED
            total = f" total_count={reader.count(wanted)}" if is_cheap or args.count else ""
            say(f"next_cursor={cursor}{total}")
    return 0


def _list_remote(args: argparse.Namespace, show: Callable[[Iterable[Any]], None]) -> int:
    stated = {parameter: getattr(args, option) for option, (_, parameter) in _FILTERS.items()}
    query = {parameter: str(value) for parameter, value in stated.items() if value is not None}
    cursor, count = args.cursor or 0, None

    def pages(client: TrustClient) -> Iterator[Any]:
        nonlocal cursor, count
        left = args.limit or _LIMIT
        while left > 0 and cursor is not None:
            page = client.receipts(query | {"cursor": str(cursor), "limit": str(min(left, _PAGE))})
            receipts = page.get("receipts")
            if not isinstance(receipts, list):
                raise CliError("the trust service sent a response without receipts")
            cursor, count = page.get("nextCursor") if receipts else None, page.get("totalCount")
            left -= len(receipts)
            yield from receipts

    with trust_client(args) as client:
        show(pages(client))
    if cursor is not None:
        say(f"next_cursor={cursor} total_count={count}")
    return 0


def _check_follow(args: argparse.Namespace) -> None:
    """Return if the options fit `--follow`.

    Raises:
        CliError: one has no effect on receipts that are still to come.
    """
    for option in ("newest_first", "until", "count"):
        if (given := getattr(args, option)) is not None and given is not False:
            name = option.replace("_", "-")
            raise CliError(f"--{name} has no effect on receipts that are still to come", fix=f"leave --{name} out")
    if args.limit and args.cursor is not None:
        raise CliError("--follow begins behind --cursor, or with the newest --limit", fix="give one of them")


def _printer(args: argparse.Namespace, *, is_table: bool) -> Callable[[Iterable[Any]], None]:
    """Return a function that prints receipts in the form that was chosen."""
    table = Table(_COLUMNS, grows=args.follow)

    def print_table(receipts: Iterable[Any]) -> None:
        if not table.print(map(_cells, receipts)) and not args.follow:
            say("no receipts")

    def print_lines(receipts: Iterable[Any]) -> None:
        for receipt in receipts:
            if args.raw:
                emit_exactly(receipt.encode() if isinstance(receipt, str) else receipt)
            else:
                # Another service may have tool-call receipts, which have a decision and no verdict.
                verdict = receipt.get("verdict") if isinstance(receipt, dict) else None
                if isinstance(verdict, dict):
                    receipt = receipt | {"verdict": verdict | {"outcome": verdict.get("verdict")}}
                emit(compact(receipt))

    return print_table if is_table else print_lines


def _cells(receipt: Any) -> list[str]:
    """Return the row of the table; another service may have receipts of tool calls, or damaged ones."""
    document = receipt if isinstance(receipt, dict) else {}
    stated = document.get("verdict", document.get("decision"))
    verdict = stated if isinstance(stated, dict) else {}
    reason, metadata = verdict.get("reason"), document.get("metadata")
    if isinstance(metadata, dict) and "chio_enforcement" in metadata:
        from chio_sidecar.records.observed import is_observed, why_refused  # takes longer to load than most lists

        if is_observed(document):
            reason = f"only observed: {why_refused(document) or 'would be allowed'}"
    route = document.get("route_pattern", document.get("tool_name"))
    if states_erasure(document):
        verdict, reason = {"verdict": "erased"}, f"on {utc(document.get('erased_at'))} for: {document.get('reason')}"
    found = (verdict.get("verdict"), document.get("method"), route, reason, document.get("id"))
    return [utc(document.get("timestamp")), *("" if value is None else str(value) for value in found)]


def add_show_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt show`."""
    parser.set_defaults(run=run_show)
    parser.add_argument("id", metavar="ID", help="id of the receipt")
    parser.add_argument("--verify", action="store_true", help="verify its signature; exit 1 if that fails")
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
    result = verified(receipt, args.trusted_key)
    note_untrusted(args.trusted_key)
    say(result.text())
    if not result.valid:
        return 1
    if states_erasure(receipt):
        say(printable(f"erased on {utc(receipt['erased_at'])} by {receipt['kernel_key']} for: {receipt['reason']}"))
        return 0
    about = f"{receipt['method']} {receipt['route_pattern']}, request {receipt['request_id']}"
    say(printable(f"signed by {receipt['kernel_key']}, about {about}"))
    return 0
