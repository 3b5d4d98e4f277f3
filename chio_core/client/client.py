"""ChioClient and SyncChioClient: send evaluations to the sidecar, and verify its responses.

Both are thin shells over the pure functions of `chio_core.evaluation.conclude`. A client has an owner; there is no
client at module level. It can be made before any event loop runs, and can be used from several loops.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from chio_core.client.carrier import AsyncCarrier, BlockingCarrier, Pairs
from chio_core.client.failover import BlockingFailover, Failover, FailoverCarrier
from chio_core.concurrency.processes import PerProcess, require_asyncio
from chio_core.endpoint import Endpoint
from chio_core.errors import CallerTimeout, SidecarError, SidecarTimeout, SidecarUnreachable
from chio_core.evaluation.conclude import conclude, conclude_error
from chio_core.evaluation.exchange import EVALUATE_PATH, EvaluateCall, RawResponse
from chio_core.evaluation.outcomes import Decision
from chio_core.receipts import KeyTrust
from chio_core.settings import ChioSettings
from chio_core.telemetry import Telemetry
from chio_core.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import httpx

    from chio_core.client.authority import Authority
    from chio_core.models.receipt import HttpReceipt
    from chio_sidecar.embedded import EmbeddedSidecar

Carriers = dict[asyncio.AbstractEventLoop, AsyncCarrier]
Clock = Callable[[], float]
"""Returns seconds since 1970."""


class _Client:
    def __init__(
        self,
        settings: ChioSettings | None,
        clock: Clock,
        telemetry: Telemetry | None,
        document: Callable[[Sequence[str]], str | None] | None,
    ) -> None:
        self.settings = settings if settings is not None else ChioSettings()
        self.telemetry = telemetry if telemetry is not None else Telemetry(self.settings)
        self.trust = KeyTrust(self.settings.trusted_kernel_keys)
        self.document = document
        self.mounts: Sequence[str] = ("",)
        self._clock = clock

    @property
    def metrics(self) -> Metrics:
        """Counters of this client, for Prometheus."""
        return self.telemetry.metrics

    @cached_property
    def authority(self) -> Authority:
        """What issues capabilities for this application, see `chio_core.client.authority`.

        Raises:
            ConfigurationError: the settings name none.
        """
        from chio_core.client.authority import Authority

        return Authority(self.settings)


class ChioClient(_Client):
    """Asynchronous client of a sidecar.

    Args:
        settings: the sidecar's address and all options; from the environment if left out.
        transport: an httpx transport instead of the built-in connections, for tests and special networks.
        clock: returns seconds since 1970.
        telemetry: records each decision, see `chio_core.telemetry`; may be shared with another client.
        document: returns the application's OpenAPI document for an embedded sidecar whose URL names none; called with
            `mounts` when that sidecar is opened. Without a document it matches plain paths.

    Attributes:
        document: the argument; `add_chio` sets it for its application where it is None.
        mounts: templates of the mounts through which requests reach the application.
    """

    def __init__(
        self,
        settings: ChioSettings | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = time.time,
        telemetry: Telemetry | None = None,
        document: Callable[[Sequence[str]], str | None] | None = None,
    ) -> None:
        super().__init__(settings, clock, telemetry, document)
        self._transport = transport
        self._carriers: PerProcess[Carriers] = PerProcess(dict)
        self._failover = failover_for(self.settings)
        self._lock = threading.Lock()
        self._embedded: EmbeddedSidecar | None = None
        weakref.finalize(self, _abandon, self._carriers).atexit = False

    def open(self) -> None:
        """Open an embedded sidecar now instead of at the first evaluation; does nothing for any other.

        Raises:
            ConfigurationError: its store or its key cannot be used.
        """
        if self._embedded is None and self._transport is None and self.settings.sidecar_url.startswith("embedded:"):
            from chio_core.client.in_process import keys_of, open_sidecar

            document = self.document(self.mounts) if self.document is not None else None
            self._embedded = open_sidecar(self.settings, document)
            self.trust = KeyTrust(keys_of(self.settings, self._embedded.public_key))

    async def evaluate(self, call: EvaluateCall, *, timeout: float | None = None) -> Decision:
        """Send one call and return the decision. Raises nothing, whatever the sidecar does.

        Args:
            timeout: seconds, if the caller waits for less than the setting `timeout`.
        """
        started = time.monotonic()
        with self.telemetry.watch(call) as watch:
            try:
                response = await self.post(EVALUATE_PATH, call.body, watch.headers, timeout=timeout)
                decision = conclude(response, call, self.settings, self.trust, self._clock())
            except SidecarError as exc:
                error = blamed(exc, timeout, self.settings, started)
                return watch.concluded(conclude_error(error, call, self.settings), error.message)
            return watch.concluded(decision)

    async def post(self, path: str, body: bytes, headers: Any = (), *, timeout: float | None = None) -> RawResponse:
        """Send a JSON body to the sidecar.

        Args:
            timeout: as in `evaluate`.

        Raises:
            SidecarError: see `chio_core.client.carrier.AsyncCarrier`.
        """
        seconds = self.settings.timeout if timeout is None else min(timeout, self.settings.timeout)
        return await self._own_carrier().post(path, body, with_bearer(path, headers, self.settings), seconds)

    async def verify(self, receipt: HttpReceipt | Mapping[str, Any]) -> bool:
        """Let the sidecar verify a receipt (wire protocol, section 2.1); reads `valid`, else `ok`.

        The sidecar checks a receipt against the key inside it. `chio_core.receipts.verify_receipt` checks it against
        trusted keys, without a sidecar.

        Raises:
            SidecarError: no response, or an invalid one.
        """
        return read_verify(await self.post("/chio/verify", verify_body(receipt)))

    async def aclose(self) -> None:
        """Close the connections of the running loop; the client can be used again afterwards."""
        carrier = self._carriers.get().pop(require_asyncio("ChioClient"), None)
        if carrier is not None:
            await carrier.aclose()
        if "authority" in self.__dict__:
            await self.authority.aclose()
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            self._carriers.get().clear()
            await embedded.close()

    @contextmanager
    def diverted(self, transport: httpx.AsyncBaseTransport, trusted_keys: Collection[str]) -> Iterator[None]:
        """Use another sidecar inside the context, with all other settings unchanged. For tests.

        It applies to all users of this client: middleware, dependencies, outgoing calls.

        Args:
            transport: leads to the other sidecar.
            trusted_keys: public keys (hex) whose receipts are accepted.
        """
        own = self._transport, self.trust, self._carriers, self._embedded
        self._transport, self.trust = transport, KeyTrust(trusted_keys)
        self._carriers, self._embedded = PerProcess(dict), None
        try:
            yield
        finally:
            self._transport, self.trust, self._carriers, self._embedded = own

    async def __aenter__(self) -> ChioClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def _own_carrier(self) -> AsyncCarrier:
        loop = require_asyncio("ChioClient")
        carriers = self._carriers.get()
        carrier = carriers.get(loop)
        if carrier is not None:
            return carrier
        settings = self.settings
        self.open()
        if self._transport is not None:
            from chio_core.client.via_httpx import HttpxCarrier

            (url, *_) = settings.sidecar_urls
            url = url if url.startswith("http") else "http://localhost"
            carrier = HttpxCarrier(url, self._transport)
        elif self._embedded is not None:
            from chio_core.client.in_process import EmbeddedCarrier

            carrier = EmbeddedCarrier(self._embedded)
        else:
            from chio_core.client.pool import ConnectionPool

            limit, wait = settings.max_connections, connecting_seconds(settings)
            pools = [
                ConnectionPool(Endpoint.parse(url), limit=limit, connect_timeout=wait) for url in settings.sidecar_urls
            ]
            carrier = pools[0] if self._failover is None else FailoverCarrier(pools, self._failover)
        with self._lock:
            # The sockets of a closed loop are closed with it; an entry would only keep the loop from being collected.
            for known in [known for known in carriers if known.is_closed()]:
                del carriers[known]
            carriers[loop] = carrier
        return carrier


def failover_for(settings: ChioSettings) -> Failover | None:
    """Return what chooses among several sidecars; None for a single one."""
    number = len(settings.sidecar_urls)
    return Failover(number, share_store=settings.sidecars_share_store) if number > 1 else None


def connecting_seconds(settings: ChioSettings) -> float:
    """Return the seconds to open a connection: of several sidecars, two attempts at each leave time for the last."""
    number = len(settings.sidecar_urls)
    return min(settings.connect_timeout, settings.timeout / (1 if number == 1 else 2 * number))


def _abandon(carriers: PerProcess[Carriers]) -> None:
    """Close the connections of a client that was garbage-collected, each in its loop."""
    for loop, carrier in (carriers.take() or {}).items():
        # A transport that was given to the client belongs to its owner.
        if hasattr(carrier, "abandon"):
            with suppress(RuntimeError):  # the loop is closed, and its sockets with it
                loop.call_soon_threadsafe(carrier.abandon)


class SyncChioClient(_Client):
    """Synchronous client of a sidecar, for threads: Django under WSGI, Flask, scripts.

    Args:
        settings: the sidecar's address and all options; from the environment if left out.
        carrier: transports the calls instead of the built-in connections, for tests.
        clock: returns seconds since 1970.
        telemetry: records each decision, see `chio_core.telemetry`; may be shared with another client.
        document: see `ChioClient`; called once, with one mount at the root.
    """

    def __init__(
        self,
        settings: ChioSettings | None = None,
        *,
        carrier: BlockingCarrier | None = None,
        clock: Clock = time.time,
        telemetry: Telemetry | None = None,
        document: Callable[[Sequence[str]], str | None] | None = None,
    ) -> None:
        super().__init__(settings, clock, telemetry, document)
        if carrier is not None:
            self._carrier = carrier
        elif self.settings.sidecar_url.startswith("embedded:"):
            from chio_core.client.in_process import PortalCarrier, keys_of

            portal = PortalCarrier(self.settings, document(("",)) if document is not None else None)
            self.trust = KeyTrust(keys_of(self.settings, portal.public_key))
            self._carrier = portal
        else:
            from chio_core.client.blocking import BlockingPool

            limit, wait = self.settings.max_connections, connecting_seconds(self.settings)
            pools = [
                BlockingPool(Endpoint.parse(url), limit=limit, connect_timeout=wait)
                for url in self.settings.sidecar_urls
            ]
            failover = failover_for(self.settings)
            self._carrier = pools[0] if failover is None else BlockingFailover(pools, failover)

    def evaluate(self, call: EvaluateCall, *, timeout: float | None = None) -> Decision:
        """Send one call and return the decision. Raises nothing, whatever the sidecar does.

        Args:
            timeout: seconds, if the caller waits for less than the setting `timeout`.
        """
        started = time.monotonic()
        with self.telemetry.watch(call) as watch:
            try:
                response = self.post(EVALUATE_PATH, call.body, watch.headers, timeout=timeout)
                decision = conclude(response, call, self.settings, self.trust, self._clock())
            except SidecarError as exc:
                error = blamed(exc, timeout, self.settings, started)
                return watch.concluded(conclude_error(error, call, self.settings), error.message)
            return watch.concluded(decision)

    def post(self, path: str, body: bytes, headers: Any = (), *, timeout: float | None = None) -> RawResponse:
        """Send a JSON body to the sidecar; see `ChioClient.post`."""
        seconds = self.settings.timeout if timeout is None else min(timeout, self.settings.timeout)
        return self._carrier.post(path, body, with_bearer(path, headers, self.settings), seconds)

    def verify(self, receipt: HttpReceipt | Mapping[str, Any]) -> bool:
        """Let the sidecar verify a receipt; see `ChioClient.verify`."""
        return read_verify(self.post("/chio/verify", verify_body(receipt)))

    def close(self) -> None:
        """Close the connections."""
        self._carrier.close()
        if "authority" in self.__dict__:
            self.authority.close()

    def __enter__(self) -> SyncChioClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def blamed(error: SidecarError, caller: float | None, settings: ChioSettings, started: float) -> SidecarError:
    """Return the error, or a `CallerTimeout` if the caller's seconds ran out before those of the setting."""
    if caller is None or caller >= settings.timeout:
        return error
    late = isinstance(error, SidecarUnreachable) and time.monotonic() - started >= caller  # while it connected
    if not late and not isinstance(error, SidecarTimeout):
        return error
    return CallerTimeout(f"no response of the Chio sidecar within the {caller:g} s of the caller")


def with_bearer(path: str, headers: Pairs, settings: ChioSettings) -> Pairs:
    """Return the headers of a call with the bearer for its path: for evaluations, or for the control plane.

    The wire protocol has only the second (section 7.2).
    """
    token = settings.evaluate_token if path.startswith("/chio/") else settings.control_token
    return headers if token is None else [*headers, ("authorization", f"Bearer {token.get_secret_value()}")]


def verify_body(receipt: HttpReceipt | Mapping[str, Any]) -> bytes:
    """Return the body of `POST /chio/verify`: the receipt as it was received, unknown members included."""
    import json

    document = dict(receipt) if isinstance(receipt, Mapping) else receipt.raw
    return json.dumps(document, separators=(",", ":")).encode()


def read_verify(answer: RawResponse) -> bool:
    """Return `valid`, or `ok` of a newer sidecar's report.

    Raises:
        EvaluationFailed: the response has neither.
    """
    from chio_core.canonical import parse_json
    from chio_core.errors import EvaluationFailed, InvalidDocument

    try:
        document = parse_json(answer.body) if answer.status == 200 else None
    except InvalidDocument:
        document = None
    value = document.get("valid", document.get("ok")) if isinstance(document, dict) else None
    if not isinstance(value, bool):
        raise EvaluationFailed(f"Chio sidecar's response to verify has status {answer.status} and no result")
    return value
