"""The setting `explain_url`: where operators read why a request was refused, as a link in the refusal."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit

PLACEHOLDER: Final = "{receipt_id}"

LONGEST: Final = 2048
"""Most characters of the setting."""

# RFC 3986, section 2: what may stand in a URL. It goes into a header between < and >.
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")


def checked_page(value: str) -> str:
    """Return the setting as it was given.

    Raises:
        ValueError: it cannot be the address of a page; the text says which rule it breaks.
    """
    if len(value) > LONGEST:
        raise ValueError(f"must have at most {LONGEST:,} characters")
    if not _URL.fullmatch(value.replace(PLACEHOLDER, "")):
        raise ValueError("must be printable ASCII without spaces, quotes and braces other than {receipt_id}")
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must start with http:// or https:// and name a host")
    if "@" in parts.netloc or PLACEHOLDER in parts.netloc:
        raise ValueError("must name the host without credentials and without {receipt_id}")
    _ = parts.port  # raises ValueError for a port that is no port
    if "#" in value and PLACEHOLDER not in value:
        raise ValueError("must have no fragment: the receipt's id becomes it, or write {receipt_id} where it belongs")
    return value


def explain_link(explain_url: str | None, receipt_id: str | None) -> str | None:
    """Return the address that explains one refusal; None without the setting, or without a receipt.

    Without `{receipt_id}` in it the id becomes the fragment, as the viewer opens one receipt.

    Args:
        explain_url: the setting, checked.
        receipt_id: of the refusal; any text.
    """
    if explain_url is None or not receipt_id:
        return None
    name = quote(receipt_id, safe="", errors="replace")
    if PLACEHOLDER in explain_url:
        return explain_url.replace(PLACEHOLDER, name)
    return f"{explain_url}#{name}"
