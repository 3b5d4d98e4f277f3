"""The viewer's endpoints, below `/chio/viewer/`: beside the wire protocol's own paths (section 7.1), which end there.

All of them are GET and change nothing. Files are served as they are in the package; what tells of receipts is
never cached, and refused to other sites (`chio_sidecar.viewer.access`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from chio_core.errors import ChioError, ConfigurationError, InvalidDocument
from chio_sidecar.control.access import ControlError
from chio_sidecar.records import rows as bundle
from chio_sidecar.records.window import PAGE, ReceiptWindow, Wanted, number_of
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store.sqlite import SqliteReceiptStore
from chio_sidecar.viewer import access as files
from chio_sidecar.viewer.access import check_data, check_page
from chio_sidecar.viewer.explained import Explainer, server_report

VIEWER_PATH = "/chio/viewer/"
"""Path of the page."""

BUNDLE = 1_000
"""Most receipts in one bundle."""

_THREADS = 2  # of its own: evaluations must not wait for people who look at receipts

T = TypeVar("T")


class Viewer:
    """The endpoints.

    Args:
        source: gives the store's file and the sidecar's public keys (hex); raises `ConfigurationError`.
        token: bearer that callers need; None: loopback callers only.
        clock: seconds since 1970.
        spec_text: the OpenAPI document that the sidecar judges by; None where that is not known.
    """

    def __init__(
        self,
        source: Callable[[], tuple[Path, frozenset[str]]],
        *,
        token: SecretStr | None,
        clock: Callable[[], float] = time.time,
        spec_text: str | None = None,
    ) -> None:
        self._source = source
        self._token = token
        self._clock = clock
        self._explain = Explainer(spec_text)
        self._files = files.load()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="chio-viewer")

    def routes(self) -> list[BaseRoute]:
        """Return the routes, the page's path without its slash included."""
        data = {
            "status": self._status,
            "receipts": self._list,
            "count": self._count,
            "receipt": self._open,
            "bundle": self._bundle,
        }
        return [
            Route(VIEWER_PATH.removesuffix("/"), _redirect),
            Route(VIEWER_PATH, self._page),
            *(Route(f"{VIEWER_PATH}api/{name}", self._guarded(answer)) for name, answer in data.items()),
            *(Route(f"{VIEWER_PATH}{name}", self._page) for name in self._files if name != files.PAGE),
        ]

    def _guarded(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                check_data(request, self._token)
                response = await answer(request)
            except ControlError as exc:
                response = self._refusal(exc)
            except InvalidDocument as exc:
                response = _error(400, "chio_bad_request", exc.message)
            except ChioError as exc:
                response = _error(503, "chio_receipts_unreadable", exc.message)
            response.headers.update(files.HEADERS | files.NO_STORE)
            return response

        return guarded

    def _refusal(self, exc: ControlError) -> Response:
        return _error(exc.status, exc.code, exc.message, sign_in=self._token is not None)

    async def _page(self, request: Request) -> Response:
        try:
            check_page(request, self._token)
        except ControlError as exc:
            return _error(exc.status, exc.code, exc.message, headers=files.HEADERS | files.NO_STORE)
        name = request.url.path.removeprefix(VIEWER_PATH) or files.PAGE
        content, kind = self._files[name]
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = files.HEADERS | files.REVALIDATE | {"etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers | {"content-type": kind})

    async def _status(self, request: Request) -> Response:
        path, keys = self._source()
        newest = await self._run(ReceiptWindow(path).newest)
        return _json({"store": path.name, "keys": sorted(keys), "newest": newest, "now": int(self._clock())})

    async def _list(self, request: Request) -> Response:
        query = request.query_params
        wanted, after, before = Wanted.from_query(query), number_of(query, "after") or 0, number_of(query, "before")
        limit = min(number_of(query, "limit") or PAGE, PAGE)
        window = self._window()
        listing = await self._run(lambda: window.list(wanted, after=after, before=before, limit=limit))
        return _json(asdict(listing))

    async def _count(self, request: Request) -> Response:
        query = request.query_params
        wanted, before = Wanted.from_query(query), number_of(query, "before")
        window = self._window()
        return _json(asdict(await self._run(lambda: window.count(wanted, before=before))))

    async def _open(self, request: Request) -> Response:
        receipt_id = _required_id(request)
        path, keys = self._source()
        opened = await self._run(lambda: ReceiptWindow(path).open(receipt_id))
        if opened is None:
            return _no_such_receipt()
        report = await self._run(lambda: server_report(opened.text, keys))
        said = await self._run(lambda: self._explain(opened.text, report))
        return _json(asdict(opened) | {"server": report, "keys": sorted(keys), "explanation": said})

    async def _bundle(self, request: Request) -> Response:
        path, keys = self._source()
        window, receipt_id = ReceiptWindow(path), request.query_params.get("id")
        if receipt_id:
            opened = await self._run(lambda: window.open(receipt_id))
            if opened is None:
                return _no_such_receipt()
            texts, complete = [opened.text], True
        else:
            wanted = Wanted.from_query(request.query_params)
            found = await self._run(lambda: window.texts(wanted, limit=BUNDLE))
            texts, complete = found.texts, found.complete
        content = bundle.make(texts, keys=keys, complete=complete, exported_at=int(self._clock()))
        headers = {"content-disposition": 'attachment; filename="chio-receipts.json"'}
        return Response(content, media_type="application/json", headers=headers)

    def _window(self) -> ReceiptWindow:
        return ReceiptWindow(self._source()[0])

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def viewer_routes(sidecar: SidecarState) -> list[BaseRoute]:
    """Return the routes that show the receipts of a sidecar."""

    def source() -> tuple[Path, frozenset[str]]:
        store = sidecar.store
        if not isinstance(store, SqliteReceiptStore):
            raise ConfigurationError("the viewer reads SQLite stores, and this sidecar has another kind")
        return store.path, frozenset({sidecar.key.public_hex})

    config = sidecar.config
    return Viewer(source, token=config.control_token, clock=config.clock, spec_text=config.spec_text).routes()


def create_viewer_app(path: Path, *, keys: frozenset[str], token: SecretStr | None) -> Starlette:
    """Return an application that shows the receipts of a file and does nothing else.

    Args:
        path: the SQLite file of a sidecar, which may run or not; it is opened read-only.
        keys: public keys (hex) that are known to be the sidecar's.
        token: bearer that callers need; None: loopback callers only.
    """
    viewer = Viewer(lambda: (path, keys), token=token)
    return Starlette(routes=[Route("/", _redirect), *viewer.routes()])


async def _redirect(request: Request) -> Response:
    return RedirectResponse(VIEWER_PATH, 307, headers=files.HEADERS)


def _required_id(request: Request) -> str:
    receipt_id = request.query_params.get("id")
    if not receipt_id:
        raise InvalidDocument("id is missing")
    return receipt_id


def _no_such_receipt() -> Response:
    return _error(404, "chio_receipt_not_found", "the store holds no receipt with this id")


def _error(status: int, code: str, message: str, *, headers: dict[str, str] | None = None, **more: Any) -> Response:
    return _json({"error": code, "message": message, **more}, status, headers=headers)


def _json(document: Any, status: int = 200, *, headers: dict[str, str] | None = None) -> Response:
    # In ASCII, so that also half of a surrogate pair in a damaged receipt can be told.
    content = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
    return Response(content, status, headers, media_type="application/json")
