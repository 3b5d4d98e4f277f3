"""RequireCapability, RequireApproval, Budget, Policy and Observe: above views, and around blueprints.

The extension finds the decorator before the view runs and makes its requirement part of the one evaluation; the
decorator then only checks that this decision was made for it. For a second requirement of the same view, or where
the extension cannot see the decorator, it evaluates the request itself. It never allows a request unchecked.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

from flask import Blueprint, Flask, Request, Response, current_app, request
from flask.views import View

from chio_core.errors import ConfigurationError
from chio_core.evaluation import policies
from chio_core.evaluation.governed import run
from chio_core.evaluation.requirements import (
    CapabilityDecorator,
    CapabilityRule,
    ViewRule,
    named_arguments,
    rules_of,
)
from chio_core.names import FLASK_EXTENSION, VIEW_RULES
from chio_flask.context import FlaskAdapter, begin, context_in, refusal
from chio_flask.driver import GovernedApp

Target = TypeVar("Target", bound=Callable[..., Any] | Blueprint)


class Decorator(ViewRule):
    """What all of them are as decorators: of views and methods of class-based views, and of blueprints."""

    def __call__(self, view: Target) -> Target:
        """Return the view, guarded; or the blueprint, all of whose views are then guarded, nested ones too.

        Raises:
            ConfigurationError: it is a class.
            AssertionError: the blueprint is registered already (by Flask).
        """
        if isinstance(view, Blueprint):
            view.before_request(lambda: self._refusal(request.view_args or {}))
            setattr(view, VIEW_RULES, (*rules_of(view), self))
            return view
        if isinstance(view, type):
            raise ConfigurationError("decorate the methods of a class-based view, or list it in `decorators`")
        asynchronous = inspect.iscoroutinefunction(view)

        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            skip = 1 if args and isinstance(args[0], View) else 0
            refused = self._refusal(named_arguments(view, args, kwargs, skip))
            if refused is not None:
                return refused
            return current_app.ensure_sync(view)(*args, **kwargs) if asynchronous else view(*args, **kwargs)

        setattr(guarded, VIEW_RULES, (self, *rules_of(view)))
        return guarded  # type: ignore[return-value]

    def _refusal(self, path_params: Mapping[str, Any]) -> Response | None:
        if not self.chio_decides:
            return None
        current: Request = request._get_current_object()  # type: ignore[attr-defined]
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        context = context_in(current.environ)
        if context is None:
            governed = app.extensions.get(FLASK_EXTENSION)
            if not isinstance(governed, GovernedApp):
                raise ConfigurationError(
                    "this view has a policy of Chio: govern the application with chio_flask.Chio(app)"
                )
            context = begin(current.environ, governed.live.get())
        adapter = FlaskAdapter(app, current, context, path_params)
        decision = run(context.runtime.pipeline.require(adapter, self))
        if decision.meets_requirement(proven=not self.chio_observes) or decision.denial is None:
            return None
        return refusal(decision.denial, current)


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
    """Lets a view run whatever Chio decides; `g.chio_passthrough` says so."""


require_capability = CapabilityDecorator(RequireCapability)
"""Guard a view with a capability: `@require_capability("payments", "transfer")`, below `@app.route(…)`.

Works on functions, `async def` functions and methods of class-based views.
"""
