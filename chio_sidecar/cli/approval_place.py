"""Where `approval` commands find the questions: a running sidecar, or the file of an embedded one.

Several processes may open one store: each write waits for its turn, and the store judges an answer in the
transaction that keeps it. So a file can be answered while the application that embeds the sidecar runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument
from chio_core.settings import ChioSettings
from chio_sidecar.cli.options import CliError, check_url, printable
from chio_sidecar.cli.store_place import URL_VARIABLE, of_options, of_url
from chio_sidecar.config import control_token_from
from chio_sidecar.control.approval_desk import ApprovalDesk, DeskError, Filter
from chio_sidecar.keys import key_beside, load_or_create_key
from chio_sidecar.policy.approvals import MAX_OPEN
from chio_sidecar.store.sqlite import SqliteReceiptStore
from chio_sidecar.trust.client import is_loopback_url

DEFAULT_URL = "http://127.0.0.1:9090"
_TIMEOUT = 10.0
_UNIX = "unix:"


class ApprovalPlace(Protocol):
    """Something that can be asked about approvals; what it raises is a `CliError`."""

    def pending(self) -> dict[str, Any]:
        """Return the open questions."""
        ...

    def show(self, approval_id: str) -> dict[str, Any]:
        """Return a question or its answer."""
        ...

    def respond(self, approval_id: str, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Answer as the operator."""
        ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the place."""
    parser.add_argument(
        "--sidecar-url",
        metavar="URL",
        help=f"http://, https://, unix:PATH or embedded:FILE; default {URL_VARIABLE} "
        f"(environment, .env), else {DEFAULT_URL}",
    )
    parser.add_argument(
        "--sidecar-token",
        metavar="TOKEN",
        help="bearer of its control plane; CHIO_SIDECAR_CONTROL_TOKEN keeps it out of the process list",
    )
    parser.add_argument(
        "--receipt-store", metavar="FILE", type=Path, help="store of an embedded sidecar, instead of a URL"
    )


def approval_place(args: argparse.Namespace, environ: Mapping[str, str] | None = None) -> ApprovalPlace:
    """Return the place that options, or else the environment or the file `.env`, name.

    Raises:
        CliError: two places are named, or none that can be used.
        ConfigurationError: the file `.env` cannot be used.
    """
    environ = os.environ if environ is None else environ
    store = of_options(args)
    if store is not None and args.sidecar_url:
        raise CliError("--sidecar-url and the option for a store name two places", fix="give only one")
    if store is not None:
        return StoreFile(store.path)
    url = args.sidecar_url or environ.get(URL_VARIABLE) or ChioSettings().sidecar_url
    if (embedded := of_url(url)) is not None:
        return StoreFile(embedded.path)
    if not url.startswith(_UNIX):
        check_url(url, option="--sidecar-url" if args.sidecar_url else URL_VARIABLE)
    return RemoteSidecar(url, SecretStr(args.sidecar_token) if args.sidecar_token else control_token_from(environ))


class StoreFile:
    """The store of a sidecar, with its key beside it.

    Args:
        path: the SQLite file.

    Raises:
        CliError: the store or its key is not there; neither is made here.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key_path = key_beside(path)
        for file, what in ((path, "receipt store"), (self._key_path, "signing key")):
            if not file.is_file():
                raise CliError(f"there is no {what} {file}", fix="name the file of a sidecar that was started once")

    def pending(self) -> dict[str, Any]:
        """Return the open questions."""
        return self._at_desk(lambda desk: desk.pending(Filter(limit=MAX_OPEN)))

    def show(self, approval_id: str) -> dict[str, Any]:
        """Return a question or its answer."""
        return self._at_desk(lambda desk: desk.show(approval_id))

    def respond(self, approval_id: str, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Answer as the operator, signed with the sidecar's key."""
        return self._at_desk(lambda desk: desk.operator_respond(approval_id, answer))

    def _at_desk(self, question: Callable[[ApprovalDesk], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        try:
            return asyncio.run(self._ask(question))
        except DeskError as exc:
            raise _refused(exc.code, exc.message) from None

    async def _ask(self, question: Callable[[ApprovalDesk], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        key = load_or_create_key(self._key_path)
        store = SqliteReceiptStore(self._path)
        try:
            return await question(ApprovalDesk(store, key, {key.public_hex}, lambda: int(time.time())))
        finally:
            await store.close()


class RemoteSidecar:
    """The control plane of a running sidecar.

    Args:
        url: base URL, or `unix:PATH`.
        token: bearer of the control plane; None: it answers callers on this machine without.
        transport: stands in for the network.
    """

    def __init__(self, url: str, token: SecretStr | None, *, transport: httpx.BaseTransport | None = None) -> None:
        self._shown = url
        self._token = token
        self._base = url.rstrip("/")
        self._transport = transport
        if url.startswith(_UNIX):
            self._base = "http://localhost"
            self._transport = transport or httpx.HTTPTransport(uds=url.removeprefix(_UNIX))

    def pending(self) -> dict[str, Any]:
        """Return the open questions."""
        return self._ask("GET", f"/approvals/pending?limit={MAX_OPEN:d}")

    def show(self, approval_id: str) -> dict[str, Any]:
        """Return a question or its answer."""
        return self._ask("GET", f"/approvals/{quote(approval_id, safe='')}")

    def respond(self, approval_id: str, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Answer as the operator; the sidecar signs."""
        return self._ask("POST", f"/approvals/{quote(approval_id, safe='')}/operator-respond", dict(answer))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token.get_secret_value()}"}
        # A proxy of the environment is for the outside world; a sidecar on this machine is asked directly.
        proxies = not is_loopback_url(self._base)
        try:
            with httpx.Client(
                headers=headers, timeout=_TIMEOUT, transport=self._transport, trust_env=proxies
            ) as client:
                answer = client.request(method, self._base + path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as exc:
            raise CliError(
                f"cannot reach the sidecar at {self._shown}: {type(exc).__name__}",
                fix=f"start it, or name another with --sidecar-url or {URL_VARIABLE}",
            ) from None
        return self._read(answer)

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            document = parse_json(answer.content)
        except InvalidDocument:
            document = None
        if not isinstance(document, dict):
            raise CliError(f"the sidecar at {self._shown} answered {answer.status_code} without a JSON object")
        if answer.status_code == 200:
            return document
        raise _refused(str(document.get("error"))[:100], str(document.get("message"))[:500])


def _refused(code: str, message: str) -> CliError:
    fixes = {
        "chio_control_forbidden": "set CHIO_SIDECAR_CONTROL_TOKEN, for the sidecar and here, or name its file with "
        "--receipt-store",
        "not_found": "`approval list` prints the ids",
    }
    # Another program may have written the text, and terminals obey controls.
    return CliError(printable(message), code=printable(code), fix=fixes.get(code))
