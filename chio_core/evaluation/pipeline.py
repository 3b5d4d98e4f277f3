"""Pipeline: the order in which every request is governed, for all frameworks.

    exclude → precheck → route → requirement → caller → body → evaluate → publish

The body comes last, because its sender can hold back its end: a request that is refused whatever its body says is
evaluated without it (`chio_core.evaluation.precheck`). It precedes the requirement where an amount is in it, where a
route requires nothing, and in observe mode, which refuses nothing.

The steps are generators. They yield what a framework does in its own way (read a body, send a call, run a hook), and
`run` or `run_async` gives them the result: the same steps serve threads and event loops. `Pipeline.govern` is for
middleware, `Pipeline.require` for dependencies and decorators, and both evaluate through `Pipeline.evaluate`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from chio_core.concurrency.loop_thread import timed
from chio_core.errors import ConfigurationError
from chio_core.evaluation.amounts import Facts
from chio_core.evaluation.body_limits import BodyLimits
from chio_core.evaluation.exchange import new_request_id, prepare
from chio_core.evaluation.governed import (
    NO_BODY,
    NO_MATCH,
    EvaluatedRequest,
    Reading,
    RequestAdapter,
    RouteMatch,
    Steps,
)
from chio_core.evaluation.hooks import Hook, refused_by_guard
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.precheck import (
    Exclusions,
    Presented,
    can_be_evaluated,
    is_observed,
    precheck,
    refused_unread,
    singleton_headers,
)
from chio_core.evaluation.requirements import RequirementSource, includes
from chio_core.evaluation.sources import CapabilityFunction, SessionOf, read_carried, source_of
from chio_core.identity import Extractor, default_extractor, identify
from chio_core.models.request import CallerIdentity
from chio_core.names import APPROVAL_HEADER, LOGGER
from chio_core.refusals.problems import RefusalPage, checked_page
from chio_core.refusals.response import AnyResponse, Denial, RequestRefused, misconfigured
from chio_core.request import RequestView, Requirement
from chio_core.settings import ChioSettings

log = logging.getLogger(LOGGER)


class Pipeline:
    """The steps of governing a request, with what they need from the settings.

    Args:
        settings: the options.
        extractor: returns the caller; `chio_core.identity.default_extractor` if left out.
        on_decision, on_receipt: hooks of the application.
        refusal_page: makes the page that a browser gets for a refusal, see `chio_core.refusals.problems`.
        report: called with each refusal that the sidecar did not decide, the method and the path; the client
            reports all other decisions.
        warn: called with each refusal, the method, the path and the template of the route, None if unknown.
        capability: returns the token of a request that has none in its header, see `chio_core.evaluation.sources`; the
            setting `capability_source` if left out.
        session: how the framework reads a session.
        incoming: False for requests that the application sends: the approvals they carry are for another sidecar,
            and paths in the settings do not mean theirs.
    """

    def __init__(
        self,
        settings: ChioSettings,
        extractor: Extractor | None = None,
        on_decision: Hook | None = None,
        on_receipt: Hook | None = None,
        refusal_page: RefusalPage | None = None,
        *,
        report: Callable[[Decision, str, str], None] | None = None,
        warn: Callable[[Decision, str, str, str | None], None] | None = None,
        capability: CapabilityFunction | None = None,
        session: SessionOf | None = None,
        incoming: bool = True,
    ) -> None:
        self.settings = settings
        self.singletons: frozenset[str] = singleton_headers(settings)
        self._source = source_of(settings, capability, session) if incoming else None
        self.extractor: Extractor = default_extractor(settings.api_key_header, settings.session_cookie)
        if extractor is not None:
            self.extractor = timed("extractor", extractor)
        self._calls_application = extractor is not None or capability is not None
        self.limits = BodyLimits.of(settings)
        self._excluded = Exclusions(settings)
        self._may_observe = bool(settings.observe or settings.observe_paths or settings.observe_prefixes)
        self._fault: str | None = None
        self._on_decision = on_decision
        self._on_receipt = on_receipt
        self._page = checked_page(refusal_page)
        self._warn = warn
        self._report = report
        self._incoming = incoming
        own = (settings.capability_header, settings.api_key_header, APPROVAL_HEADER)
        self._compared = frozenset({"content-type", "authorization", "cookie", *(name.lower() for name in own)})

    def govern(self, adapter: RequestAdapter) -> Steps[Denial | None]:
        """Govern a request before the application sees it; ends with the refusal, or None.

        A request is governed again if inner code changed it; the earlier decision then counts for nothing.
        """
        governed, view = adapter.governed, adapter.view
        governed.forget()
        # Excluded requests are not governed at all. Their method and path are kept, because inner code could turn
        # them into others.
        if self._excluded.cover(view.method, view.route_path):
            governed.evaluated = self._snapshot(view, None, None)
            return None
        decision = yield from self.evaluate(adapter)
        yield from self._publish(adapter, decision)
        # What did not fit into this evaluation, for example a second capability, is evaluated where a decorator runs.
        # Nothing runs for what a setting or a blueprint states.
        route = governed.evaluated.route if governed.evaluated is not None else None
        for source in route.outer if route is not None and len(route.sources) > 1 else ():
            if decision.denial is None and source.chio_decides:
                decision = yield from self.require(adapter, source)
        return decision.denial

    def evaluate(
        self, adapter: RequestAdapter, requirement: Requirement | None = None, earlier: tuple[Decision, ...] = ()
    ) -> Steps[Decision]:
        """Evaluate a request once.

        Args:
            requirement: what to require; None: what the route declares.
            earlier: decisions about this request, oldest first.
        """
        settings, view, governed = self.settings, adapter.view, adapter.governed
        read = yield from self._read(adapter, requirement)
        if isinstance(read, Decision):
            return read
        requirement = read.requirement
        call = prepare(
            view,
            settings,
            request_id=new_request_id(),
            now=time.time(),
            caller=read.caller,
            presented=read.presented,
            template=read.match.template,
            body_hash=read.body.hash,
            body_length=read.body.length,
            unread=governed.body is None,
            requirement=requirement,
            observe=governed.observed,
            fault=read.fault,
            place=read.match.place if governed.observed else None,
            earlier=earlier,
            presents=self._incoming,
        )
        if governed.evaluated is None or governed.evaluated.route is None:
            governed.evaluated = self._snapshot(view, read.body.hash, read.match)
        try:
            decision: Decision = yield adapter.send(call)
        except ConfigurationError as exc:
            # For example the store of an embedded sidecar, which is opened only now without a lifespan. It is tried
            # again for each request; the log states each reason once.
            if exc.message != self._fault:
                self._fault = exc.message
                outcome = "run all the same in observe mode" if governed.observed else "get a 500"
                log.error("chio: requests cannot be evaluated, and %s: %s", outcome, exc.message)
            return self._refused(adapter, misconfigured(), requirement, observed=governed.observed)
        self._fault = None
        return decision

    def _read(self, adapter: RequestAdapter, requirement: Requirement | None) -> Steps[Reading | Decision]:
        """Return what a request presents, its caller, its body, its route and what that requires; or a refusal."""
        view, governed = adapter.view, adapter.governed
        # A request that could mean two things is refused before anything else of it is read. In observe mode
        # nothing that it presents counts, and it is evaluated to be recorded.
        fault: Denial | None = None
        try:
            presented = precheck(view, self.settings, self.singletons)
        except RequestRefused as exc:
            presented, fault = Presented(), exc.denial
        match = NO_MATCH
        try:
            match = adapter.locate() if fault is None or can_be_evaluated(view) else NO_MATCH
        except RequestRefused as exc:
            fault = fault or exc.denial
        observed = governed.observed = self._observes(adapter, match, requirement)
        if fault is not None and not (observed and can_be_evaluated(view)):
            if observed:
                governed.evaluated = self._snapshot(view, None, None)  # as for a request that is not governed
            return self._refused(adapter, fault, requirement, observed=observed)

        # What needs no body is known before the body is read, unless every refusal is only recorded.
        reads_body = match.reads_body
        before = self._incoming and not observed and not reads_body and bool(requirement or match.sources)
        try:
            if not before:
                if (body := governed.body) is None:
                    body = governed.body = yield adapter.read_body()
                fault = fault or (body.refusal if reads_body else None)
            elif self._calls_application:
                adapter.keep_body()
            try:
                if requirement is None and match.sources:
                    requirement = yield from self._required(adapter, match)
            except RequestRefused as exc:
                if not observed:
                    raise
                fault = fault or exc.denial
            caller, presented = yield from self._identified(adapter, presented, fault)
            if self._calls_application:
                adapter.keep_body()
            hopeless = self._incoming and not reads_body and requirement is not None and requirement.capability
            hopeless = hopeless and refused_unread(view, presented, caller, self.settings)
            # The receipt binds all of the body, so it is read to its end, counted and hashed, once.
            if (body := governed.body) is None:
                if hopeless:
                    return Reading(presented, caller, NO_BODY, match, requirement, None)
                body = governed.body = yield adapter.read_body()
            fault = fault or (None if hopeless else body.refusal)
        except RequestRefused as exc:
            # Without its body no request can run, not even an observed one.
            return self._refused(adapter, exc.denial, requirement, observed=observed and governed.body is not None)
        return Reading(presented, caller, body, match, requirement, fault)

    def _required(self, adapter: RequestAdapter, match: RouteMatch) -> Steps[Requirement | None]:
        """Return what the route requires; an amount may come from the path, the query or the body."""
        raw = (yield adapter.raw_body()) if match.reads_body else None
        facts = Facts(match.path_params, adapter.view, raw)
        requirement: Requirement | None = yield adapter.compute(partial(match.requirement, facts), facts)
        return requirement

    def _identified(
        self, adapter: RequestAdapter, presented: Presented, fault: Denial | None
    ) -> Steps[tuple[CallerIdentity, Presented]]:
        """Return the caller, and what the request presents with the token that it carries beside its header."""
        view, governed = adapter.view, adapter.governed
        # A dependency speaks of the caller that the middleware has found.
        first = governed.decision
        caller = first.caller if first is not None else None
        if caller is None:
            who: Any = identify(view, self.extractor)
            waits = not isinstance(who, CallerIdentity) and isinstance(who, Awaitable)
            caller = ((yield who) or CallerIdentity.anonymous()) if waits else who
        if self._source is not None and presented.token is None and fault is None:
            governed.carried = governed.carried or (yield from read_carried(self._source, view, caller))
            presented = replace(presented, token=governed.carried.token)
        return caller, presented

    def require(self, adapter: RequestAdapter, source: RequirementSource) -> Steps[Decision]:
        """Return a decision that covers what one dependency or decorator declares.

        It is the middleware's, or one that another dependency of this request needed. Otherwise the request is
        evaluated here: with all that the route declares the first time, then with this source alone.
        """
        governed, match = adapter.governed, adapter.locate()
        observed = governed.observed = self._observes(adapter, match)
        try:
            # A decision counts for the request that was evaluated. Its body is unknown here if inner code has made
            # another request of it, whose body may be another one.
            if governed.body is None and governed.evaluated is not None and governed.evaluated.route is not None:
                governed.body = yield adapter.read_body()
            if changed := self.changes(adapter, route=False):
                log.warning("chio: inner code changed %s of the request; it is evaluated again", " and ".join(changed))
                governed.forget()

            # A decision that covers this requirement may be there already.
            raw = (yield adapter.raw_body()) if source.chio_reads_body else None
            facts = Facts(match.path_params, adapter.view, raw)
            wanted: Requirement = yield adapter.compute(partial(source.chio_requirement_for, facts), facts)
            known = (*(() if governed.decision is None else (governed.decision,)), *governed.further)
            found: Decision | None = next((one for one in known if includes(one.requirement, wanted)), None)
            if found is not None:
                return found
            if all(one.requirement is None for one in known):
                if raw is None and match.reads_body:
                    facts = Facts(match.path_params, adapter.view, (yield adapter.raw_body()))
                whole: Requirement | None = yield adapter.compute(partial(match.requirement, facts), facts)
                wanted = whole if whole is not None and includes(whole, wanted) else wanted
        except RequestRefused as exc:
            decision = self._refused(adapter, exc.denial, None, observed=observed)
        else:
            if any(other.chio_observes for other in match.sources):
                wanted = replace(wanted, observe=True)
            decision = yield from self.evaluate(adapter, wanted, known)
        return (yield from self._publish(adapter, decision))

    def _publish(self, adapter: RequestAdapter, decision: Decision) -> Steps[Decision]:
        governed = adapter.governed
        if governed.evidence:
            # What the local guards have stated precedes the sidecar's evidence.
            decision = replace(decision, evidence=(*governed.evidence, *decision.evidence))

        # The application reads, and the response names, the first decision about the request that runs; or the
        # receipt of a further one that refused, as the document of that refusal does.
        is_first = governed.decision is None
        if is_first:
            governed.decision = decision
        else:
            governed.further.append(decision)
        if is_first or (decision.denial is not None and decision.receipt is not None):
            governed.shown = decision
            adapter.publish(decision)
        if decision.denial is not None:
            self._notice(adapter, decision)
        if self._on_decision is not None:
            yield adapter.call_hook(self._on_decision, decision)
        if self._on_receipt is not None and decision.receipt is not None:
            yield adapter.call_hook(self._on_receipt, decision.receipt)
        return decision

    def refuse(self, adapter: RequestAdapter, response: AnyResponse) -> Steps[None]:
        """Record that a guard has refused a request."""
        governed, view = adapter.governed, adapter.view
        decision = refused_by_guard(governed.decision, response, governed.evidence)
        if decision is None:
            return
        if self._report is not None:
            self._report(decision, view.method, view.route_path)
        governed.decision = governed.shown = decision
        adapter.publish(decision)
        self._notice(adapter, decision)
        if self._on_decision is not None:
            yield adapter.call_hook(self._on_decision, decision)

    def _notice(self, adapter: RequestAdapter, decision: Decision) -> None:
        if self._warn is not None:
            view, evaluated = adapter.view, adapter.governed.evaluated
            template = evaluated.route.template if evaluated is not None and evaluated.route is not None else None
            self._warn(decision, view.method, view.route_path, template)

    def page_for(self, view: RequestView) -> Callable[[Denial], str] | None:
        """Return what makes the page for a refusal of a request; None: the default page."""
        return None if self._page is None else partial(self._page, view)

    def check_unchanged(self, adapter: RequestAdapter) -> Denial | None:
        """Return the refusal if a guard has changed a part of the request that the decision depends on."""
        if not (changed := " and ".join(self.changes(adapter))):
            return None
        if self.settings.observe:
            log.warning("chio: OBSERVED, NOT REFUSED 500: a guard changed the request's %s", changed)
            return None
        log.error(
            "chio: a guard changed the request's %s, for which the decision does not count; the request gets a 500."
            " Change headers in a guard with a priority below 0, all else outside of Chio",
            changed,
        )
        return misconfigured()

    def changes(self, adapter: RequestAdapter, *, route: bool = True) -> tuple[str, ...]:
        """Return what of a request has changed since it was evaluated; empty if nothing has, or it never was.

        Args:
            route: compare the route too, where the adapter can still tell which one will run.
        """
        evaluated = adapter.governed.evaluated
        if evaluated is None:
            return ()
        if evaluated.route is None:
            # An excluded request: only method and path decided about it.
            view = adapter.now()
            now = replace(evaluated, method=view.method, path=view.route_path)
        else:
            now = self._snapshot(adapter.now(), adapter.body_hash(), adapter.locate() if route else None)
        return evaluated.changes(now)

    def _snapshot(self, view: RequestView, body_hash: str | None, match: RouteMatch | None) -> EvaluatedRequest:
        headers = view.select_headers(self._compared)
        return EvaluatedRequest(view.method, view.route_path, view.query_string, headers, body_hash, match)

    def _observes(self, adapter: RequestAdapter, match: RouteMatch, requirement: Requirement | None = None) -> bool:
        if not (self._may_observe or requirement or match.sources):
            return False
        return is_observed(self.settings, adapter.view.route_path, requirement, match.sources, by_path=self._incoming)

    def _refused(
        self, adapter: RequestAdapter, denial: Denial, requirement: Requirement | None, *, observed: bool = False
    ) -> Decision:
        decision = Decision(verdict="refused", requirement=requirement)
        decision = decision.withhold(denial) if observed else replace(decision, denial=denial)
        if self._report is not None:
            self._report(decision, adapter.view.method, adapter.view.route_path)
        return decision
