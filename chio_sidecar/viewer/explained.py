"""What the server adds to an opened receipt: its own verification, and the explanation of a refusal."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.receipts import verify_receipt
from chio_sidecar.explain import explain, read_refusal
from chio_sidecar.explain.explanation import wanted_among
from chio_sidecar.policy.openapi import load, operations_of
from chio_sidecar.store.statements import Erasure, is_erasure


class Explainer:
    """Explains the receipts of one sidecar.

    Args:
        spec_text: the OpenAPI document of the sidecar's policy; None if that is not known.
    """

    def __init__(self, spec_text: str | None) -> None:
        self._spec_text = spec_text

    def __call__(self, text: str, report: dict[str, Any]) -> dict[str, Any] | None:
        """Return what `chio-sidecar explain` says about a receipt, as a JSON object.

        Args:
            text: the stored text.
            report: its `server_report`.

        Returns:
            None if the request was allowed, or the receipt is not genuine: a stranger's words must not become advice.
        """
        if not report["valid"] or report["signer_is_own"] is False:
            return None
        try:
            refusal = read_refusal(parse_json(text))
        except InvalidDocument:
            return None
        if refusal.allowed and not refusal.lacks_capability:
            return None
        wanted = None
        if refusal.method is not None and refusal.route is not None:
            wanted = wanted_among(self._operations, refusal.method, refusal.route)
        return explain(refusal, wanted=wanted).document()

    @cached_property
    def _operations(self) -> tuple[tuple[str, str, dict[str, Any]], ...]:
        # Read once: a large document takes a while.
        return tuple(operations_of(load(self._spec_text))) if self._spec_text is not None else ()


def server_report(text: str, own_keys: frozenset[str]) -> dict[str, Any]:
    """Verify the text of a receipt, or the record of its erasure, as `chio-sidecar receipt verify` does.

    Args:
        text: the stored text.
        own_keys: public keys (hex) of this sidecar; empty if none is known.

    Returns:
        `valid`; `rule` and `message` of the rule that failed; `signer`, and whether it is an own key (None: unknown).
    """
    report = {"valid": False, "rule": None, "message": None, "signer": None, "signer_is_own": None}
    if is_erasure(text):
        try:
            key = Erasure.read(text).kernel_key
        except InvalidDocument as exc:
            return report | {"rule": "erasure", "message": exc.message}
        return report | {"valid": True, "signer": key, "signer_is_own": key in own_keys if own_keys else None}
    try:
        document = parse_json(text)
        receipt = verify_receipt(document if isinstance(document, dict) else {})
    except InvalidDocument as exc:
        return report | {"rule": "shape", "message": exc.message}
    except ReceiptRejected as exc:
        return report | {"rule": exc.rule, "message": exc.message}
    own = receipt.kernel_key in own_keys if own_keys else None
    return report | {"valid": True, "signer": receipt.kernel_key, "signer_is_own": own}
