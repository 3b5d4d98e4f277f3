"""Governor: settings, client and hooks of one application, made anew when its configuration changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from flask import Flask

from chio_core.evaluation.pipeline import Asker
from chio_core.guards.chain import Chain, Guard
from chio_core.client.client import SyncChioClient
from chio_core.evaluation.outcomes import Decision
from chio_core.threads.guards import HostedChain
from chio_core.models.caller import CallerIdentity
from chio_core.models.receipt import HttpReceipt
from chio_core.names import LOGGER
from chio_core.request import RequestView
from chio_core.settings import ChioSettings, start_line
from chio_core.telemetry import Telemetry

log = logging.getLogger(LOGGER)

EXTENSION: Final = "chio"
"""Key in `app.extensions`."""

_NAMES: Final = {f"CHIO_{field.upper()}": field for field in ChioSettings.model_fields}


class Hooks:
    """What an application may add; see `chio_flask.Chio`."""

    def __init__(
        self,
        extractor: Callable[[RequestView], CallerIdentity] | None = None,
        on_decision: Callable[[Decision], None] | None = None,
        on_receipt: Callable[[HttpReceipt], None] | None = None,
        guards: Chain | Sequence[Guard | Chain] = (),
    ) -> None:
        self.guards = HostedChain(guards)
        self.extractor = extractor
        self.on_decision = on_decision
        self.on_receipt = on_receipt


class Governor:
    """What is made once from the options. The client is made when it is first needed, after any fork.

    Args:
        settings: what counts.
        hooks: what the application adds.
        client: a client to share; one is made otherwise.
    """

    def __init__(self, settings: ChioSettings, hooks: Hooks, client: SyncChioClient | None = None) -> None:
        self.settings = settings
        self.asker = Asker(settings, hooks.extractor)
        self.on_decision = hooks.on_decision
        self.on_receipt = hooks.on_receipt
        self.guards = hooks.guards
        self.telemetry = client.telemetry if client is not None else Telemetry(settings)
        self._lock = threading.Lock()
        self._client = client
        self._given = client is not None

    def client(self) -> SyncChioClient:
        """Return the client."""
        found = self._client
        if found is not None:
            return found
        with self._lock:
            found = self._client
            if found is None:
                found = self._client = SyncChioClient(self.settings, telemetry=self.telemetry)
            return found

    def close(self) -> None:
        """Close the connections, unless the client is somebody else's."""
        with self._lock:
            own = None if self._given else self._client
            if own is not None:
                self._client = None
        if own is not None:
            own.close()


class LiveGovernor:
    """The governor for an application's configuration as it is now.

    Args:
        app: the application; its `CHIO_*` configuration counts.
        options: keywords, which beat the configuration.
        config: complete settings instead of both.
        client: a client to share.
        hooks: what the application adds.

    Raises:
        ConfigurationError: the options cannot be used.
    """

    def __init__(
        self,
        app: Flask,
        options: Mapping[str, Any],
        config: ChioSettings | None,
        client: SyncChioClient | None,
        hooks: Hooks,
    ) -> None:
        self._app = app
        self._options = options
        self._config = config if config is not None or client is None else client.settings
        self._client = client
        self._hooks = hooks
        self._lent: SyncChioClient | None = None
        self._lock = threading.Lock()
        self._seen = self._configured()
        self._now = self._new(self._seen)

    def get(self) -> Governor:
        """Return the present governor."""
        configured = self._configured()
        if configured != self._seen:
            with self._lock:
                if configured != self._seen:
                    old, self._now = self._now, self._new(configured)
                    self._seen = configured
                    old.close()
                    log.info("chio: %s", start_line(self._now.settings))  # what was said at start is over
        return self._now

    def lend(self, client: SyncChioClient | None) -> None:
        """Ask through this client from now on, with all other settings as they are; None: as before. For tests."""
        with self._lock:
            self._lent = client
            old, self._now = self._now, self._new(self._seen)
        old.close()

    def close(self) -> None:
        """Close the connections, those of guards included."""
        self._now.close()
        self._hooks.guards.close()

    def _configured(self) -> dict[str, Any]:
        config = self._app.config
        return {field: config[name] for name, field in _NAMES.items() if name in config}

    def _new(self, configured: Mapping[str, Any]) -> Governor:
        settings = self._config if self._config is not None else ChioSettings(**{**configured, **self._options})
        return Governor(settings, self._hooks, self._lent or self._client)
