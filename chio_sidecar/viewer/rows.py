"""One receipt as a row of the table. What stands in it was written by strangers, and may be of any kind and length."""

from __future__ import annotations

import json
from typing import Any

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
