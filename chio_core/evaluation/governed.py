"""One governed request: what is known about it, what of it was evaluated, and how its framework does the steps.

`EvaluatedRequest` is the one object that later changes are compared with: a receipt counts for the request that was
evaluated and for no other. `RequestAdapter` is what a framework does in its own way for the steps of
`chio_core.evaluation.pipeline`; `run` and `run_async` do the steps, in a thread or in an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from chio_core.evaluation.amounts import Facts
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.evaluation.hooks import Hook
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.precheck import Presented
from chio_core.evaluation.requirements import RequirementSource, merged
from chio_core.models.receipt import GuardEvidence
from chio_core.models.request import CallerIdentity
from chio_core.refusals.response import Denial
from chio_core.request import RequestView, Requirement

T = TypeVar("T")
Steps = Generator[Any, Any, T]
"""Yields results of a `RequestAdapter`'s methods (awaitables, if the adapter is asynchronous)."""


class Body(Protocol):
    """A request body that was read to its end.

    Attributes:
        length: its length in bytes.
        hash: SHA-256 hex over all of it; None for an empty body.
        refusal: in observe mode the refusal of a body that exceeds a limit.
    """

    @property
    def length(self) -> int: ...  # noqa: D102 - see the class

    @property
    def hash(self) -> str | None: ...  # noqa: D102 - see the class

    @property
    def refusal(self) -> Denial | None: ...  # noqa: D102 - see the class


@dataclass(frozen=True, slots=True)
class KnownBody:
    """Length and hash of a body whose bytes are kept elsewhere; see `Body`.

    Attributes:
        source: the object that the application reads the body from, to recognise another one.
    """

    length: int = 0
    hash: str | None = None
    source: Any = field(default=None, compare=False, repr=False)
    refusal: Denial | None = None


NO_BODY = KnownBody()

_FRAMEWORKS = {"fastapi": "fastapi", "starlette": "starlette", "django": "django", "werkzeug": "flask"}
_VIEW_NAMES = {"django": "view_name", "flask": "endpoint"}
"""Attribute of a framework's route with the name by which `CHIO_VIEW_POLICIES` finds its view."""


@dataclass(slots=True)
class RouteMatch:
    """The route that will run.

    Attributes:
        template: its full path template, parameters as `{name}`; None if there is no route, or it is unknown.
        path_params: converted path parameters; not compared.
        sources: what the route declares, outermost first.
        route: the framework's own route object; not compared.
        outer: those of the sources that no code around the view checks, because a setting or a blueprint states them.
    """

    template: str | None = None
    path_params: Mapping[str, Any] = field(default_factory=dict, compare=False)
    sources: tuple[RequirementSource, ...] = ()
    route: Any = field(default=None, compare=False, repr=False)
    outer: tuple[RequirementSource, ...] = ()

    @property
    def place(self) -> dict[str, str]:
        """What the report of observe mode needs to name the route: `framework`, and `view` if its setting knows it."""
        classes = type(self.route).__mro__
        found = (_FRAMEWORKS.get(one.__module__.partition(".")[0]) for one in classes)
        framework = next((name for name in found if name is not None), None)
        if framework is None:
            return {}
        view = getattr(self.route, _VIEW_NAMES.get(framework, ""), None)
        return {"framework": framework} | ({"view": view} if isinstance(view, str) else {})

    @property
    def reads_body(self) -> bool:
        """True if the requirement depends on the body."""
        return bool(self.sources) and any(source.chio_reads_body for source in self.sources)

    def requirement(self, facts: Facts | None = None) -> Requirement | None:
        """Return the requirement of the first evaluation; see `chio_core.evaluation.requirements.merged`.

        Args:
            facts: the request; without them only sources that need no more than path parameters can answer.

        Raises:
            RequestRefused: the request does not clearly state what has to be evaluated.
        """
        known = facts if facts is not None else Facts(self.path_params)
        return merged(source.chio_requirement_for(known) for source in self.sources)


NO_MATCH = RouteMatch()


class Reading(NamedTuple):
    """What is read of a request before its evaluation; `fault` is a refusal before it, which observe mode withholds."""

    presented: Presented
    caller: CallerIdentity
    body: Body
    match: RouteMatch
    requirement: Requirement | None
    fault: Denial | None


@dataclass(slots=True)
class EvaluatedRequest:
    """A request as it was evaluated, or as it is now.

    Attributes:
        headers: lines of the headers that the evaluation depends on, by their names in lower case.
        body: hash of the body.
        route: the route; None if it was not evaluated (an excluded request).
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, Sequence[str]] = field(repr=False)
    body: str | None
    route: RouteMatch | None

    def changes(self, now: EvaluatedRequest) -> tuple[str, ...]:
        """Return the names of the parts in which `now` differs; empty if this evaluation counts for it.

        A credential may be missing in `now`: inner middleware that removes one gains nothing.
        """
        if self == now:
            return ()
        found = [name for name in ("method", "path", "query", "body") if getattr(self, name) != getattr(now, name)]
        if self.headers != now.headers:
            for name in {*self.headers, *now.headers}:
                lines = now.headers.get(name)
                if lines != self.headers.get(name) and (lines is not None or name == "content-type"):
                    found.append(f"header {name}")
        if self.route is not None and now.route is not None and self.route != now.route:
            found.append("route")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Carried:
    """A token that does not come out of the header; None: the request carries none.

    It is read once for an evaluated request, so what inner code does to the session changes nothing about it.
    """

    token: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class GovernedRequest:
    """What is known about one request while it is governed. It holds no reference to the request itself.

    Attributes:
        decision: the first decision about it; None before there is one.
        shown: the decision that the response is about, whose receipt it names: the first, or one that refused.
        evidence: what the local guards have stated so far.
        evaluated: the request as it was evaluated.
        body: the body, once it was read.
        observed: a refusal of this request is only recorded.
        carried: the token that it carries beside its header, once it was read.
        further: decisions that dependencies or decorators needed in addition, oldest first.
    """

    decision: Decision | None = None
    shown: Decision | None = None
    evidence: list[GuardEvidence] = field(default_factory=list)
    evaluated: EvaluatedRequest | None = None
    body: Body | None = None
    observed: bool = False
    carried: Carried | None = field(default=None, repr=False)
    further: list[Decision] = field(default_factory=list)

    def forget(self) -> None:
        """Forget the evaluation and the body: the request is another one now. What the guards stated remains."""
        self.decision = self.shown = self.evaluated = self.body = self.carried = None
        self.further.clear()


class RequestAdapter(Protocol):
    """One request, as its framework handles it.

    Methods marked with * return their result, or an awaitable of it for `run_async`.

    Attributes:
        view: the request.
        governed: its facts, requirement and decision so far.
    """

    @property
    def view(self) -> RequestView: ...  # noqa: D102 - see the class

    @property
    def governed(self) -> GovernedRequest: ...  # noqa: D102 - see the class

    def now(self) -> RequestView:
        """Return the request as the application will see it."""

    def keep_body(self) -> None:
        """Keep what code of the application reads of the body outside of its handler, so that it can be read again.

        It is called before that code, where `read_body` is not done yet, and after it.

        Raises:
            RequestRefused: its length is not clear.
        """

    def read_body(self) -> Any:
        """* Read the body to its end, and return a `Body`.

        It is read within the view's limits, which are lifted for a request that is observed (`governed.observed`).

        Raises:
            RequestRefused: it is too large, or did not arrive completely or in time.
        """

    def raw_body(self) -> Any:
        """* Return the bytes of the body; None if the request can have none (a websocket handshake)."""

    def body_hash(self) -> str | None:
        """Return the hash of the body that the handler will read, as far as inner code can replace it."""

    def locate(self) -> RouteMatch:
        """Return the route that will run."""

    def compute(self, function: Callable[[], T], facts: Facts) -> Any:
        """* Return the result of a function that may parse the body, in a thread if that takes long."""

    def send(self, call: EvaluateCall) -> Any:
        """* Send a call to the sidecar and return the `Decision`."""

    def publish(self, decision: Decision) -> None:
        """Show a decision to the application."""

    def call_hook(self, hook: Hook, value: Any) -> Any:
        """* Call a hook; exceptions are logged."""


def run(steps: Steps[T]) -> T:
    """Run steps in a thread."""
    step, value = steps.send, None
    while True:
        try:
            value = step(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def run_async(steps: Steps[T]) -> T:
    """Run steps in an event loop: what they yield is awaited."""
    step: Callable[[Any], Any] = steps.send
    value: Any = None
    while True:
        try:
            pending = step(value)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        try:
            step, value = steps.send, await pending
        except BaseException as exc:  # noqa: BLE001 - the steps handle it, or raise it again
            step, value = steps.throw, exc
