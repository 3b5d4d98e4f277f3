"""`receipt diff`, `receipt fsck` and `receipt backup`: what is done with a whole store."""

from __future__ import annotations

import argparse
import re
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from chio_sidecar.cli.options import (
    TIMES,
    add_store_option,
    add_trusted_key_option,
    moment,
    positive,
    required_store,
    wants_json,
)
from chio_sidecar.cli.receipt_verify import note_untrusted
from chio_sidecar.cli.terminal import CliError, compact, emit, escaped
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.records.fsck import Inspection
from chio_sidecar.records.observed import Tally, is_observed
from chio_sidecar.store.backup import backup
from chio_sidecar.store.place import DatabasePlace

if TYPE_CHECKING:
    from chio_sidecar.records.fsck_postgresql import LogInspection

WOULD_REFUSE = 3
"""Exit status of `receipt diff` if something would have been refused; 1 is an error, and 2 wrong usage."""

UNFINISHED = 3
"""Exit status of `receipt fsck` without findings if the check did not come to its end."""

DIFF_DESCRIPTION = """Compare what was allowed to run in observe mode with what enforcing would have done.

Counts the receipts of requests that an application in observe mode sent (CHIO_OBSERVE, CHIO_OBSERVE_PATHS,
CHIO_OBSERVE_PREFIXES or Depends(Observe())), and groups those that would have been refused: the verdict is not
allow, or the route requires a capability and no valid one was presented. Requests while the sidecar was down left
no receipt; the application's log has them, as "OBSERVED, NOT REFUSED".

exit status: 0 nothing would have been refused, 3 something would, 1 there is nothing to compare or the store
cannot be read, 2 wrong usage. So in CI: chio-sidecar receipt diff --receipt-store FILE --since 24h
"""

FSCK_DESCRIPTION = """Check a receipt store: SQLite's pages and indexes, tables and triggers, the hash chain over the
rows, each receipt's signature and the columns beside it, and the records of approvals, budgets and limited grants. In a
database each log is checked, and then what they share, all of it as of one moment.

The file is only read: nothing is repaired, and no file is created beside it. It may be the store of a running sidecar.
With a rollback journal a reader stops that sidecar, so rows are read in windows, and SQLite's own check of pages and
indexes ends after half a second then; --all-pages checks all.

With --archive the archives that receipt rotate made are checked too, oldest first, and whether each file goes on from
the one before, so that no receipt is missing between them.

Keep the printed head in another place. Given as --head later, it shows that no row up to it was changed since, even by
an attacker who can write the file and computes the chain again.

exit status: 0 no findings, 1 findings, or the store cannot be read, 2 wrong usage, 3 no findings so far, but the check
did not come to its end: another process held the file, or the disk failed; nothing is stated about the rest
"""

BACKUP_DESCRIPTION = """Copy a receipt store to a new file, complete up to this moment, while a sidecar writes to it.

Rows are copied in windows: the sidecar's commits wait for a few milliseconds at most. The copy is a store like the
original, with its revocations, budgets and approvals; the key file is not copied. `receipt fsck` checks the copy.
"""

_SHOWN = 20


def add_diff_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt diff`."""
    parser.description = DIFF_DESCRIPTION
    parser.set_defaults(run=run_diff)
    add_store_option(parser)
    parser.add_argument("--since", metavar="TIME", type=moment, help=f"signed then or later: {TIMES}")
    parser.add_argument("--last", metavar="N", type=positive, help="only the newest N receipts")
    parser.add_argument(
        "--all",
        action="store_true",
        help="count every receipt, not only those marked as observed: other sidecars do not mark them",
    )
    parser.add_argument(
        "--top", metavar="N", type=positive, default=_SHOWN, help=f"groups to print for people ({_SHOWN}); JSON has all"
    )


def run_diff(args: argparse.Namespace) -> int:
    """Print the report; return 0 if nothing would have been refused, else `WOULD_REFUSE`.

    Raises:
        CliError: no store is named, or it has nothing to compare.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    tally = Tally()
    store = required_store(args, "receipt diff needs a store")
    with open_archive(store.path, option=store.named_by) as reader:
        start = max(0, reader.last - args.last) if args.last else 0
        for _, receipt in reader.rows(ReceiptFilter(since=args.since), after=start):
            if args.all or is_observed(receipt):
                tally.add(receipt)
    emit(compact(tally.document()) if wants_json(args) else diff_report(tally, args.top))
    if not tally.observed:
        raise CliError(
            "there are no receipts of observed requests to compare",
            fix="switch CHIO_OBSERVE on in the application, or give --all if the receipts are of another sidecar",
        )
    return WOULD_REFUSE if tally.refused else 0


def diff_report(tally: Tally, shown: int) -> str:
    """Return the report for people, with at most `shown` groups; what strangers chose is escaped."""
    groups = tally.groups()
    lines = [f"would have refused {tally.refused:,} of {tally.observed:,} observed requests"]
    for group in groups[:shown]:
        kind = group.kind
        lines += [
            "",
            f"{group.count:>7,}  {escaped(kind.method)} {escaped(kind.route)}: {escaped(kind.reason)}",
            f"         caller {escaped(kind.caller) if kind.caller is not None else 'others'}",
            f"         newest {', '.join(map(escaped, group.newest))}",
        ]
    if left := sum(group.count for group in groups[shown:]):
        lines += ["", f"and {left:,} more in {len(groups) - shown:,} smaller groups; --top or --json shows them"]
    if tally.beyond:
        lines += ["", f"and {tally.beyond:,} more, of too many kinds to tell apart"]
    return "\n".join(lines)


def add_fsck_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt fsck`."""
    parser.description = FSCK_DESCRIPTION
    parser.set_defaults(run=run_fsck)
    add_store_option(parser)
    add_trusted_key_option(parser)

    def digest(text: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", text):
            raise argparse.ArgumentTypeError("a digest has 64 lower-case hex digits, as receipt fsck prints it")
        return text

    parser.add_argument(
        "--head",
        metavar="DIGEST",
        type=digest,
        help="a head that was printed earlier: its row must exist, unchanged",
    )
    parser.add_argument(
        "--archive",
        metavar="FILE",
        action="append",
        type=Path,
        default=[],
        help="an archive of the store to check with it; may be repeated",
    )
    parser.add_argument(
        "--all-pages",
        action="store_true",
        help="check all pages and indexes, also if the sidecar that writes to the file cannot commit meanwhile",
    )


def run_fsck(args: argparse.Namespace) -> int:
    """Print a line for each finding and a summary for each file; return 1 with findings, else 3 for a part of a check.

    Raises:
        CliError: no store is named.
        ConfigurationError: the store, or the settings that would name it, cannot be read.
    """
    store = required_store(args, "receipt fsck needs a store")
    if not isinstance(store.path, Path):
        return _fsck_database(args, store.path)
    with ExitStack() as stack:
        files = []
        for path in (*args.archive, store.file):
            inspection = Inspection(path, trusted_keys=args.trusted_key, kept=args.head, all_pages=args.all_pages)
            stack.callback(inspection.close)
            files.append((path, inspection))
        files.sort(key=lambda file: file[1].base[0])  # stable: a store that lost nothing yet follows its archive
        note_untrusted(args.trusted_key)
        found = set()
        for number, (path, inspection) in enumerate(files, 1):
            inspection.joint = files[number][1].base if number < len(files) else None
            inspection.kept_elsewhere = number < len(files) or any(one.summary.anchored is not None for _, one in files)
            found.add(_check(inspection, path if len(files) > 1 else None, as_json=wants_json(args)))
    return 1 if 1 in found else max(found)


def _fsck_database(args: argparse.Namespace, place: DatabasePlace) -> int:
    from chio_sidecar.records.fsck_postgresql import DatabaseInspection

    if args.archive:
        raise CliError("--archive names archives of a file, and this store is in a database", fix="leave it out")
    with closing(DatabaseInspection(place, trusted_keys=args.trusted_key, kept=args.head)) as inspection:
        note_untrusted(args.trusted_key)
        found = {_check(part, part.name, as_json=wants_json(args)) for part in inspection.parts()}
    return 1 if 1 in found else max(found)


def _check(inspection: Inspection | LogInspection, path: Path | str | None, *, as_json: bool) -> int:
    """Check one file and print it; return its exit status.

    Args:
        inspection: not begun.
        path: the name of the file or the log if it is one of several.
        as_json: print for programs.
    """
    name = {} if path is None else {"file": str(path)}
    if path is not None and not as_json:
        emit(f"file      {escaped(str(path))}")
    for finding in inspection.findings():
        if as_json:
            emit(compact(name | finding.document()))
        else:
            emit(f"{escaped(finding.place)}: {escaped(finding.text)} [{finding.kind}]")
    summary = inspection.summary
    status = 1 if summary.findings else UNFINISHED if summary.unfinished else 0
    if as_json:
        emit(compact(name | summary.document()))
        return status

    if inspection.log is None:
        emit(f"findings  {summary.findings}" + (f"; not all: {summary.unfinished}" if summary.unfinished else ""))
        return status
    emit(f"rows      {summary.rows}" + (f", from {summary.first} to {summary.last}" if summary.rows else ""))
    for key in summary.keys:
        emit(f"signed by {key}")
    if summary.chained_from is None:
        emit("chain     none: the store is from before the hash chain, which starts when a sidecar opens it")
    else:
        emit(f"chain     from row {summary.chained_from}")
    if summary.archived:
        newest = f"; the newest archive is {escaped(summary.archives[-1].name)}" if summary.archives else ""
        emit(f"archived  rows 1 to {summary.archived}{newest}")
    if summary.anchored is not None:
        emit(f"--head    row {summary.anchored}")
    if summary.head is not None:
        emit(f"head      {escaped(summary.head)}")
    if summary.pages == "part" and summary.unfinished is None:
        emit("pages     in part, to let the sidecar write: check a backup, or use --all-pages")
    if summary.unfinished is not None:
        emit(f"not all   {escaped(summary.unfinished)}")
    emit(f"findings  {summary.findings}")
    return status


def add_backup_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt backup`."""
    parser.description = BACKUP_DESCRIPTION
    parser.set_defaults(run=run_backup)
    parser.add_argument("target", metavar="TARGET", type=Path, help="the new file; it must not exist")
    add_store_option(parser)


def run_backup(args: argparse.Namespace) -> int:
    """Copy the store, and print how many receipts the copy has, and its head.

    Raises:
        CliError: no store is named.
        ConfigurationError: the store cannot be read, or the copy cannot be written.
    """
    store = required_store(args, "receipt backup needs a store")
    open_archive(store.file, option=store.named_by).close()  # raises if there is no such store
    copied = backup(store.file, args.target)
    if wants_json(args):
        emit(compact({"target": str(args.target), "rows": copied.rows, "head": copied.head}))
        return 0
    emit(f"rows      {copied.rows}")
    if copied.head is not None:
        emit(f"head      {escaped(copied.head)}")
    return 0
