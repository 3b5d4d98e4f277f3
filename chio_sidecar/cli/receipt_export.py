"""`receipt export`: one folder for an auditor."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from chio_sidecar.cli.options import TIMES, moment, required_store, wants_json
from chio_sidecar.cli.terminal import compact, emit, escaped, say
from chio_sidecar.keys import existing_key, key_beside
from chio_sidecar.records.archive import open_archive
from chio_sidecar.records.export import write

DESCRIPTION = """Write the receipts of a time into a new folder that is verified without the store.

The folder has the receipts byte for byte, their part of the hash chain, the keys that signed, the head of the chain,
signed with the sidecar's key if it is there, and a README.md that says how to verify all of it without this program.
Of a database each log has a folder of its own in it.
`receipt verify FOLDER` does it, and refuses a folder in which receipts are missing. The sidecar may run meanwhile.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt export`."""
    parser.description = DESCRIPTION
    parser.set_defaults(run=run)
    parser.add_argument("target", metavar="FOLDER", type=Path, help="the new folder; it must not exist")
    parser.add_argument("--since", metavar="TIME", type=moment, help=f"signed then or later: {TIMES}")
    parser.add_argument("--until", metavar="TIME", type=moment, help="signed then or earlier, in the same forms")


def run(args: argparse.Namespace) -> int:
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
