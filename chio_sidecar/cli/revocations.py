"""`trust revoke`, `trust status` and `trust list` (wire protocol, section 10.4)."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from chio_core.errors import ChioError
from chio_sidecar.cli.options import (
    StorePlace,
    json_value,
    key_of,
    note_overridden,
    positive,
    public_key,
    store_of_options,
    store_of_settings,
    trust_client,
    wants_json,
)
from chio_sidecar.cli.table import Column, Table
from chio_sidecar.cli.terminal import CliError, compact, emit, say, utc
from chio_sidecar.records.archive import open_archive
from chio_sidecar.store import live_state
from chio_sidecar.store.issuers import is_issuer_name, issuer_name
from chio_sidecar.trust.stores import RevocationStore

if TYPE_CHECKING:
    from chio_sidecar.store import ReceiptStore
    from chio_sidecar.trust.client import TrustClient

OF_A_SERVICE = 200
"""Most revocations that a trust service lists (wire protocol, section 9.6)."""


class SidecarRevocations:
    """A sidecar's own revocations, in the store of its receipts; the sidecar may be running.

    Args:
        place: the store, as the options name it.

    Raises:
        CliError: the file does not exist; it is not created.
    """

    def __init__(self, place: StorePlace) -> None:
        self._path = place.path
        self.backend = "sqlite" if isinstance(self._path, Path) else "postgresql"
        if isinstance(self._path, Path) and not self._path.is_file():
            text = f"there is no receipt store at {self._path} ({place.named_by})"
            raise CliError(text, fix="name the sidecar's file")

    def revoke(self, capability_id: str) -> bool:
        """Revoke a capability; return False if it was revoked before."""
        return self._call(lambda store: store.revoke(capability_id))

    def is_revoked(self, capability_id: str) -> bool:
        """Return True if a capability was revoked."""
        return self._call(lambda store: store.is_revoked(capability_id))

    def newest(self, limit: int) -> list[tuple[str, int]]:
        """Return id and time (seconds since 1970) of the newest revocations, at most `limit`."""
        with open_archive(self._path) as archive:
            return archive.revocations(limit)

    def own_key(self) -> str | None:
        """Return the public key (hex) of the store's own key; None if no key file can be read."""
        from chio_sidecar.keys import existing_key

        try:
            key = existing_key(key_of(self._path))
        except ChioError:
            return None
        return None if key is None else key.public_hex

    def close(self) -> None:
        """Do nothing: the store is open during a call only."""

    def _call(self, method: Callable[[ReceiptStore], Awaitable[bool]]) -> bool:
        from chio_sidecar.store.place import open_store

        async def with_store() -> bool:
            store = open_store(self._path)
            try:
                return await method(store)
            finally:
                await store.close()

        return asyncio.run(with_store())


Revocations: TypeAlias = "RevocationStore | SidecarRevocations | TrustClient"
"""A list of revocations, in a file or at a trust service."""


def add_revoke_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `trust revoke`."""
    _add_revocation_options(parser, lambda store, name: {"revoked": True, "newly_revoked": store.revoke(name)})


def add_status_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `trust status`."""
    _add_revocation_options(parser, lambda store, name: {"revoked": store.is_revoked(name)})


def _add_revocation_options(
    parser: argparse.ArgumentParser, call: Callable[[Revocations, str], dict[str, bool]]
) -> None:
    parser.set_defaults(run=run_revocations, call=call)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--capability-id", metavar="ID", type=id_of_token, help="id of the token, or the whole token")
    what.add_argument(
        "--issuer",
        metavar="KEY",
        type=public_key,
        help="public key of an issuer: all capabilities that it has signed, or a link of their delegation",
    )


def id_of_token(text: str) -> str:
    """Read the id of a capability, or take it from the whole token, as `capability issue` prints one.

    Without this the text of a token would be revoked as an id, and the token would stay valid.

    Raises:
        ArgumentTypeError: it begins like a token and has no id.
    """
    if not text.lstrip().startswith("{"):
        return text
    token = json_value(text)
    if not isinstance(token.get("id"), str):
        raise argparse.ArgumentTypeError("this is no capability token: its member id is missing or no text")
    return str(token["id"])


def run_revocations(args: argparse.Namespace) -> int:
    """Revoke a capability or the key of an issuer, or look up the revocation, and print the result.

    Raises:
        CliError: no database and no service is named, or the id is blank or the name of an issuer.
    """
    capability_id = str(args.capability_id).strip() if args.issuer is None else issuer_name(args.issuer)
    if not capability_id:
        raise CliError("--capability-id is blank", fix="give the id of a token, for example cap-0198…")
    if args.issuer is None and is_issuer_name(capability_id):
        raise CliError(
            "--capability-id names an issuer", fix="write --issuer KEY, with its public key in 64 hex digits"
        )
    with closing(_named_revocations(args)) as revocations:
        found: dict[str, Any] = {"capability_id": capability_id} | args.call(revocations, capability_id)
        backend = revocations.backend
    withdrawn = args.issuer if "newly_revoked" in found else None
    if withdrawn and isinstance(revocations, SidecarRevocations) and withdrawn == revocations.own_key():
        say("note: this is the sidecar's own key: tokens that it issues are refused from now on, until it has another")
    if wants_json(args):
        emit(compact(found | {"revocation_backend": backend}))
        return 0
    for name, value in (found | {"backend": backend}).items():
        text = str(value).lower() if isinstance(value, bool) else value
        emit(f"{name + ':':<14} {text}")
    return 0


def _named_revocations(args: argparse.Namespace) -> Revocations:
    """Return the revocations that the options name.

    Raises:
        CliError: they name none, or a file that does not exist.
        ConfigurationError: the file was there, and is lost.
    """
    if args.control_url:
        note_overridden(args, "--control-url", "revocation_db", "receipt_store", "receipt_db")
        return trust_client(args)
    if args.revocation_db:
        note_overridden(args, "--revocation-db", "receipt_store", "receipt_db")
        path = args.revocation_db
        # No service would read the revocation in a new file. One that was there and is lost is named by the store.
        if isinstance(path, Path) and not path.exists() and not live_state.mark_of(path).exists():
            raise CliError(
                f"there is no database of revocations at {path} (--revocation-db)",
                fix="name the file that `trust serve --revocation-db` made",
            )
        return RevocationStore(path)
    if (place := store_of_options(args) or store_of_settings()) is not None:
        return SidecarRevocations(place)
    raise CliError(
        "trust commands require --revocation-db <path> or --control-url",
        fix="give one of them, or --receipt-store FILE for the revocations of one sidecar, "
        "or set CHIO_SIDECAR_URL=embedded:FILE",
    )


def add_list_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `trust list`."""
    parser.set_defaults(run=run_list)
    parser.add_argument("--limit", metavar="N", type=positive, default=50, help="print at most N (50)")


def run_list(args: argparse.Namespace) -> int:
    """Print the newest revocations, newest first.

    Raises:
        CliError: no database and no service is named.
        ConfigurationError: it cannot be read.
    """
    most = min(args.limit, OF_A_SERVICE) if args.control_url else args.limit
    with closing(_named_revocations(args)) as revocations:
        found, backend = revocations.newest(most), revocations.backend
    if len(found) == most:
        more = "a trust service lists no more" if most < args.limit else "--limit N prints more"
        say(f"note: these are the newest {most}, and there may be others; {more}")
    if wants_json(args):
        rows = [{"capability_id": name, "revoked_at": time} for name, time in found]
        emit(compact({"revocations": rows, "count": len(rows), "revocation_backend": backend}))
        return 0
    columns = (Column("REVOKED", fits=20), Column("CAPABILITY"))
    if not Table(columns).print([utc(time), name] for name, time in found):
        say("no capability is revoked")
    return 0
