"""`receipt fsck`, `receipt backup` and `receipt export`: what is done with a whole store."""

from __future__ import annotations

import argparse
import re
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from chio_core.errors import ConfigurationError
from chio_sidecar.cli.options import (
    TIMES,
    add_trusted_key_option,
    moment,
    required_store,
    wants_json,
)
from chio_sidecar.cli.receipt_verify import note_untrusted
from chio_sidecar.cli.terminal import CliError, compact, emit, escaped, say, utc
from chio_sidecar.keys import existing_key, key_beside
from chio_sidecar.records.archive import open_archive
from chio_sidecar.records.export import write
from chio_sidecar.records.fsck import Inspection
from chio_sidecar.records.fsck_chain import Heads
from chio_sidecar.store.backup import backup
from chio_sidecar.store.place import DatabasePlace

if TYPE_CHECKING:
    from chio_sidecar.records.fsck_postgresql import LogInspection


UNFINISHED = 3
"""Exit status of `receipt fsck` without findings if the check did not come to its end."""

FSCK_DESCRIPTION = """Check a receipt store: SQLite's pages and indexes, tables and triggers, the hash chain over the
rows, each receipt's signature and the columns beside it, and the records of approvals, budgets and limited grants. In a
database each log is checked, and then what they share, all of it as of one moment.

The file is only read: nothing is repaired, and no file is created beside it. It may be the store of a running sidecar.
With a rollback journal a reader stops that sidecar, so rows are read in windows, and SQLite's own check of pages and
indexes ends after half a second then; --all-pages checks all.

With --archive the archives that receipt rotate made are checked too, oldest first, those of a database log by log, and
whether each goes on from the one before, so that no receipt is missing between them.

Keep the printed head in another place. Given as --head later, it shows that no row up to it was changed since, even by
an attacker who can write the file and computes the chain again. One kind of erasure breaks that, and is then a finding:
its line says `digest by this signature alone`, and a holder of the key could have replaced the rows before it. Give a
head of the row before it as well: with both heads it is no finding.

exit status: 0 no findings, 1 findings, or the store cannot be read, 2 wrong usage, 3 no findings so far, but the check
did not come to its end: another process held the file, or the disk failed; nothing is stated about the rest
"""

BACKUP_DESCRIPTION = """Copy a receipt store to a new file, complete up to this moment, while a sidecar writes to it.

Rows are copied in windows: the sidecar's commits wait for a few milliseconds at most. The copy is a store like the
original, with its revocations, budgets and approvals; the key file is not copied. `receipt fsck` checks the copy.
"""


def add_fsck_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt fsck`."""
    parser.description = FSCK_DESCRIPTION
    parser.set_defaults(run=run_fsck)
    add_trusted_key_option(parser)

    def digest(text: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", text):
            raise argparse.ArgumentTypeError("a digest has 64 lower-case hex digits, as receipt fsck prints it")
        return text

    parser.add_argument(
        "--head",
        metavar="DIGEST",
        type=digest,
        action="append",
        default=[],
        help="a head that was printed earlier: its row must exist, and it and all rows before it be unchanged; may be"
        " repeated",
    )
    parser.add_argument(
        "--archive",
        metavar="FILE",
        action="append",
        type=Path,
        default=[],
        help="an archive of the store, or the folder of a rotation, to check with it; may be repeated",
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
        files, heads, unlinked = [], Heads(args.head), set[int]()
        for path in (*args.archive, store.file):
            inspection = Inspection(path, trusted_keys=args.trusted_key, heads=heads, all_pages=args.all_pages)
            inspection.unlinked = unlinked
            stack.callback(inspection.close)
            files.append((path, inspection))
        files.sort(key=lambda file: file[1].base[0])  # stable: a store that lost nothing yet follows its archive
        note_untrusted(args.trusted_key)
        found = set()
        for number, (path, inspection) in enumerate(files, 1):
            inspection.joint = files[number][1].base if number < len(files) else None
            inspection.goes_on = number < len(files)
            found.add(_check(inspection, path if len(files) > 1 else None, as_json=wants_json(args)))
    return 1 if 1 in found else max(found)


def _fsck_database(args: argparse.Namespace, place: DatabasePlace) -> int:
    from chio_sidecar.records.fsck_postgresql import DatabaseInspection

    try:
        paths = [file for path in args.archive for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    except OSError as exc:
        raise ConfigurationError(f"cannot read {exc.filename} (--archive): {exc.strerror}") from None
    if args.all_pages and not paths:
        raise CliError("--all-pages is about the pages of files, and this store is in a database", fix="leave it out")
    with ExitStack() as stack:
        heads = Heads(args.head)
        database = stack.enter_context(closing(DatabaseInspection(place, trusted_keys=args.trusted_key, heads=heads)))
        archives: dict[int, list[tuple[Path, Inspection]]] = {}
        for path in paths:
            inspection = Inspection(path, trusted_keys=args.trusted_key, heads=heads, all_pages=args.all_pages)
            stack.callback(inspection.close)
            inspection.goes_on = True
            log = database.log_of(inspection.statement())
            if log is None:
                raise CliError(
                    f"no log of {place.shown} names the archive {path}",
                    fix="leave it out: it is of another store, or its rotation ended before anything was removed",
                )
            archives.setdefault(log, []).append((path, inspection))
        note_untrusted(args.trusted_key)
        found = set()
        for part in database.parts():
            files = sorted(archives.get(part.log or 0, []), key=lambda file: file[1].base[0])
            for number, (path, inspection) in enumerate(files, 1):
                inspection.joint = files[number][1].base if number < len(files) else part.base
                inspection.unlinked = part.unlinked
                found.add(_check(inspection, path, as_json=wants_json(args)))
            found.add(_check(part, part.name, as_json=wants_json(args)))
    return 1 if 1 in found else max(found)


def _check(inspection: Inspection | LogInspection, path: Path | str | None, *, as_json: bool) -> int:
    """Check one file and print it; return its exit status.

    Args:
        inspection: not started.
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
    for one in summary.erasures:
        about = f"row {one['row']}, {one['id']}, on {utc(one['erased_at'])} by {one['kernel_key']}: {one['reason']}"
        emit(f"erased    {escaped(about)}" + ("" if one["chained"] else "; digest by this signature alone"))
    if summary.erased > len(summary.erasures):
        emit(f"erased    {summary.erased} receipts in all")
    if summary.anchored is not None:
        since = summary.covered_from or 0
        stated = f", for rows from {since} on: the digest of row {since} rests on a signature"
        emit(f"--head    row {summary.anchored}" + (stated if since > summary.archived + 1 else ""))
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


EXPORT_DESCRIPTION = """Write the receipts of a time into a new folder that is verified without the store.

The folder has the receipts byte for byte, their part of the hash chain, the keys that signed, the head of the chain,
signed with the sidecar's key if it is there, and a README.md that says how to verify all of it without this program.
Of a database each log has a folder of its own in it.
`receipt verify FOLDER` does it, and refuses a folder in which receipts are missing. The sidecar may run meanwhile.
"""


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt export`."""
    parser.description = EXPORT_DESCRIPTION
    parser.set_defaults(run=run_export)
    parser.add_argument("target", metavar="FOLDER", type=Path, help="the new folder; it must not exist")
    parser.add_argument("--since", metavar="TIME", type=moment, help=f"signed then or later: {TIMES}")
    parser.add_argument("--until", metavar="TIME", type=moment, help="signed then or earlier, in the same forms")


def run_export(args: argparse.Namespace) -> int:
    """Write the folder, and print which rows it has, its head, and what it leaves out.

    Raises:
        CliError: no store is named.
        ConfigurationError: the store cannot be read, has no receipt of that time, or the folder cannot be written.
    """
    place = required_store(args, "receipt export needs a store")
    open_archive(place.path, option=place.named_by).close()  # raises if there is no such store
    beside = key_beside(place.path) if isinstance(place.path, Path) else place.path.key_path
    named = args.authority_seed_file or beside
    key = None if named is None else existing_key(named)
    made = write(place.path, args.target, since=args.since, until=args.until, key=key, now=int(time.time()))
    if wants_json(args):
        emit(compact({"folder": str(args.target), **made}))
        return 0
    for name, one in made.get("exports", {"": made}).items():
        about = f"{name} " if name else ""
        emit(f"{about}rows      {one['rows']['first']} to {one['rows']['last']}")
        for entry in one["keys"]:
            emit(f"{about}signed by {escaped(entry['kernel_key'])}, {entry['receipts']}")
        emit(f"{about}head      {one['head']}, {'not signed' if key is None else f'signed by {key.public_hex}'}")
        if one["left_out"] is not None:
            say(f"{about}not complete: {escaped(one['left_out'])}")
    return 0
