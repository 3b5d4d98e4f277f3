"""connect: let an application that was built elsewhere ask the sidecar of a test.

Only where it asks is changed, and whose receipts count: exclusions, headers, timeouts and hooks stay as the application
has chosen them. Frameworks are known here by what they leave on an application, not by their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.errors import ConfigurationError
from chio_core.names import FLASK_EXTENSION, STATE_CLIENT
from chio_core.settings import ChioSettings
from chio_core.testing.instant import InstantCarrier
from chio_core.testing.sidecar import ScriptedSidecar
from chio_core.testing.transport import ScriptedTransport

_HELP = (
    "nothing of Chio was found on {app}: connect(app) takes a FastAPI, Starlette or Flask application that is "
    "governed, a ChioASGIMiddleware, or a ChioClient. Django reads its settings: override_settings(**chio.django)"
)


@contextmanager
def connected(app: Any, sidecar: ScriptedSidecar) -> Iterator[None]:
    """Let an application ask a sidecar for as long as the context lasts, without sockets.

    Raises:
        ConfigurationError: nothing in it asks a sidecar.
    """
    live = _flask_runtime(app)
    if live is not None:
        with _flask(live, sidecar):
            yield
        return
    clients = [app] if isinstance(app, ChioClient) else _clients_of(app)
    if clients:
        with ExitStack() as stack:
            for client in clients:
                transport = ScriptedTransport(sidecar.behave, instant=True)
                stack.enter_context(client.diverted(transport, [sidecar.public_key]))
            yield
        return
    state = getattr(app, "state", None)
    if state is None:
        raise ConfigurationError(_HELP.format(app=f"an object of type {type(app).__name__}"))
    # Dependencies without middleware look for the client here, and make one from the environment otherwise.
    setattr(state, STATE_CLIENT, client_with(ChioSettings(), sidecar))
    try:
        yield
    finally:
        delattr(state, STATE_CLIENT)


def client_with(settings: ChioSettings, sidecar: ScriptedSidecar) -> ChioClient:
    """Return a client of a sidecar that needs no socket and never waits.

    Args:
        settings: what counts, but for where it asks and whose receipts count.
    """
    return ChioClient(_pinned(settings, sidecar), transport=ScriptedTransport(sidecar.behave, instant=True))


def sync_client_with(settings: ChioSettings, sidecar: ScriptedSidecar) -> SyncChioClient:
    """Return the same for threads."""
    return SyncChioClient(_pinned(settings, sidecar), carrier=InstantCarrier(sidecar.behave))


def _pinned(settings: ChioSettings, sidecar: ScriptedSidecar) -> ChioSettings:
    return settings.model_copy(update={"trusted_kernel_keys": (sidecar.public_key,)})


def _flask_runtime(app: Any) -> Any:
    extensions = getattr(app, "extensions", None)
    governed = extensions.get(FLASK_EXTENSION) if isinstance(extensions, Mapping) else None
    return getattr(governed, "live", None)


@contextmanager
def _flask(live: Any, sidecar: ScriptedSidecar) -> Iterator[None]:
    live.use(sync_client_with(live.get().settings, sidecar))
    try:
        yield
    finally:
        live.use(None)


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
        layers.append(_inside(layer, build=not clients))
        routes = getattr(layer, "routes", None)
        layers.extend(routes if isinstance(routes, list) else ())
    return list(found.values())


def _inside(layer: Any, *, build: bool) -> Any:
    if not hasattr(layer, "build_middleware_stack"):
        return getattr(layer, "app", None)
    if layer.middleware_stack is None and build:
        layer.middleware_stack = layer.build_middleware_stack()  # as it does itself at its first request
    return layer.middleware_stack
