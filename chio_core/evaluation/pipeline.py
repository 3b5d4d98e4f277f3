"""Asker: everything between a view and the one POST to the sidecar, for adapters that read bodies from streams.

`ask` is a generator, so the same steps serve threads and event loops: `run` takes them without stopping, `arun`
lets the loop do something else in between. It ends with the question, or with the decision where nobody is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from chio_core.errors import ConfigurationError
from chio_core.evaluation import outcomes as outcome
from chio_core.evaluation.conclude import EvaluateCall, precheck, prepare, singleton_headers
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.precheck import is_excluded
from chio_core.evaluation.requirements import CapabilityRule, requirement_of
from chio_core.identity import default_extractor, identify
from chio_core.models.caller import CallerIdentity
from chio_core.names import LOGGER
from chio_core.refusals.response import Denial
from chio_core.request import RequestView, Requirement
from chio_core.settings import ChioSettings
from chio_core.threads.body import BodyUnusable, Steps

log = logging.getLogger(LOGGER)

Ask = Generator[None, None, EvaluateCall | Decision]


class StreamView(RequestView, Protocol):
    """A `RequestView` whose body can be measured."""

    def measure(self, limit: int, spool_bytes: int) -> Steps:
        """Count and hash the body; see `chio_core.threads.body.measure`."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """The route that will run.

    Attributes:
        template: its full path template, parameters as `{name}`; None when there is none, or nobody can tell.
        requirement: the capability that it asks for.
    """

    template: str | None = None
    requirement: Requirement | None = None


@dataclass(frozen=True, slots=True)
class ViewMatch:
    """The view that will run, in frameworks whose views carry their rules (`chio_core.evaluation.requirements`).

    Attributes:
        template: its path template, `/pets/{pet_id}`; None for a path that leads to no view.
        rules: capabilities that it asks for.
        params: converted path parameters; not compared.
    """

    template: str | None = None
    rules: tuple[CapabilityRule, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def route(self) -> Route:
        """Return what the sidecar is asked about."""
        return Route(self.template, requirement_of(self.rules, self.params) if self.rules else None)


NO_MATCH = ViewMatch()


class Asker:
    """What is worked out once from the settings and used for every request.

    Args:
        settings: what counts.
        extractor: finds out who is calling; `chio_core.identity.default_extractor` otherwise.
    """

    def __init__(
        self, settings: ChioSettings, extractor: Callable[[RequestView], CallerIdentity] | None = None
    ) -> None:
        self.settings = settings
        self.singletons: frozenset[str] = singleton_headers(settings)
        self._extract = extractor or default_extractor(settings.api_key_header, settings.session_cookie)

    def excludes(self, view: RequestView) -> bool:
        """Tell whether a request is not governed at all."""
        return is_excluded(self.settings, view.method, view.route_path)

    def ask(self, view: StreamView, locate: Callable[[], Route], earlier: Decision | None = None) -> Ask:
        """Return, step by step, the question about a request, or the decision where nobody has to be asked.

        Args:
            locate: finds the route; called after everything that refuses a request early.
            earlier: the decision that was made for this very request, if there is one.
        """
        settings = self.settings
        if (denial := precheck(view, settings, self.singletons)) is not None:
            return Decision(verdict="refused", denial=denial)
        try:
            body = yield from view.measure(settings.max_body_bytes, settings.spool_bytes)
        except BodyUnusable as exc:
            return Decision(verdict="refused", denial=denial_for_body(exc))
        route = locate()
        return prepare(
            view,
            settings,
            request_id=str(uuid.uuid4()),
            now=time.time(),
            caller=identify(view, self._extract),
            template=route.template,
            body_hash=body.hash,
            body_length=body.length,
            requirement=route.requirement,
            earlier=() if earlier is None else (earlier,),
        )


def run(steps: Ask) -> EvaluateCall | Decision:
    """Take all steps at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


async def arun(steps: Ask) -> EvaluateCall | Decision:
    """Take all steps; other tasks may run in between. No thread is involved."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        await asyncio.sleep(0)


def denial_for_body(exc: BodyUnusable) -> Denial:
    """Return the refusal of a request whose body cannot be judged."""
    if exc.status == 413:
        return Denial(status=413, code="chio_body_too_large", message=exc.message)
    if exc.status == 500:
        log.error("chio: %s", exc.message)
        return Denial(status=500, code=ConfigurationError.code, message="the request body cannot be judged")
    return outcome.bad_request(exc.message, exc.status)
