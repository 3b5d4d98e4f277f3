"""ChioFixture: the object behind the pytest fixture `chio`, for any other test framework too.

    with ChioFixture() as chio:
        client = TestClient(chio.connect(app))
        client.post("/transfers", headers=chio.headers(chio.capability("payments", "transfer")))

A sidecar in the process of the test decides by `chio_core.testing.engine` and signs. It listens on no socket until
`url`, `config` or `environ` is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any, Final, TypeVar

from chio_core.capabilities import parse_capability
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.models.capability import Constraint, Operation
from chio_core.models.receipt import HttpReceipt
from chio_core.names import APPROVAL_HEADER, CAPABILITY_HEADER
from chio_core.settings import ChioSettings
from chio_core.signing import SigningKey
from chio_core.testing import behaviours
from chio_core.testing.behaviours import ALLOW_AS_TOLD, REFUSE, Behaviour, Pause, Plan, Rule
from chio_core.testing.connect import client_with, connected, seed_file_of, sync_client_with
from chio_core.testing.engine import STRANGER, Approval, Engine, grant_of, issue
from chio_core.testing.exchange import EvaluateRequest
from chio_core.testing.sidecar import KEY, ScriptedSidecar
from chio_core.testing.watch import Ledger, check_requirement, requests_for, watching

App = TypeVar("App")


class ChioFixture:
    """A sidecar for one test.

    Args:
        key: signs receipts, and capabilities as their authority.
        clock: returns seconds since 1970.

    Attributes:
        sidecar: the `chio_core.testing.ScriptedSidecar` behind it.
        asked: every evaluate request so far, in order; none from the time when it was down.
    """

    def __init__(self, *, key: SigningKey = KEY, clock: Callable[[], float] = time.time) -> None:
        self.asked: list[EvaluateRequest] = []
        self.sidecar = ScriptedSidecar(self._choose, key=key, clock=clock)
        self._clock = clock
        self._plan = Plan()
        self._engine = Engine()
        self._ledger = Ledger()
        self._connected = ExitStack()
        self._server: ExitStack | None = None
        self._url = ""

    def __enter__(self) -> ChioFixture:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect all applications and stop the server if it runs."""
        self._connected.close()
        self._stop()

    # Connecting an application.

    def connect(self, app: App) -> App:
        """Connect a governed application to this sidecar until the end of the test, without a socket; return it.

        Args:
            app: a FastAPI, Starlette or Flask application, a `ChioASGIMiddleware`, or a `ChioClient`. All but the
                sidecar's address and keys is as in production, the policy of a FastAPI application's routes too.

        Raises:
            ConfigurationError: Chio does not govern this object.
        """
        for client in self._connected.enter_context(connected(app, self.sidecar)):
            self._engine.documents.add_from(client)
        return app

    def use_document(self, document: str | Mapping[str, Any]) -> None:
        """Decide by an OpenAPI document as well, as a sidecar does with `--spec`.

        Args:
            document: the object or its JSON text. `connect` and `add_chio(app, client=…)` read the application's own.
        """
        self._engine.documents.add(document)

    @cached_property
    def client(self) -> ChioClient:
        """A client for `add_chio(app, client=chio.client)` and `ChioASGIMiddleware`; needs no socket."""
        return self.new_client()

    @cached_property
    def sync_client(self) -> SyncChioClient:
        """A client for `chio_flask.Chio(app, client=chio.sync_client)`; needs no socket."""
        return self.new_sync_client()

    def new_client(self, **options: Any) -> ChioClient:
        """Return another such client, with options of `ChioSettings`."""
        return self._engine.documents.add_from(client_with(self.sidecar.settings(**options), self.sidecar))

    def new_sync_client(self, **options: Any) -> SyncChioClient:
        """Return another such client for threads, with options of `ChioSettings`."""
        return self._engine.documents.add_from(sync_client_with(self.sidecar.settings(**options), self.sidecar))

    @property
    def django(self) -> dict[str, Any]:
        """Django settings that connect a project, for `override_settings(**chio.django)`; they need no socket.

        All other `CHIO_*` settings of the project stay.
        """
        documents = self._engine.documents
        return {
            "CHIO_CLIENT": lambda settings: documents.add_from(client_with(settings, self.sidecar)),
            "CHIO_SYNC_CLIENT": lambda settings: documents.add_from(sync_client_with(settings, self.sidecar)),
        }

    @property
    def url(self) -> str:
        """Address on 127.0.0.1; the sidecar listens from the first time that it is read, and keeps the address."""
        return self._url if self._server is not None else self._listen()

    @property
    def public_key(self) -> str:
        """The key whose receipts count, in hex."""
        return self.sidecar.public_key

    @cached_property
    def _seed_file(self) -> str:
        return self._connected.enter_context(seed_file_of(self.sidecar))

    def settings(self, **options: Any) -> ChioSettings:
        """Return settings that point to `url` and pin its key, with further options."""
        return ChioSettings(**{**{name[5:].lower(): value for name, value in self.config.items()}, **options})

    @property
    def config(self) -> dict[str, Any]:
        """The same as settings of Flask and Django, for example `app.config.update(chio.config)`."""
        return {**self.environ, "CHIO_TRUSTED_KERNEL_KEYS": [self.public_key]}

    @property
    def environ(self) -> dict[str, str]:
        """The same as environment variables."""
        return {
            "CHIO_SIDECAR_URL": self.url,
            "CHIO_TRUSTED_KERNEL_KEYS": self.public_key,
            "CHIO_AUTHORITY_SEED_FILE": self._seed_file,
        }

    # What the sidecar does. Each change lasts until the end of the test, or of a `with` block.

    def allow(
        self, method: str | None = None, path: str | None = None, *, requires: str | None = None
    ) -> AbstractContextManager[object]:
        """Allow some requests, with or without a capability. The last rule that covers a request counts.

        A route that requires a capability still refuses requests without one, because the application checks it too.

        Args:
            method: None for any.
            path: the path of a request or the template of its route (`/pets/{id}`); None for any.
            requires: only if the route requires this tool, for example `payments/transfer`.
        """
        return self._rule(method, path, requires, ALLOW_AS_TOLD)

    def deny(
        self,
        method: str | None = None,
        path: str | None = None,
        *,
        requires: str | None = None,
        reason: str = "denied by the test",
        status: int = 403,
        guard: str = "TestGuard",
    ) -> AbstractContextManager[object]:
        """Deny some requests, with or without a capability. The last rule that covers a request counts.

        Args:
            method, path, requires: see `allow`.
            reason, status, guard: as the receipt states them.
        """
        return self._rule(method, path, requires, behaviours.deny(reason, status=status, guard=guard))

    def down(self) -> AbstractContextManager[object]:
        """Accept no connection: 503 `chio_sidecar_unreachable`, or a pass-through with `fail_open`."""
        return self._change(replace(self._plan, fault=REFUSE))

    def slow(self, seconds: float = 3600.0) -> AbstractContextManager[object]:
        """Delay each response by `seconds`: 503 `chio_timeout` unless the application's `timeout` is longer.

        Without a socket no time passes: a late response is a timeout at once. Over one, give a short `timeout`.
        """
        return self._change(replace(self._plan, delay=seconds))

    def tamper(self, kind: str = "bad_signature") -> AbstractContextManager[object]:
        """Allow everything with a receipt that must not count: 502, mostly `chio_invalid_receipt`.

        Args:
            kind: what is wrong with the receipt, a name in `tamperings`.

        Raises:
            ConfigurationError: there is no such kind; the message names the nearest.
        """
        return self._change(replace(self._plan, fault=behaviours.behaviour(kind, self.tamperings)))

    tamperings: Final[Mapping[str, Behaviour]] = behaviours.TAMPERINGS
    """What `tamper` can do, by name."""

    def behave(self, behaviour: Behaviour | str) -> AbstractContextManager[object]:
        """Behave like this in every request.

        Args:
            behaviour: a behaviour, or the name of one in `chio_core.testing.BEHAVIOURS`, for example `status_500`.

        Raises:
            ConfigurationError: there is no behaviour of this name.
        """
        chosen = behaviours.behaviour(behaviour) if isinstance(behaviour, str) else behaviour
        return self._change(replace(self._plan, fault=chosen))

    def reset(self) -> None:
        """Take back all of this; requests, receipts, approvals and budgets stay."""
        self._set(Plan())

    # Capabilities and approvals.

    def capability(
        self,
        server: str = "*",
        tool: str = "*",
        *,
        operations: Sequence[Operation] = ("invoke",),
        constraints: Sequence[Constraint | Mapping[str, Any]] = (),
        ttl: int = 3600,
        max_invocations: int | None = None,
        trusted: bool = True,
    ) -> str:
        """Issue a capability; return the value for the `X-Chio-Capability` header.

        Args:
            server, tool: the tool that it grants; `*` is any.
            operations: the operations that it grants.
            constraints: for example `{"type": "max_length", "value": 100}`.
            ttl: seconds that it is valid; 0 or less for one that has expired.
            max_invocations: how often it may be used.
            trusted: False for an authority that the sidecar does not trust.

        Raises:
            InvalidDocument: the grant is malformed.
        """
        grant = grant_of(server, tool, operations, constraints, max_invocations)
        return issue(self.sidecar.key if trusted else STRANGER, grant, ttl, int(self._clock()))

    def headers(self, capability: str | None = None, *, approval: str | Approval | None = None) -> dict[str, str]:
        """Return the headers that present a capability, and an approval if there is one.

        Args:
            capability: from `capability`; None for one that grants everything.
            approval: an approval or its id.
        """
        found = {CAPABILITY_HEADER: self.capability() if capability is None else capability}
        if approval is not None:
            found[APPROVAL_HEADER] = approval.id if isinstance(approval, Approval) else approval
        return found

    def revoke(self, capability: str) -> None:
        """Revoke a capability.

        Raises:
            InvalidDocument: this is no token.
        """
        self._engine.revoke(parse_capability(capability).id)

    @property
    def approvals(self) -> list[Approval]:
        """Every approval that a request has needed so far, in order."""
        return list(self._engine.approvals)

    def approve(self, approval_id: str | None = None) -> Approval:
        """Approve in the operator's place.

        Args:
            approval_id: None for the newest.

        Raises:
            ConfigurationError: no approval with this id is pending.
        """
        return self._engine.respond(approval_id, "approved")

    def reject(self, approval_id: str | None = None) -> Approval:
        """Reject in the operator's place; see `approve`."""
        return self._engine.respond(approval_id, "denied")

    # What has happened.

    @property
    def receipts(self) -> list[HttpReceipt]:
        """Every stored receipt, in order, those of refusals included."""
        return [entry.receipt for entry in self._ledger.entries]

    @property
    def last(self) -> EvaluateRequest:
        """The last evaluate request.

        Raises:
            AssertionError: the sidecar got no request.
        """
        return requests_for(self.asked, None, None)[-1]

    def receipt_of(self, response: Any) -> HttpReceipt:
        """Return the stored receipt that a response names in its header.

        Args:
            response: of httpx, TestClient, Django, Flask or requests: any object with `headers`.

        Raises:
            AssertionError: it names no stored receipt.
        """
        return self._ledger.named_by(response)

    def assert_requires(self, method: str, path: str, requires: str) -> None:
        """Check that a route required a capability when it was called: fails if a `Depends` is missing.

        Args:
            method: of the request that the test has made.
            path: its path, or the template of its route.
            requires: `server/tool`, for example `payments/transfer`.

        Raises:
            AssertionError: the sidecar got no such request, or the route required something else.
        """
        check_requirement(requests_for(self.asked, method, path), requires)

    def require_receipts(self, app: Any, *, except_paths: Collection[str] = ()) -> Any:
        """Return an application around `app` that fails the test if a handler ran without a stored receipt.

        Every response must be a refusal of Chio, or have a stored receipt that allows the request. Otherwise the
        request raises `AssertionError`, which TestClient and httpx pass to the test.

        Args:
            app: ASGI or WSGI (`app.wsgi_app = chio.require_receipts(app.wsgi_app)` in Flask); it is not changed.
            except_paths: exact paths that are not checked, for example `/healthz`.
        """
        return watching(app, self._ledger, except_paths)

    def _choose(self, request: EvaluateRequest) -> Behaviour:
        self.asked.append(request)
        plan = self._plan
        chosen = plan.behaviour_for(request) or self._engine.behaviour
        pauses = [Pause(plan.delay)] if plan.delay > 0 else []
        return replace(
            chosen,
            reply=lambda one: self._ledger.keep(one, chosen.reply(one)),
            delivery=lambda head, body: chain(pauses, chosen.delivery(head, body)),
        )

    def _rule(
        self, method: str | None, path: str | None, requires: str | None, behaviour: Behaviour
    ) -> AbstractContextManager[object]:
        rule = Rule(method, path, requires, behaviour)
        return self._change(replace(self._plan, rules=(*self._plan.rules, rule)))

    def _change(self, plan: Plan) -> AbstractContextManager[object]:
        """Follow a plan; the context manager returns to the plan before it."""
        undo = ExitStack()
        undo.callback(self._set, self._plan)
        self._set(plan)
        return undo

    def _set(self, plan: Plan) -> None:
        was_down, self._plan = self._plan.down, plan
        if plan.down == was_down:
            return
        # A listening socket cannot refuse connections: while the sidecar is down it is closed, and the port kept.
        listening = self._server is not None
        self._stop()
        self.sidecar.script = REFUSE if plan.down else self._choose
        if listening:
            self._listen()

    def _listen(self) -> str:
        self._server = ExitStack()
        self._server.enter_context(self.sidecar.serving_in_thread(int(self._url.rpartition(":")[2] or 0)))
        self._url = self.sidecar.url
        return self._url

    def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
