"""Collect the erasures of one chain during its check, and find those by a key that signs nothing else in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from chio_sidecar.records.fsck_chain import Finding
from chio_sidecar.records.fsck_receipt import CheckedReceipt

LISTED = 100
"""Most erasures that a summary describes."""

_STRANGE = (
    "its receipt was erased by {key}, which signs no receipt here; name it with --trusted-key if it is the sidecar's"
)
_MOST_KEYS = 10_000


@dataclass(slots=True)
class Erasures:
    """The erasures of one chain.

    Attributes:
        rows: numbers of the erased rows.
        listed: what the first `LISTED` records say; `chained` is False if the digest of the row, and so that of each
            row before it, rests on the signature of the record alone.
    """

    rows: set[int] = field(default_factory=set)
    listed: list[dict[str, Any]] = field(default_factory=list)
    _erasers: dict[str, int] = field(default_factory=dict)
    _signers: set[str] = field(default_factory=set)

    def add(self, number: int, found: CheckedReceipt, *, chained: bool) -> None:
        """Note who signed the receipt of a row, or erased it."""
        if found.signer is not None and len(self._signers) < _MOST_KEYS:
            self._signers.add(found.signer)
        if (said := found.erasure) is None:
            return
        self.rows.add(number)
        self._erasers.setdefault(said.kernel_key, number)
        if len(self.listed) < LISTED:
            about = {"row": number, "id": said.id, "erased_at": said.erased_at, "reason": said.reason}
            self.listed.append(about | {"kernel_key": said.kernel_key, "chained": chained})

    def findings(self, trusted: Collection[str] | None) -> Iterator[Finding]:
        """Yield an erasure by a stranger; to be called after the last row.

        Args:
            trusted: public keys (hex) that may have signed, which were compared before; None trusts those that signed
                receipts of this chain: none if all of them are erased.
        """
        for key, number in self._erasers.items():
            if trusted is None and key not in self._signers:
                yield Finding("erasure", f"row {number}", _STRANGE.format(key=key), number)
