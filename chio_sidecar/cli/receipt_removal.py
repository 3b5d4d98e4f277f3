"""`receipt rotate` and `receipt erase`: what leaves a store, and the signed statement about it that stays."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from chio_core.errors import ConfigurationError
from chio_core.signing import SigningKey
from chio_sidecar.cli.options import TIMES, StorePlace, moment, required_store, wants_json
from chio_sidecar.cli.terminal import CliError, compact, emit, escaped, say, utc
from chio_sidecar.keys import existing_key
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.records.fsck import Inspection
from chio_sidecar.records.reader import ReceiptReader
from chio_sidecar.store.compressed import is_compressed
from chio_sidecar.store.erase import Erased, check, erase, remains, signer
from chio_sidecar.store.place import DatabasePlace, Place
from chio_sidecar.store.rotate import archive, trim
from chio_sidecar.store.statements import ArchiveStatement

ROTATE_DESCRIPTION = """Archive the receipts of a store, and remove the old ones from it, while a sidecar writes to it.

The archive is a complete copy, a store that receipt list, show, verify and fsck read, compressed if its name ends in
.xz. It states its last row and the head of the chain, signed with the sidecar's key. Only after it was checked as
receipt fsck does, what it holds is removed from the store, in windows of rows: the sidecar's commits wait for some
milliseconds at most.

Of a database each log goes into a compressed file of its own, in a new folder: ARCHIVE. Rotate as the owner of the
tables, or as a role that `store migrate --archive-role` gave the rights; the role of the sidecars cannot remove
anything. One key of the sidecars, ?key=FILE, signs for all logs.

The store keeps its revocations and approvals, what each budget and limited grant has spent, and the receipts of the
last time (--keep), by which a repeated request is recognised. Its chain goes on from the archive: receipt fsck
--archive ARCHIVE checks both as one. The file does not shrink; new receipts take the free pages first.

A rotation that was ended early loses nothing. The store is in order after every step; rotate it again to go on.
"""

_KEEP = "48h"


def add_rotate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt rotate`."""
    parser.description = ROTATE_DESCRIPTION
    parser.set_defaults(run=run_rotate)
    parser.add_argument(
        "--to",
        metavar="ARCHIVE",
        type=Path,
        required=True,
        help="the new file or folder; it must not exist; a file is compressed if its name ends in .xz",
    )
    parser.add_argument(
        "--keep",
        metavar="TIME",
        type=moment,
        default=_KEEP,
        help=f"receipts that were stored then or later stay in the store too ({_KEEP}): {TIMES}",
    )


def run_rotate(args: argparse.Namespace) -> int:
    """Archive, check the archive, remove; print what the archive holds and how many receipts were removed.

    Raises:
        CliError: no store is named, there is no key, or the archive has findings; then nothing was removed.
        ConfigurationError: a file cannot be used.
    """
    place = required_store(args, "receipt rotate needs a store")
    newest = _newest_signer(place)  # raises if there is no such store
    key, path = _signing_key(args, place, "the archive")
    if newest is not None and isinstance(place.path, Path) and newest != key.public_hex:
        raise CliError(
            f"the newest receipt is not signed by {key.public_hex}, the key in {path}",
            fix="name the key that signs the receipts, --authority-seed-file FILE; a new key after its first one",
        )

    # Archive.
    made, remove = _archive(place.path, args.to, key, keep=args.keep)

    # Check.
    signers, erased = _check(file for file, _ in made)
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
    files = {log: target / f"log-{log}.xz" for log in logs}

    def remove(erased: Mapping[Path, Collection[int]]) -> Iterator[int]:
        own = {log: erased[file] for log, file in files.items()}
        return rotate.trim(place, logs, signed, before=keep, erased=own)

    return [(files[log], said) for log, said in logs.items()], remove


def _check(files: Iterable[Path]) -> tuple[set[str], dict[Path, set[int]]]:
    """Check archives as `receipt fsck` does; return the keys (hex) that signed, and the erased rows of each.

    Raises:
        CliError: one has findings.
    """
    signers: set[str] = set()
    erased: dict[Path, set[int]] = {}
    for file in files:
        with closing(Inspection(file)) as inspection:
            findings = sum(1 for _ in inspection.findings())
            signers.update(inspection.summary.keys)
            erased[file] = inspection.erasures.rows
        if findings or inspection.summary.unfinished is not None:
            raise CliError(
                f"the archive {file} is complete, but receipt fsck has {findings} findings; nothing was removed",
                fix=f"see chio-sidecar receipt fsck --receipt-store {file}",
            )
    return signers, erased


ERASE_DESCRIPTION = """Erase the content of receipts from a store, or from an archive of receipt rotate, while a sidecar
writes to it.

In the place of each receipt is then a record, signed with the sidecar's key: ids of receipt and request, row, hashes,
the time of the receipt and of the erasure, and the reason. Every chain verifies as before, receipt fsck lists the
erasures, and budgets, uses and approvals count as before. A repeated request id is a conflict (409).

Without --yes it only prints what it would erase. All receipts of one call are erased, or none. An archive is named with
--receipt-store; of a database erase as the owner of the tables, or as a role that `store migrate --erase-role` gave the
rights. A backup keeps the receipt, and so does an archive that was made before: the command names such archives.
"""

_LONGEST = 500


def add_erase_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt erase`."""
    parser.description = ERASE_DESCRIPTION
    parser.set_defaults(run=run_erase)

    def reason(text: str) -> str:
        if not text.strip() or not text.isprintable() or len(text) > _LONGEST:
            raise argparse.ArgumentTypeError(f"a reason is one line of at most {_LONGEST} characters")
        return text

    parser.add_argument("ids", metavar="ID", nargs="+", help="id of a receipt, as receipt list prints it")
    parser.add_argument(
        "--reason", metavar="TEXT", type=reason, required=True, help="why; it is stored for ever, so it names no person"
    )
    parser.add_argument(
        "--vacuum",
        action="store_true",
        help="rewrite the file afterwards, so that its unused room holds nothing: sidecars wait; refused while a backup"
        " or a rotation of a store in the same folder runs",
    )
    parser.add_argument("--yes", action="store_true", help="erase; without it nothing is changed")


def run_erase(args: argparse.Namespace) -> int:
    """Print what would be erased, or erase it and print what is left.

    Raises:
        CliError: no store is named, there is no such receipt, or no key that signs here.
        ConfigurationError: the store cannot be used; nothing was erased.
    """
    place = required_store(args, "receipt erase needs a store")
    if isinstance(place.path, Path):
        check(place.path)
    with open_archive(place.path, option=place.named_by) as reader:
        found = {receipt_id: reader.get(receipt_id) for receipt_id in args.ids}
        archived = reader.archived()
    if missing := [receipt_id for receipt_id, receipt in found.items() if receipt is None]:
        older = f"; older ones are in archives such as {archived[1]}: name one with --receipt-store" if archived else ""
        raise CliError(f"no receipt {missing[0]} in {place.path}", fix=f"`receipt list` prints the ids{older}")
    if not args.yes:
        for receipt_id, receipt in found.items():
            about = f"signed {utc((receipt or {}).get('timestamp'))}"
            done = f", erased {utc(receipt['erased_at'])}" if receipt and "erased_at" in receipt else ""
            emit(compact({"would_erase": receipt_id}) if wants_json(args) else f"{escaped(receipt_id)} {about}{done}")
        say("nothing was erased; --yes erases")
        return 0

    sign = signer(_erasing_key(args, place), reason=args.reason, now=int(time.time()))
    left: list[str] = []
    if isinstance(place.path, Path):
        erased, emptied = erase(place.path, args.ids, sign, vacuum=args.vacuum)
        if not emptied:
            left.append(f"the write-ahead log of {place.path}, until other processes let it go: erase again then")
        left += [f"{file}, in room that is not used: --vacuum rewrites it" for file in remains(place.path, erased)]
        if not args.vacuum and not is_compressed(place.path) and not all(one.signature for one in erased):
            # Its signature, by which a copy would be found, was erased with it.
            about = "perhaps: it cannot be searched for a receipt that was erased before; --vacuum rewrites it"
            left.append(f"{place.path}, {about}")
    else:
        if args.vacuum:
            raise CliError("--vacuum is about a file, and this store is in a database", fix="leave it out")
        from chio_sidecar.store.postgresql import erase as database

        erased = database.erase(place.path, args.ids, sign)
        left.append("old versions of the rows: run VACUUM chio.http_receipts as the owner of the tables")
    _print_erased(args, place, erased, left)
    return 0


def _erasing_key(args: argparse.Namespace, place: StorePlace) -> SigningKey:
    """Return the key that signs the erasures.

    It must sign the new receipts of a store to which a sidecar writes, and have signed something in an archive: fsck
    would have a finding about any other one, and an erasure cannot be undone.
    """
    key, path = _signing_key(args, place, "the erasure")
    if isinstance(place.path, DatabasePlace):
        from chio_sidecar.store.postgresql.erase import signs

        is_known = signs(place.path, key.public_hex)
    elif not place.path.stat().st_mode & 0o200:
        with ReceiptReader(place.path, option=place.named_by) as records:
            is_known = records.has_signed(key.public_hex)
        if not is_known:
            raise CliError(
                f"nothing in {place.path} is signed by {key.public_hex}, the key in {path}",
                fix="name a key that signed its receipts or its statement: --authority-seed-file FILE; if none is left,"
                " delete the whole archive",
            )
    else:
        is_known = _newest_signer(place) == key.public_hex
    if not is_known:
        raise CliError(
            f"no new receipt is signed by {key.public_hex}, the key in {path}",
            fix="name the key that signs the receipts: --authority-seed-file FILE, or ?key=FILE of a database",
        )
    return key


def _print_erased(args: argparse.Namespace, place: StorePlace, erased: list[Erased], left: list[str]) -> None:
    own = place.path.name.removesuffix(".xz") if isinstance(place.path, Path) else None
    names = {name for one in erased for name in one.archives}
    archives = sorted(name for name in names if name.rpartition("/")[2].removesuffix(".xz") != own)
    if wants_json(args):
        done = [{"id": one.erasure.id, "row": one.erasure.row, "digest": one.erasure.digest} for one in erased]
        emit(compact({"erased": done, "archives": archives, "left": left}))
        return
    for one in erased:
        about = "erased   " if one.signature else "before   "
        emit(f"{about} {escaped(one.erasure.id)}, row {one.erasure.row}, digest {one.erasure.digest}")
    for name in archives:
        emit(f"also in   {escaped(name)}: erase it there too, with --receipt-store")
    for text in left:
        emit(f"left in   {escaped(text)}")
    say("backups have it too")


def _signing_key(args: argparse.Namespace, place: StorePlace, what: str) -> tuple[SigningKey, Path]:
    """Return the key that signs `what` a command makes, and the path of its file.

    Raises:
        CliError: there is no key.
    """
    path = args.authority_seed_file or place.key_path
    key = existing_key(path)
    if key is None:
        raise CliError(
            f"there is no key at {path} to sign {what}",
            fix="name the key that signs the receipts: --authority-seed-file FILE",
        )
    return key, path


def _newest_signer(place: StorePlace) -> str | None:
    """Return the key (hex) that the newest receipt of a store names; None without one.

    Raises:
        ConfigurationError: there is no such store, or it cannot be read.
    """
    with open_archive(place.path, option=place.named_by) as reader:
        newest = next(iter(reader.rows(ReceiptFilter(), newest_first=True)), None)
    return None if newest is None else newest[1].get("kernel_key")
