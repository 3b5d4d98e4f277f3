"""ChioClient and SyncChioClient: ask the sidecar, and let `chio_core.evaluation.conclude` say what its answer means.

Two thin shells over the same pure functions. A client belongs to whoever made it; there is none at module
level. It may be made before any event loop runs, and follows its caller from loop to loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chio_core.client.carrier import AsyncCarrier, BlockingCarrier, Pairs
from chio_core.endpoint import Endpoint
from chio_core.errors import SidecarError
from chio_core.evaluation.conclude import conclude, conclude_error
from chio_core.evaluation.exchange import EVALUATE_PATH, EvaluateCall, RawResponse
from chio_core.evaluation.observe import settle
from chio_core.evaluation.outcomes import Decision
from chio_core.receipts import KeyTrust
from chio_core.settings import ChioSettings
from chio_core.telemetry import Telemetry
from chio_core.telemetry.metrics import Metrics

if TYPE_CHECKING:
    import httpx

    from chio_core.models.receipt import HttpReceipt
    from chio_sidecar.embedded import EmbeddedSidecar

Clock = Callable[[], float]
"""Returns seconds since 1970."""


class ChioClient:
    """Asynchronous client of a sidecar.

    Args:
        settings: where it is and what counts; from the environment when left out.
        transport: an httpx transport to use instead of our own connections, for tests and special networks.
        clock: returns seconds since 1970.
        telemetry: tells about each decision, see `chio_core.telemetry`; may be shared with another client.
        document: gives the application's OpenAPI document for an embedded sidecar that is told of none by its URL;
            asked when that sidecar is opened. None, or a function that returns None: it judges plain paths.
    """

    def __init__(
        self,
        settings: ChioSettings | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = time.time,
        telemetry: Telemetry | None = None,
        document: Callable[[], str | None] | None = None,
    ) -> None:
        self.settings = settings if settings is not None else ChioSettings()
        self.telemetry = telemetry if telemetry is not None else Telemetry(self.settings)
        self.trust = KeyTrust(self.settings.trusted_kernel_keys)
        self._transport = transport
        self._clock = clock
        self._document = document
        self._carriers: dict[asyncio.AbstractEventLoop, AsyncCarrier] = {}
        self._lock = threading.Lock()
        self._embedded: EmbeddedSidecar | None = None

    @property
    def metrics(self) -> Metrics:
        """What this client has seen, for Prometheus."""
        return self.telemetry.metrics

    def open(self) -> None:
        """Open an embedded sidecar now instead of at the first question; nothing to do for any other.

        Raises:
            ConfigurationError: its store or its key cannot be used.
        """
        if self._embedded is None and self._transport is None and self.settings.sidecar_url.startswith("embedded:"):
            from chio_core.client.in_process import busy_seconds_for, open_sidecar

            self._embedded = open_sidecar(
                self.settings.sidecar_url,
                busy_seconds=busy_seconds_for(self.settings),
                document=self._document() if self._document is not None else None,
            )
            self.trust = KeyTrust(self.settings.trusted_kernel_keys or (self._embedded.public_key,))

    async def decide(self, question: EvaluateCall) -> Decision:
        """Ask one question and return the decision. Never raises for anything that the sidecar does."""
        with self.telemetry.watch(question) as watch:
            try:
                answer = await self.post(EVALUATE_PATH, question.body, watch.headers)
                decision = concluded(answer, question, self.settings, self.trust, self._clock())
            except SidecarError as exc:
                return watch.concluded(failed(exc, question, self.settings), exc.message)
            return watch.concluded(decision)

    async def post(self, path: str, body: bytes, headers: Any = ()) -> RawResponse:
        """Send a JSON body to the sidecar.

        Raises:
            SidecarError: see `chio_core.client.carrier.AsyncCarrier`.
        """
        return await self._own_carrier().post(
            path, body, with_bearer(path, headers, self.settings), self.settings.timeout
        )

    async def verify(self, receipt: HttpReceipt | Mapping[str, Any]) -> bool:
        """Let the sidecar verify a receipt (wire protocol, section 2.1); reads `valid`, else `ok`.

        The sidecar checks a receipt against the key inside it. `chio_core.receipts.verify_receipt` checks it
        against the keys that you trust, without asking anybody.

        Raises:
            SidecarError: no answer, or none that can be understood.
        """
        return read_verify(await self.post("/chio/verify", verify_body(receipt)))

    async def aclose(self) -> None:
        """Close the connections of the running loop; the client can be used again afterwards."""
        carrier = self._carriers.pop(asyncio.get_running_loop(), None)
        if carrier is not None:
            await carrier.aclose()
        embedded, self._embedded = self._embedded, None
        if embedded is not None:
            self._carriers.clear()
            await embedded.close()

    @contextmanager
    def diverted(self, transport: httpx.AsyncBaseTransport, trusted_keys: Collection[str]) -> Iterator[None]:
        """Ask another sidecar for as long as the context lasts; all other settings stay. For tests.

        Whoever shares this client (middleware, dependencies, outgoing calls) is diverted with it.

        Args:
            transport: leads to the other sidecar.
            trusted_keys: public keys (hex) whose receipts count there.
        """
        own = self._transport, self.trust, self._carriers, self._embedded
        self._transport, self.trust, self._carriers, self._embedded = transport, KeyTrust(trusted_keys), {}, None
        try:
            yield
        finally:
            self._transport, self.trust, self._carriers, self._embedded = own

    async def __aenter__(self) -> ChioClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def _own_carrier(self) -> AsyncCarrier:
        loop = asyncio.get_running_loop()
        carrier = self._carriers.get(loop)
        if carrier is None:
            carrier = self._new_carrier()
            with self._lock:
                # A loop that was closed has taken its sockets with it; here they would only be kept from the
                # garbage collector.
                self._carriers = {known: kept for known, kept in self._carriers.items() if not known.is_closed()}
                self._carriers[loop] = carrier
        return carrier

    def _new_carrier(self) -> AsyncCarrier:
        settings = self.settings
        if self._transport is not None:
            from chio_core.client.via_httpx import HttpxCarrier

            url = settings.sidecar_url if settings.sidecar_url.startswith("http") else "http://localhost"
            return HttpxCarrier(url, self._transport)
        self.open()
        if self._embedded is not None:
            from chio_core.client.in_process import InProcessCarrier

            return InProcessCarrier(self._embedded.app)
        from chio_core.client.pool import ConnectionPool

        end = Endpoint.parse(settings.sidecar_url)
        wait = min(settings.connect_timeout, settings.timeout)
        return ConnectionPool(end, limit=settings.max_connections, connect_timeout=wait)


class SyncChioClient:
    """The same for threads: Django under WSGI, Flask, scripts.

    Args:
        settings: where the sidecar is and what counts; from the environment when left out.
        carrier: something else to carry the questions, for tests.
        clock: returns seconds since 1970.
        telemetry: tells about each decision, see `chio_core.telemetry`; may be shared with another client.
    """

    def __init__(
        self,
        settings: ChioSettings | None = None,
        *,
        carrier: BlockingCarrier | None = None,
        clock: Clock = time.time,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.settings = settings if settings is not None else ChioSettings()
        self.telemetry = telemetry if telemetry is not None else Telemetry(self.settings)
        self.trust = KeyTrust(self.settings.trusted_kernel_keys)
        self._clock = clock
        self._carrier = carrier if carrier is not None else self._new_carrier()

    @property
    def metrics(self) -> Metrics:
        """What this client has seen, for Prometheus."""
        return self.telemetry.metrics

    def decide(self, question: EvaluateCall) -> Decision:
        """Ask one question and return the decision. Never raises for anything that the sidecar does."""
        with self.telemetry.watch(question) as watch:
            try:
                answer = self.post(EVALUATE_PATH, question.body, watch.headers)
                decision = concluded(answer, question, self.settings, self.trust, self._clock())
            except SidecarError as exc:
                return watch.concluded(failed(exc, question, self.settings), exc.message)
            return watch.concluded(decision)

    def post(self, path: str, body: bytes, headers: Any = ()) -> RawResponse:
        """Send a JSON body to the sidecar; see `ChioClient.post`."""
        return self._carrier.post(path, body, with_bearer(path, headers, self.settings), self.settings.timeout)

    def verify(self, receipt: HttpReceipt | Mapping[str, Any]) -> bool:
        """Let the sidecar verify a receipt; see `ChioClient.verify`."""
        return read_verify(self.post("/chio/verify", verify_body(receipt)))

    def close(self) -> None:
        """Close the connections."""
        self._carrier.close()

    def __enter__(self) -> SyncChioClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _new_carrier(self) -> BlockingCarrier:
        settings = self.settings
        if settings.sidecar_url.startswith("embedded:"):
            from chio_core.client.in_process import PortalCarrier, busy_seconds_for

            carrier = PortalCarrier(settings.sidecar_url, busy_seconds=busy_seconds_for(settings))
            self.trust = KeyTrust(settings.trusted_kernel_keys or (carrier.public_key,))
            return carrier
        from chio_core.client.blocking import BlockingPool

        end = Endpoint.parse(settings.sidecar_url)
        wait = min(settings.connect_timeout, settings.timeout)
        return BlockingPool(end, limit=settings.max_connections, connect_timeout=wait)


def concluded(
    answer: RawResponse, question: EvaluateCall, settings: ChioSettings, trust: KeyTrust, now: float
) -> Decision:
    """Return the decision that an answer amounts to, ready to be carried out.

    Raises:
        SidecarError: it amounts to none, see `chio_core.evaluation.conclude.conclude`.
    """
    return settle(conclude(answer, question, settings, trust, now), question)


def failed(error: SidecarError, question: EvaluateCall, settings: ChioSettings) -> Decision:
    """Return what it amounts to that there is no decision."""
    return settle(conclude_error(error, question, settings), question)


def with_bearer(path: str, headers: Pairs, settings: ChioSettings) -> Pairs:
    """Return the headers of a call, with the control plane's bearer where the call goes there (section 7.2)."""
    if settings.control_token is None or path.startswith("/chio/"):
        return headers
    return [*headers, ("authorization", f"Bearer {settings.control_token.get_secret_value()}")]


def verify_body(receipt: HttpReceipt | Mapping[str, Any]) -> bytes:
    """Return the body of `POST /chio/verify`: the receipt as it was received, never narrowed by a model."""
    import json

    document = dict(receipt) if isinstance(receipt, Mapping) else receipt.raw
    return json.dumps(document, separators=(",", ":")).encode()


def read_verify(answer: RawResponse) -> bool:
    """Return `valid`, or `ok` where a newer sidecar gives a report instead.

    Raises:
        EvaluationFailed: the answer says neither.
    """
    from chio_core.canonical import parse_json
    from chio_core.errors import EvaluationFailed, InvalidDocument

    try:
        document = parse_json(answer.body) if answer.status == 200 else None
    except InvalidDocument:
        document = None
    value = document.get("valid", document.get("ok")) if isinstance(document, dict) else None
    if not isinstance(value, bool):
        raise EvaluationFailed(f"Chio sidecar's answer to verify has status {answer.status} and no result")
    return value
