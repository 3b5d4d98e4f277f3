"""`receipt diff`: what would have been refused, had observe mode been off."""

from __future__ import annotations

import argparse

from chio_sidecar.cli.options import TIMES, CliError, compact, emit, moment, positive, wants_json
from chio_sidecar.cli.receipt_list import add_store
from chio_sidecar.cli.store_place import required_store
from chio_sidecar.records.observed import Group, Tally, is_observed
from chio_sidecar.records.reader import ReceiptFilter, ReceiptReader

WOULD_REFUSE = 3
"""Exit status when something would have been refused; 1 is an error, and 2 wrong usage."""

DESCRIPTION = """Compare what was allowed to run in observe mode with what enforcing would have done.

Counts the receipts of requests that an application in observe mode sent (CHIO_OBSERVE, CHIO_OBSERVE_PATHS,
CHIO_OBSERVE_PREFIXES or Depends(Observe())), and groups those that would have been refused: the verdict is not
allow, or the route requires a capability and no valid one was presented. Requests while the sidecar was down left
no receipt; the application's log has them, as "OBSERVED, NOT REFUSED".

exit status: 0 nothing would have been refused, 3 something would, 1 there is nothing to compare or the store
cannot be read, 2 wrong usage. So in CI: chio-sidecar receipt diff --receipt-store FILE --since 24h
"""

_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_store(parser)
    parser.add_argument(
        "--since",
        metavar="TIME",
        type=moment,
        help=f"signed then or later: {TIMES}",
    )
    parser.add_argument("--last", metavar="N", type=positive, help="look at the newest N receipts only")
    parser.add_argument(
        "--all",
        action="store_true",
        help="count every receipt, not only those that say they were observed: another sidecar does not write that",
    )
    parser.add_argument(
        "--top", metavar="N", type=positive, default=_SHOWN, help=f"groups to print for people ({_SHOWN}); JSON has all"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; return 0 when nothing would have been refused, else `WOULD_REFUSE`.

    Raises:
        CliError: no store is named, or it has nothing to compare.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    tally = Tally()
    store = required_store(args, "receipt diff needs a store")
    with ReceiptReader(store.path, option=store.named_by) as reader:
        start = max(0, reader.last - args.last) if args.last else 0
        for _, receipt in reader.rows(ReceiptFilter(since=args.since), after=start):
            if args.all or is_observed(receipt):
                tally.add(receipt)
    emit(compact(tally.document()) if wants_json(args) else report(tally, args.top))
    if not tally.observed:
        raise CliError(
            "there are no receipts of observed requests to compare",
            fix="switch CHIO_OBSERVE on in the application, or give --all where the sidecar is another one",
        )
    return WOULD_REFUSE if tally.refused else 0


def report(tally: Tally, shown: int) -> str:
    """Return the report for people."""
    groups = tally.groups()
    lines = [f"would have refused {tally.refused:,} of {tally.observed:,} observed requests"]
    for group in groups[:shown]:
        lines += ["", *_lines(group)]
    if left := sum(group.count for group in groups[shown:]):
        lines += ["", f"and {left:,} more in {len(groups) - shown:,} smaller groups; --top or --json shows them"]
    if tally.beyond:
        lines += ["", f"and {tally.beyond:,} more, of too many kinds to tell apart"]
    return "\n".join(lines)


def _lines(group: Group) -> list[str]:
    # Paths and reasons are written by strangers, and terminals obey controls.
    kind = group.kind
    caller = compact(kind.caller)[1:-1] if kind.caller is not None else "others"
    return [
        f"{group.count:>7,}  {compact(kind.method)[1:-1]} {compact(kind.route)[1:-1]}: {compact(kind.reason)[1:-1]}",
        f"         caller {caller}",
        f"         newest {', '.join(compact(one)[1:-1] for one in group.newest)}",
    ]
