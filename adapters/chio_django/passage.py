"""Passage: one request on its way through the middleware; kept on the request, so that decorators find it."""

from __future__ import annotations

from django.http import HttpRequest

from chio_core.ask import Ask, Route, arun, atell, run, tell_sync
from chio_core.decide import Question
from chio_core.decision import Decision
from chio_core.models.receipt import HttpReceipt
from chio_core.names import STATE_DECISION, STATE_PASSTHROUGH, STATE_RECEIPT
from chio_core.request import Requirement
from chio_core.response import Denial
from chio_django.governor import Governor
from chio_django.routing import NO_MATCH, ViewMatch, find_view, view_match
from chio_django.view import DjangoGuardRequest

_PASSAGE = "_chio_passage"


class Passage:
    """One request.

    Args:
        request: the request.
        governor: whose it is.

    Attributes:
        decision: the latest about this request; None before there is one, and where the path is excluded.
    """

    def __init__(self, request: HttpRequest, governor: Governor) -> None:
        self.request = request
        self.governor = governor
        self.view = DjangoGuardRequest(request, governor.asker.singletons)
        self.decision: Decision | None = None
        self._path: str | None = None
        self._match: ViewMatch = NO_MATCH
        setattr(request, _PASSAGE, self)

    def judge(self) -> Denial | None:
        """Have the request judged, unless it is excluded; return the refusal."""
        if self._excluded():
            return None
        decision = self._concluded(self.governor.asker.ask(self.view, self._locate))
        self._publish(decision)
        tell_sync(self.governor.on_decision, decision)
        if decision.receipt is not None:
            tell_sync(self.governor.on_receipt, decision.receipt)
        return decision.denial

    async def ajudge(self) -> Denial | None:
        """Do what `judge` does in an event loop, without a thread."""
        if self._excluded():
            return None
        decision = await self._aconcluded(self.governor.asker.ask(self.view, self._locate))
        self._publish(decision)
        await atell(self.governor.on_decision, decision)
        if decision.receipt is not None:
            await atell(self.governor.on_receipt, decision.receipt)
        return decision.denial

    def still_holds(self) -> bool:
        """Tell whether the view that Django is about to run is the one that was judged."""
        request = self.request
        if request.path_info != self._path:
            return False
        return self.decision is None or view_match(request.resolver_match, request.method or "") == self._match

    def decision_for(self, requirement: Requirement) -> Decision | None:
        """Return the decision about this request, if it was made for this requirement."""
        decision = self.decision
        return decision if decision is not None and decision.requirement == requirement else None

    def ask_further(self, requirement: Requirement) -> Decision:
        """Return a decision about this request and a requirement that was not part of the first question."""
        return self._noted(self._concluded(self._further(requirement)))

    async def aask_further(self, requirement: Requirement) -> Decision:
        """Do what `ask_further` does in an event loop, without a thread."""
        return self._noted(await self._aconcluded(self._further(requirement)))

    def _excluded(self) -> bool:
        self._path = self.request.path_info
        self._match = NO_MATCH
        return self.governor.asker.excludes(self.view)

    def _locate(self) -> Route:
        # Once Django has resolved the URL itself there is nothing left to find out.
        resolved, method = self.request.resolver_match, self.request.method or ""
        self._match = find_view(self.request) if resolved is None else view_match(resolved, method)
        return self._match.route()

    def _further(self, requirement: Requirement) -> Ask:
        template = view_match(self.request.resolver_match, self.request.method or "").template
        return self.governor.asker.ask(self.view, lambda: Route(template, requirement))

    def _concluded(self, steps: Ask) -> Decision:
        found = run(steps)
        return self.governor.sync_client().decide(found) if isinstance(found, Question) else found

    async def _aconcluded(self, steps: Ask) -> Decision:
        found = await arun(steps)
        return await self.governor.client().decide(found) if isinstance(found, Question) else found

    def _noted(self, decision: Decision) -> Decision:
        # Where no middleware has judged the request, this is the decision that the view reads.
        if self.decision is None:
            self._publish(decision)
        return decision

    def _publish(self, decision: Decision) -> None:
        self.decision = decision
        receipt = decision.receipt
        setattr(self.request, STATE_DECISION, decision)
        setattr(self.request, STATE_RECEIPT, receipt.raw if receipt is not None else None)
        setattr(self.request, STATE_PASSTHROUGH, decision.passthrough)


def passage_of(request: HttpRequest) -> Passage | None:
    """Return the passage of a request that has come through the middleware."""
    found = getattr(request, _PASSAGE, None)
    return found if isinstance(found, Passage) else None


def get_chio_receipt(request: HttpRequest) -> HttpReceipt | None:
    """Return the verified receipt of a request, typed; `request.chio_receipt` is the same as a JSON object.

    Returns:
        None where the path is excluded, the request passed without a decision (`fail_open`), or no middleware is
        installed.
    """
    passage = passage_of(getattr(request, "_request", request))  # Django REST framework wraps its requests
    return passage.decision.receipt if passage is not None and passage.decision is not None else None
