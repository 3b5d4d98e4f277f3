"""ChioCapability: a capability as a permission class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from django.http import HttpRequest
from rest_framework import permissions, status
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.views import APIView

from chio_core.evaluation.hooks import is_met
from chio_core.evaluation.requirements import Arguments, CapabilityRule
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
        return all(self._met(request._request, rule, view) for rule in self.chio_rules)

    def _met(self, request: HttpRequest, rule: CapabilityRule, view: APIView) -> bool:
        decision = require(request, rule, view.kwargs)
        if not is_met(decision) and decision.denial is not None:
            # Of the exception's own headers Django REST framework sends two only; these it puts on every answer.
            view.headers = {**getattr(view, "headers", {}), **dict(refusal_headers(decision.denial))}
            raise ChioDenied(decision.denial)
        return True
