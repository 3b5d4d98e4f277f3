"""The sidecar in this process, for `CHIO_SIDECAR_URL=embedded:FILE`.

The client calls the same application and verifies its receipts in the same way; only the sockets are missing. This is
the only module that imports `chio_sidecar`, and only when an embedded sidecar is opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from chio_core.client.authority import read_seed
from chio_core.client.carrier import MAX_RESPONSE_BYTES, Pairs, TaskCarrier, held
from chio_core.concurrency.loop_thread import LoopEnded, LoopThread
from chio_core.concurrency.processes import PerProcess
from chio_core.errors import ConfigurationError, EvaluationFailed, Overloaded, SidecarError, install_extra
from chio_core.evaluation.exchange import EVALUATE_PATH, RawResponse
from chio_core.scratch import is_left_alone, replaced, replaces
from chio_core.settings import ChioSettings
from chio_core.signing import SigningKey

if TYPE_CHECKING:
    from chio_sidecar.embedded import EmbeddedSidecar

Message = MutableMapping[str, Any]

_JSON = (b"content-type", b"application/json")
_HEADERS = ((b"host", b"embedded"), (b"accept", b"application/json"))


def open_sidecar(settings: ChioSettings, document: str | None = None) -> EmbeddedSidecar:
    """Open the sidecar that the setting `sidecar_url` names.

    `embedded:FILE` is the receipt store; its signing key is in `FILE.key` beside it. Tests get another store, see
    `chio_core.scratch`.

    Args:
        document: OpenAPI document to use if the URL names none.

    Raises:
        ConfigurationError: the extra `sidecar` is not installed, the store or the key cannot be used, or the settings
            trust other keys than the sidecar's.
    """
    opened: EmbeddedSidecar
    busy = busy_seconds_for(settings)
    with _naming_the_setting():
        place = replaced(settings.sidecar_url).partition(":")[2]
        trusted = _trusted_keys(settings)
        opened = _embedded().open_embedded(place, busy_seconds=busy, document=document, trusted_keys=trusted)
    return opened


def check_files(settings: ChioSettings) -> None:
    """Check the files that the settings name, when an application starts; nothing is created, written or kept open.

    The server may fork after it, and an application without a lifespan has no later moment before its first request.

    Raises:
        ConfigurationError: `open_sidecar` could not open the embedded sidecar, or the authority's key file cannot be
            used. The message names the setting.
    """
    if settings.sidecar_url.startswith("embedded:"):
        with _naming_the_setting():
            place = replaced(settings.sidecar_url).partition(":")[2]
            _embedded().check_embedded(place, trusted_keys=_trusted_keys(settings))
    seed = settings.authority_seed_file
    if seed is not None and settings.trust_url is None and not is_left_alone(Path(seed)):
        read_seed(seed)


def keys_of(settings: ChioSettings, public_key: str) -> Collection[str]:
    """Return the keys whose receipts count: those of the settings, else the sidecar's own.

    Args:
        public_key: of the sidecar that was opened.
    """
    return _trusted_keys(settings) or (public_key,)


def _trusted_keys(settings: ChioSettings) -> Collection[str]:
    # The sidecar of a test is another one than the configured.
    return () if replaces(settings.sidecar_url) else settings.trusted_kernel_keys


def own_key(url: str) -> SigningKey:
    """Return the key with which an embedded sidecar signs; it is created if the sidecar was never opened.

    Args:
        url: as for `open_sidecar`; in tests it is the key of the store that they get.

    Raises:
        ConfigurationError: as `open_sidecar`.
    """
    key: SigningKey = _embedded().own_key(replaced(url).partition(":")[2])
    return key


@contextmanager
def _naming_the_setting() -> Iterator[None]:
    try:
        yield
    except ConfigurationError as exc:
        raise ConfigurationError(f"sidecar_url (environment CHIO_SIDECAR_URL): {exc.message}") from None


def _embedded() -> Any:
    try:
        from chio_sidecar import embedded
    except ImportError as exc:
        raise ConfigurationError(
            f"an embedded sidecar needs the extra 'sidecar' ({exc.name} is missing): {install_extra('sidecar')}"
        ) from None
    return embedded


def busy_seconds_for(settings: ChioSettings) -> float:
    """Return the seconds that the store waits for its file: less than the client, which gets the reason."""
    return settings.timeout * 0.8


class InProcessCarrier(TaskCarrier):
    """An `AsyncCarrier` that calls the sidecar's ASGI application directly, in the event loop of its caller.

    The client address in the scope is not a loopback address: the control plane stays closed without its token.
    Closing the carrier leaves the sidecar open.

    Args:
        app: the application of an open sidecar.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        super().__init__()
        self._app = app

    def late(self) -> SidecarError:
        """Return an `Overloaded`: the sidecar is this process."""
        return held()

    async def exchange(self, path: str, body: bytes | None, headers: Pairs, timeout: float) -> RawResponse:
        """Make one call of the application (ASGI, HTTP scope version 2.3)."""
        target, _, query = path.partition("?")
        sent = list(_HEADERS) if body is None else [(b"content-length", b"%d" % len(body)), _JSON, *_HEADERS]
        for name, value in headers:
            sent.append((name.lower().encode("ascii"), value.encode("ascii")))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET" if body is None else "POST",
            "scheme": "http",
            "path": unquote(target) if "%" in target else target,
            "raw_path": target.encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": sent,
            "server": ("embedded", 80),
            "client": ("embedded", 0),
        }
        requests: list[Message] = [{"type": "http.request", "body": body or b"", "more_body": False}]
        status, content_type, size, complete = 0, "", 0, asyncio.Event()
        parts: list[bytes] = []

        async def receive() -> Message:
            if requests:
                return requests.pop()
            await complete.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status, content_type, size
            if message["type"] == "http.response.start":
                status = message["status"]
                for name, value in message["headers"]:
                    if name == b"content-type":
                        content_type = value.decode("latin-1")
                return
            part = message.get("body", b"")
            size += len(part)
            if size <= MAX_RESPONSE_BYTES:  # a longer response is refused below, and not kept until then
                parts.append(part)
            if not message.get("more_body", False):
                complete.set()

        await self._app(scope, receive, send)
        if not status or not complete.is_set():
            raise EvaluationFailed("the embedded Chio sidecar gave no complete response")
        if size > MAX_RESPONSE_BYTES:
            raise EvaluationFailed("Chio sidecar's response is too long")
        return RawResponse(status, content_type, b"".join(parts))


class EmbeddedCarrier(InProcessCarrier):
    """An `AsyncCarrier` to an embedded sidecar: an evaluation is a call of its endpoint, without HTTP.

    Args:
        sidecar: it is open.
    """

    def __init__(self, sidecar: EmbeddedSidecar) -> None:
        super().__init__(sidecar.app)
        self._sidecar = sidecar

    async def exchange(self, path: str, body: bytes | None, headers: Pairs, timeout: float) -> RawResponse:
        """Evaluate, or make another call of the application."""
        if path != EVALUATE_PATH or body is None:
            return await super().exchange(path, body, headers, timeout)
        return await self._sidecar.evaluate(body, headers)


class PortalCarrier:
    """A `BlockingCarrier` to a sidecar in a separate thread with an event loop.

    Args:
        settings, document: see `open_sidecar`.

    Raises:
        ConfigurationError: see `open_sidecar`.
    """

    def __init__(self, settings: ChioSettings, document: str | None = None) -> None:
        sidecar = open_sidecar(settings, document)
        self.public_key: str = sidecar.public_key
        self._carrier = PerProcess(partial(EmbeddedCarrier, sidecar))
        self._thread = LoopThread("chio-embedded", partial(_close, self._carrier, sidecar))
        self._thread.loop()  # started now: from here on `close` has something to end

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `AsyncCarrier.post`."""
        try:
            return self._thread.run(self._carrier.get().post(path, body, headers, timeout))
        except LoopEnded as exc:
            raise Overloaded("the embedded Chio sidecar was closed during the call") from exc

    def close(self) -> None:
        """Close the sidecar, then its loop and thread."""
        self._thread.close()


async def _close(carrier: PerProcess[EmbeddedCarrier], sidecar: EmbeddedSidecar) -> None:
    await carrier.get().aclose()
    await sidecar.close()
