"""RequireCapability, RequireApproval, Budget, Policy and Observe above views, in classes, and around `include()`.

The middleware finds the decorator before the view runs and makes its requirement part of the one evaluation; the
decorator then only checks that this decision was made for it. For a second requirement of the same view, or where
the middleware cannot see the decorator, it evaluates the request itself. It never allows a request unchecked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce, wraps
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver
from django.urls import include as django_include
from django.utils.decorators import method_decorator
from django.views import View as ClassBasedView

from chio_core.errors import ConfigurationError
from chio_core.evaluation import policies
from chio_core.evaluation.governed import run, run_async
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.policies import sources_of
from chio_core.evaluation.requirements import (
    CapabilityDecorator,
    CapabilityRule,
    RequirementSource,
    ViewRule,
    named_arguments,
    rules_of,
)
from chio_core.names import VIEW_RULES
from chio_core.threads.context import RequestContext
from chio_django.apps import ChioDjangoConfig
from chio_django.context import AsyncDjangoAdapter, DjangoAdapter, begin, context_of, refusal

View = TypeVar("View", bound=Callable[..., Any])


class Decorator(ViewRule):
    """What all of them are as decorators: of views, of methods of class-based views, and of their classes."""

    def __call__(self, view: View) -> View:
        """Return the view, guarded.

        Raises:
            TypeError: it decorates an operation of django-ninja that its API has already.
        """
        if isinstance(view, type):
            rules = (self, *rules_of(getattr(view, "dispatch", None)))
            decorated: Any = method_decorator(self, name="dispatch")(view)
            setattr(decorated.dispatch, VIEW_RULES, rules)  # Django keeps those of an inner decorator only
            return decorated  # type: ignore[no-any-return]
        if hasattr(view, "_ninja_operation"):
            raise TypeError(
                f"write @{type(self).__name__}(…) below the @api.… of {view.__name__}: above it nothing runs it"
            )

        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if _dispatches_to_async(view, args):
                return aguarded(*args, **kwargs)
            request, skip = _request_in(args)
            refused = refused_by((self,), request, named_arguments(view, args, kwargs, skip))
            return view(*args, **kwargs) if refused is None else refused

        @wraps(view)
        async def aguarded(*args: Any, **kwargs: Any) -> Any:
            request, skip = _request_in(args)
            refused = await arefused_by((self,), request, named_arguments(view, args, kwargs, skip))
            return await view(*args, **kwargs) if refused is None else refused

        chosen = aguarded if iscoroutinefunction(view) else guarded
        setattr(chosen, VIEW_RULES, (self, *rules_of(view)))
        return chosen  # type: ignore[return-value]


class RequireCapability(Decorator, CapabilityRule):
    """Requires a capability; see `chio_core.evaluation.requirements.CapabilityRule` for the arguments.

    A function for `arguments` receives the arguments that the view is called with, by name.
    """


class RequireApproval(Decorator, policies.RequireApproval):
    """Requires an approval above a threshold; see `chio_core.evaluation.policies.RequireApproval`."""


class Budget(Decorator, policies.Budget):
    """Limits what is spent on a view; see `chio_core.evaluation.policies.Budget`."""


class Policy(Decorator, policies.Policy):
    """States what a view is; see `chio_core.evaluation.policies.Policy`."""


class Observe(Decorator, policies.Observe):
    """Lets a view run whatever Chio decides; `request.chio_passthrough` says so."""


class PolicyMixin(ClassBasedView):
    """For class-based views: `class Order(PolicyMixin, View): chio_policy = [RequireCapability("shop", "order")]`.

    Attributes:
        chio_policy: a policy or a list of them, for all methods; subclasses replace it.
    """

    chio_policy: RequirementSource | Sequence[RequirementSource] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the policy.

        Raises:
            ConfigurationError: it is something else.
        """
        super().__init_subclass__(**kwargs)
        sources_of(cls.chio_policy, f"{cls.__name__}.chio_policy")

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the view, or respond with the refusal."""
        sources = sources_of(self.chio_policy, "chio_policy")
        inner: Callable[..., Any] = super().dispatch
        found = getattr(request, "_request", request)
        if self.view_is_async:

            async def run_view() -> Any:
                refused = await arefused_by(sources, found, kwargs)
                return await inner(request, *args, **kwargs) if refused is None else refused

            return run_view()
        refused = refused_by(sources, found, kwargs)
        return inner(request, *args, **kwargs) if refused is None else refused


def include(
    arg: Any, namespace: str | None = None, *, policy: RequirementSource | Sequence[RequirementSource]
) -> tuple[list[URLPattern | URLResolver], str | None, str | None]:
    """Include URLs as `django.urls.include`, with a policy for all their views.

    Args:
        arg: as for Django's; `admin.site.urls` too.
        namespace: as for Django's.
        policy: one made by a class of this module, or a list of them, outermost first.

    Raises:
        ConfigurationError: the policy is something else.
    """
    module, app_name, name = arg if isinstance(arg, tuple) and len(arg) == 3 else django_include(arg, namespace)
    rules = sources_of(policy, "include(policy=…)")
    if not all(isinstance(rule, Decorator) for rule in rules):
        raise ConfigurationError("include(policy=…) takes objects that chio_django makes: from chio_django import …")
    return [_guarded(one, rules) for one in getattr(module, "urlpatterns", module)], app_name, name


def _guarded(pattern: Any, rules: Sequence[Any]) -> URLPattern | URLResolver:
    if isinstance(pattern, URLResolver):
        inner = [_guarded(one, rules) for one in pattern.url_patterns]
        return URLResolver(pattern.pattern, inner, pattern.default_kwargs, pattern.app_name, pattern.namespace)
    callback = reduce(lambda view, rule: rule(view), reversed(rules), pattern.callback)
    return URLPattern(pattern.pattern, callback, pattern.default_args, pattern.name)


require_capability = CapabilityDecorator(RequireCapability)
"""Guard a view with a capability: `@require_capability("payments", "transfer")`.

Works on functions, `async def` functions, methods of class-based views, and class-based views themselves; also through
`method_decorator`.
"""


def require(request: HttpRequest, rule: RequirementSource, kwargs: Mapping[str, Any]) -> Decision:
    """Return a decision that covers what a rule requires.

    Args:
        kwargs: the arguments that the view is called with, by name.

    Raises:
        ImproperlyConfigured: neither the middleware nor the application is installed.
    """
    context = _context_for(request)
    adapter = DjangoAdapter(request, context, kwargs)
    return run(context.runtime.pipeline.require(adapter, rule))


async def require_async(request: HttpRequest, rule: RequirementSource, kwargs: Mapping[str, Any]) -> Decision:
    """Do what `require` does in an event loop."""
    context = _context_for(request)
    adapter = AsyncDjangoAdapter(request, context, kwargs)
    return await run_async(context.runtime.pipeline.require(adapter, rule))


def refused_by(
    rules: Iterable[RequirementSource], request: HttpRequest, kwargs: Mapping[str, Any]
) -> HttpResponse | None:
    """Return the refusal of the first rule that is not met, or None.

    Args:
        kwargs: the arguments that the view is called with, by name.

    Raises:
        ImproperlyConfigured: neither the middleware nor the application is installed.
    """
    for rule in rules:
        if rule.chio_decides:
            decision = require(request, rule, kwargs)
            if not decision.meets_requirement(proven=not rule.chio_observes):
                return refusal_of(decision, request)
    return None


async def arefused_by(
    rules: Iterable[RequirementSource], request: HttpRequest, kwargs: Mapping[str, Any]
) -> HttpResponse | None:
    """Do what `refused_by` does for an `async def` view."""
    # Under WSGI Django makes an event loop for this one view; a connection would not outlive it.
    if not hasattr(request, "scope"):
        return refused_by(rules, request, kwargs)
    for rule in rules:
        if rule.chio_decides:
            decision = await require_async(request, rule, kwargs)
            if not decision.meets_requirement(proven=not rule.chio_observes):
                return refusal_of(decision, request)
    return None


def _context_for(request: HttpRequest) -> RequestContext:
    found = context_of(request)
    if found is not None:
        return found
    if not apps.is_installed("chio_django"):
        raise ImproperlyConfigured(
            'this view has a policy of Chio: add "chio_django.ChioDjangoMiddleware" to MIDDLEWARE, or "chio_django" '
            "to INSTALLED_APPS where only single views are to be governed"
        )
    config = apps.get_app_config("chio_django")
    if not isinstance(config, ChioDjangoConfig):
        raise ImproperlyConfigured('the application "chio_django" must use chio_django.apps.ChioDjangoConfig')
    return begin(request, config.runtime.get())


def refusal_of(decision: Decision, request: HttpRequest) -> HttpResponse:
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
    raise ImproperlyConfigured("Chio decorates views: the request must be their first argument")


def _dispatches_to_async(view: Any, args: Sequence[Any]) -> bool:
    # `dispatch` of a class-based view is a plain method that returns what an `async def` handler returns.
    owner = getattr(getattr(view, "func", None), "__self__", args[0] if args else None)
    return isinstance(owner, ClassBasedView) and bool(type(owner).view_is_async)
