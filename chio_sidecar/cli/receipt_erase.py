"""`receipt erase`: erase the content of receipts, and leave a signed record of that."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from chio_core.signing import SigningKey
from chio_sidecar.cli.options import StorePlace, required_store, wants_json
from chio_sidecar.cli.terminal import CliError, compact, emit, escaped, say, utc
from chio_sidecar.keys import existing_key
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.records.reader import ReceiptReader
from chio_sidecar.store.erase import Erased, check, erase, remains, signer
from chio_sidecar.store.place import DatabasePlace

DESCRIPTION = """Erase the content of receipts from a store, or from an archive of receipt rotate, while a sidecar
writes to it.

In the place of each receipt is then a record, signed with the sidecar's key: ids of receipt and request, row, hashes,
the time of the receipt and of the erasure, and the reason. Every chain verifies as before, receipt fsck lists the
erasures, and budgets, uses and approvals count as before. A repeated request id is a conflict (409).

Without --yes it only prints what it would erase. All receipts of one call are erased, or none. An archive is named with
--receipt-store; of a database erase as the owner of the tables, or as a role that `store migrate --erase-role` gave the
rights. A backup keeps the receipt, and so does an archive that was made before: the command names such archives.
"""

_LONGEST = 500


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt erase`."""
    parser.description = DESCRIPTION
    parser.set_defaults(run=run)

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
        help="rewrite the file afterwards, so that its unused room holds nothing: sidecars wait, and no backup and no"
        " rotation may run meanwhile",
    )
    parser.add_argument("--yes", action="store_true", help="erase; without it nothing is changed")


def run(args: argparse.Namespace) -> int:
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

    sign = signer(_key(args, place), reason=args.reason, now=int(time.time()))
    left: list[str] = []
    if isinstance(place.path, Path):
        erased, emptied = erase(place.path, args.ids, sign, vacuum=args.vacuum)
        if not emptied:
            left.append(f"the write-ahead log of {place.path}, until other processes let it go: erase again then")
        left += [f"{file}, in room that is not used: --vacuum rewrites it" for file in remains(place.path, erased)]
        if not args.vacuum and not all(one.signature for one in erased):
            # Its signature, by which a copy would be found, was erased with it.
            about = "perhaps: it cannot be searched for a receipt that was erased before; --vacuum rewrites it"
            left.append(f"{place.path}, {about}")
    else:
        if args.vacuum:
            raise CliError("--vacuum is about a file, and this store is in a database", fix="leave it out")
        from chio_sidecar.store.postgresql import erase as database

        erased = database.erase(place.path, args.ids, sign)
        left.append("old versions of the rows: run VACUUM chio.http_receipts as the owner of the tables")
    _print(args, place, erased, left)
    return 0


def _key(args: argparse.Namespace, place: StorePlace) -> SigningKey:
    """Return the key that signs the erasures.

    It must sign the new receipts of a store to which a sidecar writes, and have signed something in an archive: fsck
    would have a finding about any other one, and an erasure cannot be undone.
    """
    path = args.authority_seed_file or place.key_path
    key = existing_key(path)
    if key is None:
        raise CliError(
            f"there is no key at {path} to sign the erasure",
            fix="name the key that signs the receipts: --authority-seed-file FILE",
        )
    if isinstance(place.path, DatabasePlace):
        from chio_sidecar.store.postgresql.erase import signs

        is_known = signs(place.path, key.public_hex)
    elif not place.path.stat().st_mode & 0o200:
        with ReceiptReader(place.path, option=place.named_by) as archive:
            is_known = archive.has_signed(key.public_hex)
        if not is_known:
            raise CliError(
                f"nothing in {place.path} is signed by {key.public_hex}, the key in {path}",
                fix="name a key that signed its receipts or its statement: --authority-seed-file FILE; if none is left,"
                " delete the whole archive",
            )
    else:
        with open_archive(place.path, option=place.named_by) as reader:
            newest = next(iter(reader.rows(ReceiptFilter(), newest_first=True)), None)
        is_known = newest is not None and newest[1].get("kernel_key") == key.public_hex
    if not is_known:
        raise CliError(
            f"no new receipt is signed by {key.public_hex}, the key in {path}",
            fix="name the key that signs the receipts: --authority-seed-file FILE, or ?key=FILE of a database",
        )
    return key


def _print(args: argparse.Namespace, place: StorePlace, erased: list[Erased], left: list[str]) -> None:
    own = place.path.name if isinstance(place.path, Path) else None
    archives = sorted({name for one in erased for name in one.archives if name.rpartition("/")[2] != own})
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
