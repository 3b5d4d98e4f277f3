"""`receipt verify`: check receipts from a file, standard input or a store.

One JSON object a line, a bundle of the viewer, or receipts over many lines as `receipt show` prints them.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.receipts import verify_receipt
from chio_core.signing import normalize_public_key
from chio_sidecar.cli.options import CliError, compact, emit, say, wants_json
from chio_sidecar.cli.receipt_list import add_store
from chio_sidecar.cli.store_place import EITHER, StorePlace, of_options, of_settings
from chio_sidecar.records import bundle
from chio_sidecar.records.reader import ReceiptFilter, ReceiptReader


@dataclass(frozen=True)
class Judgement:
    """What verification said about one receipt.

    Attributes:
        rule: the rule that failed; None when all hold.
    """

    receipt_id: str | None
    rule: str | None = None
    message: str | None = None

    @property
    def valid(self) -> bool:
        """True when every rule holds."""
        return self.rule is None

    def text(self) -> str:
        """Return a line for people."""
        name = json.dumps(self.receipt_id)[1:-1] if self.receipt_id else "?"  # a forged id may hold line breaks
        return f"{name} valid" if self.valid else f"{name} INVALID {self.rule}: {self.message}"

    def document(self) -> dict[str, Any]:
        """Return a line for programs."""
        document: dict[str, Any] = {"id": self.receipt_id, "valid": self.valid}
        return document if self.valid else document | {"rule": self.rule, "message": self.message}


def add_trusted_key(parser: argparse.ArgumentParser) -> None:
    """Add the option for trusted keys, which may be given several times."""
    parser.add_argument(
        "--trusted-key",
        metavar="HEX",
        action="append",
        type=_key,
        help="public key of a sidecar; without one a good signature only shows that nothing was changed",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="one receipt a line, one as `receipt show` prints it, or a bundle of the viewer; -: standard input; "
        "nothing: the store that is named, or what is piped in",
    )
    add_store(parser)
    add_trusted_key(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line for each receipt; the exit status is 1 when any fails, or there is none.

    Raises:
        CliError: the file cannot be read, or holds no receipt.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    count = failed = 0
    with _receipts(args) as lines:
        for document in lines:
            judgement = judge(document, args.trusted_key)
            count, failed = count + 1, failed + (not judgement.valid)
            emit(compact(judgement.document()) if wants_json(args) else judgement.text())
    note_when_nobody_is_trusted(args.trusted_key)
    say(f"{count} receipt{'' if count == 1 else 's'}: {count - failed} valid, {failed} invalid")
    if not count:
        raise CliError(
            "there was no receipt to verify",
            fix=f"see whether the command that prints them failed; for a whole store {EITHER}",
        )
    return 1 if failed else 0


def judge(document: Any, trusted_keys: list[str] | None) -> Judgement:
    """Verify one receipt.

    Args:
        document: the parsed JSON object, or the `InvalidDocument` that came of parsing it.
        trusted_keys: public keys in hex; None trusts any.
    """
    if isinstance(document, InvalidDocument):
        return Judgement(None, "shape", document.message)
    if not isinstance(document, dict):
        return Judgement(None, "shape", "the line holds no JSON object")
    found = document.get("id")
    name = found if isinstance(found, str) else None
    try:
        verify_receipt(document, trusted_keys=trusted_keys)
    except ReceiptRejected as exc:
        return Judgement(name, exc.rule, exc.message)
    return Judgement(name)


def note_when_nobody_is_trusted(trusted_keys: list[str] | None) -> None:
    """Say what a check without a trusted key does not show."""
    if not trusted_keys:
        say(
            "note: no --trusted-key was given, so this shows that nothing was changed since the signing, not who signed"
        )


@contextmanager
def _receipts(args: argparse.Namespace) -> Iterator[Iterable[Any]]:
    if (store := _store(args)) is not None:
        with ReceiptReader(store.path, option=store.named_by) as reader:
            yield (receipt for _, receipt in reader.rows(ReceiptFilter()))
    elif args.file in (None, "-"):
        if sys.stdin is None:
            raise CliError("there is no standard input to read receipts from", fix=f"give a FILE, or {EITHER}")
        if args.file is None and sys.stdin.isatty():
            say(f"reading receipts from this terminal, one a line; for a store {EITHER}")
        yield _parse(sys.stdin.buffer)
    else:
        try:
            with open(args.file, "rb") as file:
                yield _parse(file)
        except OSError as exc:
            raise CliError(f"cannot read {args.file}: {exc.strerror}") from None


def _store(args: argparse.Namespace) -> StorePlace | None:
    if args.file is not None:
        return None
    # A pipe is read: what fails in front of it must not end with a good word about something else.
    return of_options(args) or (None if _is_fed() else of_settings())


def _is_fed() -> bool:
    """Tell whether something was piped or redirected into this process; a terminal and /dev/null are neither."""
    try:
        return not stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode)
    except AttributeError:
        return False  # it was started with standard input closed
    except (OSError, ValueError):
        return True  # a stand-in of Python's, which has something to read


def _parse(lines: IO[bytes]) -> Iterator[Any]:
    for line in _documents(lines):
        try:
            document = parse_json(line)
            texts = bundle.texts_of(document)
        except InvalidDocument as exc:
            yield exc
        else:
            yield from [document] if texts is None else map(_parsed, texts)


def _documents(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join the lines of a receipt as `receipt show` prints it: from a `{` alone to a `}` alone."""
    open_lines: list[bytes] = []
    for line in lines:
        if open_lines or line.rstrip() == b"{":
            open_lines.append(line)
            if line.rstrip() == b"}":
                yield b"".join(open_lines)
                open_lines = []
        elif line.strip():
            yield line
    yield from filter(bytes.strip, open_lines)  # never closed: each line stands for itself


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except InvalidDocument as exc:
        return exc


def _key(text: str) -> str:
    try:
        return normalize_public_key(text)
    except InvalidDocument as exc:
        raise argparse.ArgumentTypeError(exc.message) from None
