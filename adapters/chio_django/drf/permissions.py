"""RequireCapability, RequireApproval, Budget, Policy and Observe as permissions; ChioCapability, the older form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from django.http import HttpRequest
from rest_framework import permissions, status
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.views import APIView

from chio_core.evaluation import policies
from chio_core.evaluation.requirements import Arguments, CapabilityRule, RequirementSource, ViewRule
from chio_core.models.capability import Operation
from chio_core.refusals.problems import nested, refusal_headers
from chio_core.refusals.response import Denial
from chio_django.decorators import require


class ChioDenied(APIException):
    """A refusal, in the nested envelope of `chio_django`.

    Attributes:
        denial: the refusal itself.
    """

    status_code: int = status.HTTP_403_FORBIDDEN
    default_code = "chio_denied"

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.message)
        self.denial = denial
        self.status_code = denial.status
        self.detail = nested(denial)
        headers = dict(refusal_headers(denial))
        if "www-authenticate" in headers:
            self.auth_header = headers["www-authenticate"]
        if headers.get("retry-after", "").isdecimal():
            self.wait = int(headers["retry-after"])


class Permission(permissions.OperationHolderMixin, ViewRule):
    """What all of them are in `permission_classes`: an object that stands where a class may stand.

    Combine them with `&` only. A refusal raises an exception, so inside `|` it ends the request all the same.
    """

    def __call__(self) -> Self:
        """Return the permission, as Django REST framework makes one of each class."""
        return self

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Return True when the requirement is met.

        Raises:
            ChioDenied: 401 when no capability was presented, 403 when it is not enough, 502 or 503 when there was no
                decision; for approvals and budgets see the table of outcomes.
        """
        return _met(request._request, self, view)

    def has_object_permission(self, request: Request, view: APIView, obj: Any) -> bool:
        """Return True: the decision is about the request."""
        return True


class RequireCapability(Permission, CapabilityRule):
    """Requires a capability; see `chio_core.evaluation.requirements.CapabilityRule` for the arguments."""


class RequireApproval(Permission, policies.RequireApproval):
    """Requires an approval above a threshold; see `chio_core.evaluation.policies.RequireApproval`."""


class Budget(Permission, policies.Budget):
    """Limits what is spent on a view; see `chio_core.evaluation.policies.Budget`."""


class Policy(Permission, policies.Policy):
    """States what a view is; see `chio_core.evaluation.policies.Policy`."""


class Observe(Permission, policies.Observe):
    """Lets a view run whatever Chio decides; `request.chio_passthrough` says so."""


class ChioCapability(permissions.BasePermission):
    """Requires any valid capability; `ChioCapability.of("payments", "transfer")` for a certain one.

    A refusal raises, so it ends the request even where the permission is combined with `|`.
    """

    chio_rules: ClassVar[tuple[CapabilityRule, ...]] = (CapabilityRule(),)

    @staticmethod
    def of(
        server: str,
        tool: str,
        *,
        operations: Sequence[Operation] = ("invoke",),
        arguments: Arguments = None,
    ) -> type[ChioCapability]:
        """Return a permission class for one capability.

        Args:
            server, tool, operations, arguments: see `chio_core.evaluation.requirements.CapabilityRule`; a function
                receives the view's keyword arguments.

        Raises:
            ConfigurationError: a name is empty, an operation unknown, or the arguments are no JSON.
        """
        rule = CapabilityRule(server, tool, operations=operations, arguments=arguments)
        return type("ChioCapability", (ChioCapability,), {"chio_rules": (rule,), "__doc__": f"Requires {rule!r}."})

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Return True when the capability was presented and verified.

        Raises:
            ChioDenied: 401 when none was presented, 403 when it is not enough, 502 or 503 when there was no
                decision.
        """
        return all(_met(request._request, rule, view) for rule in self.chio_rules)


def _met(request: HttpRequest, rule: RequirementSource, view: APIView) -> bool:
    if not rule.chio_decides:
        return True
    decision = require(request, rule, view.kwargs)
    if not decision.meets_requirement(proven=not rule.chio_observes) and decision.denial is not None:
        # Of the exception's own headers Django REST framework sends two only; these it puts on every answer.
        view.headers = {**getattr(view, "headers", {}), **dict(refusal_headers(decision.denial))}
        raise ChioDenied(decision.denial)
    return True
