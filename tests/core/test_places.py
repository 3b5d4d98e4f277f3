"""Hosts and paths in arguments are read as browsers and as servers read them; in doubt a constraint refuses."""

from __future__ import annotations

import contextlib
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chio_core.capabilities import scope_allows
from chio_core.models.capability import Constraint, ToolGrant


def allows(kind: str, value: str, arguments: Any) -> bool:
    constraint = Constraint(type=kind, value=value)
    grant = ToolGrant(server_id="s", tool_name="t", operations=["invoke"], constraints=[constraint])
    return scope_allows([grant], "s", "t", arguments)


FOREIGN = {
    "a backslash before the user": "https://evil.com\\@good.com",
    "a backslash and a path": "https://evil.com\\.good.com/",
    "backslashes for slashes": "https:\\\\evil.com",
    "one slash": "https:/evil.com",
    "no slash": "https:evil.com",
    "three slashes": "https:///evil.com",
    "no scheme": "//evil.com/x",
    "no scheme, backslashes": "\\\\evil.com\\share",
    "no scheme, one of each": "/\\evil.com",
    "a tab between the slashes": "/\t/evil.com",
    "a tab in the scheme": "ht\ttps://evil.com/",
    "a line end in the host": "https://evil.com\n.x@good.com/",
    "a control character before": "\x01https://evil.com/",
    "good.com as user": "https://good.com@evil.com/",
    "good.com as user and password": "https://good.com:x@evil.com/",
    "an IPv6 address": "http://[::1]:9090/",
    "an IPv6 address without a scheme": "[::1]:9090",
    "an IPv6 address alone": "fe80::1%eth0",
    "an IPv4 address": "http://127.0.0.1/",
    "an IPv4 address as one number": "http://2130706433/",
    "an IPv4 address in hex": "http://0x7f.1/",
    "a percent-encoded dot": "http://evil%2ecom/",
    "percent-encoded without a scheme": "evil%2Ecom",
    "full-width letters": "https://\uff45vil.com/",
    "an ideographic dot": "evil\u3002com",
    "letters beyond ASCII": "https://\u00ebvil.com/",
    "one label": "http://intranet/",
    "localhost": "LOCALHOST",
    "a port that is none": "https://good.com:80@evil.com:443/",
    "a file": "file:///etc/passwd",
    "a text about it": "fetch https://good.com/a, then https://evil.com/b",
    "another scheme": "gopher://evil/x",
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_another_host_is_refused_whatever_stands_beside_it(text: str) -> None:
    beside = ({"url": text}, {"url": text, "note": "good.com"}, {"note": "good.com", "a": [{"b": [{"c": text}]}]})
    for arguments in beside:
        assert not allows("domain_exact", "good.com", arguments)
        assert not allows("domain_glob", "good.*", arguments)


@pytest.mark.parametrize("value", ["intranet", "2130706433", "metadata", 2130706433, 2130706433.0])
@pytest.mark.parametrize("key", ["host", "Hostname", "domain"])
def test_a_word_or_a_number_is_a_host_under_a_key_that_says_so(key: str, value: Any) -> None:
    assert not allows("domain_exact", "good.com", {key: value, "note": "good.com"})
    assert allows("domain_exact", "good.com", {"name": value, "note": "good.com"})


@pytest.mark.parametrize(
    "text",
    [
        "good.com",
        " GOOD.com. ",
        "good.com:8080/a?b#c",
        "https://good.com",
        "HTTPS://me:pw@Good.COM:443/a/../b?c=https://evil.com/#d",
        "wss://good.com./",
        "me@good.com",
        "see https://good.com/a (or http://good.com), please",
    ],
)
def test_every_spelling_of_the_host_itself_is_allowed(text: str) -> None:
    assert allows("domain_exact", "good.com", {"url": text, "n": 1, "words": ["hello", "C:\\x", "12:30", "50%"]})
    assert allows("domain_glob", "good.*", {"url": text})


PIECES = st.sampled_from(
    ["http:", "https:", "//", "/", "\\", "@", ":", "good.com", "evil.com", ".", "[::1]", "%2e", "%40", "#", "?", "\t",
     "\n", " ", "80", "x", "\u3002", "&", ";"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=8).map("".join))
def test_no_reader_finds_another_host_in_what_is_allowed(text: str) -> None:
    """Two libraries that servers use: the one of the standard library, and httpx. No host has a blank in its name."""
    if not allows("domain_exact", "good.com", [text]):
        return
    for url in (text, f"http://{text}", text.replace("\\", "/")):
        readings: list[str | None] = []
        with contextlib.suppress(ValueError):
            readings.append(urlsplit(url).hostname)
        with contextlib.suppress(httpx.InvalidURL):
            readings.append(httpx.URL(url).host)
        hosts = {reading.strip(".") for reading in readings if reading and " " not in reading.replace("%20", " ")}
        assert hosts <= {"good.com", "http", "https"}, url


OUTSIDE = {
    "dots in percent": "/data/%2e%2e/etc",
    "half in percent": "/data/.%2E/etc",
    "twice in percent": "/data/%252e%252e/etc",
    "a slash in percent": "/data/..%2fetc",
    "a backslash in percent": "/data/..%5cetc",
    "more often than anyone decodes": "/data/%25252525252e%2e/etc",
    "not UTF-8": "/data/%c0%ae%c0%ae/etc",
    "parameters of a segment": "/data/..;a=b/etc",
    "a blank after the dots": "/data/.. /etc",
    "NUL": "/data/a%00",
    "plain": "/data/../etc",
    "plain, backslashes": "\\data\\..\\etc",
    "the prefix in percent, and out of it": "/%64ata/../etc",
}


@pytest.mark.parametrize("text", OUTSIDE.values(), ids=OUTSIDE)
def test_a_path_that_some_reader_takes_out_of_the_prefix_is_refused(text: str) -> None:
    assert not allows("path_prefix", "/data", {"path": text})
    assert not allows("path_prefix", "/data", {"path": "/data/a", "b": [{"c": [text]}]})


@pytest.mark.parametrize(
    "text", ["..", "%2e%2e", "%2e%2e%2fetc", "..%5Cetc", "file:///etc/passwd", " FILE:/etc/passwd"]
)
def test_what_is_a_path_only_to_some_readers_counts_as_one(text: str) -> None:
    assert not allows("path_prefix", "/data", {"path": "/data/a", "name": text})


@pytest.mark.parametrize(
    "text", ["/data/a%20b", "/data/100%", "/data/%C3%BC", "/data/..a", "/data/a;v=1", "/data/x%2fy"]
)
def test_a_percent_sign_alone_refuses_nothing(text: str) -> None:
    assert allows("path_prefix", "/data", {"path": text, "u": "https://x.test/etc", "note": "50% of it"})


def test_a_prefix_may_be_percent_encoded_itself() -> None:
    assert allows("path_prefix", "/my%20data", {"path": "/my%20data/a"})
    assert not allows("path_prefix", "/my%20data", {"path": "/my data/a"})


@pytest.mark.parametrize(
    "text", ["x://" * 250_000, ":\\\\" * 300_000, "%25" * 300_000, "/data/" + "%2525" * 200_000, ":" * 1_000_000]
)
def test_a_long_text_is_read_in_a_short_time(text: str) -> None:
    before = time.process_time()
    allows("domain_exact", "good.com", [text])
    allows("path_prefix", "/data", {"path": text})
    assert time.process_time() - before < 5
