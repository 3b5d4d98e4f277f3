"""The signed statements that a store keeps about itself: what was archived, and what was erased.

An archive statement is a row of `receipt_archives`, in the archive and in the store that it was taken from: the store
says where its earlier receipts are. An erasure is in the row of a receipt, in place of its text: it has the ids and
hashes of the receipt, and nothing that the receipt said about caller, path, query, capability or outcome, and the
digest of the row stays as it is (`hash_chain`). Only the holder of the signing key can have made either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Self

from chio_core.canonical import canonical_json, compact_json, parse_json
from chio_core.errors import InvalidDocument

if TYPE_CHECKING:
    from chio_core.signing import SigningKey

FINGERPRINT = ""
"""The fingerprint of an erased row, which is that of no request: a repeated request id is a conflict."""

ERASURE = "chio-receipt-erasure/1"

_PREFIX = '{"format":"chio-receipt-erasure/'


@dataclass(frozen=True, slots=True)
class Statement:
    """A signed JSON object with exactly the fields of its class, its format and its signature.

    Attributes:
        format: of the document.
        what: it is, for messages.
    """

    format: ClassVar[str]
    what: ClassVar[str]

    def signed_by(self, key: SigningKey) -> str:
        """Return the statement as JSON, signed with the private part of `kernel_key`."""
        body = {"format": self.format} | asdict(self)
        return compact_json(body | {"signature": key.sign(canonical_json(body))})

    @classmethod
    def read(cls, text: object) -> Self:
        """Read a statement and verify its signature; whether its key is trusted is the caller's matter.

        Raises:
            InvalidDocument: it is not one, or its signature does not verify.
        """
        return cls.of(parse_json(text) if isinstance(text, str) else None)

    @classmethod
    def of(cls, document: object) -> Self:
        """Do the same as `read` for parsed JSON.

        Raises:
            InvalidDocument: it is not one, or its signature does not verify.
        """
        from chio_core.signing import verify_signature  # takes longer to load than most lists

        if not isinstance(document, dict) or document.get("format") != cls.format:
            raise InvalidDocument(f"it is no {cls.what}")
        named = fields(cls)
        # No more members: what is kept of an erased receipt is this list.
        if document.keys() != {"format", "signature", *(one.name for one in named)}:
            raise InvalidDocument(f"it has other members than the {cls.what}")
        for one in named:
            if type(document[one.name]) is not (int if one.type == "int" else str):
                raise InvalidDocument(f"{one.name} has another type")
        body = {name: value for name, value in document.items() if name != "signature"}
        if not verify_signature(document["kernel_key"], canonical_json(body), document["signature"]):
            raise InvalidDocument("its signature does not verify")
        return cls(**{one.name: document[one.name] for one in named})


@dataclass(frozen=True, slots=True)
class ArchiveStatement(Statement):
    """Which receipts an archive holds, and the head of the chain at its end.

    Attributes:
        name: the file's name at that time, without its folder; of a log in a database with the folder of this rotation.
        first: number of its first receipt.
        last: number of its last receipt.
        head: digest of the last receipt's row.
        archived_at: seconds since 1970.
        kernel_key: public key (hex) that signed the statement.
    """

    format = "chio-receipt-archive/1"
    what = "statement about an archive"

    name: str
    first: int
    last: int
    head: str
    archived_at: int
    kernel_key: str


@dataclass(frozen=True, slots=True)
class Erasure(Statement):
    """Which receipt was erased, when, and why.

    Attributes:
        id: of the receipt.
        request_id: of its request.
        timestamp: when the receipt was signed, in seconds since 1970.
        created_at: when it was stored, as its row has it.
        row: number of its row.
        receipt_sha256: SHA-256 of the receipt's text, hex.
        content: the hash of what was erased, which the digest of the row covers; see `hash_chain.content_of`.
        previous: digest of the row before.
        digest: digest of the row.
        form: of that digest: 2 follows from `content`; 1 of earlier versions follows from nothing that is left.
        erased_at: seconds since 1970.
        reason: why, in the words of the person who erased it.
        kernel_key: public key (hex) that signed the erasure.
    """

    format = ERASURE
    what = "record of an erasure"

    id: str
    request_id: str
    timestamp: int
    created_at: str
    row: int
    receipt_sha256: str
    content: str
    previous: str
    digest: str
    form: int
    erased_at: int
    reason: str
    kernel_key: str


def is_erasure(text: str) -> bool:
    """Return True if the text of a row is an erasure, genuine or not, and no receipt."""
    return text.startswith(_PREFIX)


def states_erasure(document: Mapping[str, object]) -> bool:
    """Return True if a parsed text is an erasure, genuine or not, and no receipt."""
    return document.get("format") == ERASURE
