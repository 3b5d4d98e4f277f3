"""Passage: what is known about one request on its way through the middleware.

It is kept on the request, so that decorators find it, and holds nothing that leads back to the request: both are
gone as soon as the response is.
"""

from __future__ import annotations

import threading
from typing import Any

from django.core.signals import setting_changed
from django.http import HttpRequest

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.evaluation.conclude import EvaluateCall
from chio_core.evaluation.hooks import aannounce, announce, refused_locally, with_evidence
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.pipeline import NO_MATCH, Ask, Asker, Route, ViewMatch, arun, run
from chio_core.evaluation.requirements import includes
from chio_core.models.receipt import GuardEvidence, HttpReceipt
from chio_core.names import DJANGO_PASSAGE, STATE_DECISION, STATE_EVALUATION, STATE_PASSTHROUGH, STATE_RECEIPT
from chio_core.refusals.response import AnyResponse, Denial
from chio_core.request import Requirement
from chio_core.settings import ChioSettings
from chio_core.telemetry import Telemetry
from chio_django.conf import PREFIX, conf
from chio_django.routing import find_view, view_match
from chio_django.view import DjangoGuardRequest


class Governor:
    """What is made once from the settings. Clients are made when they are first needed, after any fork.

    Args:
        client: a client for event loops to share; its settings are used.
        sync_client: the same for threads.

    Raises:
        ConfigurationError: the settings cannot be used.
    """

    def __init__(self, client: ChioClient | None = None, sync_client: SyncChioClient | None = None) -> None:
        given = client or sync_client
        self.settings: ChioSettings = given.settings if given is not None else conf.settings
        self.asker = Asker(self.settings, conf.hook("CHIO_EXTRACTOR"))
        self.on_decision = conf.hook("CHIO_ON_DECISION")
        self.on_receipt = conf.hook("CHIO_ON_RECEIPT")
        self.guards = conf.guards()
        self.telemetry = given.telemetry if given is not None else Telemetry(self.settings)
        self._lock = threading.Lock()
        self._client = client
        self._sync_client = sync_client
        self._given = sync_client is not None

    def client(self) -> ChioClient:
        """Return the client for event loops."""
        if self._client is None:
            with self._lock:
                make = conf.hook("CHIO_CLIENT")
                self._client = self._client or (
                    make(self.settings) if make else ChioClient(self.settings, telemetry=self.telemetry)
                )
        return self._client

    def sync_client(self) -> SyncChioClient:
        """Return the client for threads."""
        found = self._sync_client
        if found is not None:
            return found
        with self._lock:
            found = self._sync_client
            if found is None:
                make = conf.hook("CHIO_SYNC_CLIENT")
                found = make(self.settings) if make else SyncChioClient(self.settings, telemetry=self.telemetry)
                self._sync_client = found
            return found

    def close(self) -> None:
        """Close the connections of the client for threads, and the guards; those of an event loop end with it."""
        self.guards.close()
        with self._lock:
            own = None if self._given else self._sync_client
            if own is not None:
                self._sync_client = None
        if own is not None:
            own.close()


class LiveGovernor:
    """The governor for the settings as they are now: made anew when a test overrides one of them.

    Args:
        client, sync_client: see `Governor`.

    Raises:
        ConfigurationError: the settings cannot be used.
    """

    def __init__(self, client: ChioClient | None = None, sync_client: SyncChioClient | None = None) -> None:
        self._lock = threading.Lock()
        self._now: Governor | None = None
        self._client = client
        self._sync_client = sync_client
        setting_changed.connect(self._changed)

    def get(self) -> Governor:
        """Return the present governor."""
        found = self._now
        if found is None:
            with self._lock:
                found = self._now = self._now or Governor(self._client, self._sync_client)
        return found

    def _changed(self, *, setting: str, **_: Any) -> None:
        if setting.startswith(PREFIX):
            with self._lock:
                old, self._now = self._now, None
            if old is not None:
                old.close()


class Passage:
    """What is known about one request.

    Args:
        request: the request; the passage is put on it.
        governor: settings and clients.

    Attributes:
        governor: see above.
        decision: the latest about this request; None before there is one, and where the path is excluded.
        evidence: what the local guards have said so far.
    """

    __slots__ = ("_match", "_path", "decision", "evidence", "governor")

    def __init__(self, request: HttpRequest, governor: Governor) -> None:
        self.governor = governor
        self.decision: Decision | None = None
        self.evidence: list[GuardEvidence] = []
        self._path: str | None = None
        self._match: ViewMatch = NO_MATCH
        setattr(request, DJANGO_PASSAGE, self)

    def judge(self, request: HttpRequest) -> Denial | None:
        """Have the request judged, unless it is excluded; return the refusal."""
        steps = self._begin(request)
        if steps is None:
            return None
        decision = self._publish(request, with_evidence(self._concluded(request, steps), self.evidence))
        announce(decision, self.governor.on_decision, self.governor.on_receipt)
        return decision.denial

    async def ajudge(self, request: HttpRequest) -> Denial | None:
        """Do what `judge` does in an event loop, without a thread."""
        steps = self._begin(request)
        if steps is None:
            return None
        decision = self._publish(request, with_evidence(await self._aconcluded(request, steps), self.evidence))
        await aannounce(decision, self.governor.on_decision, self.governor.on_receipt)
        return decision.denial

    def refuse(self, request: HttpRequest, answer: AnyResponse) -> None:
        """Note that a local guard has refused."""
        refused = refused_locally(self.decision, answer, self.evidence)
        if refused is not None:
            self._tell(request, refused)
            announce(self._publish(request, refused), self.governor.on_decision, None)

    async def arefuse(self, request: HttpRequest, answer: AnyResponse) -> None:
        """Do what `refuse` does in an event loop."""
        refused = refused_locally(self.decision, answer, self.evidence)
        if refused is not None:
            self._tell(request, refused)
            await aannounce(self._publish(request, refused), self.governor.on_decision, None)

    def still_holds(self, request: HttpRequest) -> bool:
        """Tell whether the view that Django is about to run is the one that was judged."""
        if request.path_info != self._path:
            return False
        return self.decision is None or view_match(request.resolver_match, request.method or "") == self._match

    def decision_for(self, requirement: Requirement) -> Decision | None:
        """Return the decision about this request, if it was made for this requirement."""
        decision = self.decision
        return decision if decision is not None and includes(decision.requirement, requirement) else None

    def ask_further(self, request: HttpRequest, requirement: Requirement) -> Decision:
        """Return a decision about this request and a requirement that was not part of the first question."""
        return self._noted(request, self._concluded(request, self._further(request, requirement)))

    async def aask_further(self, request: HttpRequest, requirement: Requirement) -> Decision:
        """Do what `ask_further` does in an event loop, without a thread."""
        return self._noted(request, await self._aconcluded(request, self._further(request, requirement)))

    def _begin(self, request: HttpRequest) -> Ask | None:
        asker = self.governor.asker
        self._path, self._match = request.path_info, NO_MATCH
        view = DjangoGuardRequest(request, asker.singletons)
        return None if asker.excludes(view) else asker.ask(view, lambda: self._locate(request))

    def _locate(self, request: HttpRequest) -> Route:
        # Once Django has resolved the URL itself there is nothing left to find out.
        resolved, method = request.resolver_match, request.method or ""
        self._match = find_view(request) if resolved is None else view_match(resolved, method)
        return self._match.route()

    def _further(self, request: HttpRequest, requirement: Requirement) -> Ask:
        asker = self.governor.asker
        template = view_match(request.resolver_match, request.method or "").template
        return asker.ask(
            DjangoGuardRequest(request, asker.singletons), lambda: Route(template, requirement), self.decision
        )

    def _concluded(self, request: HttpRequest, steps: Ask) -> Decision:
        found = run(steps)
        if isinstance(found, EvaluateCall):
            return self.governor.sync_client().decide(found)
        return self._tell(request, found)

    async def _aconcluded(self, request: HttpRequest, steps: Ask) -> Decision:
        found = await arun(steps)
        if isinstance(found, EvaluateCall):
            return await self.governor.client().decide(found)
        return self._tell(request, found)

    def _tell(self, request: HttpRequest, decision: Decision) -> Decision:
        # What the sidecar is asked, the client tells by itself.
        self.governor.telemetry.refused(decision, request.method or "", request.path_info)
        return decision

    def _noted(self, request: HttpRequest, decision: Decision) -> Decision:
        # Where no middleware has judged the request, this is the decision that the view reads.
        return decision if self.decision is not None else self._publish(request, decision)

    def _publish(self, request: HttpRequest, decision: Decision) -> Decision:
        self.decision = decision
        receipt = decision.handler_receipt
        setattr(request, STATE_DECISION, decision)
        setattr(request, STATE_RECEIPT, receipt.raw if receipt is not None else None)
        setattr(request, STATE_EVALUATION, _evaluation(receipt) if receipt is not None else None)
        setattr(request, STATE_PASSTHROUGH, decision.passthrough)
        return decision


def _evaluation(receipt: HttpReceipt) -> dict[str, Any]:
    # Views written for the published package read the sidecar's answer here (wire protocol, section 11.4).
    raw = receipt.raw
    return {"verdict": raw["verdict"], "receipt": raw, "evidence": raw.get("evidence") or []}


def passage_of(request: HttpRequest) -> Passage | None:
    """Return the passage of a request that has come through the middleware."""
    found = getattr(request, DJANGO_PASSAGE, None)
    return found if isinstance(found, Passage) else None


def get_chio_receipt(request: HttpRequest) -> HttpReceipt | None:
    """Return the verified receipt of a request, typed; `request.chio_receipt` is the same as a JSON object.

    Returns:
        None where the path is excluded, the request passed without a decision (`fail_open`) or against it
        (`observe`), or no middleware is installed.
    """
    passage = passage_of(getattr(request, "_request", request))  # Django REST framework wraps its requests
    return passage.decision.handler_receipt if passage is not None and passage.decision is not None else None
