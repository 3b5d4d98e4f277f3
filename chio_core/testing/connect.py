"""connect: let an application that was built elsewhere evaluate at a test's sidecar.

Only the sidecar's address and keys change, and the key that signs capabilities: exclusions, headers, timeouts and hooks
stay as the application has them. Frameworks are recognised by what Chio leaves on an application, not by their types.
Documents are the policy that connected applications state for their routes, as a sidecar reads it from `--spec`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from chio_core.client.authority import Authority
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.errors import ConfigurationError
from chio_core.models.openapi import needs_capability
from chio_core.names import FLASK_EXTENSION, STATE_CLIENT
from chio_core.settings import ChioSettings
from chio_core.testing.exchange import EvaluateRequest
from chio_core.testing.sidecar import ScriptedCarrier, ScriptedSidecar


@contextmanager
def connected(app: Any, sidecar: ScriptedSidecar) -> Iterator[Sequence[ChioClient | SyncChioClient]]:
    """Connect an application to a sidecar inside the context, without sockets; give its clients.

    Raises:
        ConfigurationError: Chio does not govern this object.
    """
    extensions = getattr(app, "extensions", None)
    documented: Sequence[ChioClient | SyncChioClient] = ()
    flask = extensions.get(FLASK_EXTENSION) if isinstance(extensions, Mapping) else None
    live = getattr(flask, "live", None)
    with ExitStack() as connections:
        if live is not None:
            live.use(threaded := sync_client_with(live.get().settings, sidecar))
            connections.callback(live.use, None)
            documented = [threaded]
        elif clients := [app] if isinstance(app, ChioClient) else _clients_of(app):
            documented = clients
            for client in clients:
                connections.enter_context(client.diverted(sidecar.transport(), [sidecar.public_key]))
                client.authority = Authority(client.settings, sidecar.key)
                connections.callback(delattr, client, "authority")
        elif (state := getattr(app, "state", None)) is not None:
            # Dependencies without middleware look for the client here, and create one from the environment otherwise.
            setattr(state, STATE_CLIENT, client_with(ChioSettings(), sidecar))
            connections.callback(delattr, state, STATE_CLIENT)
        else:
            raise ConfigurationError(
                f"nothing of Chio was found on an object of type {type(app).__name__}: connect(app) takes a FastAPI, "
                "Starlette or Flask application that is governed, a ChioASGIMiddleware, or a ChioClient. "
                "Django reads its settings: override_settings(**chio.django)"
            )
        yield documented


def client_with(settings: ChioSettings, sidecar: ScriptedSidecar) -> ChioClient:
    """Return a client of a sidecar that needs no socket and never waits.

    Args:
        settings: all but the sidecar's address and keys.
    """
    client = ChioClient(_pinned(settings, sidecar), transport=sidecar.transport())
    client.authority = Authority(settings, sidecar.key)
    return client


def sync_client_with(settings: ChioSettings, sidecar: ScriptedSidecar) -> SyncChioClient:
    """Return the same for threads."""
    client = SyncChioClient(_pinned(settings, sidecar), carrier=ScriptedCarrier(sidecar.behave))
    client.authority = Authority(settings, sidecar.key)
    return client


@contextmanager
def seed_file_of(sidecar: ScriptedSidecar) -> Iterator[str]:
    """Keep the sidecar's key in a file inside the context, for the setting `authority_seed_file`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "authority.key"
        path.touch(0o600)
        path.write_text(f"{sidecar.key.seed_hex()}\n")
        yield str(path)


def _pinned(settings: ChioSettings, sidecar: ScriptedSidecar) -> ChioSettings:
    return settings.model_copy(update={"trusted_kernel_keys": (sidecar.public_key,)})


def _clients_of(app: Any) -> list[ChioClient]:
    """Return the clients of an ASGI application: on its state, of middleware around it, of what it has mounted."""
    found: dict[int, ChioClient] = {}
    seen: set[int] = set()
    layers = [app]
    while layers:
        layer = layers.pop()
        if layer is None or id(layer) in seen:
            continue
        seen.add(id(layer))
        own = (getattr(getattr(layer, "state", None), STATE_CLIENT, None), getattr(layer, "client", None))
        clients = [one for one in own if isinstance(one, ChioClient)]
        found.update((id(one), one) for one in clients)
        if hasattr(layer, "build_middleware_stack"):
            if layer.middleware_stack is None and not clients:
                layer.middleware_stack = layer.build_middleware_stack()  # as it does at its first request
            layers.append(layer.middleware_stack)
        else:
            layers.append(getattr(layer, "app", None))
        routes = getattr(layer, "routes", None)
        layers.extend(routes if isinstance(routes, list) else ())
    return list(found.values())


Client = TypeVar("Client", bound=ChioClient | SyncChioClient)

Operations = Mapping[tuple[str, str], Mapping[str, Any]]
"""Operation objects by upper-case method and path template."""


class Documents:
    """The OpenAPI documents of the applications of one test."""

    def __init__(self) -> None:
        self._sources: list[Callable[[], str | None]] = []

    def add(self, document: str | Mapping[str, Any]) -> None:
        """Add a document.

        Args:
            document: JSON text, or the object.

        Raises:
            ConfigurationError: it is no JSON object with `paths`.
        """
        text = document if isinstance(document, str) else json.dumps(document)
        operations_in(text)
        self._sources.append(lambda: text)

    def add_from(self, client: Client) -> Client:
        """Add the document of the application that a client serves, read when a request needs it; return the client."""
        known: dict[tuple[str, ...], str | None] = {}

        def read() -> str | None:
            if client.document is None:
                return None
            mounts = tuple(client.mounts)  # they are known once the first request came
            if mounts not in known:
                known[mounts] = client.document(mounts)
            return known[mounts]

        self._sources.append(read)
        return client

    def need_capability(self, request: EvaluateRequest) -> bool:
        """Return True if a request is refused without a capability: by its route's policy, else by its method.

        If several documents have the route, the strictest counts.
        """
        key = (request.method, request.route)
        texts = filter(None, (read() for read in self._sources))
        found = [operations[key] for operations in map(operations_in, texts) if key in operations]
        return any(needs_capability(request.method, members) for members in found or [{}])


@lru_cache(maxsize=32)
def operations_in(text: str) -> Operations:
    """Return the operations of a document.

    Raises:
        ConfigurationError: it is no JSON object with `paths`.
    """
    try:
        items = json.loads(text)["paths"].items()
        found = [(path, method, operation) for path, item in items for method, operation in item.items()]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ConfigurationError(
            "the document is no JSON object with `paths`; `chio-sidecar openapi module:app` writes one"
        ) from None
    return {(method.upper(), path): operation for path, method, operation in found if isinstance(operation, dict)}
