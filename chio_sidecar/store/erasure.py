"""The signed record that takes the place of an erased receipt: which one it was, when, why, and by whose key.

It is in the row of the receipt, in place of its text. It has the ids and hashes of the receipt, and nothing that the
receipt said about caller, path, query, capability or outcome. The digest of the row stays as it is (`hash_chain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from chio_core.canonical import canonical_json, compact_json, parse_json
from chio_core.errors import InvalidDocument

if TYPE_CHECKING:
    from chio_core.signing import SigningKey

FORMAT = "chio-receipt-erasure/1"

FINGERPRINT = ""
"""The fingerprint of an erased row, which is that of no request: a repeated request id is a conflict."""

_PREFIX = '{"format":"chio-receipt-erasure/'


def is_erasure(text: str) -> bool:
    """Return True if the text of a row is an erasure, genuine or not, and no receipt."""
    return text.startswith(_PREFIX)


def states_erasure(document: Mapping[str, Any]) -> bool:
    """Return True if a parsed text is an erasure, genuine or not, and no receipt."""
    return document.get("format") == FORMAT


@dataclass(frozen=True, slots=True)
class Erasure:
    """What the record of an erasure says.

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

    def signed_by(self, key: SigningKey) -> str:
        """Return the record as JSON, signed with the private part of `kernel_key`."""
        body = self._body()
        return compact_json(body | {"signature": key.sign(canonical_json(body))})

    @classmethod
    def read(cls, text: object) -> Self:
        """Read a record and verify its signature; whether its key is trusted is the caller's matter.

        Raises:
            InvalidDocument: it is none, or its signature does not verify.
        """
        return cls.of(parse_json(text) if isinstance(text, str) else None)

    @classmethod
    def of(cls, document: object) -> Self:
        """Do the same as `read` for parsed JSON.

        Raises:
            InvalidDocument: it is none, or its signature does not verify.
        """
        from chio_core.signing import verify_signature  # takes longer to load than most lists

        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise InvalidDocument("it is no record of an erasure")
        named = fields(cls)
        # No more members: what is kept of an erased receipt is this list.
        if document.keys() != {"format", "signature", *(one.name for one in named)}:
            raise InvalidDocument("it has other members than the record of an erasure")
        for one in named:
            if type(document[one.name]) is not (int if one.type == "int" else str):
                raise InvalidDocument(f"{one.name} has another type")
        found = cls(**{one.name: document[one.name] for one in named})
        if not verify_signature(found.kernel_key, canonical_json(found._body()), document["signature"]):
            raise InvalidDocument("its signature does not verify")
        return found

    def _body(self) -> dict[str, Any]:
        return {"format": FORMAT} | asdict(self)
