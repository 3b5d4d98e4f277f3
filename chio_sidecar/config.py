"""The options of a sidecar. Commands and `open_embedded` fill them in; other modules read no settings.

Secrets are held as `SecretStr` and `SigningKey`, whose text forms do not show them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.settings import bearer_text
from chio_core.signing import SigningKey, normalize_public_key
from chio_sidecar.keys import key_beside
from chio_sidecar.store import ReceiptStore
from chio_sidecar.store.place import Place, open_store

if TYPE_CHECKING:
    from chio_core.client.carrier import Getter

MAX_TTL: Final = 366 * 24 * 3600
"""Longest lifetime of a capability, in seconds, that a trust service or `capability issue` gives by default: a year."""

MAX_MINTED_TTL: Final = 999_999_999
"""The same for the control plane of a sidecar: the longest that `ttl` can state (wire protocol, section 7.3)."""


@dataclass(frozen=True, kw_only=True)
class SidecarConfig:
    """All options of one sidecar.

    Attributes:
        store_path: SQLite file of the receipts; its folder must exist. None with `open_store`.
        ephemeral: the store is removed when the sidecar ends; health says so, and the control plane refuses releases:
            they could not outlive it.
        key_path: file of the signing key, created when missing. Default: `store_path` + `.key`; without a file, this
            or `signing_key` is needed.
        signing_key: a loaded key; `key_path` is then ignored.
        spec_text: the text of the OpenAPI document; None: the method of a request decides.
        strict_spec: refuse a document with policy that would be ignored, instead of warning about it.
        trusted_issuers: public keys (hex) whose capabilities are accepted, besides the sidecar's own key.
        follow_authority: also accept capabilities of the authority in the database of the store, and of the one at
            `control_url`; the sidecar queries their keys when an unknown issuer appears.
        trusted_approvers: public keys (hex) that may approve, besides the sidecar's own key.
        control_token: bearer of the control plane (`/v1/*`, `/approvals/*`); None: loopback callers only.
        evaluate_token: bearer that `/chio/evaluate` and `/chio/verify` require; None: they are open.
        control_url: base URL of a trust service to query about revocations; None: only the sidecar's own list counts.
        control_service_token: bearer for that service.
        control_timeout: seconds that the trust service may take to respond.
        control_carrier: opens what carries these queries in one event loop, see `chio_sidecar.trust.client`; needed
            with `control_url`.
        max_ttl: longest lifetime, in seconds, of a capability that the control plane issues.
        accept_schema_form: also accept capabilities whose signature covers the member `schema`.
        busy_seconds: how long a write waits for another process that holds the store.
        health_seconds: how long a health response is repeated before the store is probed again.
        max_pending: evaluations that may be under way at once; more are answered 503 with `Retry-After`.
        max_per_second: evaluations that may begin in a second, and as many at once after a pause; more are answered as
            above, before anything is signed or stored. None: no limit.
        max_unknown_per_second: the same for paths that no template of the document covers: they take nothing of
            `max_per_second` then, and more of them are answered 429. None: they count there. It needs a document.
        open_store: opens another kind of store; None: SQLite at `store_path`.
        clock: seconds since 1970.
    """

    store_path: Path | None = None
    ephemeral: bool = False
    key_path: Path | None = None
    signing_key: SigningKey | None = None
    spec_text: str | None = None
    strict_spec: bool = False
    trusted_issuers: Collection[str] = ()
    follow_authority: bool = False
    trusted_approvers: Collection[str] = ()
    control_token: SecretStr | None = None
    evaluate_token: SecretStr | None = None
    control_url: str | None = None
    control_service_token: SecretStr | None = None
    control_timeout: float = 2.0
    control_carrier: Callable[[], Getter] | None = None
    max_ttl: int = MAX_MINTED_TTL
    accept_schema_form: bool = True
    busy_seconds: float = 5.0
    health_seconds: float = 1.0
    max_pending: int = 4096
    max_per_second: int | None = None
    max_unknown_per_second: int | None = None
    open_store: Callable[[SidecarConfig], ReceiptStore] | None = None
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if self.control_url is not None:
            # urlsplit checks the port only when it is read.
            try:
                parts = urlsplit(self.control_url)
                usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
            except ValueError:
                usable = False
            if not usable:
                raise ConfigurationError(
                    "control_url must be an http:// or https:// URL, for example http://127.0.0.1:8940"
                )
            if parts.username is not None or parts.password is not None:
                raise ConfigurationError(
                    "control_url holds a user name or a password, which a trust service does not read; give its token"
                    " as control_service_token"
                )
            if self.control_carrier is None:
                raise ConfigurationError(
                    "control_url needs control_carrier, for example partial(open_carrier, URL) with"
                    " chio_sidecar.trust.client.open_carrier"
                )
        token = self.control_service_token
        if token is not None and not (token.get_secret_value().isascii() and token.get_secret_value().isprintable()):
            raise ConfigurationError("control_service_token must be printable ASCII: it is sent in a header")
        if self.max_pending < 1:
            raise ConfigurationError(f"max_pending is {self.max_pending}; it must be at least 1")
        for name in ("max_per_second", "max_unknown_per_second"):
            if (rate := getattr(self, name)) is not None and rate < 1:
                raise ConfigurationError(f"{name} is {rate}; it must be at least 1")
        if self.store_path is None and self.open_store is None:
            raise ConfigurationError("a sidecar needs a receipt store: give store_path, or open_store")
        if self.store_path is not None:
            key_beside(self.store_path)  # refuses a folder before anything is opened
        elif self.signing_key is None:
            _ = self.resolved_key_path

    @property
    def resolved_key_path(self) -> Path:
        """The key file, the default filled in.

        Raises:
            ConfigurationError: there is no default, because the store is no file.
        """
        if self.key_path is not None:
            return self.key_path
        if self.store_path is None:
            raise ConfigurationError(
                "a store in a database has no place for the signing key: name its file, with ?key=FILE in the URL or"
                " --authority-seed-file FILE"
            )
        return key_beside(self.store_path)


def options_of_place(place: Place) -> dict[str, Any]:
    """Return the options of `SidecarConfig` for a store: its file, or how its database is opened, and the key."""
    if isinstance(place, Path):
        return {"store_path": place}
    database = place

    def open_database(config: SidecarConfig) -> ReceiptStore:
        return open_store(database, busy_seconds=config.busy_seconds, clock=config.clock)

    return {"open_store": open_database, "key_path": place.key_path}


def trusted_issuers_from(environ: Mapping[str, str]) -> frozenset[str]:
    """Read `CHIO_TRUSTED_ISSUER_KEY` (one key) and `CHIO_TRUSTED_ISSUER_KEYS` (comma list); both add up.

    Returns:
        Public keys as 64 lower-case hex digits.

    Raises:
        ConfigurationError: a value is no public key (wire protocol, section 10.2).
    """
    one = environ.get("CHIO_TRUSTED_ISSUER_KEY", "")
    found = {_key("CHIO_TRUSTED_ISSUER_KEY", one)} if one.strip() else set()
    return frozenset(found | _keys("CHIO_TRUSTED_ISSUER_KEYS", environ))


def trusted_approvers_from(environ: Mapping[str, str]) -> frozenset[str]:
    """Read `CHIO_TRUSTED_APPROVERS`: a comma list of keys that may approve, besides the sidecar's own.

    Returns:
        Public keys as 64 lower-case hex digits.

    Raises:
        ConfigurationError: a value is no public key.
    """
    return frozenset(_keys("CHIO_TRUSTED_APPROVERS", environ))


def control_token_from(environ: Mapping[str, str]) -> SecretStr | None:
    """Read the bearer of the control plane (wire protocol, section 7.2).

    A blank one is none, as in the published sidecar. `CHIO_API_PROTECT_CONTROL_TOKEN` counts only where
    `CHIO_SIDECAR_CONTROL_TOKEN` is not set at all.
    """
    value = environ.get("CHIO_SIDECAR_CONTROL_TOKEN")
    if value is None:
        value = environ.get("CHIO_API_PROTECT_CONTROL_TOKEN", "")
    return SecretStr(value.strip()) if value.strip() else None


def evaluate_token_from(environ: Mapping[str, str]) -> SecretStr | None:
    """Read the bearer of the evaluate endpoint, `CHIO_SIDECAR_EVALUATE_TOKEN`; None if it is not set.

    Raises:
        ConfigurationError: it is blank, which would leave the endpoint open, or cannot be sent in a header.
    """
    value = environ.get("CHIO_SIDECAR_EVALUATE_TOKEN")
    if value is None:
        return None
    try:
        return SecretStr(bearer_text(value))
    except ValueError as exc:
        raise ConfigurationError(f"CHIO_SIDECAR_EVALUATE_TOKEN {exc}") from None


def _keys(name: str, environ: Mapping[str, str]) -> set[str]:
    return {_key(name, text) for text in environ.get(name, "").split(",") if text.strip()}


def _key(name: str, text: str) -> str:
    try:
        return normalize_public_key(text)
    except InvalidDocument as exc:
        raise ConfigurationError(f"failed to parse {name} as a public key: {exc.message}") from None
