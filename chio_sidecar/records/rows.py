"""One receipt as a row of the table. What stands in it was written by strangers, and may be of any kind and length."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from chio_core.errors import InvalidDocument

_MEMBERS = {
    "verdict": "verdict.verdict",
    "method": "method",
    "route": "route_pattern",
    "caller": "caller_identity_hash",
    "capability": "capability_id",
    "status": "response_status",
    "timestamp": "timestamp",
    "observed": "metadata.chio_enforcement",
}
_NUMBERS = ("status", "timestamp")
_LONGEST = 400  # characters of one cell; a path is its sender's to choose
_EXACT = 2**53  # from here on a browser's number would be another one

# As one JSON array: a character U+0000 would end a text of its own.
CELLS = "json_extract({document}, " + ", ".join(f"'$.{path}'" for path in _MEMBERS.values()) + ")"
"""The SQL expression of all cells; `document` is the expression of the receipt's JSON text."""


def row_of(sequence: int, receipt_id: str, cells: str) -> dict[str, Any]:
    """Return the row; `damaged` is among its members when the cells cannot be read or there are none.

    Args:
        sequence: row number.
        receipt_id: id of the receipt in the store.
        cells: what `CELLS` gave.
    """
    try:
        values = dict(zip(_MEMBERS, json.loads(cells), strict=True))
        row = {name: _cell(name, value) for name, value in values.items()}
    except (ValueError, RecursionError):
        values, row = {}, dict.fromkeys(_MEMBERS)
    mode = values.get("observed")
    row["observed"] = (mode.get("mode") if isinstance(mode, dict) else mode) == "observe"
    damaged = {} if row["verdict"] is not None else {"damaged": True}
    return {"seq": sequence, "id": receipt_id[:_LONGEST], **row, **damaged}


def _cell(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _NUMBERS and type(value) is int and abs(value) < _EXACT:
        return value
    return (value if isinstance(value, str) else json.dumps(value))[:_LONGEST]


FORMAT = "chio-receipt-bundle/1"

_MEMBER = "format"


def make(texts: Sequence[str], *, keys: Collection[str], complete: bool, exported_at: int) -> bytes:
    """Return the bundle.

    Args:
        texts: exact texts of receipts.
        keys: public keys (hex) of the sidecar that they come from.
        complete: whether these are all that were asked for.
        exported_at: seconds since 1970.
    """
    trusted = sorted(keys)
    options = "".join(f" --trusted-key {key}" for key in trusted)
    document = {
        _MEMBER: FORMAT,
        "exported_at": exported_at,
        "complete": complete,
        "sidecar_keys": trusted,
        "verify": f"chio-sidecar receipt verify{options} FILE",
        "note": "each text of `receipts` is one receipt, exactly as it was stored; compare the key with one that"
        " you know from elsewhere before you trust it",
        "receipts": list(texts),
    }
    return (json.dumps(document, ensure_ascii=True, separators=(",", ":")) + "\n").encode("ascii")


def texts_of(document: Any) -> list[str] | None:
    """Return the receipts' texts if this parsed JSON document is a bundle, else None.

    Raises:
        InvalidDocument: it calls itself a bundle and holds no list of texts.
    """
    if not isinstance(document, dict) or document.get(_MEMBER) != FORMAT:
        return None
    texts = document.get("receipts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidDocument("the bundle holds no list of receipt texts")
    return texts
