"""The signed statement about an archive: which receipts it holds, and the head of the chain at its end.

It is a row of `receipt_archives`, in the archive and in the store that it was taken from. So the store says where its
earlier receipts are, and only the holder of the signing key can have said it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chio_core.canonical import canonical_json, compact_json, parse_json
from chio_core.errors import InvalidDocument
from chio_core.signing import SigningKey, verify_signature

FORMAT = "chio-receipt-archive/1"


@dataclass(frozen=True, slots=True)
class ArchiveStatement:
    """What a statement says.

    Attributes:
        name: the file's name at that time, without its folder; of a log in a database with the folder of this rotation.
        first: number of its first receipt.
        last: number of its last receipt.
        head: digest of the last receipt's row.
        archived_at: seconds since 1970.
        kernel_key: public key (hex) that signed the statement.
    """

    name: str
    first: int
    last: int
    head: str
    archived_at: int
    kernel_key: str

    def signed_by(self, key: SigningKey) -> str:
        """Return the statement as JSON, signed with the private part of `kernel_key`."""
        body = self._body()
        return compact_json(body | {"signature": key.sign(canonical_json(body))})

    @classmethod
    def read(cls, text: object) -> ArchiveStatement:
        """Read a statement and verify its signature; whether its key is trusted is the caller's matter.

        Raises:
            InvalidDocument: it is none, or its signature does not verify.
        """
        document = parse_json(text) if isinstance(text, str) else None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InvalidDocument("it is no statement about an archive")
        values: dict[str, Any] = {
            name: document.get(name) for name in ("name", "head", "kernel_key", "first", "last", "archived_at")
        }
        if [type(value) for value in values.values()] != [str] * 3 + [int] * 3:
            raise InvalidDocument("it misses a member, or one has another type")
        found = cls(**values)
        if not verify_signature(found.kernel_key, canonical_json(found._body()), document.get("signature")):
            raise InvalidDocument("its signature does not verify")
        return found

    def _body(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "first": self.first,
            "last": self.last,
            "head": self.head,
            "archived_at": self.archived_at,
            "kernel_key": self.kernel_key,
        }
