"""`receipt show`: one receipt, readable."""

from __future__ import annotations

import argparse
import json
from typing import Any

from chio_sidecar.cli.options import CliError, compact, emit, printable, say, wants_json
from chio_sidecar.cli.receipt_list import add_store
from chio_sidecar.cli.receipt_verify import add_trusted_key, judge, note_when_nobody_is_trusted
from chio_sidecar.cli.store_place import required_store
from chio_sidecar.records.reader import ReceiptReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("id", metavar="ID", help="id of the receipt")
    parser.add_argument("--verify", action="store_true", help="check its signature too; exit 1 when it fails")
    add_store(parser)
    add_trusted_key(parser)


def run(args: argparse.Namespace) -> int:
    """Print a receipt of the store.

    Raises:
        CliError: no store is named, or it holds no such receipt.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    store = required_store(args, "receipt show needs a store")
    with ReceiptReader(store.path, option=store.named_by) as reader:
        receipt = reader.get(args.id)
    if receipt is None:
        raise CliError(f"no receipt {args.id} in {store.path}", fix="`receipt list` prints the ids")
    emit(compact(receipt) if wants_json(args) else json.dumps(receipt, ensure_ascii=True, indent=2))
    return _verify(receipt, args) if args.verify else 0


def _verify(receipt: dict[str, Any], args: argparse.Namespace) -> int:
    judgement = judge(receipt, args.trusted_key)
    note_when_nobody_is_trusted(args.trusted_key)
    say(judgement.text())
    if judgement.valid:
        about = f"{receipt['method']} {receipt['route_pattern']}, request {receipt['request_id']}"
        say(printable(f"signed by {receipt['kernel_key']}, about {about}"))
    return 0 if judgement.valid else 1
