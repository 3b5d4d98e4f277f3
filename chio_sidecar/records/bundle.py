"""A bundle: the exact texts of some receipts in one JSON document, which `receipt verify` reads."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from chio_core.errors import InvalidDocument

FORMAT = "chio-receipt-bundle/1"

OLDER = "older receipts that match: these are the newest {count}"
"""What a bundle of at most so many receipts leaves out."""


def make(texts: Sequence[str], *, keys: Collection[str], complete: bool, exported_at: int) -> bytes:
    """Return the bundle as JSON in ASCII.

    Args:
        texts: exact texts of receipts.
        keys: public keys (hex) of the sidecar that signed them.
        complete: whether these are all receipts that were requested.
        exported_at: seconds since 1970.
    """
    trusted = sorted(keys)
    options = "".join(f" --trusted-key {key}" for key in trusted)
    document = {
        "format": FORMAT,
        "exported_at": exported_at,
        "complete": complete,
        "left_out": None if complete else OLDER.format(count=len(texts)),
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
        InvalidDocument: the document states the format of a bundle and holds no list of texts.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return None
    texts = document.get("receipts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidDocument("the bundle holds no list of receipt texts")
    return texts


def left_out(document: Any) -> str | None:
    """Return what a bundle leaves out by its own words; None if it is complete."""
    if document.get("complete") is True:
        return None
    stated = document.get("left_out")
    return stated if isinstance(stated, str) else "the bundle does not state that it has all receipts that were wanted"
