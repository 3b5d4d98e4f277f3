"""`receipt verify`: the signature of each receipt, and whether a bundle holds all that it is about."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_sidecar.cli.options import (
    EITHER,
    add_trusted_key_option,
    note_overridden,
    store_of_options,
    store_of_settings,
    wants_json,
)
from chio_sidecar.cli.terminal import CliError, compact, emit, escaped, printable, say, utc
from chio_sidecar.records import bundle
from chio_sidecar.records.archive import ReceiptArchive, ReceiptFilter, open_archive
from chio_sidecar.store.statements import Erasure, states_erasure

DESCRIPTION = """Verify receipts: the signature of each, and whether a bundle is complete.

Prints a line for each receipt that is invalid, and how many are valid, by key, verdict and time. In a folder of
receipt export the chain over the receipts is followed too, up to the head.

exit status: 0 all are valid, 1 one is invalid or was changed, or there is none, 2 wrong usage, 3 all are valid, and the
bundle is not complete
"""

PARTIAL = 3
"""Exit status for valid receipts of a bundle that is not complete."""

MOST_KEYS = 16
"""Keys of which a report tells the receipts apart."""


@dataclass(frozen=True)
class Verification:
    """The result for one receipt.

    Attributes:
        receipt_id: None if the receipt has none.
        rule: the rule that failed; None if all hold.
    """

    receipt_id: str | None
    rule: str | None = None
    message: str | None = None

    @property
    def valid(self) -> bool:
        """True if every rule holds."""
        return self.rule is None

    def text(self) -> str:
        """Return a line for people."""
        name = escaped(self.receipt_id) if self.receipt_id else "?"  # a forged id may hold line breaks
        return f"{name} valid" if self.valid else f"{name} INVALID {self.rule}: {self.message}"

    def document(self) -> dict[str, Any]:
        """Return a line for programs."""
        document: dict[str, Any] = {"id": self.receipt_id, "valid": self.valid}
        return document if self.valid else document | {"rule": self.rule, "message": self.message}


@dataclass
class Report:
    """What a verification has found, by key, verdict and time.

    Attributes:
        counted: number of receipts.
        invalid: number of those that do not verify.
        keys: for each key, of at most `MOST_KEYS`: number of its receipts, and the time of the first and the last
            signature, in seconds since 1970. Others count under an empty name.
        verdicts: number of receipts with each verdict; `erased`: records of erasures in the place of receipts.
        facts: lines about an export: its rows and its head.
        problems: what of an export was changed.
        left_out: why these are not all receipts that were wanted.
    """

    counted: int = 0
    invalid: int = 0
    keys: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)
    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, document: Any, result: Verification) -> None:
        """Count one receipt."""
        self.counted += 1
        if not result.valid:
            self.invalid += 1
            return
        self.verdicts["erased" if states_erasure(document) else document["verdict"]["verdict"]] += 1
        key, time = document["kernel_key"], document["timestamp"]
        if key not in self.keys and len(self.keys) >= MOST_KEYS:
            key = ""
        count, since, until = self.keys.get(key, (0, time, time))
        self.keys[key] = (count + 1, min(since, time), max(until, time))

    def lines(self) -> Iterator[str]:
        """Yield the lines for people."""
        yield from self.problems
        yield from (f"{name:<9} {text}" for name, text in self.facts.items())
        for key, (count, since, until) in self.keys.items():
            yield f"key       {key or 'others'}, {count} from {utc(since)} to {utc(until)}"
        for verdict, count in sorted(self.verdicts.items()):
            yield f"{verdict:<9} {count}"

    def document(self) -> dict[str, Any]:
        """Return the object for programs."""
        keys = [
            {"kernel_key": key or None, "receipts": count, "since": since, "until": until}
            for key, (count, since, until) in self.keys.items()
        ]
        counts = {"receipts": self.counted, "valid": self.counted - self.invalid, "invalid": self.invalid}
        return (
            counts
            | {"keys": keys, "verdicts": dict(self.verdicts)}
            | self.facts
            | {
                "problems": self.problems,
                "left_out": self.left_out,
            }
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receipt verify`."""
    parser.description = DESCRIPTION
    parser.set_defaults(run=run)
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="one receipt per line, one as `receipt show` prints it, a bundle of the viewer, or a folder of `receipt "
        "export`; -: standard input; default: the store that is named, or standard input if it is a pipe",
    )
    parser.add_argument("--each", action="store_true", help="print a line for each valid receipt too")
    parser.add_argument(
        "--allow-partial", action="store_true", help="accept a bundle that states that it is not complete"
    )
    add_trusted_key_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line for each invalid receipt and a summary; return 1 if one is invalid, else `PARTIAL` for a part.

    Raises:
        CliError: the file cannot be read, or holds no receipt.
        ConfigurationError: the store, or the settings that would name it, cannot be used.
    """
    report = Report()
    with _receipts(args, report) as receipts:
        for document in receipts:
            result = verified(document, args.trusted_key)
            report.add(document, result)
            if args.each or not result.valid:
                emit(compact(result.document()) if wants_json(args) else result.text())
    count = report.counted
    for line in [compact(report.document())][:count] if wants_json(args) else report.lines():
        emit(line)
    note_untrusted(args.trusted_key)
    say(f"{count} receipt{'' if count == 1 else 's'}: {count - report.invalid} valid, {report.invalid} invalid")
    for reason in report.left_out:
        say(f"not complete: {printable(reason)}")
    if not count:
        raise CliError(
            "there was no receipt to verify",
            fix=f"see whether the command that prints them failed; for a whole store {EITHER}",
        )
    if report.left_out and not args.allow_partial:
        say("refused: what is missing could be what matters; --allow-partial accepts the receipts that are here")
    return 1 if report.invalid or report.problems else PARTIAL if report.left_out and not args.allow_partial else 0


def verified(document: Any, trusted_keys: list[str] | None) -> Verification:
    """Verify one receipt, or the record of its erasure.

    Args:
        document: parsed JSON, or the InvalidDocument of a line that is not JSON.
        trusted_keys: public keys (hex) that may have signed; None trusts any.
    """
    from chio_core.receipts import verify_receipt

    if isinstance(document, InvalidDocument):
        return Verification(None, "shape", document.message)
    if not isinstance(document, dict):
        return Verification(None, "shape", "the line holds no JSON object")
    found = document.get("id")
    name = found if isinstance(found, str) else None
    if states_erasure(document):
        try:
            key = Erasure.of(document).kernel_key
        except InvalidDocument as exc:
            return Verification(name, "erasure", exc.message)
        if trusted_keys is not None and key not in trusted_keys:
            return Verification(name, "erasure", f"it was erased by {key}, which is not trusted")
        return Verification(name)
    try:
        verify_receipt(document, trusted_keys=trusted_keys)
    except ReceiptRejected as exc:
        return Verification(name, exc.rule, exc.message)
    return Verification(name)


def note_untrusted(trusted_keys: list[str] | None) -> None:
    """Print what a verification without trusted keys does not show."""
    if not trusted_keys:
        say(
            "note: no --trusted-key was given, so this shows that nothing was changed since the signing, not who signed"
        )


def note_archived(reader: ReceiptArchive) -> None:
    """Print where the receipts before the first one of the store are."""
    if (found := reader.archived()) is not None:
        say(f"note: {found[0]} earlier receipts are archived, the newest of them in {escaped(found[1])}")


@contextmanager
def _receipts(args: argparse.Namespace, report: Report) -> Iterator[Iterable[Any]]:
    """Give the receipts that the arguments name: parsed JSON, or the InvalidDocument of a line that is not JSON.

    What a bundle leaves out is added to the report.
    """
    store = None
    if args.file is not None:
        note_overridden(args, "FILE", "receipt_store", "receipt_db")
    else:
        store = store_of_options(args)
        # What is piped in counts before the settings: if the command before the pipe failed, the settings' store must
        # not be reported as valid instead. A terminal and /dev/null are not pipes.
        try:
            piped = not stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode)
        except AttributeError:
            piped = False  # the process was started without standard input
        except (OSError, ValueError):
            piped = True  # a Python object replaces standard input
        if store is None and not piped:
            store = store_of_settings()
    if store is not None:
        if args.allow_partial:
            raise CliError("--allow-partial is about a bundle or an export, not about a store", fix="leave it out")
        with open_archive(store.path, option=store.named_by) as reader:
            note_archived(reader)
            yield (receipt for _, receipt in reader.rows(ReceiptFilter()))
    elif args.file in (None, "-"):
        if sys.stdin is None:
            raise CliError("there is no standard input to read receipts from", fix=f"give a FILE, or {EITHER}")
        if args.file is None and sys.stdin.isatty():
            say(f"reading receipts from this terminal, one per line; for a store {EITHER}")
        yield _parse(sys.stdin.buffer, report)
    elif os.path.isdir(args.file):
        from chio_sidecar.records.exported import LogExports

        found = LogExports(Path(args.file), args.trusted_key)
        report.problems, report.left_out = found.problems, found.left_out
        for name, export in found.exports.items():
            about = f"{name} " if name else ""
            signer = "not signed" if export.signed_by is None else f"signed by {export.signed_by}"
            report.facts[f"{about}rows"] = f"{export.rows[0]} to {export.rows[1]}"
            report.facts[f"{about}head"] = f"{export.head}, {signer}"
        yield found.receipts()
    else:
        try:
            with open(args.file, "rb") as file:
                yield _parse(file, report)
        except OSError as exc:
            raise CliError(f"cannot read {args.file}: {exc.strerror}") from None


def _parse(lines: IO[bytes], report: Report) -> Iterator[Any]:
    for line in _documents(lines):
        try:
            document = parse_json(line)
            texts = bundle.texts_of(document)
        except InvalidDocument as exc:
            yield exc
            continue
        if texts is None:
            yield document
            continue
        if (left_out := bundle.left_out(document)) is not None:
            report.left_out.append(left_out)
        for text in texts:
            try:
                yield parse_json(text)
            except InvalidDocument as exc:
                yield exc


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
    yield from filter(bytes.strip, open_lines)  # never closed: each line is a document
