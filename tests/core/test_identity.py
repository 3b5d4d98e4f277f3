"""The caller of a request: which credentials are read, in which order, and which are ignored."""

from __future__ import annotations

import base64
import time
from http.cookies import SimpleCookie
from itertools import product

import pytest

from chio_core.canonical import sha256_hex
from chio_core.identity import (
    default_extractor,
    first_of,
    from_api_key,
    from_bearer,
    from_client_certificate,
    from_cookie,
)
from chio_core.models import AuthMethod, CallerIdentity
from chio_core.request import RequestView
from tests.core.views import View

DER = b"\x30\x82\x01\x0a not a real certificate, but its bytes count"
PEM = "-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(DER).decode() + "-----END CERTIFICATE-----\n"
TLS = {"client_cert_name": "CN=client", "client_cert_chain": [PEM]}


def with_tls(tls: object, **headers: str) -> View:
    return View(headers=headers.items(), scope={"extensions": {"tls": tls}})


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_bearer_token_is_hashed(scheme: str) -> None:
    found = from_bearer(View(headers=[("authorization", f"{scheme}  a-token ")]))
    assert found == CallerIdentity.bearer("a-token")
    assert found is not None
    assert found.subject == sha256_hex(b"a-token")
    assert not found.verified


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer    ", "Basic YTpi", "Bearertoken", "bearer\ttoken"])
def test_a_header_without_a_bearer_token_is_ignored(value: str) -> None:
    assert from_bearer(View(headers=[("authorization", value)])) is None


def test_an_api_key_is_hashed_under_the_name_of_its_header() -> None:
    found = from_api_key("X-Api-Key")(View(headers=[("X-API-KEY", "k")]))
    assert found == CallerIdentity.api_key("x-api-key", "k")
    assert found is not None
    assert found.auth_method.key_name == "x-api-key"
    assert from_api_key("x-api-key")(View(headers=[("x-api-key", "")])) is None
    assert from_api_key("x-api-key")(View()) is None


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (["session=a"], "a"),
        (["a=b; session=c"], "c"),
        (["other=1", "session=two"], "two"),
        (["session=first; session=last"], "last"),
        (["a[b]=1; {}=2; =; ;; session=found"], "found"),
        (['session="quoted value"'], "quoted value"),
        (['session="a\\"b"'], 'a"b'),
        (['session="a"b"'], 'a"b'),
        (["session=a=b"], "a=b"),
        ([" session = spaced "], "spaced"),
    ],
)
def test_a_cookie_is_found_where_the_application_finds_it(lines: list[str], value: str) -> None:
    found = from_cookie("session")(View(headers=[("cookie", line) for line in lines]))
    assert found == CallerIdentity.cookie("session", value)


@pytest.mark.parametrize(
    "line", ["", "session", "session=", "xsession=a", "x=session=a", "SESSION=a", "session=a; session="]
)
def test_a_cookie_of_another_name_or_without_value_is_no_caller(line: str) -> None:
    assert from_cookie("session")(View(headers=[("cookie", line)])) is None


def test_a_quoted_cookie_is_unquoted_as_the_standard_library_does() -> None:
    for pieces in product(("\\", '"', "0", "3", "7", "a"), repeat=5):
        line = 'session="{}"'.format("".join(pieces))
        known = SimpleCookie(line).get("session")
        if known is not None:
            assert from_cookie("session")(View(headers=[("cookie", line)])) == CallerIdentity.cookie(
                "session", known.value
            )


@pytest.mark.parametrize("piece", ["\\", "\\\\", '\\"', "\\101", "\\1"])
def test_a_quoted_cookie_is_read_in_linear_time(piece: str) -> None:
    """The standard library needs seconds for it (CVE-2024-7592)."""
    line = f'session="{piece * (60_000 // len(piece))}"'
    began = time.process_time()
    assert from_cookie("session")(View(headers=[("cookie", line)])) is not None
    assert time.process_time() - began < 1


def test_a_client_certificate_is_a_verified_caller() -> None:
    found = from_client_certificate(with_tls(TLS))
    assert found == CallerIdentity.mtls("CN=client", sha256_hex(DER))
    assert found is not None
    assert found.verified


@pytest.mark.parametrize(
    "tls",
    [
        None, {}, "tls", {**TLS, "client_cert_error": "expired"}, {**TLS, "client_cert_name": None},
        {**TLS, "client_cert_chain": []}, {**TLS, "client_cert_chain": ["not PEM"]},
        {**TLS, "client_cert_chain": [b"bytes"]}, {**TLS, "client_cert_chain": [None]},
    ],
)  # fmt: skip
def test_a_certificate_that_was_not_verified_or_cannot_be_read_is_no_caller(tls: object) -> None:
    assert from_client_certificate(with_tls(tls)) is None


def test_the_order_is_certificate_bearer_key_cookie_anonymous() -> None:
    credentials = {"authorization": "Bearer t", "x-api-key": "k", "cookie": "session=s"}
    extract = default_extractor()
    methods = []
    for left_out in ("", "tls", "authorization", "x-api-key", "cookie"):
        credentials.pop(left_out, None)
        methods.append(extract(with_tls(None if left_out else TLS, **credentials)).auth_method.method)
    assert methods == ["mtls_certificate", "bearer", "api_key", "cookie", "anonymous"]


def test_the_names_of_header_and_cookie_can_be_chosen() -> None:
    extract = default_extractor("X-Service-Key", "sid")
    assert extract(View(headers=[("x-service-key", "k")])) == CallerIdentity.api_key("x-service-key", "k")
    assert extract(View(headers=[("cookie", "sid=1")])) == CallerIdentity.cookie("sid", "1")
    assert extract(View(headers=[("x-api-key", "k"), ("cookie", "session=1")])) is CallerIdentity.anonymous()
    assert default_extractor(session_cookie="")(View(headers=[("cookie", "session=1")])) is CallerIdentity.anonymous()


def test_extractors_compose() -> None:
    tried: list[str] = []

    def never(view: RequestView) -> None:
        tried.append(view.route_path)

    def always(view: RequestView) -> CallerIdentity:
        return CallerIdentity(subject="agent-7", auth_method=AuthMethod(method="anonymous"), verified=True)

    extract = first_of(never, always, from_bearer)
    assert extract(View(headers=[("authorization", "Bearer t")])).subject == "agent-7"
    assert tried == ["/pets/7"]
    assert first_of()(View()) is CallerIdentity.anonymous()
