"""Passage: what is known about one request on its way to the application.

It is kept in the request's environment, so that decorators find it, and holds nothing that leads back there: both
are gone as soon as the response is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from flask import Flask, Request, Response, g

from chio_core.client.client import SyncChioClient
from chio_core.evaluation.conclude import EvaluateCall
from chio_core.evaluation.hooks import announce, refused_locally, with_evidence
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.pipeline import NO_MATCH, Ask, Asker, Route, ViewMatch, run
from chio_core.evaluation.requirements import includes
from chio_core.guards.chain import Chain, Guard
from chio_core.models.caller import CallerIdentity
from chio_core.models.receipt import GuardEvidence, HttpReceipt
from chio_core.names import ENVIRON_PASSAGE, LOGGER, STATE_DECISION, STATE_NAMESPACE, STATE_PASSTHROUGH, STATE_RECEIPT
from chio_core.refusals.problems import render
from chio_core.refusals.response import AnyResponse, Denial
from chio_core.request import RequestView, Requirement
from chio_core.settings import ChioSettings, start_line
from chio_core.telemetry import Telemetry
from chio_core.threads.guards import ChainRunner
from chio_core.threads.wsgi_view import accept_in
from chio_flask.routing import find_view, view_match
from chio_flask.view import FlaskGuardRequest

log = logging.getLogger(LOGGER)

_NAMES: Final = {f"CHIO_{field.upper()}": field for field in ChioSettings.model_fields}


class Hooks:
    """What an application may add; see `chio_flask.Chio`."""

    def __init__(
        self,
        extractor: Callable[[RequestView], CallerIdentity] | None = None,
        on_decision: Callable[[Decision], None] | None = None,
        on_receipt: Callable[[HttpReceipt], None] | None = None,
        guards: Chain | Sequence[Guard | Chain] = (),
    ) -> None:
        self.guards = ChainRunner(guards)
        self.extractor = extractor
        self.on_decision = on_decision
        self.on_receipt = on_receipt


class Governor:
    """What is made once from the options. The client is made when it is first needed, after any fork.

    Args:
        settings: what counts.
        hooks: what the application adds.
        client: a client to share; one is made otherwise.
    """

    def __init__(self, settings: ChioSettings, hooks: Hooks, client: SyncChioClient | None = None) -> None:
        self.settings = settings
        self.asker = Asker(settings, hooks.extractor)
        self.on_decision = hooks.on_decision
        self.on_receipt = hooks.on_receipt
        self.guards = hooks.guards
        self.telemetry = client.telemetry if client is not None else Telemetry(settings)
        self._lock = threading.Lock()
        self._client = client
        self._given = client is not None

    def client(self) -> SyncChioClient:
        """Return the client."""
        found = self._client
        if found is not None:
            return found
        with self._lock:
            found = self._client
            if found is None:
                found = self._client = SyncChioClient(self.settings, telemetry=self.telemetry)
            return found

    def close(self) -> None:
        """Close the connections, unless the client is somebody else's."""
        with self._lock:
            own = None if self._given else self._client
            if own is not None:
                self._client = None
        if own is not None:
            own.close()


class LiveGovernor:
    """The governor for an application's configuration as it is now.

    Args:
        app: the application; its `CHIO_*` configuration counts.
        options: keywords, which beat the configuration.
        config: complete settings instead of both.
        client: a client to share.
        hooks: what the application adds.

    Raises:
        ConfigurationError: the options cannot be used.
    """

    def __init__(
        self,
        app: Flask,
        options: Mapping[str, Any],
        config: ChioSettings | None,
        client: SyncChioClient | None,
        hooks: Hooks,
    ) -> None:
        self._app = app
        self._options = options
        self._config = config if config is not None or client is None else client.settings
        self._client = client
        self._hooks = hooks
        self._lent: SyncChioClient | None = None
        self._lock = threading.Lock()
        self._seen = self._configured()
        self._now = self._new(self._seen)

    def get(self) -> Governor:
        """Return the present governor."""
        configured = self._configured()
        if configured != self._seen:
            with self._lock:
                if configured != self._seen:
                    old, self._now = self._now, self._new(configured)
                    self._seen = configured
                    old.close()
                    log.info("chio: %s", start_line(self._now.settings))  # what was said at start is over
        return self._now

    def lend(self, client: SyncChioClient | None) -> None:
        """Ask through this client from now on, with all other settings as they are; None: as before. For tests."""
        with self._lock:
            self._lent = client
            old, self._now = self._now, self._new(self._seen)
        old.close()

    def close(self) -> None:
        """Close the connections, those of guards included."""
        self._now.close()
        self._hooks.guards.close()

    def _configured(self) -> dict[str, Any]:
        config = self._app.config
        return {field: config[name] for name, field in _NAMES.items() if name in config}

    def _new(self, configured: Mapping[str, Any]) -> Governor:
        settings = self._config if self._config is not None else ChioSettings(**{**configured, **self._options})
        return Governor(settings, self._hooks, self._lent or self._client)


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
        environ[ENVIRON_PASSAGE] = self

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
        if isinstance(found, EvaluateCall):
            return self.governor.client().decide(found)
        self.governor.telemetry.refused(found, view.method, view.route_path)
        return found


def refusal(denial: Denial, request: Request) -> Response:
    """Return a refusal of a request in the flat envelope."""
    body, headers = render(denial, accept=accept_in(request.environ))
    return Response(body, status=denial.status, headers=list(headers))


def passage_in(environ: Mapping[str, Any]) -> Passage | None:
    """Return the passage of a request that has come through the extension."""
    found = environ.get(ENVIRON_PASSAGE)
    return found if isinstance(found, Passage) else None
