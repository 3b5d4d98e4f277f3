"""What can go wrong, in three families.

* `ConfigurationError`: the programmer or operator made a mistake here.
* `SidecarError` and its children: the sidecar could not be asked, or broke the protocol.
* a denial is no exception; it is a `chio_core.evaluation.outcomes.Decision`.

The `code` of each class is the wire code (wire protocol, section 11.1).
"""

from __future__ import annotations


class ChioError(Exception):
    """Base of everything that this distribution raises on purpose."""

    code = "chio_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigurationError(ChioError, ValueError):
    """A setting, an order of guards or a call that cannot work; the text names the place and the remedy."""

    code = "chio_configuration"


class InvalidDocument(ChioError, ValueError):
    """A JSON document, key, token or receipt that is not what it should be."""

    code = "chio_invalid_document"


class SidecarError(ChioError):
    """No decision could be had from the sidecar."""

    code = "chio_evaluation_failed"


class SidecarUnreachable(SidecarError):
    """No connection to the sidecar could be had; nothing was sent."""

    code = "chio_sidecar_unreachable"


class SidecarTimeout(SidecarError):
    """The sidecar did not answer within the configured time."""

    code = "chio_timeout"


class EvaluationFailed(SidecarError):
    """The sidecar answered, but not with a usable decision.

    Attributes:
        status: HTTP status of the answer, or None when there was none to read.
        detail: the answer's own `error` code, when it had one.
    """

    code = "chio_evaluation_failed"

    def __init__(self, message: str, *, status: int | None = None, detail: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class ApprovalRequired(EvaluationFailed):
    """The sidecar answered 409: a person has to approve the request first (wire protocol, section 1.8).

    What it says is not signed, so only short, plain texts are kept.

    Attributes:
        approval_id: what to present once it was approved; None when the sidecar gave none that can be used.
        resume_path: where approvers answer; None likewise.
        receipt_id: id of the receipt about it that the sidecar keeps; None likewise.
    """

    def __init__(self, approval_id: str | None, resume_path: str | None, receipt_id: str | None) -> None:
        super().__init__("Chio sidecar requires an approval", status=409, detail="chio_approval_required")
        self.approval_id = approval_id
        self.resume_path = resume_path
        self.receipt_id = receipt_id


class ReceiptRejected(SidecarError):
    """A receipt that does not verify or does not belong to the request.

    Attributes:
        rule: short name of the rule that failed, for example `signature` or `request_id`.
    """

    code = "chio_invalid_receipt"

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule
