"""Stores full of receipts, genuine and not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chio_core.canonical import compact_json, sha256_hex
from chio_core.receipts import signed_bytes
from chio_core.signing import SigningKey
from chio_sidecar.service.receipts import sign_receipt
from chio_sidecar.store import NewReceipt
from chio_sidecar.store.sqlite import SqliteReceiptStore

KEY = SigningKey(b"\x21" * 32)
STRANGER = SigningKey(b"\x41" * 32)
NOW = 1_776_272_775
STORE = "s.sqlite3"

MARKUP = (
    "<script>document.title = 'owned'</script>",
    '"><img src=x onerror="document.title=1">',
    "</td></tr></table><iframe src=javascript:alert(1)>",
    "\u202egnp.exe\u2066",
    "a\u0000b\u001b[31m\r\n\tc",
    "\u05e9\u05dc\u05d5\u05dd",
    "{{constructor.constructor('x')()}}",
)
"""Texts that must be shown as they are, in any member of a receipt."""


def receipt(number: int = 1, *, key: SigningKey = KEY, **changes: Any) -> dict[str, Any]:
    """A signed receipt; its members follow from its number, but for the changes."""
    body = {
        "id": f"receipt-{number:05d}",
        "request_id": f"request-{number:05d}",
        "route_pattern": f"/things/{number % 10}",
        "method": ("GET", "POST")[number % 2],
        "caller_identity_hash": sha256_hex(b"%d" % (number % 7)),
        "verdict": {"verdict": "allow"},
        "evidence": [{"guard_name": "DefaultPolicyGuard", "verdict": True, "details": "nothing against it"}],
        "response_status": 200,
        "timestamp": NOW + number,
        "content_hash": sha256_hex(b"content"),
        "policy_hash": sha256_hex(b"policy"),
        "metadata": {"chio_http_status_scope": "decision"},
    } | changes
    return sign_receipt(key, body)


def newer(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A signed receipt of the newer profile, whose id is the hash of its body."""
    body = receipt(number) | {
        "receipt_kind": "mediated_decision",
        "boundary_class": "prevent",
        "trust_level": "mediated",
        **changes,
    }
    body.pop("id")
    body["id"] = sha256_hex(signed_bytes(body))
    return body | {"signature": KEY.sign(signed_bytes(body))}


def unsigned(number: int) -> str:
    """The text of a receipt without a signature, for stores of many receipts."""
    document = {"id": f"r{number}", "route_pattern": f"/things/{number}", "method": ("GET", "POST")[number % 2]}
    return json.dumps(document | {"verdict": {"verdict": "allow"}, "timestamp": NOW + number})


def hostile(number: int, text: str) -> dict[str, Any]:
    """A genuine receipt with one text wherever a stranger could put it."""
    return receipt(
        number,
        id=f"receipt-{number:05d}{text}",
        route_pattern=f"/{text}",
        method=text,
        capability_id=text,
        caller_identity_hash=text,
        session_id=text,
        verdict={"verdict": "deny", "reason": text, "guard": text, "http_status": 403, "details": {text: text}},
        evidence=[{"guard_name": text, "verdict": False, "details": text}],
        metadata={text: [text]},
    )


def fill(path: Path, texts: Iterable[dict[str, Any] | str]) -> Path:
    """Store receipts, or texts that are none, in this order, and return the path."""

    async def append() -> None:
        store = SqliteReceiptStore(path)
        try:
            documents = [text if isinstance(text, str) else compact_json(text) for text in texts]
            await add(store, documents, first=len(await store.list(limit=1_000_000)))
        finally:
            await store.close()

    asyncio.run(append())
    return path


async def add(store: SqliteReceiptStore, texts: Iterable[str], *, first: int = 0) -> None:
    """Append texts to an open store."""
    entries = [_entry(number, text) for number, text in enumerate(texts, first)]
    for start in range(0, len(entries), 4_000):  # fewer than the store lets wait
        await asyncio.gather(*map(store.append, entries[start : start + 4_000]))


def _entry(number: int, text: str) -> NewReceipt:
    try:
        name = json.loads(text)["id"]
    except (ValueError, TypeError, KeyError):
        name = f"damaged-{number}"
    return NewReceipt(name, f"stored-{number}", "fingerprint", text)
