"""Refusals as documents. There are two envelopes because both are published (wire protocol, section 11).

ASGI, FastAPI and Flask answer flat: `error` is the wire code. Django nests: `error.code` is the published code.

Both carry `type`, a permanent name of the kind of problem (RFC 9457, section 3.1.1). If a receipt was stored, they also
carry `instance`, which names it, and `explain`, the command that tells an operator the reason of the refusal and what
would be allowed; with the setting `explain_url` also the address of a page that does so. The media type stays
`application/json`, as published. A client that prefers `application/problem+json` gets that, with `title` and `detail`
of RFC 9457; the nested envelope then has the standard members at the top, where the RFC wants them. A browser gets a
page of HTML without scripts. An application replaces it with a function (`refusal_page`), which is given the request
and the refusal. Status, headers and receipt are those of the refusal in both cases; only the body differs.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import re
from base64 import b64encode
from collections.abc import Callable
from html import escape
from typing import Any, Final
from urllib.parse import quote

from chio_core.errors import ConfigurationError
from chio_core.names import LOGGER
from chio_core.refusals.response import Denial, HeaderPairs
from chio_core.request import GuardRequest
from chio_core.settings import RECEIPT_PLACEHOLDER

log = logging.getLogger(LOGGER)

HTML: Final = "text/html"

RefusalPage = Callable[[GuardRequest, Denial], str]
"""A function of the application that returns the whole page as HTML. It escapes what it writes into it."""

_STYLE: Final = (
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}"
    "dt{font-weight:600}dd{margin:0 0 .5rem;overflow-wrap:anywhere}"
)

# The page may load nothing and run nothing, and its one style is allowed by its hash (CSP level 3, section 6.7.2).
_HASH: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " + f"style-src 'sha256-{_HASH}'"
)


def checked_page(function: Any) -> RefusalPage | None:
    """Return the function of an application that makes the page; None without one.

    Raises:
        ConfigurationError: it is no function, or `async def`.
    """
    if function is not None and (not callable(function) or inspect.iscoroutinefunction(function)):
        raise ConfigurationError("refusal_page must be a plain function that takes the request and the refusal")
    return function  # type: ignore[no-any-return]


def page_of(denial: Denial, title: str, make: Callable[[Denial], str] | None = None) -> tuple[bytes, HeaderPairs]:
    """Return the body of the page and the headers that describe it.

    Args:
        title: title of the kind of problem.
        make: the function of the application. If it fails, the default page is sent: the refusal stands.
    """
    kind = (("content-type", f"{HTML}; charset=utf-8"), ("x-content-type-options", "nosniff"))
    if make is not None:
        try:
            # Scripts and styles of an own page are allowed by the application's own policy.
            return make(denial).encode("utf-8", "xmlcharrefreplace"), kind
        except Exception:
            log.exception("chio: refusal_page failed; the default page is sent")
    return _default(denial, title).encode("ascii", "xmlcharrefreplace"), (*kind, ("content-security-policy", _POLICY))


def _default(denial: Denial, title: str) -> str:
    facts = {"Status": f"{denial.status} {denial.code}", "Guard": denial.guard, "Receipt": denial.receipt_id}
    terms = "".join(f"<dt>{name}</dt><dd><code>{escape(text)}</code></dd>" for name, text in facts.items() if text)
    sentences = "".join(f"<p>{escape(text)}</p>" for text in (denial.message, denial.suggestion) if text)
    link = denial.explain_url
    more = f'<p><a href="{escape(link)}" rel="help">Why was this refused?</a></p>' if link is not None else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<style>{_STYLE}</style></head><body><main><h1>{escape(title)}</h1>{sentences}<dl>{terms}</dl>{more}</main>"
        "</body></html>"
    )


JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"

EXPLAIN: Final = "chio-sidecar explain"
"""The command of the member `explain`; the receipt's id follows."""

MEDIA_TYPES: Final = (JSON, PROBLEM_JSON)
"""Media types of a refusal's document."""

_PROBLEM: Final = "urn:chio:problem:"

_CHALLENGE: Final = 'Chio realm="chio"'

# Header fields with a list as their value (RFC 9110, section 5.3): sent in one line, because some frameworks keep only
# one line of each field.
_LISTS = frozenset({"link", "vary", "www-authenticate"})

# One plain word of a shell: the id comes from a receipt, and people paste the command.
_PLAIN_WORD = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.:-]{0,127}", re.ASCII)

_NOT_IN_NAMES = re.compile(r"[^0-9a-z]+")

_NESTED_CODES = {
    "chio_access_denied": "CHIO_GUARD_DENIED",
    "chio_evaluation_failed": "CHIO_INTERNAL_ERROR",
    "chio_sidecar_unreachable": "CHIO_SIDECAR_UNAVAILABLE",
    "chio_timeout": "CHIO_SIDECAR_UNAVAILABLE",
}
"""The wire codes whose published code has another name; every other published code is the wire code in capitals."""

_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def preferred_type(accept: str) -> str:
    """Return the media type in which a client wants a refusal: one of `MEDIA_TYPES`, or `text/html`.

    A client prefers a type to `application/json` with a higher quality, and with an equal one if it names that type and
    covers JSON only by a wildcard. `text/html` has to be named, as browsers do. In every other case, `*/*` and an
    unknown type among them, the published form `application/json` is sent.

    Args:
        accept: value of `Accept`, lines joined with commas; empty without the header. Invalid ranges are ignored.
    """
    ranges: list[tuple[str, float]] = []
    for text in accept.lower().split(","):
        name, *parameters = (part.strip() for part in text.split(";"))
        quality = "1"
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality = value.strip()
        if _QUALITY.fullmatch(quality):
            ranges.append((name, float(quality)))

    def rank(media_type: str) -> tuple[float, int]:
        # The closest range counts, not the largest quality: `application/json;q=0, */*` does not want JSON.
        for closeness, pattern in ((2, media_type), (1, "application/*"), (0, "*/*")):
            found = [quality for name, quality in ranges if name == pattern]
            if found:
                return (max(found), closeness) if max(found) else (0.0, 0)
        return (0.0, 0)

    html = max((quality for name, quality in ranges if name == HTML), default=0.0)
    if html and (html, 2) > max(rank(JSON), rank(PROBLEM_JSON)):
        return HTML
    return PROBLEM_JSON if rank(PROBLEM_JSON) > rank(JSON) else JSON


def problem_type(code: str) -> str:
    """Return the URI that names a kind of problem, for example `urn:chio:problem:capability-required`.

    Args:
        code: wire code, or the code of a guard of the application.
    """
    return _PROBLEM + _NOT_IN_NAMES.sub("-", code.lower().removeprefix("chio_")).strip("-")


def problem_title(code: str) -> str:
    """Return the title of a kind of problem, for example `Capability required`."""
    return problem_type(code).removeprefix(_PROBLEM).replace("-", " ").capitalize()


def instance_of(denial: Denial) -> str | None:
    """Return the URI of this refusal: of its receipt, else of its evaluation; None without an evaluation."""
    kind, name = ("receipt", denial.receipt_id) if denial.receipt_id else ("request", denial.request_id)
    return f"urn:chio:{kind}:{quote(name, safe='', errors='replace')}" if name else None


def explain_command(receipt_id: str | None) -> str | None:
    """Return the command that explains a refusal; None without a receipt, or if its id is not a plain word."""
    if receipt_id is None or not _PLAIN_WORD.fullmatch(receipt_id):
        return None
    return f"{EXPLAIN} {receipt_id}"


def flat(denial: Denial) -> dict[str, Any]:
    """Return the flat envelope: `error`, `message`, `status`, and every other member that is known."""
    document = {
        "error": denial.code,
        "message": denial.message,
        "status": denial.status,
        "receipt_id": denial.receipt_id,
        "suggestion": denial.suggestion,
        "guard": denial.guard,
        "details": denial.details or None,
        "type": problem_type(denial.code),
        "instance": instance_of(denial),
        "explain": explain_command(denial.receipt_id),
        "explain_url": denial.explain_url,
    }
    return {name: value for name, value in document.items() if value is not None}


def nested(denial: Denial) -> dict[str, Any]:
    """Return the nested envelope: `{"error": {"code", "message", "guard"?, "details"?, …}}`."""
    code = _NESTED_CODES.get(denial.code, denial.code.upper())
    error = {name: value for name, value in flat(denial).items() if name not in ("error", "status")}
    return {"error": {"code": code, **error}}


def problem(denial: Denial, *, nest: bool = False) -> dict[str, Any]:
    """Return the document of RFC 9457; all members of the envelope are kept.

    Args:
        nest: the envelope of Django instead of the flat one.
    """
    envelope = nested(denial) if nest else flat(denial)
    standard = {
        "type": problem_type(denial.code),
        "title": problem_title(denial.code),
        "status": denial.status,
        "detail": denial.message,
        "instance": instance_of(denial),
    }
    return {**{name: value for name, value in standard.items() if value is not None}, **envelope}


def refusal_headers(denial: Denial) -> HeaderPairs:
    """Return the header lines of a refusal that do not depend on its form, names in lower case.

    A refusal is never cached; a 401 states how to authenticate, a 503 when to retry (RFC 9110, sections 15.5.2 and
    15.6.4); `Link` leads to the explanation.
    """
    own = [(name.lower(), value) for name, value in denial.headers if name.lower() != "cache-control"]
    given = {name for name, _ in own}
    lines = [("cache-control", "no-store")]
    if denial.status == 401 and "www-authenticate" not in given:
        lines.append(("www-authenticate", _CHALLENGE))
    if denial.status == 503 and "retry-after" not in given:
        lines.append(("retry-after", "1"))
    if denial.explain_url is not None:
        lines.append(("link", f'<{denial.explain_url}>; rel="help"'))
    return _joined([*lines, *own])


def render(
    denial: Denial, *, nest: bool = False, accept: str = "", page: Callable[[Denial], str] | None = None
) -> tuple[bytes, HeaderPairs]:
    """Return body and headers of a refusal, ready to be sent.

    Args:
        nest: the envelope of Django instead of the flat one.
        accept: the request's `Accept`, lines joined with commas.
        page: makes the page for browsers; None: the default page.
    """
    kind = preferred_type(accept)
    form: HeaderPairs = (("content-type", kind),)
    if kind == HTML:
        body, form = page_of(denial, problem_title(denial.code), page)
    else:
        envelope = nested if nest else flat
        document = problem(denial, nest=nest) if kind == PROBLEM_JSON else envelope(denial)
        body = json.dumps(document, ensure_ascii=True).encode()
    length = ("content-length", str(len(body)))
    return body, (*form, length, *_joined([("vary", "Accept"), *refusal_headers(denial)]))


def _joined(lines: list[tuple[str, str]]) -> HeaderPairs:
    made: list[tuple[str, str]] = []
    places: dict[str, int] = {}
    for name, value in lines:
        if name in _LISTS and name in places:
            made[places[name]] = (name, f"{made[places[name]][1]}, {value}")
        else:
            places[name] = len(made)
            made.append((name, value))
    return tuple(made)


def explain_link(explain_url: str | None, receipt_id: str | None) -> str | None:
    """Return the address of the page that explains one refusal; None without the setting, or without a receipt.

    The id replaces `{receipt_id}` in the setting, else it becomes the fragment: the viewer opens that receipt.

    Args:
        explain_url: the setting.
        receipt_id: id of the refusal's receipt; any text.
    """
    if explain_url is None or not receipt_id:
        return None
    name = quote(receipt_id, safe="", errors="replace")
    if RECEIPT_PLACEHOLDER in explain_url:
        return explain_url.replace(RECEIPT_PLACEHOLDER, name)
    return f"{explain_url}#{name}"
