"""What Django and Flask share: the runtime of an application, the context of a request, and how its steps are done.

`SyncAdapter` does the steps of `chio_core.evaluation.pipeline` in the server's thread, `AsyncAdapter` in an event loop
without leaving it. A framework adds how it finds the route and where the application reads the decision.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.concurrency.processes import require_threads
from chio_core.evaluation.amounts import Facts
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.evaluation.governed import GovernedRequest, KnownBody, RouteMatch, Steps
from chio_core.evaluation.hooks import Hook, call_hook, call_hook_async
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.pipeline import Pipeline
from chio_core.evaluation.policies import ViewPolicies
from chio_core.evaluation.sources import CapabilityFunction, SessionOf
from chio_core.guards.run import failed
from chio_core.identity import Extractor
from chio_core.refusals.problems import RefusalPage, render
from chio_core.refusals.response import Denial, HeaderPairs, RequestRefused
from chio_core.settings import ChioSettings
from chio_core.telemetry import Telemetry
from chio_core.threads.body import read_from_start
from chio_core.threads.guards import ChainRunner
from chio_core.threads.wsgi_view import EnvironView, accept_in

if TYPE_CHECKING:
    from chio_core.client.authority import Authority

AnyClient = TypeVar("AnyClient", ChioClient, SyncChioClient)


class Runtime:
    """What an application needs to govern requests, made once from its settings.

    Clients are made when they are first needed, so after a fork. A client that was given stays open when the runtime
    is closed: it belongs to its owner.

    Args:
        settings: the options.
        guards: guards around the decision.
        extractor, on_decision, on_receipt, refusal_page: see `chio_core.evaluation.pipeline.Pipeline`.
        capability, session: the same.
        client, sync_client: clients to share.
        make_client, make_sync_client: make a client from settings and telemetry, if none is given.
        document: returns the application's OpenAPI document for an embedded sidecar, see `ChioClient`.
        policies: what the settings state about views.
    """

    def __init__(
        self,
        settings: ChioSettings,
        guards: ChainRunner,
        extractor: Extractor | None = None,
        on_decision: Hook | None = None,
        on_receipt: Hook | None = None,
        refusal_page: RefusalPage | None = None,
        *,
        capability: CapabilityFunction | None = None,
        session: SessionOf | None = None,
        client: ChioClient | None = None,
        sync_client: SyncChioClient | None = None,
        make_client: Callable[[ChioSettings], ChioClient] | None = None,
        make_sync_client: Callable[[ChioSettings], SyncChioClient] | None = None,
        document: Callable[[Sequence[str]], str | None] | None = None,
        policies: ViewPolicies | None = None,
    ) -> None:
        given = client or sync_client
        if settings.sidecar_url.startswith("embedded:") and sync_client is None:
            require_threads("an embedded sidecar")
        self.settings = settings
        self.guards = guards
        self.policies = policies or None  # most settings state none: then no request asks
        self.telemetry = given.telemetry if given is not None else Telemetry(settings)
        hooks = (extractor, on_decision, on_receipt, refusal_page)
        report, warn = self.telemetry.refused, self.telemetry.warn
        self.pipeline = Pipeline(settings, *hooks, report=report, warn=warn, capability=capability, session=session)
        self._document = document
        self._lock = threading.Lock()
        self._client = self._documented(client) if client is not None else None
        self._sync_client = self._documented(sync_client) if sync_client is not None else None
        self._is_shared = sync_client is not None
        self._makes_clients = given is None and make_client is None and make_sync_client is None
        self._make_client = make_client or partial(ChioClient, telemetry=self.telemetry, document=document)
        self._make_sync_client = make_sync_client or partial(
            SyncChioClient, telemetry=self.telemetry, document=document
        )

    def check(self) -> None:
        """Check the files that the settings name, unless clients are given; see `check_files`.

        Raises:
            ConfigurationError: one of them cannot be used.
        """
        if self._makes_clients:
            from chio_core.client.in_process import check_files

            check_files(self.settings)

    def client(self) -> ChioClient:
        """Return the client for event loops."""
        if self._client is None:
            with self._lock:
                self._client = self._client or self._documented(self._make_client(self.settings))
        return self._client

    def sync_client(self) -> SyncChioClient:
        """Return the client for threads."""
        found = self._sync_client
        if found is None:
            with self._lock:
                made = self._sync_client or self._documented(self._make_sync_client(self.settings))
                found = self._sync_client = made
        return found

    def authority(self) -> Authority:
        """Return what issues capabilities, see `chio_core.client.authority`.

        Raises:
            ConfigurationError: the settings name none.
        """
        made = self._client or self._sync_client
        if made is None:
            try:
                asyncio.get_running_loop()
                made = self.client()
            except RuntimeError:
                made = self.sync_client()
        return made.authority

    def _documented(self, client: AnyClient) -> AnyClient:
        # The fixture of tests decides by the document of a client that it has made.
        client.document = client.document or self._document
        return client

    def close(self) -> None:
        """Close the connections of the client for threads; those of an event loop end with it."""
        with self._lock:
            own = None if self._is_shared else self._sync_client
            if own is not None:
                self._sync_client = None
        if own is not None:
            own.close()


class RequestContext:
    """What is known about one request on its way through the application.

    It is stored on the request, where decorators find it, and holds no reference back: both are freed together with
    the response.

    Attributes:
        runtime: the application's.
        governed: the decision, and what it is about.
        from_script: True if the request names its `Origin`: a script wants to read the response.
    """

    __slots__ = ("from_script", "governed", "runtime")

    def __init__(self, runtime: Runtime, environ: Any) -> None:
        self.runtime = runtime
        self.governed = GovernedRequest()
        self.from_script = "HTTP_ORIGIN" in environ

    @property
    def decision(self) -> Decision | None:
        """The decision that the response is about; None before there is one."""
        return self.governed.shown

    def document(self, denial: Denial, view: Any, *, nest: bool = False) -> tuple[bytes, HeaderPairs]:
        """Return body and headers of a refusal, in the form that its request wants (`Accept`).

        Args:
            nest: the envelope of Django instead of the flat one.
        """
        page = self.runtime.pipeline.page_for(view)
        return render(denial, nest=nest, accept=accept_in(view.environ), page=page)


class SyncAdapter:
    """A `chio_core.evaluation.governed.RequestAdapter` for a thread; frameworks add `locate` and `publish`.

    Args:
        view: the request; it reads the environment as it is now.
        context: its facts, requirement and decision so far.
    """

    def __init__(self, view: EnvironView, context: RequestContext) -> None:
        self.view: Any = view
        self.context = context
        self.governed = context.governed

    def govern(self) -> Steps[Denial | None]:
        """Make the decision of a chain without guards; an exception refuses the request, as in a chain with guards."""
        runtime = self.context.runtime
        try:
            return (yield from runtime.pipeline.govern(self))
        except Exception:  # noqa: BLE001 - logged there
            return failed(runtime.guards.members[0], self.governed.evidence)

    def now(self) -> Any:
        """Return the request as the application will see it."""
        return self.view

    def keep_body(self) -> None:
        """Keep what is read of the body before it is counted; see `chio_core.threads.wsgi_view.EnvironView.keep`."""
        self.view.keep()

    def read_body(self) -> Any:
        """Count and hash the body, and return a `KnownBody`; see `chio_core.threads.wsgi_view.EnvironView.measure`."""
        steps = self.view.measure(lifted=self.governed.observed)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                self.view.seal()
                return end.value

    def raw_body(self) -> Any:
        """Return the bytes of the body."""
        return read_from_start(self.view.input())

    def body_hash(self) -> str | None:
        """Return the hash of the body that the application will read; inner code may have replaced it."""
        known = self.governed.body
        if not isinstance(known, KnownBody):
            return known.hash if known is not None else None
        try:
            if known.source is self.view.source:
                return known.hash
            found: KnownBody = SyncAdapter.read_body(self)
        except RequestRefused:
            return "unreadable"
        if found.hash == known.hash:
            self.governed.body = found
        return found.hash

    def locate(self) -> RouteMatch:
        """Return the route that will run."""
        raise NotImplementedError

    def compute(self, function: Callable[[], Any], facts: Facts) -> Any:
        """Return the result of a function."""
        return function()

    def send(self, call: EvaluateCall) -> Any:
        """Send a call and return the decision."""
        return self.context.runtime.sync_client().evaluate(call)

    def publish(self, decision: Decision | None) -> None:
        """Show a decision to the application."""
        raise NotImplementedError

    def call_hook(self, hook: Hook, value: Any) -> Any:
        """Call a hook."""
        call_hook(hook, value)


class AsyncAdapter(SyncAdapter):
    """The same for an event loop: other tasks run between two pieces of a body, and while the sidecar answers."""

    async def read_body(self) -> Any:
        """Count and hash the body."""
        steps = self.view.measure(lifted=self.governed.observed)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                self.view.seal()
                return end.value
            await asyncio.sleep(0)

    async def raw_body(self) -> Any:
        """Return the bytes of the body."""
        return read_from_start(self.view.input())

    async def compute(self, function: Callable[[], Any], facts: Facts) -> Any:
        """Return the result of a function."""
        return function()

    async def send(self, call: EvaluateCall) -> Any:
        """Send a call and return the decision."""
        return await self.context.runtime.client().evaluate(call)

    async def call_hook(self, hook: Hook, value: Any) -> Any:
        """Call a hook, which may be `async def`."""
        await call_hook_async(hook, value)
