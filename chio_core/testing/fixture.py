"""ChioFixture: what the pytest fixture `chio` gives, and what any other test framework can use as well.

    with ChioFixture() as chio:
        client = TestClient(chio.connect(app))
        client.post("/transfers", headers=chio.headers(chio.capability("payments", "transfer")))

A sidecar in the process of the test judges by `chio_core.testing.policy` and signs; the application's own client
verifies what it says. Nothing listens on a socket until `url`, `config` or `environ` is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Any, TypeVar

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.models.capability import Constraint, Operation
from chio_core.models.receipt import HttpReceipt
from chio_core.names import APPROVAL_HEADER, CAPABILITY_HEADER
from chio_core.settings import ChioSettings
from chio_core.signing import SigningKey
from chio_core.testing import behaviours, tokens
from chio_core.testing.behaviours import REFUSE, Behaviour, Reply, delayed
from chio_core.testing.connect import client_with, connected, sync_client_with
from chio_core.testing.demands import Approval
from chio_core.testing.expect import asked_for, named_receipt, requirement
from chio_core.testing.ledger import Ledger
from chio_core.testing.loopback import Loopback
from chio_core.testing.policy import MemoryPolicy
from chio_core.testing.question import Asked
from chio_core.testing.rules import Plan, Rule, Until, allow_as_told
from chio_core.testing.sidecar import KEY, ScriptedSidecar
from chio_core.testing.watch import watching

App = TypeVar("App")


class ChioFixture:
    """A sidecar for one test, and everything that a test wants to say to it or ask it.

    Args:
        key: what it signs with; also the authority that issues capabilities.
        clock: returns seconds since 1970.

    Attributes:
        sidecar: the sidecar itself, see `chio_core.testing.ScriptedSidecar`.
        asked: every question so far, in order; without those that came while it was down.
    """

    def __init__(self, *, key: SigningKey = KEY, clock: Callable[[], float] = time.time) -> None:
        self.asked: list[Asked] = []
        self.sidecar = ScriptedSidecar(self._choose, key=key, clock=clock)
        self._clock = clock
        self._plan = Plan()
        self._policy = MemoryPolicy()
        self._ledger = Ledger()
        self._loopback = Loopback(self.sidecar)
        self._open = ExitStack()

    def __enter__(self) -> ChioFixture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect all applications and end the server, if there is one."""
        self._open.close()
        self._loopback.close()

    # Connecting an application.

    def connect(self, app: App) -> App:
        """Let an application that is governed already ask here until the end of the test; return it.

        Args:
            app: a FastAPI, Starlette or Flask application, a `ChioASGIMiddleware`, or a `ChioClient`. Its settings
                stay, but for where it asks and whose receipts count. Needs no socket.

        Raises:
            ConfigurationError: nothing in it asks a sidecar.
        """
        self._open.enter_context(connected(app, self.sidecar))
        return app

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
        return client_with(self.sidecar.settings(**options), self.sidecar)

    def new_sync_client(self, **options: Any) -> SyncChioClient:
        """Return another such client for threads, with options of `ChioSettings`."""
        return sync_client_with(self.sidecar.settings(**options), self.sidecar)

    @property
    def django(self) -> dict[str, Any]:
        """Django settings that connect a project: `override_settings(**chio.django)`; needs no socket.

        All other `CHIO_*` settings of the project stay.
        """
        return {
            "CHIO_CLIENT": lambda settings: client_with(settings, self.sidecar),
            "CHIO_SYNC_CLIENT": lambda settings: sync_client_with(settings, self.sidecar),
        }

    @property
    def url(self) -> str:
        """Address of the sidecar on 127.0.0.1; it listens from the first time that this is asked for."""
        return self._loopback.url

    @property
    def public_key(self) -> str:
        """The key whose receipts count, in hex."""
        return self.sidecar.public_key

    def settings(self, **options: Any) -> ChioSettings:
        """Return settings that point to `url` and pin its key, with further options."""
        return ChioSettings(**{"sidecar_url": self.url, "trusted_kernel_keys": [self.public_key], **options})

    @property
    def config(self) -> dict[str, Any]:
        """The same as settings of Flask and Django, for example `app.config.update(chio.config)`."""
        return {"CHIO_SIDECAR_URL": self.url, "CHIO_TRUSTED_KERNEL_KEYS": [self.public_key]}

    @property
    def environ(self) -> dict[str, str]:
        """The same as environment variables."""
        return {"CHIO_SIDECAR_URL": self.url, "CHIO_TRUSTED_KERNEL_KEYS": self.public_key}

    # What the sidecar does. Each lasts until the end of the test, or of a `with` block.

    def allow(self, method: str | None = None, path: str | None = None, *, requires: str | None = None) -> Until:
        """Allow some requests, whatever they present. The last rule that covers a request counts.

        A route that asks for a capability still wants one to be presented, because the application checks that too:
        see `headers` and `dependency_overrides`.

        Args:
            method: None for any.
            path: the path of a request or the template of its route (`/pets/{id}`); None for any.
            requires: only where the route asks for this, for example `payments/transfer`.
        """
        told = Behaviour("allow_as_told", "Allows, because the test says so.", allow_as_told)
        return self._rule(Rule(method, path, requires, told))

    def deny(
        self,
        method: str | None = None,
        path: str | None = None,
        *,
        requires: str | None = None,
        reason: str = "denied by the test",
        status: int = 403,
        guard: str = "TestGuard",
    ) -> Until:
        """Deny some requests, whatever they present. The last rule that covers a request counts.

        Args:
            method, path, requires: see `allow`.
            reason, status, guard: as the receipt states them.
        """
        return self._rule(Rule(method, path, requires, behaviours.deny(reason, status=status, guard=guard)))

    def down(self) -> Until:
        """Let nobody connect: 503 `chio_sidecar_unreachable`, or a passage with `fail_open`."""
        return self._change(replace(self._plan, fault=REFUSE))

    def slow(self, seconds: float = 3600.0) -> Until:
        """Answer so many seconds later: 503 `chio_timeout` where the application's own `timeout` is not longer.

        Without a socket nobody waits: what would come too late is a timeout at once, everything else an answer at
        once. Over a socket the wait is real, so give the application a short `timeout` there.
        """
        return self._change(replace(self._plan, delay=seconds))

    def tamper(self, kind: str = "bad_signature") -> Until:
        """Allow everything with a receipt that must not count: 502 `chio_invalid_receipt` (or 502 at least).

        Args:
            kind: what is wrong with it, a name in `tamperings`.

        Raises:
            ConfigurationError: there is no such kind; the text names the nearest.
        """
        return self._change(replace(self._plan, fault=behaviours.behaviour(kind, self.tamperings)))

    @property
    def tamperings(self) -> Mapping[str, Behaviour]:
        """What `tamper` can do, by name."""
        return behaviours.TAMPERINGS

    def behave(self, behaviour: Behaviour | str) -> Until:
        """Do this with every question.

        Args:
            behaviour: one of `chio_core.testing.behaviours`, or its name, for example `status_500` or `incomplete`.

        Raises:
            ConfigurationError: there is no behaviour of this name.
        """
        chosen = behaviours.behaviour(behaviour) if isinstance(behaviour, str) else behaviour
        return self._change(replace(self._plan, fault=chosen))

    def reset(self) -> None:
        """Take back all of this; questions, receipts, approvals and budgets stay."""
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
        """Issue a capability; returns the value for the `X-Chio-Capability` header.

        Args:
            server, tool: what is granted; `*` is any.
            operations: what may be done with it.
            constraints: for example `{"type": "max_length", "value": 100}`.
            ttl: seconds that it is valid; 0 or less for one that has expired.
            max_invocations: how often it may be used.
            trusted: False for one of an authority that the sidecar does not know.

        Raises:
            InvalidDocument: it cannot be issued.
        """
        grant = tokens.grant(server, tool, operations, constraints, max_invocations)
        issuer = self.sidecar.key if trusted else tokens.STRANGER
        return tokens.issue(issuer, grant, ttl, int(self._clock()))

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
        self._policy.revoke(tokens.id_of(capability))

    @property
    def approvals(self) -> list[Approval]:
        """Every approval that a request has needed so far, in order."""
        return list(self._policy.demands.approvals)

    def approve(self, approval_id: str | None = None) -> Approval:
        """Answer yes for the operator.

        Args:
            approval_id: None: what was needed last.

        Raises:
            ConfigurationError: nothing waits under this id.
        """
        return self._policy.demands.answer(approval_id, "approved")

    def reject(self, approval_id: str | None = None) -> Approval:
        """Answer no for the operator; see `approve`."""
        return self._policy.demands.answer(approval_id, "denied")

    # What has happened.

    @property
    def receipts(self) -> list[HttpReceipt]:
        """Every receipt that was stored, in order, also of what was refused."""
        return [entry.receipt for entry in self._ledger.entries]

    @property
    def last(self) -> Asked:
        """The last question.

        Raises:
            AssertionError: nobody has asked anything.
        """
        return asked_for(self.asked, None, None)[-1]

    def receipt_of(self, response: Any) -> HttpReceipt:
        """Return the stored receipt that a response names in its header.

        Args:
            response: of httpx, TestClient, Django, Flask or requests: anything with `headers`.

        Raises:
            AssertionError: it names none that was stored.
        """
        return named_receipt(response, self._ledger)

    def assert_requires(self, method: str, path: str, requires: str) -> None:
        """Check that a route asked for a capability when it was called: fails when a `Depends` is missing.

        Args:
            method: of the request that the test has made.
            path: its path, or the template of its route.
            requires: `server/tool`, for example `payments/transfer`.

        Raises:
            AssertionError: nobody asked about this request, or the route asked for something else.
        """
        requirement(asked_for(self.asked, method, path), requires)

    def require_receipts(self, app: Any, *, except_paths: Collection[str] = ()) -> Any:
        """Return an application around `app` that fails the test when something ran without a stored receipt.

        Every answer must be a refusal of Chio, or stand on a stored receipt that allows the request. Otherwise the
        request raises `AssertionError`, which TestClient and httpx hand on to the test.

        Args:
            app: ASGI or WSGI (`app.wsgi_app = chio.require_receipts(app.wsgi_app)` in Flask); it is not changed.
            except_paths: exactly these are not looked at, for example `/healthz`.
        """
        return watching(app, self._ledger, except_paths)

    def _choose(self, asked: Asked) -> Behaviour:
        self.asked.append(asked)
        plan = self._plan
        chosen = plan.behaviour_for(asked) or self._policy.behaviour

        def reply(question: Asked) -> Reply:
            return self._ledger.keep(question, chosen.reply(question))

        delivery = delayed(chosen.delivery, plan.delay) if plan.delay > 0 else chosen.delivery
        return replace(chosen, reply=reply, delivery=delivery)

    def _rule(self, rule: Rule) -> Until:
        return self._change(replace(self._plan, rules=(*self._plan.rules, rule)))

    def _change(self, plan: Plan) -> Until:
        before = self._plan
        self._set(plan)
        return Until(lambda: self._set(before))

    def _set(self, plan: Plan) -> None:
        was_down, is_down = (one.fault is not None and one.fault.refuses for one in (self._plan, plan))
        self._plan = plan
        if is_down and not was_down:
            self._loopback.down()
        elif was_down and not is_down:
            self._loopback.up(self._choose)
