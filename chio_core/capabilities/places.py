"""Read hosts and paths in the arguments of a tool call, as browsers and as servers do (wire protocol, section 5.5).

The rules are the protocol's, with one addition: a text that two readers understand in two ways has no certain host and
is under no prefix, so a constraint refuses it. Readers differ about backslashes, user information, percent-encoding,
numeric and IPv6 addresses, missing slashes, and letters beyond ASCII.
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv6Address
from urllib.parse import unquote

AMBIGUOUS = ""
"""The host of a text that can be read in two ways, or that is a URL without a readable host."""

_HOST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")

# Unicode's White_Space; `str.strip()` alone would also take U+001C to U+001F.
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
# Browsers drop control characters around a URL, tabs and line ends anywhere, and take these characters for a dot.
_AROUND = _SPACE + "".join(map(chr, range(0x20)))
_DROPPED = dict.fromkeys(map(ord, "\t\n\r"))
_DOTS = str.maketrans(dict.fromkeys("\u3002\uff0e\uff61", "."))

_WEB_SCHEMES = frozenset({"http", "https", "ws", "wss", "ftp"})
_HOST_KEYS = frozenset({"host", "hostname", "domain"})
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):([/\\]{2})?|[/\\]{2}")
_MARK = re.compile(r":[/\\]{2}")
_END = re.compile(r"[/?#]")
_END_IN_TEXT = re.compile(r"""[/\\?#\s"'<>(){}|^`,;]""")


def host_of(text: str) -> str | None:
    """Return the host in a string of the arguments, in lower case.

    Returns:
        None if the string has no host; `AMBIGUOUS` if readers disagree about it.
    """
    trimmed = text.strip(_AROUND)

    # A whole URL: browsers need no slashes after these schemes, and take a backslash for a slash.
    url = _URL.match(trimmed.translate(_DROPPED))
    if url and (url[1] is None or url[2] or url[1].lower() in _WEB_SCHEMES):
        start = url[0]
        if not start.endswith("//") or not trimmed.startswith(start):
            return AMBIGUOUS
        return _url_host(trimmed[len(start) : _ending(_END, trimmed, len(start))])

    # URLs within a text: their hosts must be the same.
    found: str | None = None
    for mark in _MARK.finditer(trimmed):
        end = _ending(_END_IN_TEXT, trimmed, mark.end())
        host = AMBIGUOUS if trimmed[end : end + 1] == "\\" else _url_host(trimmed[mark.end() : end])
        if host == AMBIGUOUS or found not in (None, host):
            return AMBIGUOUS
        found = host
    return found if found is not None else _bare_host(trimmed[: _ending(_END, trimmed, 0)])


def host_under(key: str | None, text: str) -> str | None:
    """Return the host in a string of the arguments as `host_of` does; a word under a key such as `host` is one too."""
    host = host_of(text)
    return AMBIGUOUS if host is None and text and is_host_key(key) else host


def is_host_key(key: str | None) -> bool:
    """Return True if a value under this key is a host, whatever it looks like."""
    return key is not None and key.lower() in _HOST_KEYS


def _ending(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.search(text, start)
    return len(text) if found is None else found.start()


def _url_host(authority: str) -> str:
    user, _, place = authority.rpartition("@")
    name, _, port = place.partition(":")
    host = name.strip(".").lower()
    # An IPv6 address in brackets and percent-encoding contain other characters than a host. Browsers end the
    # authority at a backslash and drop tabs; other readers do neither.
    readable = (
        authority.isascii()
        and authority.isprintable()
        and not {"\\", " "} & set(authority)
        and "@" not in user
        and (not port or port.isdecimal())
    )
    return host if readable and host and _HOST.issuperset(host) else AMBIGUOUS


def _bare_host(authority: str) -> str | None:
    """Return the host of a text that is no URL: what is before a port, if it has a dot."""
    name = authority.rpartition("@")[2].partition(":")[0].strip(".")
    host = name.lower()
    if name.isascii() and (host == "localhost" or ("." in host and _HOST.issuperset(host))):
        return AMBIGUOUS if authority.count("@") > 1 else host
    if authority.count(":") > 1:
        try:
            IPv6Address(authority.strip("[").partition("]")[0].partition("%")[0])
        except ValueError:
            return None
        return AMBIGUOUS
    # A reader that decodes it, maps its letters to ASCII, or ends it at a backslash sees a host.
    mapped = unicodedata.normalize("NFKC", unquote(name).translate(_DOTS)).partition("\\")[0].strip(".")
    differs = mapped != name or not name.isascii()
    return AMBIGUOUS if differs and "." in mapped and all(one.isalnum() or one in ".-" for one in mapped) else None


def host_equals(value: str, host: str) -> bool:
    """Return True if a host equals the value of a `domain_exact` constraint."""
    return host != AMBIGUOUS and host == _ascii_lower(value.strip(_SPACE).strip("."))


def host_matches(glob: str, host: str) -> bool:
    """Return True if a host matches the value of a `domain_glob` constraint; `*` is any text, also the empty one."""
    if host == AMBIGUOUS:
        return False
    first, *rest = _ascii_lower(glob).split("*")
    if not rest:
        return host == first
    *middle, last = rest
    if len(host) < len(first) + len(last) or not host.startswith(first) or not host.endswith(last):
        return False
    # The leftmost match of each piece is enough: a later one leaves less room for the next pieces.
    start, end = len(first), len(host) - len(last)
    for piece in middle:
        found = host.find(piece, start, end)
        if found < 0:
            return False
        start = found + len(piece)
    return True


def _ascii_lower(text: str) -> str:
    # A value with a non-ASCII letter never equals a host; lower-casing (as of U+212A) must not make it one.
    return text.lower() if text.isascii() else text


_KEYS = frozenset({"file", "filepath", "dir", "directory", "root", "cwd"})
_MOST_DECODINGS = 3


def is_path_candidate(key: str | None, text: str) -> bool:
    """Return True if a string of the arguments is treated as a path, because of its key or its form.

    `..`, a `file:` URL, and a text that is a path after percent-decoding are paths as well.
    """
    if key is not None:
        lowered = key.lower()
        if "path" in lowered or lowered in _KEYS:
            return True
    if text.lstrip(_AROUND)[:5].lower() == "file:":
        return True
    forms = {text, unquote(text)} if "%" in text else {text}
    return any(form == ".." or ("://" not in form and ("/" in form or "\\" in form)) for form in forms)


def path_is_under(prefix: str, path: str) -> bool:
    """Return True if `path` is `prefix` or below it, segment by segment, however often a reader decodes it.

    A path that climbs above its start is below nothing; an absolute and a relative path never contain each other.
    """
    for _ in range(_MOST_DECODINGS):
        above, below = _segments(prefix), _segments(path)
        if above is None or below is None or _is_absolute(prefix) != _is_absolute(path):
            return False
        if below[: len(above)] != above:
            return False
        decoded = unquote(path) if "%" in path else path
        if decoded == path:
            return True
        if "\ufffd" in decoded:
            return False  # not UTF-8: lenient readers take C0 AE for a dot
        prefix, path = unquote(prefix), decoded
    return False


def _is_absolute(path: str) -> bool:
    return path[:1] in {"/", "\\"}


def _segments(path: str) -> list[str] | None:
    """Return the segments without `.` and `..`; None for a path that climbs above its start, or has two readings."""
    kept: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        if segment in {"", "."}:
            continue
        if segment != "..":
            # Some servers cut a segment at `;`, at NUL, or before trailing blanks.
            if "\0" in segment or segment.partition(";")[0].strip(" ") == "..":
                return None
            kept.append(segment)
        elif kept:
            kept.pop()
        else:
            return None
    return kept
