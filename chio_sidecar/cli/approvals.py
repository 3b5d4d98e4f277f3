"""`approval list`, `approval show` and `approval respond`, on a running sidecar or on the file of an embedded one.

Several processes may open one store: each write waits for its turn, and the store checks a response in the transaction
that records it. So a file can be used while the application that embeds the sidecar runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from chio_core.canonical import parse_json
from chio_core.endpoint import split_urls
from chio_core.errors import InvalidDocument
from chio_sidecar.cli.options import (
    URL_VARIABLE,
    check_url,
    key_of,
    note_overridden,
    store_of_options,
    store_of_url,
    wants_json,
    warn_of_plain_http,
)
from chio_sidecar.cli.table import Column, Table
from chio_sidecar.cli.terminal import CliError, compact, emit, escaped, printable, say, utc
from chio_sidecar.config import control_token_from
from chio_sidecar.keys import load_or_create_key
from chio_sidecar.store.place import Place
from chio_sidecar.trust.client import is_loopback_url

if TYPE_CHECKING:
    import httpx
    from pydantic import SecretStr

    from chio_sidecar.control.approval_desk import ApprovalDesk

DEFAULT_URL = "http://127.0.0.1:9090"

RESPOND_DESCRIPTION = """\
Approve or deny a pending request. The sidecar signs the response. An approval allows exactly the same request once,
within an hour, when it is repeated with the header X-Chio-Approval: ID.

--receipt-store FILE (or CHIO_SIDECAR_URL=embedded:FILE) responds in the store of an embedded sidecar, also while its
application runs.
"""

_COLUMNS = (
    Column("TIME", fits=20),
    Column("EXPIRES", fits=20),
    Column("REQUEST", fits=32, grows=True),
    Column("ID"),
)
_TIMEOUT = 10.0
_UNIX = "unix:"


class StoreFile:
    """Approvals in the store of a sidecar, signed with the key beside it; its methods raise CliError.

    Args:
        path: the SQLite file, or the database with the key in its URL.

    Raises:
        CliError: the store or its key does not exist; neither is created.
    """

    def __init__(self, path: Place) -> None:
        self._path = path
        self._key_path = key_of(path)
        for file, what in ((path, "receipt store"), (self._key_path, "signing key")):
            if isinstance(file, Path) and not file.is_file():
                raise CliError(f"there is no {what} {file}", fix="name the file of a sidecar that was started once")

    def pending(self) -> dict[str, Any]:
        """Return the pending approvals."""
        from chio_sidecar.control.approval_desk import Filter
        from chio_sidecar.policy.approvals import MAX_OPEN

        return self._call(lambda desk: desk.pending(Filter(limit=MAX_OPEN)))

    def show(self, approval_id: str) -> dict[str, Any]:
        """Return a pending approval, or its resolution."""
        return self._call(lambda desk: desk.show(approval_id))

    def respond(self, approval_id: str, response: Mapping[str, Any]) -> dict[str, Any]:
        """Respond as the operator."""
        return self._call(lambda desk: desk.operator_respond(approval_id, response))

    def _call(self, method: Callable[[ApprovalDesk], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        from chio_sidecar.control.approval_desk import ApprovalDesk, DeskError
        from chio_sidecar.store.place import open_store

        async def with_store() -> dict[str, Any]:
            key = load_or_create_key(self._key_path)
            store = open_store(self._path)
            try:
                return await method(ApprovalDesk(store, key, {key.public_hex}, lambda: int(time.time())))
            finally:
                await store.close()

        try:
            return asyncio.run(with_store())
        except DeskError as exc:
            raise _refused(exc.code, exc.message) from None


class RemoteSidecar:
    """Approvals of a running sidecar, through its control plane; its methods raise CliError.

    Args:
        url: base URL, or `unix:PATH`.
        token: bearer token of the control plane; None: it accepts callers on this machine without.
        transport: replaces the network.
    """

    def __init__(self, url: str, token: SecretStr | None, *, transport: httpx.BaseTransport | None = None) -> None:
        self._shown = url
        self._token = token
        self._base = url.rstrip("/")
        self._transport = transport
        if url.startswith(_UNIX):
            import httpx

            self._base = "http://localhost"
            self._transport = transport or httpx.HTTPTransport(uds=url.removeprefix(_UNIX))

    def pending(self) -> dict[str, Any]:
        """Return the pending approvals."""
        from chio_sidecar.policy.approvals import MAX_OPEN

        return self._call("GET", f"/approvals/pending?limit={MAX_OPEN:d}")

    def show(self, approval_id: str) -> dict[str, Any]:
        """Return a pending approval, or its resolution."""
        return self._call("GET", f"/approvals/{quote(approval_id, safe='')}")

    def respond(self, approval_id: str, response: Mapping[str, Any]) -> dict[str, Any]:
        """Respond as the operator."""
        return self._call("POST", f"/approvals/{quote(approval_id, safe='')}/operator-respond", dict(response))

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        import httpx

        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token.get_secret_value()}"}
        # The environment's proxy is for the outside world, not for a sidecar on this machine.
        proxies = not is_loopback_url(self._base)
        try:
            with httpx.Client(
                headers=headers, timeout=_TIMEOUT, transport=self._transport, trust_env=proxies
            ) as client:
                response = client.request(method, self._base + path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as exc:
            raise CliError(
                f"cannot reach the sidecar at {self._shown}: {type(exc).__name__}",
                fix=f"start it, or name another with --sidecar-url or {URL_VARIABLE}",
            ) from None
        try:
            document = parse_json(response.content)
        except InvalidDocument:
            document = None
        if isinstance(document, dict) and response.status_code == 200:
            return document
        if not isinstance(document, dict) or not isinstance(document.get("message"), str):
            raise CliError(
                f"{self._shown} answered {response.status_code}, but not as a Chio sidecar does",
                fix=f"name the sidecar with --sidecar-url or {URL_VARIABLE}",
            )
        raise _refused(str(document.get("error"))[:100], document["message"][:500])


def _refused(code: str, message: str) -> CliError:
    fixes = {
        "chio_control_forbidden": "set CHIO_SIDECAR_CONTROL_TOKEN, for the sidecar and here, or name its file with "
        "--receipt-store",
        "not_found": "`approval list` prints the ids",
    }
    # Another program may have written the text, and terminals obey controls.
    return CliError(printable(message), code=printable(code), fix=fixes.get(code))


def named_approvals(args: argparse.Namespace, environ: Mapping[str, str] | None = None) -> StoreFile | RemoteSidecar:
    """Return the approvals of the sidecar that the options, else the environment or `.env`, name.

    Raises:
        CliError: two sidecars are named, or the one that is named cannot be used.
        ConfigurationError: `.env` cannot be used.
    """
    environ = os.environ if environ is None else environ
    if (store := store_of_options(args)) is not None:
        if args.sidecar_url:
            raise CliError("--sidecar-url and the option for a store name two sidecars", fix="give only one")
        note_overridden(args, store.named_by, "sidecar_control_token")
        return StoreFile(store.path)
    url = args.sidecar_url or environ.get(URL_VARIABLE)
    if not url:
        from chio_core.settings import ChioSettings

        url = ChioSettings().sidecar_url
    if (store := store_of_url(url)) is not None:
        return StoreFile(store.path)
    url = split_urls(url)[0]  # several sidecars that share approvals have one store
    if not url.startswith(_UNIX):
        check_url(url, option="--sidecar-url" if args.sidecar_url else URL_VARIABLE)
    from pydantic import SecretStr

    given = args.sidecar_control_token
    if given is not None and not given.strip():
        raise CliError("--sidecar-control-token is blank", fix="give it a value, or leave it out")
    token = SecretStr(given) if given is not None else control_token_from(environ)
    if token is not None:
        warn_of_plain_http(url, "the control token")
    return RemoteSidecar(url, token)


def add_list_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `approval list`."""
    parser.set_defaults(run=run_list)
    _add_sidecar_options(parser)


def add_show_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `approval show`."""
    parser.set_defaults(run=run_show)
    parser.add_argument("id", metavar="ID", help="id of the approval")
    _add_sidecar_options(parser)


def add_respond_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `approval respond`."""
    parser.description = RESPOND_DESCRIPTION
    parser.set_defaults(run=run_respond)
    parser.add_argument("id", metavar="ID", help="id of the approval")
    outcome = parser.add_mutually_exclusive_group(required=True)
    outcome.add_argument(
        "--approve", dest="outcome", action="store_const", const="approved", help="approve the request"
    )
    outcome.add_argument("--deny", dest="outcome", action="store_const", const="denied", help="deny the request")
    parser.add_argument("--reason", metavar="TEXT", help="the reason, stored with the response")
    _add_sidecar_options(parser)


def _add_sidecar_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sidecar-url",
        metavar="URL",
        help=f"http://, https://, unix:PATH or embedded:FILE; default {URL_VARIABLE} "
        f"(environment, .env), else {DEFAULT_URL}",
    )
    parser.add_argument(
        "--sidecar-control-token",
        metavar="TOKEN",
        help="the sidecar's control token: the CHIO_SIDECAR_CONTROL_TOKEN that it was started with, not its token for"
        " evaluations, and not the service token of a trust service; the variable keeps it out of the process list",
    )


def run_list(args: argparse.Namespace) -> int:
    """Print the pending approvals: a table, newest first, or a JSON object with the oldest first.

    Raises:
        CliError: they cannot be read.
    """
    found = named_approvals(args).pending()
    approvals = [document for document in found.get("approvals") or () if isinstance(document, dict)]
    if wants_json(args):
        emit(compact({"approvals": approvals, "count": len(approvals)}))
        return 0
    rows = (
        [utc(one.get("created_at")), utc(one.get("expires_at")), str(one.get("summary")), str(one.get("approval_id"))]
        for one in reversed(approvals)
    )
    if not Table(_COLUMNS).print(rows):
        say("no approval is pending")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print a pending approval, or its resolution.

    Raises:
        CliError: it is not known, or has expired.
    """
    found = named_approvals(args).show(_id(args))
    emit(compact(found) if wants_json(args) else json.dumps(found, ensure_ascii=True, indent=2))
    return 0


def run_respond(args: argparse.Namespace) -> int:
    """Approve or deny.

    Raises:
        CliError: the approval is not known, approved or denied already, or expired.
    """
    response = {"outcome": args.outcome} | ({} if args.reason is None else {"reason": args.reason})
    found = named_approvals(args).respond(_id(args), response)
    if wants_json(args):
        emit(compact(found))
        return 0
    emit(f"{escaped(found.get('approval_id'))}: {escaped(found.get('outcome'))}")
    if args.outcome == "approved":
        say(f"the same request is allowed once with the header X-Chio-Approval: {escaped(args.id)}")
    return 0


def _id(args: argparse.Namespace) -> str:
    found = str(args.id).strip()
    if not found or found in (".", ".."):
        raise CliError("the id of the approval is blank", fix="`approval list` prints the ids")
    return found
