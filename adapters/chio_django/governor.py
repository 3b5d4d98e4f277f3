"""Governor: settings, clients and hooks, made once and made anew when a test overrides a setting."""

from __future__ import annotations

import threading
from typing import Any

from django.core.signals import setting_changed

from chio_core.evaluation.pipeline import Asker
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.settings import ChioSettings
from chio_core.telemetry import Telemetry
from chio_django.conf import PREFIX, conf


class Governor:
    """What is made once from the settings. Clients are made when they are first needed, after any fork.

    Args:
        client: a client for event loops to share; its settings are used.
        sync_client: the same for threads.

    Raises:
        ConfigurationError: the settings cannot be used.
    """

    def __init__(self, client: ChioClient | None = None, sync_client: SyncChioClient | None = None) -> None:
        given = client or sync_client
        self.settings: ChioSettings = given.settings if given is not None else conf.settings
        self.asker = Asker(self.settings, conf.hook("CHIO_EXTRACTOR"))
        self.on_decision = conf.hook("CHIO_ON_DECISION")
        self.on_receipt = conf.hook("CHIO_ON_RECEIPT")
        self.guards = conf.guards()
        self.telemetry = given.telemetry if given is not None else Telemetry(self.settings)
        self._lock = threading.Lock()
        self._client = client
        self._sync_client = sync_client
        self._given = sync_client is not None

    def client(self) -> ChioClient:
        """Return the client for event loops."""
        if self._client is None:
            with self._lock:
                make = conf.hook("CHIO_CLIENT")
                self._client = self._client or (
                    make(self.settings) if make else ChioClient(self.settings, telemetry=self.telemetry)
                )
        return self._client

    def sync_client(self) -> SyncChioClient:
        """Return the client for threads."""
        found = self._sync_client
        if found is not None:
            return found
        with self._lock:
            found = self._sync_client
            if found is None:
                make = conf.hook("CHIO_SYNC_CLIENT")
                found = make(self.settings) if make else SyncChioClient(self.settings, telemetry=self.telemetry)
                self._sync_client = found
            return found

    def close(self) -> None:
        """Close the connections of the client for threads, and the guards; those of an event loop end with it."""
        self.guards.close()
        with self._lock:
            own = None if self._given else self._sync_client
            if own is not None:
                self._sync_client = None
        if own is not None:
            own.close()


class LiveGovernor:
    """The governor for the settings as they are now: made anew when a test overrides one of them.

    Args:
        client, sync_client: see `Governor`.

    Raises:
        ConfigurationError: the settings cannot be used.
    """

    def __init__(self, client: ChioClient | None = None, sync_client: SyncChioClient | None = None) -> None:
        self._lock = threading.Lock()
        self._now: Governor | None = None
        self._client = client
        self._sync_client = sync_client
        setting_changed.connect(self._changed)

    def get(self) -> Governor:
        """Return the present governor."""
        found = self._now
        if found is None:
            with self._lock:
                found = self._now = self._now or Governor(self._client, self._sync_client)
        return found

    def _changed(self, *, setting: str, **_: Any) -> None:
        if setting.startswith(PREFIX):
            with self._lock:
                old, self._now = self._now, None
            if old is not None:
                old.close()
