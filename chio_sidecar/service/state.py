"""The parts of one running sidecar: key, routes, engine, store, trust service."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from chio_core.errors import ConfigurationError
from chio_core.signing import SigningKey
from chio_sidecar import package_version
from chio_sidecar.config import SidecarConfig
from chio_sidecar.keys import ReceiptIds, existing_key, load_or_create_key
from chio_sidecar.policy.engine import Engine
from chio_sidecar.policy.routes import RouteTable
from chio_sidecar.records.file import refuse_lost_key
from chio_sidecar.service.metrics import SidecarMetrics
from chio_sidecar.service.revocation import RevocationAuthority
from chio_sidecar.store import ReceiptStore
from chio_sidecar.store.sqlite import SqliteReceiptStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    key: SigningKey
    engine: Engine
    store: ReceiptStore


class SidecarState:
    """Everything that endpoints share; `app.state.sidecar`.

    It opens on first use. A program that calls `open` can report bad configuration before it listens.

    Args:
        config: the options.

    Attributes:
        ids: source of receipt ids.
        metrics: counters of decisions and errors.
        revocations: the trust service to query about revocations; None without `control_url`.
    """

    def __init__(self, config: SidecarConfig) -> None:
        self.config = config
        self.ids = ReceiptIds(config.clock)
        self.metrics = SidecarMetrics(package_version())
        self.revocations = RevocationAuthority.from_config(config)
        self._parts: _Parts | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def key(self) -> SigningKey:
        """The key that signs receipts and minted capabilities."""
        return self._opened().key

    @property
    def routes(self) -> RouteTable:
        """The route table and its policy hash."""
        return self._opened().engine.routes

    @property
    def engine(self) -> Engine:
        """The decision."""
        return self._opened().engine

    @property
    def store(self) -> ReceiptStore:
        """The receipt store."""
        return self._opened().store

    @property
    def trusted_issuers(self) -> frozenset[str]:
        """Public keys (hex) whose capabilities are accepted, the sidecar's own included."""
        return self.engine.trusted_issuers

    async def refresh_issuers(self, issuer: str) -> None:
        """Trust the authority's present keys if this sidecar follows an authority and does not know this issuer.

        The authority in the database of the store is asked first, each time; then the one at `control_url`.

        Args:
            issuer: public key (hex) that a capability names; the signature is checked later.

        Raises:
            StoreUnavailable: the database cannot be read.
        """
        if not self.config.follow_authority or issuer in self.trusted_issuers:
            return
        keys = await self.store.authority_keys()
        if issuer not in keys and self.revocations is not None:
            keys |= await self.revocations.authority_keys()
        if new := keys - self.trusted_issuers:
            log.warning("the authority names further keys, which are trusted from now on: %s", ", ".join(sorted(new)))
            self.engine.trust(new)

    def now(self) -> int:
        """Return whole seconds since 1970 by the sidecar's clock."""
        return int(self.config.clock())

    def open(self) -> None:
        """Read the routes, load the key and open the store, once.

        Raises:
            ConfigurationError: one of them cannot be used.
        """
        self._opened()

    async def close(self) -> None:
        """Write what waits and release everything; later requests are refused."""
        with self._lock:
            parts, self._parts, self._closed = self._parts, None, True
        if self.revocations is not None:
            await self.revocations.close()
        if parts is not None:
            await parts.store.close()

    def _opened(self) -> _Parts:
        if self._parts is not None:
            return self._parts
        with self._lock:
            if self._closed:
                raise ConfigurationError("this sidecar is closed; create a new one")
            if self._parts is None:
                self._parts = _open_parts(self.config)
            return self._parts


def _open_parts(config: SidecarConfig) -> _Parts:
    if config.spec_text is None:
        routes = RouteTable.by_method()
    else:
        routes = RouteTable.from_openapi(config.spec_text, strict=config.strict_spec)
    key = config.signing_key or existing_key(config.resolved_key_path)
    store: ReceiptStore
    if config.open_store is not None or config.store_path is None:
        assert config.open_store is not None  # noqa: S101 - the options say so
        store = config.open_store(config)
    else:
        store = SqliteReceiptStore(config.store_path, busy_seconds=config.busy_seconds, clock=config.clock)
        log.info("receipt store %s: %s", config.store_path, store.detail)
    # A new key comes last: none must appear beside a file that was named by mistake and is not a store.
    key = key or open_key(config)
    engine = Engine(
        routes,
        trusted_issuers={key.public_hex, *config.trusted_issuers},
        trusted_approvers={key.public_hex, *config.trusted_approvers},
        accept_schema_form=config.accept_schema_form,
    )
    log.info("receipts are signed by %s", key.public_hex)
    return _Parts(key, engine, store)


def open_key(config: SidecarConfig) -> SigningKey:
    """Return the key in the sidecar's file; a missing file is made, unless the key is lost.

    Raises:
        ConfigurationError: the file cannot be used, or is missing though a key has signed receipts of the store's file.
    """
    path = config.resolved_key_path
    if (key := existing_key(path)) is not None:
        return key
    refuse_lost_key(config.store_path, path)
    key = load_or_create_key(path)
    if config.store_path is None:
        # A database may have receipts of other sidecars, so a new key is in order for a new one.
        log.warning(
            "key file %s was missing: a new key was made, %s. If the database has receipts of this sidecar, stop it and"
            " restore the file; else add the new key to CHIO_TRUSTED_KERNEL_KEYS of every application",
            path,
            key.public_hex,
        )
    return key
