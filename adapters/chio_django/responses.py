"""Refusals as Django responses, and the receipt header on every response."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from chio_core.evaluation.hooks import receipt_header_of
from chio_core.names import ENVIRON_INPUT, EXPOSE_HEADERS
from chio_core.refusals.problems import render
from chio_core.refusals.response import Denial
from chio_core.threads.body import is_kept
from chio_core.threads.context import RequestContext
from chio_core.threads.wsgi_view import accept_in


def refusal(denial: Denial, request: HttpRequest) -> HttpResponse:
    """Return a refusal of a request in the nested envelope."""
    body, headers = render(denial, nest=True, accept=accept_in(request.META))
    response = HttpResponse(body, status=denial.status)
    for name, value in headers:
        response.headers[name] = value
    return response


def tagged(response: HttpResponseBase, request: HttpRequest, context: RequestContext) -> HttpResponseBase:
    """Put the receipt id on a response and leave everything else of it alone.

    A header of that name from the application is replaced or removed: it cannot claim a receipt that it does not
    have. Where a script asks (the request names its `Origin`), the header is exposed to it.
    """
    name = context.runtime.settings.receipt_header
    value = receipt_header_of(context.decision)
    if value is not None:
        response.headers[name] = value
        if context.from_script:
            exposed = response.headers.get(EXPOSE_HEADERS)
            response.headers[EXPOSE_HEADERS] = f"{exposed}, {name}" if exposed else name
    elif response.has_header(name):
        del response.headers[name]
    file = request.META.get(ENVIRON_INPUT)
    if file is not None and is_kept(file):
        # The temporary file is removed when the response is done, as Django does with uploaded files.
        response._resource_closers.append(file.close)  # type: ignore[attr-defined]
    return response
