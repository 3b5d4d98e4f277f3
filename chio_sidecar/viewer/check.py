"""What the server says about a stored receipt, beside what the browser finds out by itself."""

from __future__ import annotations

from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.receipts import verify_receipt


def server_report(text: str, own_keys: frozenset[str]) -> dict[str, Any]:
    """Verify the text of a receipt, as `chio-sidecar receipt verify` does.

    Args:
        text: the stored text.
        own_keys: public keys (hex) of this sidecar; empty when none is known.

    Returns:
        `valid`; `rule` and `message` of the rule that failed; `signer` and whether it is an own key (None: not known).
    """
    try:
        document = parse_json(text)
        receipt = verify_receipt(document if isinstance(document, dict) else {})
    except InvalidDocument as exc:
        return _report(rule="shape", message=exc.message)
    except ReceiptRejected as exc:
        return _report(rule=exc.rule, message=exc.message)
    own = receipt.kernel_key in own_keys if own_keys else None
    return _report(signer=receipt.kernel_key, own=own)


def _report(
    *, rule: str | None = None, message: str | None = None, signer: str | None = None, own: bool | None = None
) -> dict[str, Any]:
    return {"valid": rule is None, "rule": rule, "message": message, "signer": signer, "signer_is_own": own}
