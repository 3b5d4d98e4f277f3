"""A request view without any framework, and questions about it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from chio_core.canonical import parse_json
from chio_core.evaluation.exchange import EvaluateCall, RawResponse, prepare
from chio_core.evaluation.precheck import precheck, singleton_headers
from chio_core.identity import default_extractor
from chio_core.refusals.response import Denial, RequestRefused
from chio_core.request import HeaderLines, Requirement
from chio_core.settings import ChioSettings
from chio_core.testing import KEY, EvaluateRequest

NOW = 1_776_272_775
SETTINGS = ChioSettings(trusted_kernel_keys=[KEY.public_hex])


class View:
    """Implements `chio_core.request.RequestView` over plain values."""

    def __init__(
        self,
        method: str = "POST",
        path: str = "/pets/7",
        *,
        query: str = "",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        scope: dict[str, Any] | None = None,
    ) -> None:
        self.method = method
        self.url_path = self.route_path = path
        self.url_scheme = "http"
        self.client_host: str | None = None
        self.query_string = query
        self.headers = HeaderLines(headers)
        self.state: Any = None
        self.scope = scope if scope is not None else {}
        self._body = body

    @property
    def url_full(self) -> str:
        return self.url_replace_scheme(self.url_scheme)

    def url_replace_scheme(self, scheme: str) -> str:
        return f"{scheme}://localhost{self.url_path}?{self.query_string}"

    @property
    def query_params(self) -> Mapping[str, str]:
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    async def body(self) -> bytes:
        return self._body

    def header_values(self, name: str) -> Sequence[str]:
        return self.headers.values_of(name)

    def repeated_headers(self) -> Collection[str]:
        return self.headers.repeated

    def select_headers(self, names: Collection[str]) -> Mapping[str, Sequence[str]]:
        return self.headers.select(names)


def question(
    view: View | None = None,
    *,
    template: str | None = "/pets/{id}",
    requirement: Requirement | None = None,
    settings: ChioSettings = SETTINGS,
    request_id: str = "req-1",
    **more: Any,
) -> EvaluateCall:
    """Return the question about a view."""
    view = view if view is not None else View()
    return prepare(
        view,
        settings,
        request_id=request_id,
        now=NOW,
        caller=default_extractor()(view),
        presented=precheck(view, settings, singleton_headers(settings)),
        template=template,
        requirement=requirement,
        **more,
    )


def asked(about: EvaluateCall) -> EvaluateRequest:
    """Return the question as a sidecar with the usual key would read it, one moment later."""
    headers = {name.lower(): value for name, value in about.headers}
    return EvaluateRequest(parse_json(about.body), headers, about.body, KEY, NOW)


def answered(document: bytes, status: int = 200, content_type: str = "application/json") -> RawResponse:
    """Return an answer with this body."""
    return RawResponse(status, content_type, document)


def refusal_of(view: View, settings: ChioSettings = SETTINGS) -> Denial | None:
    """Return the refusal by the checks before the body is read; None without one."""
    try:
        precheck(view, settings, singleton_headers(settings))
    except RequestRefused as exc:
        return exc.denial
    return None
