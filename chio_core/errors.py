"""Exceptions, in three families.

* `ConfigurationError`: a mistake of the programmer or operator.
* `InvalidDocument`: input that cannot be read or does not verify.
* `SidecarError` and its children: no usable decision from the sidecar. `NotIssued`: no capability from the authority.

A denial is no exception: it is a `chio_core.evaluation.outcomes.Decision`.

The `code` of each class is the wire code (wire protocol, section 11.1).
"""

from __future__ import annotations


class ChioError(Exception):
    """Base of all exceptions that this distribution raises on purpose."""

    code = "chio_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigurationError(ChioError, ValueError):
    """A setting, an order of guards or a call that cannot work; the message names the place and the remedy."""

    code = "chio_configuration"


class InvalidDocument(ChioError, ValueError):
    """A JSON document, key, token or receipt that is malformed or does not verify."""

    code = "chio_invalid_document"


class NotIssued(ChioError):
    """The trust service did not issue a capability."""

    code = "chio_not_issued"


class SidecarError(ChioError):
    """The sidecar gave no usable decision."""

    code = "chio_evaluation_failed"


class SidecarUnreachable(SidecarError):
    """No connection to the sidecar could be opened; nothing was sent."""

    code = "chio_sidecar_unreachable"


class SidecarTimeout(SidecarError):
    """The sidecar did not respond within the setting `timeout`."""

    code = "chio_timeout"


class CallerTimeout(SidecarTimeout):
    """The caller's own, shorter time ran out. The sidecar may be healthy, so nothing passes under `fail_open`."""


class Overloaded(SidecarError):
    """No decision, because this process or the sidecar has too much to do.

    All connections were in use, or the event loop did not run, or the sidecar refused more work. The sidecar is neither
    unreachable nor silent, so `fail_open` does not apply.
    """

    code = "chio_overloaded"


class EvaluationFailed(SidecarError):
    """The sidecar responded, but not with a usable decision.

    Attributes:
        status: HTTP status of the response; None if it could not be read.
        detail: the response's own `error` code; None without one.
    """

    code = "chio_evaluation_failed"

    def __init__(self, message: str, *, status: int | None = None, detail: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class ApprovalRequired(EvaluationFailed):
    """The sidecar responded 409: a person has to approve the request first (wire protocol, section 1.8).

    The response is not signed, so only short, plain texts are kept.

    Attributes:
        approval_id: id to present once the request is approved; None if the sidecar sent no usable one.
        resume_path: path at which approvers decide; None likewise.
        receipt_id: id of the sidecar's receipt about it; None likewise.
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


def install_extra(extra: str) -> str:
    """Return the command that installs an extra of this distribution, which is on no package index.

    Args:
        extra: a name of `[project.optional-dependencies]`.
    """
    return f"pip install -e '.[{extra}]' in its checkout, or pip install 'FILE.whl[{extra}]'"
