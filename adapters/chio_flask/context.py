"""Passage: what is known about one request on its way to the application.

It is kept in the request's environment, so that decorators find it, and holds nothing that leads back there: both
are gone as soon as the response is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flask import Flask, Request, Response, g

from chio_core.evaluation.pipeline import NO_MATCH, Ask, Route, ViewMatch, run
from chio_core.evaluation.conclude import Question
from chio_core.evaluation.outcomes import Decision
from chio_core.threads.wsgi_view import accept_in
from chio_core.evaluation.hooks import announce, refused_locally, with_evidence
from chio_core.models.receipt import GuardEvidence
from chio_core.names import STATE_DECISION, STATE_NAMESPACE, STATE_PASSTHROUGH, STATE_RECEIPT
from chio_core.refusals.problems import render
from chio_core.request import Requirement
from chio_core.refusals.response import AnyResponse, Denial
from chio_core.evaluation.requirements import includes
from chio_flask.governor import Governor
from chio_flask.routing import find_view, view_match
from chio_flask.view import FlaskGuardRequest

PASSAGE: Final = "chio.passage"


class Passage:
    """What is known about one request.

    Args:
        app: the application.
        environ: the request's environment; the passage is put into it.
        governor: settings and client.

    Attributes:
        governor: see above.
        decision: the latest about this request; None before there is one, and where the path is excluded.
        evidence: what the local guards have said so far.
        from_script: the request names its `Origin`, so a script wants to read the answer.
    """

    __slots__ = ("_app", "_match", "_path", "decision", "evidence", "from_script", "governor")

    def __init__(self, app: Flask, environ: dict[str, Any], governor: Governor) -> None:
        self.governor = governor
        self.decision: Decision | None = None
        self.evidence: list[GuardEvidence] = []
        self.from_script = "HTTP_ORIGIN" in environ
        self._app = app
        self._path: str | None = None
        self._match: ViewMatch = NO_MATCH
        environ[PASSAGE] = self

    def view(self, request: Request) -> FlaskGuardRequest:
        """Return the request as guards and the decision see it."""
        return FlaskGuardRequest(request, self._app, singletons=self.governor.asker.singletons)

    def judge(self, request: Request) -> Denial | None:
        """Have the request judged, unless it is excluded; return the refusal."""
        self._path, self._match = request.path, NO_MATCH
        view = self.view(request)
        if self.governor.asker.excludes(view):
            return None
        decision = self._concluded(view, self.governor.asker.ask(view, lambda: self._locate(request)))
        decision = self.decision = with_evidence(decision, self.evidence)
        announce(decision, self.governor.on_decision, self.governor.on_receipt)
        return decision.denial

    def refuse(self, request: Request, answer: AnyResponse) -> None:
        """Note that a local guard has refused."""
        refused = refused_locally(self.decision, answer, self.evidence)
        if refused is not None:
            self.decision = refused
            view = self.view(request)
            self.governor.telemetry.refused(refused, view.method, view.route_path)
            announce(refused, self.governor.on_decision, None)

    def judge_matched(self, request: Request) -> Denial | None:
        """Have the request judged again if Flask has matched another view than the one that was judged."""
        matched = view_match(self._app, request.url_rule, request.view_args, request.method)
        # A path that is known for other methods only has a template here and no rule there: Flask answers 405.
        same_view = self.decision is None or request.url_rule is None or matched == self._match
        return None if request.path == self._path and same_view else self.judge(request)

    def publish(self, request: Request) -> None:
        """Put the outcome on `g`, where the application reads it."""
        decision = self.decision
        setattr(g, STATE_DECISION, decision)
        setattr(g, STATE_RECEIPT, decision.handler_receipt if decision is not None else None)
        setattr(g, STATE_PASSTHROUGH, decision.passthrough if decision is not None else None)
        setattr(g, STATE_NAMESPACE, self.view(request).state)

    def decision_for(self, requirement: Requirement) -> Decision | None:
        """Return the decision about this request, if it was made for this requirement."""
        decision = self.decision
        return decision if decision is not None and includes(decision.requirement, requirement) else None

    def ask_further(self, request: Request, requirement: Requirement) -> Decision:
        """Return a decision about this request and a requirement that was not part of the first question."""
        template, view = find_view(self._app, request).template, self.view(request)
        steps = self.governor.asker.ask(view, lambda: Route(template, requirement), self.decision)
        decision = self._concluded(view, steps)
        if self.decision is None:  # where nobody has judged the request, this is what the view reads
            self.decision = decision
            self.publish(request)
        return decision

    def _locate(self, request: Request) -> Route:
        if request.url_rule is not None:
            self._match = view_match(self._app, request.url_rule, request.view_args, request.method)
        else:
            self._match = find_view(self._app, request)
        return self._match.route()

    def _concluded(self, view: FlaskGuardRequest, steps: Ask) -> Decision:
        found = run(steps)
        if isinstance(found, Question):
            return self.governor.client().decide(found)
        self.governor.telemetry.refused(found, view.method, view.route_path)
        return found


def refusal(denial: Denial, request: Request) -> Response:
    """Return a refusal of a request in the flat envelope."""
    body, headers = render(denial, accept=accept_in(request.environ))
    return Response(body, status=denial.status, headers=list(headers))


def passage_in(environ: Mapping[str, Any]) -> Passage | None:
    """Return the passage of a request that has come through the extension."""
    found = environ.get(PASSAGE)
    return found if isinstance(found, Passage) else None
