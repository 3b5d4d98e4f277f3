"""`receipt fsck`: whether a store is what the sidecar wrote."""

from __future__ import annotations

import argparse
import re

from chio_sidecar.cli.options import compact, emit, wants_json
from chio_sidecar.cli.receipt_list import add_store
from chio_sidecar.cli.receipt_verify import add_trusted_key, note_when_nobody_is_trusted
from chio_sidecar.cli.store_place import required_store
from chio_sidecar.records.fsck import Finding, Inspection, Summary

DESCRIPTION = """Check a receipt store: SQLite's pages and indexes, tables and triggers, the hash chain over the
rows, each receipt's signature and the columns beside it, and what is recorded about approvals, budgets and limited
grants.

The file is only read: nothing is repaired, and no file is made beside it. It may be the store of a running sidecar.

Keep the head that is printed, somewhere else. Given as --head later, it shows that no row up to it was changed since,
also by somebody who can write the file and makes the chain anew.

exit status: 0 nothing was found, 1 something was, or the store cannot be read, 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_store(parser)
    add_trusted_key(parser)
    parser.add_argument(
        "--head",
        metavar="DIGEST",
        type=_digest,
        help="a head that was printed earlier: its row must be there, unchanged",
    )


def run(args: argparse.Namespace) -> int:
    """Print one line for each finding and a summary; return 1 when there are findings.

    Raises:
        CliError: no store is named.
        ConfigurationError: the store, or the settings that would name it, cannot be read.
    """
    store = required_store(args, "receipt fsck needs a store")
    inspection = Inspection(store.path, trusted_keys=args.trusted_key, kept=args.head)
    try:
        for finding in inspection.findings():
            emit(compact(finding.document()) if wants_json(args) else _line(finding))
    finally:
        inspection.close()
    summary = inspection.summary
    note_when_nobody_is_trusted(args.trusted_key)
    emit(compact(summary.document()) if wants_json(args) else _report(summary))
    return 1 if summary.findings else 0


def _line(finding: Finding) -> str:
    # Ids are written by strangers, and terminals obey controls.
    return f"{compact(finding.place)[1:-1]}: {compact(finding.text)[1:-1]} [{finding.kind}]"


def _report(summary: Summary) -> str:
    lines = [f"rows      {summary.rows}" + (f", from {summary.first} to {summary.last}" if summary.rows else "")]
    lines += [f"signed by {key}" for key in summary.keys]
    if summary.chained_from is None:
        lines.append("chain     none: the store is from before the hash chain, which starts when a sidecar opens it")
    else:
        lines.append(f"chain     from row {summary.chained_from}")
    if summary.anchored is not None:
        lines.append(f"--head    row {summary.anchored}")
    if summary.head is not None:
        lines.append(f"head      {compact(summary.head)[1:-1]}")
    return "\n".join([*lines, f"findings  {summary.findings}"])


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError("is no digest: it has 64 lower-case hex digits, as receipt fsck prints it")
    return text
