"""`store migrate`, `store status` and `store backup`: a receipt store in PostgreSQL."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from chio_core.errors import ConfigurationError
from chio_sidecar.cli.options import required_store, wants_json
from chio_sidecar.cli.table import Column, Table
from chio_sidecar.cli.terminal import CliError, compact, emit, escaped, utc
from chio_sidecar.private_files import create_private
from chio_sidecar.store.place import DatabasePlace

if TYPE_CHECKING:
    from chio_sidecar.store.postgresql.connection import Connection

MIGRATE_DESCRIPTION = """\
Make the tables of the receipt store in a database, or bring them to the version that this chio-sidecar needs, and give
a role the rights of a sidecar. Run it as the role that owns the tables, and never as that of the sidecars. Sidecars of
the version before go on working meanwhile, as far as `store status` says. --archive-role gives another role the rights
of `receipt rotate`, which removes what an archive holds, --erase-role those of `receipt erase`, which puts a signed
record in the place of a receipt, and --trust-role those of `trust serve`.
"""

BACKUP_DESCRIPTION = """\
Copy the receipt store of a database to a file with pg_dump, as of one moment, while sidecars write to it. pg_restore
restores it. The keys of the sidecars, and that of an authority in the same database, are not in it.
"""

ROLE = "chio_sidecar"
_SECONDS = 30.0
_COLUMNS = (
    Column("LOG"),
    Column("ROWS"),
    Column("ARCHIVED"),
    Column("HELD"),
    Column("LAST HOLDER", fits=24, grows=True),
    Column("HEAD"),
)
_KEYS = (Column("LOG"), Column("FROM ROW"), Column("SINCE"), Column("SIGNED BY"))


def add_migrate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `store migrate`."""
    parser.description = MIGRATE_DESCRIPTION
    parser.set_defaults(run=run_migrate)
    parser.add_argument("--role", metavar="NAME", default=ROLE, help=f"role of the sidecars ({ROLE})")
    parser.add_argument("--archive-role", metavar="NAME", help="role of receipt rotate; without it the owner rotates")
    parser.add_argument("--erase-role", metavar="NAME", help="role of receipt erase; without it the owner erases")
    parser.add_argument("--trust-role", metavar="NAME", help="role of trust serve, if it keeps its data here")


def add_status_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `store status`."""
    parser.set_defaults(run=run_status)


def add_backup_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `store backup`."""
    parser.description = BACKUP_DESCRIPTION
    parser.set_defaults(run=run_backup)
    parser.add_argument("target", metavar="TARGET", type=Path, help="the new file; it must not exist")


def run_migrate(args: argparse.Namespace) -> int:
    """Migrate, and print the versions before and after.

    Raises:
        CliError: no database is named.
        ConfigurationError: it cannot be migrated.
    """
    from chio_sidecar.store.postgresql.schema import migrate

    with closing(_connected(_database(args))) as connection:
        roles = {name: getattr(args, name) for name in ("archive_role", "erase_role", "trust_role")}
        migrated = migrate(connection, args.role, **roles)
    if wants_json(args):
        emit(compact({"before": migrated.before, "version": migrated.after, "role": args.role} | roles))
        return 0
    emit(f"version   {migrated.after}" + (f", before {migrated.before}" if migrated.before != migrated.after else ""))
    emit(f"role      {escaped(args.role)} may read, and add what a sidecar adds")
    if args.archive_role is not None:
        emit(f"role      {escaped(args.archive_role)} may read, and remove what an archive holds")
    if args.erase_role is not None:
        emit(f"role      {escaped(args.erase_role)} may read, and erase receipts")
    if args.trust_role is not None:
        emit(f"role      {escaped(args.trust_role)} may read and revoke, and has the key of the authority")
    return 0


def run_status(args: argparse.Namespace) -> int:
    """Print the schema version and the log of each sidecar.

    Raises:
        CliError: no database is named.
        ConfigurationError: it cannot be read.
    """
    from chio_sidecar.store.postgresql.schema import status
    from chio_sidecar.store.postgresql.tables import SCHEMA_VERSION

    with closing(_connected(_database(args))) as connection:
        found = status(connection)
    if wants_json(args):
        emit(compact(found.document() | {"needs": SCHEMA_VERSION}))
        return 0
    emit(
        f"version   {found.version}, works with sidecars from version {found.oldest} on; this one has {SCHEMA_VERSION}"
    )
    Table(_COLUMNS).print(
        [str(log.number), str(log.rows), str(log.archived), "yes" if log.is_held else "no", log.holder, log.head]
        for log in found.logs
    )
    Table(_KEYS).print(
        [str(log.number), str(key["first"]), utc(key["since"]), key["kernel_key"]]
        for log in found.logs
        for key in log.keys
    )
    return 0


def run_backup(args: argparse.Namespace) -> int:
    """Copy the store with `pg_dump`.

    Raises:
        CliError: no database is named, or `pg_dump` is missing or fails.
    """
    place = _database(args)
    if args.target.exists():
        raise CliError(f"{args.target} exists", fix="name a new file")
    program = shutil.which("pg_dump")
    if program is None:
        raise CliError("pg_dump is not on PATH", fix="install the client programs of PostgreSQL")
    try:
        create_private(args.target)  # pg_dump would let other users read it
    except OSError as exc:
        raise CliError(f"cannot write {args.target}: {exc.strerror}", fix="name a new file in a folder") from None
    options = ["--format=custom", "--schema=chio", "--no-password", f"--file={args.target}", f"--dbname={place.url}"]
    done = subprocess.run([program, *options], capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    if done.returncode != 0:
        args.target.unlink(missing_ok=True)
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise CliError(f"pg_dump failed: {escaped(said)}", fix="its role must be able to read the schema chio")
    emit(compact({"target": str(args.target)}) if wants_json(args) else f"copied to {escaped(str(args.target))}")
    return 0


def _database(args: argparse.Namespace) -> DatabasePlace:
    place = required_store(args, "store commands need a database").path
    if isinstance(place, Path):
        raise CliError(f"{place} is a file", fix="name a database: --receipt-store postgresql://USER@HOST/DATABASE")
    return place


def _connected(place: DatabasePlace) -> Connection:
    from chio_sidecar.store.postgresql.connection import DatabaseError, connect, trouble

    try:
        return connect(place, seconds=_SECONDS)
    except DatabaseError as exc:
        raise ConfigurationError(f"cannot use {place.shown}: {trouble(exc) or exc}") from None
