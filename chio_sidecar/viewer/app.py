"""The viewer's endpoints, below `/chio/viewer/`, next to the paths of the wire protocol (section 7.1).

All of them are GET and change nothing. Files are served as they are in the package. Receipts are never cached, and
refused to other sites (`chio_sidecar.control.access`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from chio_core.errors import ChioError, ConfigurationError, InvalidDocument
from chio_sidecar.control.access import ControlError, check_access
from chio_sidecar.records import bundle as bundles
from chio_sidecar.records.archive import ReceiptFilter
from chio_sidecar.records.listing import PAGE, ReceiptWindow
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store.place import DatabasePlace, Place
from chio_sidecar.viewer.explained import Explainer, server_report

VIEWER_PATH = "/chio/viewer/"
"""Path of the page."""

INDEX = "index.html"

BUNDLE = 1_000
"""Most receipts in one bundle."""

_THREADS = 2  # not the loop's: evaluations must not wait for readers of receipts
_LONGEST = 2_000
_DIGITS = 18

_KINDS = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    # Nothing but the page's own files, and no markup made of text: scripts may not even try.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_DATA_HEADERS = _HEADERS | {"cache-control": "no-store"}
_FILE_HEADERS = _HEADERS | {"cache-control": "no-cache"}  # they change with the version only

T = TypeVar("T")

Endpoint = Callable[[Request], Awaitable[Response]]


def page_files() -> dict[str, tuple[bytes, str]]:
    """Return content and media type of each file of the page, by name."""
    folder = resources.files("chio_sidecar.viewer").joinpath("static")
    return {
        entry.name: (entry.read_bytes(), kind)
        for entry in folder.iterdir()
        if (kind := _KINDS.get(entry.name.rpartition(".")[2])) is not None
    }


class _Endpoints:
    """The endpoints; those of receipts are named as in their paths.

    Args:
        source: returns the store's place and the sidecar's public keys (hex); raises `ConfigurationError`.
        token: bearer that callers need; None: loopback callers only.
        clock: seconds since 1970.
        spec_text: the OpenAPI document of the sidecar's policy; None if that is not known.
    """

    def __init__(
        self,
        source: Callable[[], tuple[Place, frozenset[str]]],
        *,
        token: SecretStr | None,
        clock: Callable[[], float] = time.time,
        spec_text: str | None = None,
    ) -> None:
        self._source = source
        self._token = token
        self._clock = clock
        self._explain = Explainer(spec_text)
        self._files = page_files()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="chio-viewer")

    def routes(self) -> list[BaseRoute]:
        data = (self.status, self.receipts, self.count, self.tally, self.receipt, self.bundle)
        return [
            Route(VIEWER_PATH.removesuffix("/"), _redirect),
            Route(VIEWER_PATH, self._page),
            *(Route(f"{VIEWER_PATH}api/{endpoint.__name__}", self._guarded(endpoint)) for endpoint in data),
            *(Route(f"{VIEWER_PATH}{name}", self._page) for name in self._files if name != INDEX),
        ]

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            try:
                check_access(request, self._token, audience="data")
                response = await endpoint(request)
            except ControlError as exc:
                response = _error(exc.status, exc.code, exc.message, sign_in=self._token is not None)
            except InvalidDocument as exc:
                response = _error(400, "chio_bad_request", exc.message)
            except ChioError as exc:
                response = _error(503, "chio_receipts_unreadable", exc.message)
            response.headers.update(_DATA_HEADERS)
            return response

        return guarded

    async def _page(self, request: Request) -> Response:
        try:
            check_access(request, self._token, audience="page")
        except ControlError as exc:
            return _error(exc.status, exc.code, exc.message, headers=_DATA_HEADERS)
        content, kind = self._files[request.url.path.removeprefix(VIEWER_PATH) or INDEX]
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = _FILE_HEADERS | {"etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers | {"content-type": kind})

    async def status(self, request: Request) -> Response:
        path, keys = self._source()
        newest = await self._run(ReceiptWindow(path).newest)
        return _json({"store": path.name, "keys": sorted(keys), "newest": newest, "now": int(self._clock())})

    async def receipts(self, request: Request) -> Response:
        query = request.query_params
        wanted, after, before = _filter(query), _number(query, "after") or 0, _number(query, "before")
        limit = min(_number(query, "limit") or PAGE, PAGE)
        window = ReceiptWindow(self._source()[0])
        return _json(asdict(await self._run(lambda: window.list(wanted, after=after, before=before, limit=limit))))

    async def count(self, request: Request) -> Response:
        wanted, before = _filter(request.query_params), _number(request.query_params, "before")
        window = ReceiptWindow(self._source()[0])
        return _json(asdict(await self._run(lambda: window.count(wanted, before=before))))

    async def tally(self, request: Request) -> Response:
        wanted, window = _filter(request.query_params), ReceiptWindow(self._source()[0])
        return _json(asdict(await self._run(lambda: window.tally(wanted))))

    async def receipt(self, request: Request) -> Response:
        receipt_id = request.query_params.get("id")
        if not receipt_id:
            raise InvalidDocument("id is missing")
        path, keys = self._source()
        opened = await self._run(lambda: ReceiptWindow(path).open(receipt_id))
        if opened is None:
            return _no_such_receipt()
        report = await self._run(lambda: server_report(opened.text, keys))
        explanation = await self._run(lambda: self._explain(opened.text, report))
        return _json(asdict(opened) | {"server": report, "keys": sorted(keys), "explanation": explanation})

    async def bundle(self, request: Request) -> Response:
        path, keys = self._source()
        window, receipt_id = ReceiptWindow(path), request.query_params.get("id")
        if receipt_id:
            opened = await self._run(lambda: window.open(receipt_id))
            if opened is None:
                return _no_such_receipt()
            texts, complete = [opened.text], True
        else:
            wanted = _filter(request.query_params)
            found = await self._run(lambda: window.texts(wanted, limit=BUNDLE))
            texts, complete = found.texts, found.complete
        content = bundles.make(texts, keys=keys, complete=complete, exported_at=int(self._clock()))
        headers = {"content-disposition": 'attachment; filename="chio-receipts.json"'}
        if not complete:
            headers["x-chio-left-out"] = bundles.OLDER.format(count=len(texts))
        return Response(content, media_type="application/json", headers=headers)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def viewer_routes(sidecar: SidecarState) -> list[BaseRoute]:
    """Return the routes that show the receipts of a sidecar."""

    def source() -> tuple[Place, frozenset[str]]:
        store = sidecar.store
        place = getattr(store, "place", None)
        if not isinstance(place, Path | DatabasePlace):
            raise ConfigurationError("the viewer reads SQLite and PostgreSQL, and this sidecar has another store")
        return place, frozenset({sidecar.key.public_hex})

    config = sidecar.config
    return _Endpoints(source, token=config.control_token, clock=config.clock, spec_text=config.spec_text).routes()


def create_viewer_app(path: Place, *, keys: frozenset[str], token: SecretStr | None) -> Starlette:
    """Return an application that shows the receipts of a store and does nothing else.

    Args:
        path: the SQLite file of a sidecar, which may run or not, opened read-only; or its database.
        keys: public keys (hex) that are known to be the sidecar's.
        token: bearer that callers need; None: loopback callers only.
    """
    viewer = _Endpoints(lambda: (path, keys), token=token)
    return Starlette(routes=[Route("/", _redirect), *viewer.routes()])


async def _redirect(request: Request) -> Response:
    return RedirectResponse(VIEWER_PATH, 307, headers=_HEADERS)


def _filter(query: Mapping[str, str]) -> ReceiptFilter:
    """Read the filters of a query; a blank or unknown one is no condition.

    Raises:
        InvalidDocument: a value cannot be used.
    """
    texts = {name: query.get(name, "").strip() for name in ("verdict", "method", "route", "caller", "capability")}
    for name, text in texts.items():
        if len(text) > _LONGEST:
            raise InvalidDocument(f"{name} is longer than {_LONGEST} characters")
    return ReceiptFilter(
        outcome=texts.pop("verdict") or None,
        since=_number(query, "since"),
        until=_number(query, "until"),
        **{name: text or None for name, text in texts.items()},  # type: ignore[arg-type]
    )


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > _DIGITS:
        raise InvalidDocument(f"{name} must be a whole number that is not negative")
    return int(text)


def _no_such_receipt() -> Response:
    return _error(404, "chio_receipt_not_found", "the store holds no receipt with this id")


def _error(status: int, code: str, message: str, *, headers: dict[str, str] | None = None, **more: Any) -> Response:
    return _json({"error": code, "message": message, **more}, status, headers=headers)


def _json(document: Any, status: int = 200, *, headers: dict[str, str] | None = None) -> Response:
    # In ASCII, which can also express half of a surrogate pair in a damaged receipt.
    content = json.dumps(document, ensure_ascii=True, separators=(",", ":"))
    return Response(content, status, headers, media_type="application/json")
