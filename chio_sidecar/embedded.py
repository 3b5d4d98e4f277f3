"""The sidecar inside an application's process, for `CHIO_SIDECAR_URL=embedded:FILE`.

It is the same application as the one that listens on a port, with the same store and the same checks. It requires no
`evaluate_token`: only the client of its process calls it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qsl

from starlette.types import Message

from chio_core.errors import ConfigurationError
from chio_core.evaluation.exchange import RawResponse
from chio_core.signing import SigningKey
from chio_sidecar.app import SidecarApp, create_app
from chio_sidecar.config import (
    SidecarConfig,
    control_token_from,
    options_of_place,
    trusted_approvers_from,
    trusted_issuers_from,
)
from chio_sidecar.keys import existing_key
from chio_sidecar.policy.routes import RouteTable
from chio_sidecar.records.file import connect_quietly, refuse_lost_key
from chio_sidecar.service.state import open_key
from chio_sidecar.store.driver import UNUSABLE, Unavailable, trouble
from chio_sidecar.store.issuers import withdrawn
from chio_sidecar.store.place import DatabasePlace, Place, is_database
from chio_sidecar.store.schema import check_file, recognise

_JSON = "application/json"


class EmbeddedSidecar:
    """An open sidecar without a socket.

    Args:
        app: its application.

    Attributes:
        app: the ASGI application; it answers under every host name.
        public_key: the key that signs its receipts, 64 hex digits.
    """

    def __init__(self, app: SidecarApp) -> None:
        self.app = app
        self.public_key: str = app.state.sidecar.key.public_hex

    async def evaluate(self, body: bytes, headers: Iterable[tuple[str, str]]) -> RawResponse:
        """Answer one evaluate request as `POST /chio/evaluate` does, without HTTP and without a text of the decision.

        Args:
            body: of that request.
            headers: of that request.
        """

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        sent = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in headers]
        answer = await self.app.evaluate.answer(sent, b"", receive)
        if answer.decision is None:
            return RawResponse(answer.status, _JSON, answer.body())
        receipt = answer.decision.receipt
        document = {"verdict": receipt["verdict"], "receipt": receipt}
        return RawResponse(answer.status, _JSON, b"", document, answer.decision.signed)

    async def close(self) -> None:
        """Write what waits and release the store."""
        await self.app.state.close()


def open_embedded(
    path: str,
    *,
    environ: Mapping[str, str] | None = None,
    busy_seconds: float | None = None,
    document: str | None = None,
    trusted_keys: Collection[str] = (),
) -> EmbeddedSidecar:
    """Open a sidecar, its store and its key, so that a mistake in the configuration raises at once.

    Args:
        path: the receipt store, for example `state/receipts.sqlite3`; the signing key is in the same folder, under
            the same name with `.key`. `?spec=FILE` after it names an OpenAPI document. Or the URL of a database,
            `postgresql://USER@HOST/DATABASE?key=FILE`, which names the key.
        environ: has `CHIO_TRUSTED_ISSUER_KEY(S)`, `CHIO_TRUSTED_APPROVERS` and `CHIO_SIDECAR_CONTROL_TOKEN`; by default
            the process's environment.
        busy_seconds: how long a write waits for another process that holds the store; None: as `SidecarConfig`.
        document: OpenAPI document, used if `path` names none.
        trusted_keys: public keys (hex) whose receipts the application accepts; empty for this sidecar's own.

    Raises:
        ConfigurationError: the path, the store, the key, the document or a variable cannot be used, or the sidecar's
            key is none of `trusted_keys`.
    """
    config = _config(path, os.environ if environ is None else environ, document)
    if trusted_keys:
        key = existing_key(config.resolved_key_path)
        if key is None:
            # First, because a lost key has to be restored: no other setting helps.
            refuse_lost_key(config.store_path, config.resolved_key_path)
        _check_trusted(key, trusted_keys)
    app = create_app(config if busy_seconds is None else replace(config, busy_seconds=busy_seconds))
    app.state.sidecar.open()
    return EmbeddedSidecar(app)


def check_embedded(path: str, *, environ: Mapping[str, str] | None = None, trusted_keys: Collection[str] = ()) -> None:
    """Check that `open_embedded` can open a sidecar, without creating or writing anything.

    Raises:
        ConfigurationError: as `open_embedded`.
    """
    config = _config(path, os.environ if environ is None else environ, None)
    if config.spec_text is not None:
        RouteTable.from_openapi(config.spec_text)
    # A missing key is refused when the sidecar is opened: a test may give the application another one until then.
    if (key := existing_key(config.resolved_key_path)) is not None:
        _check_trusted(key, trusted_keys)
    store = config.store_path
    if store is None:
        # A database is only asked when it is opened, because it may start later; without its extra this import raises.
        import_module("chio_sidecar.store.postgresql")
        return
    try:
        if not check_file(store):
            folder = store.absolute().parent
            if not os.access(folder, os.W_OK | os.X_OK):
                raise OSError(errno.EACCES if folder.is_dir() else errno.ENOENT, "")
            return
        if not os.access(store, os.R_OK | os.W_OK):
            raise OSError(errno.EACCES, "")
        connection = connect_quietly(store)
        if connection is not None:  # else a process did not close the store in good order: it is repaired when opened
            with closing(connection):
                recognise(connection, store)
        refuse_lost_key(store, config.resolved_key_path)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot open receipt store {store}: {os.strerror(exc.errno or 0)}; its folder must exist and be writable"
        ) from None
    except UNUSABLE as exc:
        found = trouble(exc, store)
        if found.kind != "busy":
            raise ConfigurationError(f"cannot use {store} as a receipt store: {found}") from None


def _check_trusted(key: SigningKey | None, trusted_keys: Collection[str]) -> None:
    # Else the application would start, and refuse every request with a 502.
    if trusted_keys and (key is None or key.public_hex not in trusted_keys):
        own = "a key that it has yet to make" if key is None else key.public_hex
        raise ConfigurationError(
            f"an embedded sidecar signs with its own key, {own}, and trusted_kernel_keys (CHIO_TRUSTED_KERNEL_KEYS)"
            f" names only {', '.join(sorted(trusted_keys))}; leave that setting out, or add the key"
        )


def own_key(path: str) -> SigningKey:
    """Return the signing key of an embedded sidecar, for capabilities; it is created if it does not exist.

    Raises:
        ConfigurationError: the path or the key cannot be used, or the key is lost, or was withdrawn in the store (of a
            file).
    """
    from chio_sidecar.records.archive import is_withdrawn  # other embedded sidecars start without it

    config = _config(path, {}, None)
    key = open_key(config)
    with suppress(Unavailable):  # the sidecar itself decides about the token
        if config.store_path is not None and is_withdrawn(config.store_path, key.public_hex):
            raise ConfigurationError(f"{withdrawn(key.public_hex)}; give the embedded sidecar another key, and restart")
    return key


def _config(path: str, environ: Mapping[str, str], document: str | None) -> SidecarConfig:
    place: Place
    if is_database(path):
        place = DatabasePlace.parse(path)
        options = list(place.options.items())
    else:
        store, _, query = path.partition("?")
        if not store:
            raise ConfigurationError(
                "embedded: needs the path of a receipt store, for example embedded:receipts.sqlite3"
            )
        place, options = Path(store), parse_qsl(query, keep_blank_values=True)
        if len(options) > 1 or any(name != "spec" for name, _ in options):
            raise ConfigurationError("embedded:FILE takes one option, ?spec=FILE")
    if (found := dict(options).get("spec")) is not None:
        spec = Path(found)
        try:
            document = spec.read_bytes().decode("utf-8")
        except OSError as exc:
            raise ConfigurationError(f"cannot read the OpenAPI document {spec}: {exc.strerror}; check ?spec=") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"the OpenAPI document {spec} is not UTF-8 text; check ?spec=") from None
    trusted = trusted_issuers_from(environ)
    return SidecarConfig(
        **options_of_place(place),
        spec_text=document,
        trusted_issuers=trusted,
        follow_authority=not trusted and isinstance(place, DatabasePlace),
        trusted_approvers=trusted_approvers_from(environ),
        control_token=control_token_from(environ),
    )
