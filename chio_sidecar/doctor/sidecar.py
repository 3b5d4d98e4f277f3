"""A sidecar at a URL: whether it answers, whether its clock agrees, whether its key is trusted."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from chio_core.canonical import parse_json
from chio_core.endpoint import Endpoint
from chio_core.errors import InvalidDocument
from chio_core.settings import ChioSettings
from chio_sidecar.doctor import Check

HEALTH = "/chio/health"
VERIFY = "/chio/verify"

_MOST_BYTES = 64 * 1024
_START = "start the sidecar (`chio-sidecar api protect`), or correct CHIO_SIDECAR_URL"
_NO_STORE = "start it with --receipt-store FILE"
_PROBLEMS = {
    httpx.ConnectTimeout: "no connection within {connect:g} s",
    httpx.TimeoutException: "no response within {whole:g} s",
    httpx.ConnectError: "no connection: {text}",
    httpx.HTTPError: "the exchange broke: {text}",
    Exception: "no request can be sent: {text}",
}


@dataclass(frozen=True, slots=True)
class Health:
    """A sidecar's response to a health request.

    Attributes:
        document: its body; empty if that is no JSON object.
        date: the sidecar's clock, seconds since 1970; None without a usable `Date` header.
        sent: when the request was sent, seconds since 1970.
        seconds: how long the exchange took.
    """

    status: int
    document: dict[str, Any]
    date: float | None
    sent: float
    seconds: float

    @classmethod
    def request(
        cls, settings: ChioSettings, transport: httpx.BaseTransport | None, clock: Callable[[], float]
    ) -> Health:
        """Send the request; `transport` replaces the network.

        Raises:
            httpx.HTTPError, httpx.InvalidURL, OSError: there is no response.
        """
        with _client(settings, transport) as client:
            sent, began = clock(), time.monotonic()
            with client.stream("GET", HEALTH, headers={"accept-encoding": "identity"}) as response:
                body = b""
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        break
            seconds = time.monotonic() - began
        try:
            document = parse_json(body)
        except InvalidDocument:
            document = None
        try:
            date = parsedate_to_datetime(response.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError, OverflowError):
            date = None
        return cls(response.status_code, document if isinstance(document, dict) else {}, date, sent, seconds)


def _client(settings: ChioSettings, transport: httpx.BaseTransport | None) -> httpx.Client:
    """Return a client of the only sidecar of the settings; it has no credentials.

    Raises:
        OSError: its Unix socket does not exist.
    """
    end = Endpoint.parse(settings.sidecar_url)
    if transport is None:
        if end.socket_path is not None and not os.path.exists(end.socket_path):
            raise FileNotFoundError(end.reason(FileNotFoundError()))
        transport = httpx.HTTPTransport(uds=end.socket_path, verify=ssl.create_default_context())
    return httpx.Client(
        base_url=settings.sidecar_url if end.socket_path is None else "http://localhost",
        transport=transport,
        timeout=httpx.Timeout(settings.timeout, connect=min(settings.connect_timeout, settings.timeout)),
        trust_env=False,
    )


def check_sidecar(
    settings: ChioSettings,
    *,
    transport: httpx.BaseTransport | None = None,
    clock: Callable[[], float] = time.time,
    last_key: str | None = None,
) -> Iterator[Check]:
    """Request the sidecar's health and yield checks of connection, clock, key and `evaluate_token`.

    Args:
        transport: used instead of the network.
        clock: seconds since 1970.
        last_key: key of the newest receipt in a known store, for a sidecar that does not state its key.
    """
    if len(settings.sidecar_urls) > 1:
        for url in settings.sidecar_urls:
            yield from check_sidecar(settings.model_copy(update={"sidecar_url": url}), transport=transport, clock=clock)
        return
    try:
        health = Health.request(settings, transport, clock)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
        text = next(text for kind, text in _PROBLEMS.items() if isinstance(exc, kind)).format(
            connect=min(settings.connect_timeout, settings.timeout),
            whole=settings.timeout,
            text=str(exc) or type(exc).__name__,
        )
        yield Check("sidecar", "fail", f"{settings.sidecar_url}: {text}", _START)
        return
    place = f"{settings.sidecar_url} answered {health.status} within {health.seconds * 1000:.0f} ms"
    facts = {"milliseconds": round(health.seconds * 1000, 1)}
    status, version, detail = (health.document.get(name) for name in ("status", "version", "detail"))
    if not isinstance(status, str):
        yield Check("sidecar", "fail", f"{place}, but not as a Chio sidecar does", _START, facts)
        return
    text = f"{place}: {status[:40]}" + (f", version {version[:40]}" if isinstance(version, str) else "")
    if health.status == 200 and status == "healthy":
        yield Check("sidecar", "ok", text, None, facts)
    else:
        text += f" ({detail[:300]})" if isinstance(detail, str) else ""
        yield Check("sidecar", "warn" if health.status == 200 else "fail", text, "read the sidecar's log", facts)
    if health.status in (200, 503):
        yield _clock(health, settings.receipt_tolerance)
        key = health.document.get("kernel_key")
        ephemeral = health.document.get("receipt_backend") == "ephemeral"
        if ephemeral:
            text = "this sidecar has no store: its receipts, and a key without a file, are lost when it ends"
            yield Check("sidecar.store", "warn", text, _NO_STORE)
        key_check = _key(settings.trusted_kernel_keys, key if isinstance(key, str) else last_key)
        # The next run has another key, so there is none to pin.
        unpinned = ephemeral and not settings.trusted_kernel_keys
        yield replace(key_check, remedy=f"{_NO_STORE}, then pin its key") if unpinned else key_check
        yield from _token(settings, transport)


def _token(settings: ChioSettings, transport: httpx.BaseTransport | None) -> Iterator[Check]:
    """Compare the setting `evaluate_token` with what the sidecar requires.

    An empty request of `verify` shows it, and stores nothing.
    """
    token = settings.evaluate_token
    headers = {} if token is None else {"authorization": f"Bearer {token.get_secret_value()}"}
    try:
        with _client(settings, transport) as client:
            with client.stream("POST", VERIFY, json={}, headers=headers) as response:
                refused = response.status_code == 401
            if token is None or refused:
                is_checked = refused
            else:
                with client.stream("POST", VERIFY, json={}) as response:
                    is_checked = response.status_code == 401
    except (httpx.HTTPError, OSError) as exc:
        yield Check("evaluate_token", "warn", f"it could not be checked: {type(exc).__name__}")
        return
    if refused:
        text = "this sidecar evaluates for bearers of its token only, and " + (
            "none is set" if token is None else "CHIO_EVALUATE_TOKEN is another one"
        )
        remedy = "set CHIO_EVALUATE_TOKEN to the value of the sidecar's CHIO_SIDECAR_EVALUATE_TOKEN"
        yield Check("evaluate_token", "fail", f"{text}, so every request is refused", remedy)
    elif is_checked:
        yield Check("evaluate_token", "ok", "this sidecar requires the token, and accepts it")
    elif token is not None:
        text = "CHIO_EVALUATE_TOKEN is sent, and this sidecar evaluates without it too"
        remedy = "set CHIO_SIDECAR_EVALUATE_TOKEN for the sidecar, or have a proxy in front of it check the token"
        yield Check("evaluate_token", "warn", text, remedy)


def _clock(health: Health, tolerance: float) -> Check:
    if health.date is None:
        return Check("clock", "warn", "the sidecar does not state its time", "compare the two clocks by hand")
    ahead = health.sent + health.seconds / 2 - health.date
    # The Date header counts whole seconds, so up to one second of difference is rounding.
    off = max(0.0, abs(ahead) - 1)
    facts = {"seconds": round(ahead, 1)}
    if off == 0:
        return Check("clock", "ok", "this clock and the sidecar's agree to the second", None, facts)
    text = f"this clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the sidecar's"
    text += f"; receipts count up to {tolerance:g} s away"
    if off > tolerance:
        return Check("clock", "fail", f"{text}, so every receipt is refused", "set both clocks (NTP)", facts)
    return Check("clock", "warn" if off > tolerance / 2 else "ok", text, "set both clocks (NTP)", facts)


def _key(pinned: tuple[str, ...], key: str | None) -> Check:
    """Compare the setting `trusted_kernel_keys` with the sidecar's public key; None if that is not known."""
    if key is None and pinned:
        text = f"{len(pinned)} keys are pinned; this sidecar does not state its key, so they cannot be compared here"
        return Check("key", "ok", text)
    if key is None:
        remedy = "set CHIO_TRUSTED_KERNEL_KEYS to the key that the sidecar's operator names"
        return Check("key", "warn", "no key is pinned, and this sidecar does not state its key", remedy)
    facts = {"kernel_key": key}
    if not pinned:
        remedy = f"compare it with the operator's, then set CHIO_TRUSTED_KERNEL_KEYS={key}"
        return Check("key", "warn", f"no key is pinned; the sidecar signs with {key[:80]}", remedy, facts)
    if key in pinned:
        return Check("key", "ok", f"the sidecar signs with {key}, which is pinned", None, facts)
    remedy = "if the sidecar's operator names this key, pin it; if not, this is not your sidecar"
    text = f"the sidecar signs with {key[:80]}, which is not pinned, so every receipt is refused"
    return Check("key", "fail", text, remedy, facts)
