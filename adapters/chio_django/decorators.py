"""require_capability: the capability that a view requires, as a decorator.

The middleware finds the decorator before the view runs and makes its requirement part of the one evaluation; the
decorator then only checks that this decision was made for it. For a second requirement of the same view, or where
the middleware cannot see the decorator, it evaluates the request itself. It never allows a request unchecked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar, overload

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.decorators import method_decorator
from django.views import View as ClassBasedView

from chio_core.errors import ConfigurationError
from chio_core.evaluation.hooks import is_met
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.pipeline import run, run_async
from chio_core.evaluation.requirements import Arguments, CapabilityRule, named_arguments, rules_of
from chio_core.models.capability import Operation
from chio_core.names import VIEW_RULES
from chio_core.threads.context import RequestContext
from chio_django.apps import ChioDjangoConfig
from chio_django.context import AsyncDjangoAdapter, DjangoAdapter, begin, context_of, refusal

View = TypeVar("View", bound=Callable[..., Any])


class RequiredCapability(CapabilityRule):
    """The decorator that `require_capability(…)` returns; for views, methods of class-based views, and their classes.

    Args:
        server, tool, operations, arguments: see `chio_core.evaluation.requirements.CapabilityRule`.
    """

    def __call__(self, view: View) -> View:
        """Return the view, guarded."""
        if isinstance(view, type):
            return method_decorator(self, name="dispatch")(view)

        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if _dispatches_to_async(view, args):
                return aguarded(*args, **kwargs)
            request, skip = _request_in(args)
            decision = require(request, self, named_arguments(view, args, kwargs, skip))
            return view(*args, **kwargs) if is_met(decision) else refusal_of(decision, request)

        @wraps(view)
        async def aguarded(*args: Any, **kwargs: Any) -> Any:
            request, skip = _request_in(args)
            named = named_arguments(view, args, kwargs, skip)
            # Under WSGI Django makes an event loop for this one view; a connection would not outlive it.
            asgi = hasattr(request, "scope")
            decision = await require_async(request, self, named) if asgi else require(request, self, named)
            return await view(*args, **kwargs) if is_met(decision) else refusal_of(decision, request)

        chosen = aguarded if iscoroutinefunction(view) else guarded
        setattr(chosen, VIEW_RULES, (self, *rules_of(view)))
        return chosen  # type: ignore[return-value]


@overload
def require_capability(server: View, /) -> View: ...


@overload
def require_capability(
    server: str | None = None,
    tool: str | None = None,
    *,
    operations: Sequence[Operation] = ("invoke",),
    arguments: Arguments = None,
) -> RequiredCapability: ...


def require_capability(
    server: Any = None,
    tool: str | None = None,
    *,
    operations: Sequence[Operation] = ("invoke",),
    arguments: Arguments = None,
) -> Any:
    """Guard a view with a capability: `@require_capability("payments", "transfer")`.

    Works on functions, `async def` functions, methods of class-based views, and class-based views themselves; also
    through `method_decorator`. `@require_capability` alone requires any valid capability.

    Args:
        server: `server_id` that the token must grant.
        tool: `tool_name` that it must grant.
        operations: operations that one grant must contain, besides `invoke`.
        arguments: JSON that the grant's constraints are checked with, or a function from the arguments
            that the view is called with, by name, to it.

    Raises:
        ConfigurationError: only one of server and tool, or arguments that are no JSON.
    """
    if callable(server):
        return RequiredCapability()(server)
    return RequiredCapability(server, tool, operations=operations, arguments=arguments)


def require(request: HttpRequest, rule: CapabilityRule, kwargs: Mapping[str, Any]) -> Decision:
    """Return a decision that covers what a rule requires.

    Args:
        kwargs: the arguments that the view is called with, by name.

    Raises:
        ImproperlyConfigured: neither the middleware nor the application is installed.
    """
    context = _context_for(request)
    adapter = DjangoAdapter(request, context, kwargs)
    return run(context.runtime.pipeline.require(adapter, rule))


async def require_async(request: HttpRequest, rule: CapabilityRule, kwargs: Mapping[str, Any]) -> Decision:
    """Do what `require` does in an event loop."""
    context = _context_for(request)
    adapter = AsyncDjangoAdapter(request, context, kwargs)
    return await run_async(context.runtime.pipeline.require(adapter, rule))


def _context_for(request: HttpRequest) -> RequestContext:
    found = context_of(request)
    if found is not None:
        return found
    if not apps.is_installed("chio_django"):
        raise ImproperlyConfigured(
            'this view requires a capability: add "chio_django.ChioDjangoMiddleware" to MIDDLEWARE, or "chio_django" '
            "to INSTALLED_APPS where only single views are to be governed"
        )
    config = apps.get_app_config("chio_django")
    if not isinstance(config, ChioDjangoConfig):
        raise ImproperlyConfigured('the application "chio_django" must use chio_django.apps.ChioDjangoConfig')
    return begin(request, config.runtime.get())


def refusal_of(decision: Decision, request: HttpRequest) -> Any:
    """Return the response of a decision that refuses; it names its receipt even without the middleware.

    Raises:
        ConfigurationError: the decision refuses nothing.
    """
    if decision.denial is None:
        raise ConfigurationError("this decision refuses nothing")
    response = refusal(decision.denial, request)
    if (receipt_id := decision.receipt_header) is not None:
        response.headers[_context_for(request).runtime.settings.receipt_header] = receipt_id
    return response


def _request_in(args: Sequence[Any]) -> tuple[HttpRequest, int]:
    """Return the request, and the number of arguments up to it."""
    # A method that is decorated directly has `self` in front; Django REST framework wraps the request.
    for number, value in enumerate(args[:2], 1):
        request = getattr(value, "_request", value)
        if isinstance(request, HttpRequest):
            return request, number
    raise ImproperlyConfigured("require_capability decorates views: the request must be their first argument")


def _dispatches_to_async(view: Any, args: Sequence[Any]) -> bool:
    # `dispatch` of a class-based view is a plain method that returns what an `async def` handler returns.
    owner = getattr(getattr(view, "func", None), "__self__", args[0] if args else None)
    return isinstance(owner, ClassBasedView) and bool(type(owner).view_is_async)
