"""The page that a browser gets instead of a refusal's document: HTML without scripts.

An application replaces it with a function (`refusal_page`), which is given the request and the refusal. Status, headers
and receipt are those of the refusal in both cases; only the body differs.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from base64 import b64encode
from collections.abc import Callable
from html import escape
from typing import Any, Final

from chio_core.errors import ConfigurationError
from chio_core.names import LOGGER
from chio_core.refusals.response import Denial, HeaderPairs
from chio_core.request import GuardRequest

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
