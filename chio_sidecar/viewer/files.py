"""The page's own files, and the headers that all answers of the viewer carry."""

from __future__ import annotations

from importlib import resources

PAGE = "index.html"

KINDS = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""Media types of the files, by the end of their names."""

HEADERS = {
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

NO_STORE = {"cache-control": "no-store"}
"""For everything that tells of receipts."""

REVALIDATE = {"cache-control": "no-cache"}
"""For the files, which change with the version only."""


def load() -> dict[str, tuple[bytes, str]]:
    """Return content and media type of each file, by name."""
    folder = resources.files("chio_sidecar.viewer").joinpath("static")
    return {
        entry.name: (entry.read_bytes(), kind)
        for entry in folder.iterdir()
        if (kind := KINDS.get(entry.name.rpartition(".")[2])) is not None
    }
