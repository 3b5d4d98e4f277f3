"""`trust revoke` and `trust status`: revoke a capability, or ask about one (wire protocol, section 10.4)."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from chio_sidecar.cli.options import CliError, compact, emit, trust_client, wants_json
from chio_sidecar.store.sqlite import SqliteReceiptStore
from chio_sidecar.trust.client import TrustClient
from chio_sidecar.trust.stores import BACKEND, RevocationStore

REMOTE = "remote"
"""What the backend is called when a service keeps the revocations."""

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""
    parser.add_argument("--capability-id", metavar="ID", required=True, help="id of the token")


def revoke(args: argparse.Namespace) -> int:
    """Revoke a capability.

    Raises:
        CliError: no database and no service is named.
    """
    backend, newly = _ask(args, lambda place: place.revoke(_id(args)))
    return _show(args, {"capability_id": _id(args), "revoked": True, "newly_revoked": newly}, backend)


def status(args: argparse.Namespace) -> int:
    """Tell whether a capability was revoked.

    Raises:
        CliError: no database and no service is named.
    """
    backend, revoked = _ask(args, lambda place: place.is_revoked(_id(args)))
    return _show(args, {"capability_id": _id(args), "revoked": revoked}, backend)


class SidecarRevocations:
    """A sidecar's own revocations, in the file of its receipts; the sidecar may be running.

    Args:
        path: the SQLite file.

    Raises:
        CliError: there is no such file; none is made here.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise CliError(f"there is no receipt store at {path} (--receipt-db)", fix="name the sidecar's file")
        self._path = path

    def revoke(self, capability_id: str) -> bool:
        """Revoke a capability for good; True when it was not revoked before."""
        return asyncio.run(self._ask(lambda store: store.revoke(capability_id)))

    def is_revoked(self, capability_id: str) -> bool:
        """Tell whether a capability was revoked."""
        return asyncio.run(self._ask(lambda store: store.is_revoked(capability_id)))

    def close(self) -> None:
        """Nothing stays open between two questions."""

    async def _ask(self, question: Callable[[SqliteReceiptStore], Awaitable[bool]]) -> bool:
        store = SqliteReceiptStore(self._path)
        try:
            return await question(store)
        finally:
            await store.close()


Revocations = RevocationStore | SidecarRevocations | TrustClient
"""Whoever keeps a list of revocations."""


def _id(args: argparse.Namespace) -> str:
    found = str(args.capability_id).strip()
    if not found:
        raise CliError("--capability-id is blank", fix="give the id of a token, for example cap-0198…")
    return found


def _ask(args: argparse.Namespace, question: Callable[[Revocations], T]) -> tuple[str, T]:
    if args.control_url:
        with trust_client(args) as client:
            return REMOTE, question(client)
    if not args.revocation_db and not args.receipt_db:
        raise CliError("trust commands require --revocation-db <path> or --control-url")
    store = RevocationStore(args.revocation_db) if args.revocation_db else SidecarRevocations(args.receipt_db)
    try:
        return BACKEND, question(store)
    finally:
        store.close()


def _show(args: argparse.Namespace, found: dict[str, Any], backend: str) -> int:
    if wants_json(args):
        emit(compact(found | {"revocation_backend": backend}))
        return 0
    for name, value in (found | {"backend": backend}).items():
        text = str(value).lower() if isinstance(value, bool) else value
        emit(f"{name + ':':<14} {text}")
    return 0
