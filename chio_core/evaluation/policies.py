"""What a route states besides a capability: Policy, RequireApproval, Budget and Observe, the same for every framework.

Each framework inherits these classes and adds how one is attached to a view: a dependency, a decorator, a permission.
`ViewPolicies` attaches them from outside, by the name of a view or the prefix of its path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from chio_core.errors import ConfigurationError
from chio_core.evaluation.amounts import Amount, Facts, check_amount, check_query, check_units, read_amount, reads_body
from chio_core.evaluation.precheck import is_among
from chio_core.evaluation.requirements import RequirementSource
from chio_core.models.demands import ApprovalDemand, BudgetDemand, check_currency
from chio_core.models.openapi import APPROVAL, APPROVAL_REQUIRED, BUDGET, BUDGET_LIMIT, OBSERVE, Sensitivity, stated
from chio_core.request import Requirement

_APPROVAL_PLACE = "RequireApproval(amount=…)"
_BUDGET_PLACE = "Budget(cost=…)"
_MAX_KNOWN = 4096


class Policy(RequirementSource):
    """States what a route is: `Policy(sensitivity="restricted", side_effects=True)`.

    Two objects with the same arguments are equal.

    Args:
        sensitivity: how much harm the route can do.
        side_effects: True requires a capability also for GET, HEAD and OPTIONS. False lets a sidecar
            that has the document allow other methods without one; it changes nothing on this side.

    Raises:
        ConfigurationError: neither is given, or a value is unknown.
    """

    def __init__(self, *, sensitivity: Sensitivity | None = None, side_effects: bool | None = None) -> None:
        self._stated = stated("Policy", sensitivity, side_effects)
        if not self._stated:
            raise ConfigurationError("Policy() states nothing: give it sensitivity, side_effects or both")
        self.sensitivity = sensitivity
        self.side_effects = side_effects

    @property
    def chio_decides(self) -> bool:
        """True if there are side effects; all else is for the sidecar's document alone."""
        return self.side_effects is True

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return what this requires: any valid capability if there are side effects, else nothing."""
        return Requirement(capability=self.side_effects is True)

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this in an OpenAPI operation."""
        return dict(self._stated)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and self._stated == other._stated

    def __hash__(self) -> int:
        return hash((self.sensitivity, self.side_effects))

    def __repr__(self) -> str:
        return f"Policy(sensitivity={self.sensitivity!r}, side_effects={self.side_effects!r})"


class RequireApproval(RequirementSource):
    """Requires an approval above a threshold: `RequireApproval(10_000, "USD", amount=from_body("amount"))`.

    A capability is required too, because an approval is bound to one: `RequireCapability` on the same route names
    it, otherwise any valid one will do. Two objects with the same arguments are equal. A request presents one approval,
    so one demand for an approval is what a route can have.

    Args:
        threshold: amount, in units of `currency`, up to which no approval is needed.
        currency: for example `USD`. What a unit is, cents or dollars, is yours to say; it is compared only.
        amount: what a request is about: a number, `from_path`, `from_query`, `from_body`, or a function of the path
            parameters. Left out, it is unknown, and every request needs an approval.

    Raises:
        ConfigurationError: a threshold, currency or amount that cannot be used.
    """

    def __init__(self, threshold: int = 10_000, currency: str = "USD", *, amount: Amount = None) -> None:
        check_units(threshold, "RequireApproval(threshold=…)")
        check_currency(currency, "RequireApproval(currency=…)")
        check_amount(amount, _APPROVAL_PLACE)
        self.threshold = threshold
        self.currency = currency
        self.amount = amount

    @property
    def chio_reads_body(self) -> bool:
        """True if the amount comes from the body."""
        return reads_body(self.amount)

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return what this requires where only the path parameters are known.

        Raises:
            ConfigurationError: the amount is elsewhere in the request.
        """
        return self.chio_requirement_for(Facts(path_params))

    def chio_requirement_for(self, facts: Facts) -> Requirement:
        """Return what this requires about one request.

        Raises:
            RequestRefused: the request does not clearly say the amount, or repeats a query parameter.
            ConfigurationError: the amount is unavailable for this kind of request.
        """
        amount = read_amount(self.amount, facts, _APPROVAL_PLACE)
        check_query(facts)
        return Requirement(approval=ApprovalDemand(self.threshold, self.currency, amount))

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this in an OpenAPI operation."""
        terms = {"threshold": self.threshold, "currency": self.currency}
        return {APPROVAL_REQUIRED: True, APPROVAL: terms}

    def _key(self) -> tuple[Any, ...]:
        return self.threshold, self.currency, self.amount

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequireApproval) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"RequireApproval({self.threshold!r}, {self.currency!r}, amount={self.amount!r})"


class Budget(RequirementSource):
    """Limits what is spent on a route: `Budget(max_invocations=10)`.

    The account belongs to the capability that is presented, or without one to the caller; to the method and to the
    route. No capability is required: add `RequireCapability` for that, because a caller whom no guard has verified
    starts again under another name. Two objects with the same arguments are equal. Of several budgets on a route the
    first is part of the one evaluation, and each further one is evaluated, and spent, by itself; its account is known
    by its currency and limits, so it starts again when they change.

    Args:
        cost: what a request costs, in units of `currency`: a number, `from_path`, `from_query`, `from_body`, or a
            function of the path parameters.
        currency: one account has one currency.
        max_invocations: how many requests are allowed.
        max_cost_per_invocation: what one request may cost.
        max_total_cost: what all requests together may cost.

    Raises:
        ConfigurationError: a cost, currency or limit that cannot be used.
    """

    def __init__(
        self,
        *,
        cost: Amount = 0,
        currency: str = "USD",
        max_invocations: int | None = None,
        max_cost_per_invocation: int | None = None,
        max_total_cost: int | None = None,
    ) -> None:
        check_amount(cost, _BUDGET_PLACE)
        if cost is None:
            raise ConfigurationError("Budget(cost=None): an unknown cost cannot be spent; leave it out for 0")
        check_currency(currency, "Budget(currency=…)")
        limits = {
            "max_invocations": max_invocations,
            "max_cost_per_invocation": max_cost_per_invocation,
            "max_total_cost": max_total_cost,
        }
        for name, limit in limits.items():
            if limit is not None:
                check_units(limit, f"Budget({name}=…)")
        self.cost = cost
        self.limits = BudgetDemand(0, currency, max_invocations, max_cost_per_invocation, max_total_cost)

    @property
    def chio_reads_body(self) -> bool:
        """True if the cost comes from the body."""
        return reads_body(self.cost)

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return what this requires where only the path parameters are known.

        Raises:
            ConfigurationError: the cost is elsewhere in the request.
        """
        return self.chio_requirement_for(Facts(path_params))

    def chio_requirement_for(self, facts: Facts) -> Requirement:
        """Return what this requires about one request.

        Raises:
            RequestRefused: the request does not clearly say the cost.
            ConfigurationError: the cost is unavailable for this kind of request.
        """
        cost = read_amount(self.cost, facts, _BUDGET_PLACE) or 0
        return Requirement(capability=False, budget=replace(self.limits, cost=cost))

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this in an OpenAPI operation."""
        total = self.limits.max_total_cost
        return {BUDGET: self._stated()} if total is None else {BUDGET: self._stated(), BUDGET_LIMIT: total}

    def _stated(self) -> dict[str, Any]:
        return {name: value for name, value in self.limits.to_wire().items() if name != "cost"}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and (self.cost, self.limits) == (other.cost, other.limits)

    def __hash__(self) -> int:
        return hash((self.cost, self.limits))

    def __repr__(self) -> str:
        stated = ", ".join(f"{name}={value!r}" for name, value in self._stated().items())
        return f"Budget(cost={self.cost!r}, {stated})"


class Observe(RequirementSource):
    """Lets a route run whatever Chio decides: its refusals are recorded.

    What cannot be evaluated (a malformed request, a body that is too large) is refused as ever, and so is what a guard
    of the application refuses. All objects of this class are equal.
    """

    chio_observes: ClassVar[bool] = True
    """By this the other sources of the route find it, where there is no middleware."""

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return what this adds to the route's requirement: nothing but the mode."""
        return Requirement(capability=False, observe=True)

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this in an OpenAPI operation."""
        return {OBSERVE: True}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Observe)

    def __hash__(self) -> int:
        return hash(Observe)

    def __repr__(self) -> str:
        return "Observe()"


class ViewPolicies:
    """Policy of views by their names and paths: `{"admin:*": Policy(side_effects=False), "/accounts/": [...]}`.

    A key that begins with `/` is a path with all paths below it, compared with the template of the route. Any other key
    is the name of a view, or with `*` at its end all names that begin so. All keys that fit count, in their order.

    Args:
        views: policies, or lists of them, by key.
        place: name of the setting, for errors.

    Raises:
        ConfigurationError: a key or a value is something else; the text names the key.
    """

    def __init__(self, views: Any = None, place: str = "CHIO_VIEW_POLICIES") -> None:
        if views is not None and not isinstance(views, Mapping):
            raise ConfigurationError(f'{place} must be a dict, for example {{"admin:*": Policy(side_effects=False)}}')
        self._views = {_key(key, place): sources_of(value, f"{place}[{key!r}]") for key, value in (views or {}).items()}
        self._known: dict[tuple[str, str], tuple[RequirementSource, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._views)

    def __call__(self, name: str, path: str) -> tuple[RequirementSource, ...]:
        """Return what is stated about a view.

        Args:
            name: of the view, namespaces included.
            path: template of its route.
        """
        # Names and templates are the application's, so there are about as many as it has routes.
        known = self._known.get((name, path))
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            fitting = (sources for key, sources in self._views.items() if _fits(key, name, path))
            known = self._known[name, path] = tuple(source for sources in fitting for source in sources)
        return known

    def unused(self, views: Iterable[tuple[str, str]]) -> list[str]:
        """Return the keys that fit none of the views, which are given by name and template."""
        known = list(views)
        return [key for key in self._views if not any(_fits(key, name, path) for name, path in known)]


def _fits(key: str, name: str, path: str) -> bool:
    if key.startswith("/"):
        return is_among(path, (key,), (key.rstrip("/"),))
    return name.startswith(key[:-1]) if key.endswith("*") else name == key


def _key(key: Any, place: str) -> str:
    if not isinstance(key, str) or not key or "*" in key[:-1] or (key[0] == "/" and "*" in key):
        raise ConfigurationError(
            f'{place}: {key!r} must be the name of a view, a name with * at its end ("admin:*"), or the beginning of a '
            'path ("/accounts/")'
        )
    return key


def sources_of(value: Any, place: str) -> tuple[RequirementSource, ...]:
    """Return one policy, or a list of them, as a tuple.

    Args:
        place: where it stands, for errors.

    Raises:
        ConfigurationError: it is neither.
    """
    found = tuple(value) if isinstance(value, list | tuple) else (value,)
    for one in found:
        if not isinstance(one, RequirementSource):
            kind = f"{one.__name__} without its parentheses" if isinstance(one, type) else type(one).__name__
            raise ConfigurationError(
                f"{place} takes Policy(…), RequireCapability(…), RequireApproval(…), Budget(…) or Observe(), "
                f"or a list of them, and not {kind}"
            )
    return found
