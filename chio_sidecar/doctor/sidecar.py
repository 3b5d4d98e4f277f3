"""A sidecar elsewhere: does it answer, is its clock ours, is its key the one that is trusted?"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from chio_core.canonical import parse_json
from chio_core.endpoint import Endpoint
from chio_core.errors import InvalidDocument
from chio_core.settings import ChioSettings
from chio_sidecar.doctor.result import Check

HEALTH = "/chio/health"

_MOST_BYTES = 64 * 1024
_PROBLEMS = {
    httpx.ConnectTimeout: "no connection within {connect:g} s",
    httpx.TimeoutException: "no answer within {whole:g} s",
    httpx.ConnectError: "no connection: {text}",
    httpx.HTTPError: "the exchange broke: {text}",
}


@dataclass(frozen=True, slots=True)
class Health:
    """What a sidecar said about itself.

    Attributes:
        document: its answer; empty when that was no JSON object.
        date: its clock, seconds since 1970; None when it did not say.
        asked, seconds: when it was asked, and how long that took.
    """

    status: int
    document: dict[str, Any]
    date: float | None
    asked: float
    seconds: float

    @property
    def key(self) -> str | None:
        """Public key of its receipts, where it tells that."""
        key = self.document.get("kernel_key")
        return key if isinstance(key, str) else None


def check_sidecar(
    settings: ChioSettings,
    *,
    transport: httpx.BaseTransport | None = None,
    clock: Callable[[], float] = time.time,
    last_key: str | None = None,
) -> Iterator[Check]:
    """Ask the sidecar for its health and yield what that shows.

    Args:
        transport: stands in for the network.
        clock: seconds since 1970.
        last_key: key of the newest receipt in a store at hand, for a sidecar that does not tell its key.
    """
    try:
        health = _ask(settings, transport, clock)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
        yield Check("sidecar", "fail", f"{settings.sidecar_url}: {_problem(exc, settings)}", _START)
        return
    yield _reached(settings, health)
    if health.status in (200, 503) and isinstance(health.document.get("status"), str):
        yield check_clock(health, settings.receipt_tolerance)
        yield check_key(settings.trusted_kernel_keys, health.key or last_key)


_START = "start the sidecar (`chio-sidecar api protect`), or correct CHIO_SIDECAR_URL"


def _ask(settings: ChioSettings, transport: httpx.BaseTransport | None, clock: Callable[[], float]) -> Health:
    end = Endpoint.parse(settings.sidecar_url)
    base = settings.sidecar_url if end.socket_path is None else "http://localhost"
    if transport is None:
        transport = httpx.HTTPTransport(uds=end.socket_path, verify=ssl.create_default_context())
    timeout = httpx.Timeout(settings.timeout, connect=min(settings.connect_timeout, settings.timeout))
    with httpx.Client(transport=transport, timeout=timeout, trust_env=False) as client:
        asked, began = clock(), time.monotonic()
        with client.stream("GET", base + HEALTH, headers={"accept-encoding": "identity"}) as answer:
            body = b""
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > _MOST_BYTES:
                    break
        seconds = time.monotonic() - began
        return Health(answer.status_code, _document(body), _date(answer.headers.get("date")), asked, seconds)


def _reached(settings: ChioSettings, health: Health) -> Check:
    place = f"{settings.sidecar_url} answered {health.status} within {health.seconds * 1000:.0f} ms"
    facts = {"milliseconds": round(health.seconds * 1000, 1)}
    status = health.document.get("status")
    if not isinstance(status, str):
        return Check("sidecar", "fail", f"{place}, but not as a Chio sidecar does", _START, facts)
    version = health.document.get("version")
    text = f"{place}: {status[:40]}" + (f", version {version[:40]}" if isinstance(version, str) else "")
    if health.status == 200 and status == "healthy":
        return Check("sidecar", "ok", text, None, facts)
    detail = health.document.get("detail")
    text += f" ({detail[:300]})" if isinstance(detail, str) else ""
    return Check("sidecar", "warn" if health.status == 200 else "fail", text, "read the sidecar's log", facts)


def check_clock(health: Health, tolerance: float) -> Check:
    """Compare this clock with the sidecar's.

    Args:
        tolerance: seconds that a receipt's time may be away (setting `receipt_tolerance`).
    """
    if health.date is None:
        return Check("clock", "warn", "the sidecar does not tell its time", "compare the two clocks by hand")
    ahead = health.asked + health.seconds / 2 - health.date
    # The Date header counts whole seconds, so up to one second of difference is rounding.
    off = max(0.0, abs(ahead) - 1)
    facts = {"seconds": round(ahead, 1)}
    if off == 0:
        return Check("clock", "ok", "this clock and the sidecar's agree to the second", None, facts)
    text = f"this clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the sidecar's"
    text += f"; receipts count up to {tolerance:g} s away"
    if off > tolerance:
        return Check("clock", "fail", f"{text}, so every one is refused", "set both clocks (NTP)", facts)
    return Check("clock", "warn" if off > tolerance / 2 else "ok", text, "set both clocks (NTP)", facts)


def check_key(pinned: tuple[str, ...], key: str | None) -> Check:
    """Compare the pinned keys with the one that signs.

    Args:
        pinned: setting `trusted_kernel_keys`.
        key: public key of the sidecar; None when it does not tell.
    """
    facts = {"kernel_key": key} if key is not None else {}
    if key is None and pinned:
        text = f"{len(pinned)} keys are pinned; this sidecar does not tell its own, so they cannot be compared here"
        return Check("key", "ok", text, None, facts)
    if key is None:
        remedy = "set CHIO_TRUSTED_KERNEL_KEYS to the key that the sidecar's operator names"
        return Check("key", "warn", "no key is pinned, and this sidecar does not tell its own", remedy, facts)
    if not pinned:
        remedy = f"compare it with the operator's, then set CHIO_TRUSTED_KERNEL_KEYS={key}"
        return Check("key", "warn", f"no key is pinned; the sidecar signs with {key[:80]}", remedy, facts)
    if key in pinned:
        return Check("key", "ok", f"the sidecar signs with {key}, which is pinned", None, facts)
    remedy = "if the sidecar's operator names this key, pin it; if not, this is not your sidecar"
    text = f"the sidecar signs with {key[:80]}, which is not pinned, so every receipt is refused"
    return Check("key", "fail", text, remedy, facts)


def _problem(exc: Exception, settings: ChioSettings) -> str:
    for kind, text in _PROBLEMS.items():
        if isinstance(exc, kind):
            connect = min(settings.connect_timeout, settings.timeout)
            return text.format(connect=connect, whole=settings.timeout, text=str(exc) or type(exc).__name__)
    return f"it cannot be asked: {exc}"


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = parse_json(body)
    except InvalidDocument:
        return {}
    return document if isinstance(document, dict) else {}


def _date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None
