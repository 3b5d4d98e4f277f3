"""Read an export again, without a store: follow its chain, and find what was changed or is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chio_core.canonical import canonical_json, parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.signing import verify_signature
from chio_sidecar.records.export import CHAIN, FORMAT, LOGS_FORMAT, MANIFEST, RECEIPTS
from chio_sidecar.store.hash_chain import follow
from chio_sidecar.store.statements import ArchiveStatement


class Export:
    """Reads an export and finds what contradicts it.

    Args:
        folder: the export.
        trusted_keys: public keys (hex) that may have signed; None trusts any.

    Attributes:
        rows: numbers of the first and the last row.
        head: digest of the last row.
        signed_by: the key whose signature states that head; None if there is no such statement.
        problems: what was changed; complete after the last receipt.
        left_out: what is not in it.

    Raises:
        ConfigurationError: the folder is no export, or cannot be read.
    """

    def __init__(self, folder: Path, trusted_keys: list[str] | None) -> None:
        self._folder = folder
        self._trusted = trusted_keys
        self.problems: list[str] = []
        self.left_out: list[str] = []
        self.signed_by: str | None = None
        manifest = _manifest(folder)
        try:
            if manifest.get("format") != FORMAT:
                raise InvalidDocument(f"its format is not {FORMAT}")
            self.rows = int(manifest["rows"]["first"]), int(manifest["rows"]["last"])
            self._before, self.head = str(manifest["before"]), str(manifest["head"])
        except (InvalidDocument, KeyError, TypeError, ValueError) as exc:
            raise ConfigurationError(f"{folder} is no export: {MANIFEST} cannot be used: {exc}") from None
        if manifest.get("complete") is not True:
            self.left_out.append(str(manifest.get("left_out")))
        if manifest.get("statement") is not None:
            self._check(manifest["statement"])

    def _check(self, statement: object) -> None:
        try:
            stated = ArchiveStatement.read(statement)
        except InvalidDocument as exc:
            self.problems.append(f"{MANIFEST}: the statement does not count: {exc.message}")
            return
        if (stated.first, stated.last, stated.head) != (*self.rows, self.head):
            self.problems.append(f"{MANIFEST}: the signed statement is about other rows")
        elif self._trusted is not None and stated.kernel_key not in self._trusted:
            self.problems.append(f"{MANIFEST}: its statement is signed by {stated.kernel_key}, which is not trusted")
        else:
            self.signed_by = stated.kernel_key

    def receipts(self) -> Iterator[Any]:
        """Yield each receipt, parsed, or the InvalidDocument of a line that is not JSON.

        Raises:
            ConfigurationError: a file is missing, or cannot be read.
        """
        try:
            with (self._folder / RECEIPTS).open("rb") as texts, (self._folder / CHAIN).open("rb") as chain:
                yield from self._follow(texts, chain)
        except OSError as exc:
            raise ConfigurationError(f"cannot read {exc.filename}: {exc.strerror}") from None

    def _follow(self, texts: Iterator[bytes], chain: Iterator[bytes]) -> Iterator[Any]:
        """Pair receipts with rows of the chain. A row without its receipt counts as left out: its digest goes on."""
        missing: list[int] = []
        digest, expected = self._before, self.rows[0]
        text = next(texts, None)
        for line in chain:
            try:
                row = parse_json(line)
                number, receipt_id, own = row["row"], row["id"], row["digest"]
                others = [row["request_id"], row["fingerprint"], row["created_at"]]
                if number != expected or not all(isinstance(value, str) for value in (receipt_id, own, *others)):
                    raise InvalidDocument("it does not follow the row before")
            except (InvalidDocument, KeyError, TypeError) as exc:
                self.problems.append(f"{CHAIN}, row {expected}: it cannot be used: {exc}")
                break
            document = None if text is None else _parsed(text)
            if isinstance(document, dict) and document.get("id") == receipt_id and text is not None:
                stored = text.rstrip(b"\n").decode("utf-8", "replace")
                if follow(digest, number, [receipt_id, stored, *others], own).digest != own:
                    self.problems.append(
                        f"row {number}: its digest does not follow from its receipt and the row before"
                    )
                yield document
                text = next(texts, None)
            else:
                missing.append(number)
            digest, expected = own, expected + 1
        while text is not None:
            document = _parsed(text)
            name = document.get("id") if isinstance(document, dict) else None
            self.problems.append(f"{RECEIPTS}: receipt {name} is in no row of {CHAIN} after the one before it")
            yield document
            text = next(texts, None)
        if missing:
            self.left_out.append(f"{len(missing)} of the receipts that {CHAIN} lists, the first in row {missing[0]}")
        if expected <= self.rows[1]:
            self.left_out.append(f"rows {expected} to {self.rows[1]}, which {MANIFEST} lists")
        elif digest != self.head:
            self.problems.append(f"{CHAIN}: its last digest is not the head that {MANIFEST} states")


class LogExports:
    """Reads the exports of all logs of a database; a folder without logs is one export, with an empty name.

    Args:
        folder: the folder that `receipt export` wrote.
        trusted_keys: public keys (hex) that may have signed; None trusts any.

    Attributes:
        exports: the export of each log, by the name of its folder.
        problems: what was changed; complete after the last receipt.
        left_out: what is not in it; complete after the last receipt.

    Raises:
        ConfigurationError: the folder is no export, or cannot be read.
    """

    def __init__(self, folder: Path, trusted_keys: list[str] | None) -> None:
        self.problems: list[str] = []
        self.left_out: list[str] = []
        self.exports: dict[str, Export] = {}
        manifest = _manifest(folder)
        if manifest.get("format") != LOGS_FORMAT:
            self.exports[""] = Export(folder, trusted_keys)
            return
        logs = manifest.get("logs")
        if not isinstance(logs, dict) or not all(re.fullmatch(r"log-[0-9]{1,19}", name) for name in logs):
            raise ConfigurationError(f"{folder} is no export: {MANIFEST} lists no logs")
        if manifest.get("statement") is not None:
            self._check(manifest["statement"], logs, trusted_keys)
        for name, head in logs.items():
            if not (folder / name).is_dir():
                self.left_out.append(f"{name}, which {MANIFEST} lists")
                continue
            self.exports[name] = found = Export(folder / name, trusted_keys)
            if found.head != head:
                self.problems.append(f"{name}: its head is not the one that {MANIFEST} beside the logs states")

    def _check(self, statement: object, logs: dict[str, Any], trusted_keys: list[str] | None) -> None:
        try:
            stated = parse_json(statement) if isinstance(statement, str) else None
            if not isinstance(stated, dict):
                raise InvalidDocument("it is no statement about logs")
            signature, key = stated.pop("signature", None), stated.get("kernel_key")
            if not isinstance(key, str) or not verify_signature(key, canonical_json(stated), signature):
                raise InvalidDocument("its signature does not verify")
        except InvalidDocument as exc:
            self.problems.append(f"{MANIFEST}: the statement does not count: {exc.message}")
            return
        if (stated.get("format"), stated.get("logs")) != (LOGS_FORMAT, logs):
            self.problems.append(f"{MANIFEST}: the signed statement is about other logs")
        elif trusted_keys is not None and key not in trusted_keys:
            self.problems.append(f"{MANIFEST}: its statement is signed by {key}, which is not trusted")

    def receipts(self) -> Iterator[Any]:
        """Yield the receipts of each log in turn; see `Export.receipts`."""
        for name, export in self.exports.items():
            yield from export.receipts()
            about = f"{name}: " if name else ""
            self.problems += [about + one for one in export.problems]
            self.left_out += [about + one for one in export.left_out]


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = parse_json((folder / MANIFEST).read_bytes())
    except OSError as exc:
        raise ConfigurationError(f"{folder} is no export: {MANIFEST}: {exc.strerror}") from None
    except InvalidDocument as exc:
        raise ConfigurationError(f"{folder} is no export: {MANIFEST} cannot be used: {exc}") from None
    return manifest if isinstance(manifest, dict) else {}


def _parsed(line: bytes) -> Any:
    try:
        return parse_json(line)
    except InvalidDocument as exc:
        return exc
