"""`receipt rotate`: move old receipts into an archive, and keep the live state."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from chio_core.errors import ConfigurationError
from chio_core.signing import SigningKey
from chio_sidecar.cli.options import TIMES, moment, required_store, wants_json
from chio_sidecar.cli.terminal import CliError, compact, emit, escaped
from chio_sidecar.keys import existing_key
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.records.fsck import Inspection
from chio_sidecar.store.place import Place
from chio_sidecar.store.rotate import archive, trim
from chio_sidecar.store.statements import ArchiveStatement

DESCRIPTION = """Archive the receipts of a store, and remove the old ones from it, while a sidecar writes to it.

The archive is a complete copy, a store that receipt list, show, verify and fsck read. It states its last row and the
head of the chain, signed with the sidecar's key. Only after it was checked as receipt fsck does, what it holds is
removed from the store, in windows of rows: the sidecar's commits wait for some milliseconds at most.

Of a database each log goes into a file of its own, in a new folder: ARCHIVE. Rotate as the owner of the tables, or as
a role that `store migrate --archive-role` gave the rights; the role of the sidecars cannot remove anything. One key of
the sidecars, ?key=FILE, signs for all logs.

The store keeps its revocations and approvals, what each budget and limited grant has spent, and the receipts of the
last time (--keep), by which a repeated request is recognised. Its chain goes on from the archive: receipt fsck
--archive ARCHIVE checks both as one. The file does not shrink; new receipts take the free pages first.

A rotation that was ended early loses nothing. The store is in order after every step; rotate it again to go on.
"""

_KEEP = "48h"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt rotate`."""
    parser.description = DESCRIPTION
    parser.set_defaults(run=run)
    parser.add_argument(
        "--to", metavar="ARCHIVE", type=Path, required=True, help="the new file or folder; it must not exist"
    )
    parser.add_argument(
        "--keep",
        metavar="TIME",
        type=moment,
        default=_KEEP,
        help=f"receipts that were stored then or later stay in the store too ({_KEEP}): {TIMES}",
    )


def run(args: argparse.Namespace) -> int:
    """Archive, check the archive, remove; print what the archive holds and how many receipts were removed.

    Raises:
        CliError: no store is named, there is no key, or the archive has findings; then nothing was removed.
        ConfigurationError: a file cannot be used.
    """
    place = required_store(args, "receipt rotate needs a store")
    with open_archive(place.path, option=place.named_by) as reader:  # raises if there is no such store
        newest = next(iter(reader.rows(ReceiptFilter(), newest_first=True)), None)
    path = args.authority_seed_file or place.key_path
    key = existing_key(path)
    if key is None:
        raise CliError(
            f"there is no key at {path} to sign the archive",
            fix="name the key that signs the receipts: --authority-seed-file FILE",
        )
    if newest is not None and isinstance(place.path, Path) and newest[1].get("kernel_key") != key.public_hex:
        raise CliError(
            f"the newest receipt is not signed by {key.public_hex}, the key in {path}",
            fix="name the key that signs the receipts, --authority-seed-file FILE; a new key after its first one",
        )

    # Archive.
    made, remove = _archive(place.path, args.to, key, keep=args.keep)

    # Check.
    signers: set[str] = set()
    erased: dict[Path, set[int]] = {}
    for file, _ in made:
        with closing(Inspection(file)) as inspection:
            findings = sum(1 for _ in inspection.findings())
            signers.update(inspection.summary.keys)
            erased[file] = inspection.erasures.rows
        if findings or inspection.summary.unfinished is not None:
            raise CliError(
                f"the archive {file} is complete, but receipt fsck has {findings} findings; nothing was removed",
                fix=f"see chio-sidecar receipt fsck --receipt-store {file}",
            )
    if key.public_hex not in signers:
        raise CliError(
            f"no receipt is signed by {key.public_hex}, the key in {path}; nothing was removed",
            fix="name the key of a sidecar that stores in this database, ?key=FILE or --authority-seed-file FILE",
        )

    # Remove.
    removed = 0
    try:
        for some in remove(erased):
            removed += some
    except ConfigurationError as exc:
        raise ConfigurationError(
            f"{exc.message}; the archive {args.to} is complete, and {removed} receipts were removed; rotate again to"
            " go on"
        ) from None
    if wants_json(args):
        files = [{"archive": str(file), "first": one.first, "last": one.last, "head": one.head} for file, one in made]
        found = files[0] if isinstance(place.path, Path) else {"folder": str(args.to), "archives": files}
        emit(compact(found | {"removed": removed}))
        return 0
    for file, one in made:
        emit(f"archive   {escaped(str(file))}, rows {one.first} to {one.last}")
        emit(f"head      {one.head}")
    emit(f"removed   {removed} receipts")
    return 0


def _archive(
    place: Place, target: Path, key: SigningKey, *, keep: int
) -> tuple[list[tuple[Path, ArchiveStatement]], Callable[[Mapping[Path, Collection[int]]], Iterator[int]]]:
    """Archive a store; return each file and what it states, and a function that removes what these hold.

    It takes for each file the rows that are erased in it.
    """
    now = int(time.time())
    if isinstance(place, Path):
        said = archive(place, target, key, now=now)
        statement = said.signed_by(key)
        return [(target, said)], lambda erased: trim(place, said, statement, before=keep, erased=erased[target])
    from chio_sidecar.store.postgresql import rotate

    logs = rotate.archive(place, target, key, now=now)
    signed = {log: said.signed_by(key) for log, said in logs.items()}
    files = {log: target / f"log-{log}" for log in logs}

    def remove(erased: Mapping[Path, Collection[int]]) -> Iterator[int]:
        own = {log: erased[file] for log, file in files.items()}
        return rotate.trim(place, logs, signed, before=keep, erased=own)

    return [(files[log], said) for log, said in logs.items()], remove
