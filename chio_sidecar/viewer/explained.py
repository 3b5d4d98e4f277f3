"""Why a stored receipt refuses, and which capability would pass: what `chio-sidecar explain` says about it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument, ReceiptRejected
from chio_core.receipts import verify_receipt
from chio_sidecar.explain import Refusal, Wanted, explain, read_refusal
from chio_sidecar.explain.explanation import wanted_among
from chio_sidecar.policy.openapi import read_operations


class Explainer:
    """Explains the receipts of one sidecar.

    Args:
        spec_text: the OpenAPI document that it judges by; None where that is not known.
    """

    def __init__(self, spec_text: str | None) -> None:
        self._spec_text = spec_text

    def __call__(self, text: str, report: dict[str, Any]) -> dict[str, Any] | None:
        """Return the explanation of a receipt's text as a JSON object.

        Args:
            text: the stored text.
            report: what the server says about it, see `chio_sidecar.viewer.explained`.

        Returns:
            None where there is nothing to explain: the request was allowed, or nobody vouches for the receipt, so
            that a stranger's words must not be made into advice.
        """
        if not report["valid"] or report["signer_is_own"] is False:
            return None
        try:
            refusal = read_refusal(parse_json(text))
        except InvalidDocument:
            return None
        if refusal.allowed and not refusal.lacks_capability:
            return None
        return explain(refusal, wanted=self._wanted(refusal)).document()

    def _wanted(self, refusal: Refusal) -> Wanted | None:
        if refusal.method is None or refusal.route is None:
            return None
        return wanted_among(self._operations, refusal.method, refusal.route)

    @cached_property
    def _operations(self) -> tuple[tuple[str, str, dict[str, Any]], ...]:
        # Once: a large document takes a while to read.
        return tuple(read_operations(self._spec_text)) if self._spec_text is not None else ()


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
