"""Which template a path belongs to, and its policy (wire protocol, sections 6.2 and 6.3)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chio_core.canonical import sha256_hex
from chio_sidecar.policy.routes import (
    DENY_BY_DEFAULT,
    SESSION_ALLOW,
    RouteRule,
    RouteTable,
    method_policy,
    operation_rule,
)
from tests.sidecar.sidecar_tools import vectors

VECTORS = vectors("composed", "route-match", "v1.json")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")


def document(paths: dict[str, Any]) -> str:
    return json.dumps({"openapi": "3.1.0", "info": {}, "paths": paths})


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["id"])
def test_paths_match_as_the_vectors_say(case: dict[str, Any]) -> None:
    rule = RouteTable.from_openapi(document(VECTORS["openapi_paths"])).match(case["method"], case["path"])
    assert (rule.pattern, rule.policy) == (case["expected_route_pattern"], case["expected_policy"])


OWN: list[tuple[list[str], str, str]] = [
    (["/pets/{petId}", "/pets/mine"], "/pets/mine", "/pets/mine"),
    (["/pets/{petId}", "/pets/mine"], "/pets/Mine", "/pets/{petId}"),
    (["/pets/{petId}", "/pets/~me"], "/pets/~me", "/pets/{petId}"),  # "~" sorts after "{"
    (["/pets/{petId}", "/pets/é"], "/pets/é", "/pets/{petId}"),
    (["/{a}/x", "/pets/{b}"], "/pets/x", "/pets/{b}"),
    (["/{a}/x", "/~/{b}"], "/~/x", "/{a}/x"),
    (["/{b}/{c}", "/{a}/{d}"], "/1/2", "/{a}/{d}"),
    (["/a/{x}/c", "/a/{y}/d"], "/a/b/d", "/a/{y}/d"),
    (["/a/b/{x}", "/a/{y}/d"], "/a/b/d", "/a/b/{x}"),
    (["/a/b/c", "/a/{y}/d"], "/a/b/d", "/a/{y}/d"),
    (["/pets/{petId}"], "/pets/", "/pets/{petId}"),
    (["/pets/{petId}"], "/pets", "/pets"),
    (["/pets"], "/pets/", "/pets/"),
    (["/pets/{petId}"], "/pets/a%2Fb", "/pets/{petId}"),
    (["/a b"], "/a%20b", "/a%20b"),
    (["/odd/{a}.json"], "/odd/x.json", "/odd/x.json"),
    (["/odd/{a}.json"], "/odd/{a}.json", "/odd/{a}.json"),
    (["/{}"], "/x", "/{}"),
    (["/{"], "/x", "/x"),
    (["/"], "/", "/"),
    (["/"], "", ""),
    (["/a"], "//a", "//a"),
]


@pytest.mark.parametrize(("templates", "path", "pattern"), OWN)
def test_the_first_template_in_byte_order_that_fits_wins(templates: list[str], path: str, pattern: str) -> None:
    for order in (templates, templates[::-1]):
        table = RouteTable.from_openapi(document({template: {"get": {}} for template in order}))
        assert table.match("GET", path).pattern == pattern


def slow_match(templates: list[str], path: str) -> str:
    """The rule of the protocol, word by word."""
    segments = path.split("/")
    for template in sorted(templates, key=str.encode):
        parts = template.split("/")
        if len(parts) == len(segments) and all(
            part == segment or (part.startswith("{") and part.endswith("}"))
            for part, segment in zip(parts, segments, strict=True)
        ):
            return template
    return path


SEGMENT = st.sampled_from(["", "a", "b", "z", "{x}", "{y}", "{}", "~", "é", "{", "}", "{a}.b", "\U00010000", "\ue000"])
PATH = st.lists(SEGMENT, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(PATH, max_size=12, unique=True), PATH)
def test_fast_matching_is_the_rule_of_the_protocol(templates: list[str], path: str) -> None:
    table = RouteTable([("GET", RouteRule(template, SESSION_ALLOW)) for template in templates], "")
    assert table.match("GET", path).pattern == slow_match(templates, path)


def test_a_path_is_covered_by_a_template_of_any_method() -> None:
    table = RouteTable.from_openapi(document({"/a/{x}": {"post": {"responses": {}}}}))
    assert [table.covers(path) for path in ("/a/1", "/a", "/a/1/b", "/b/1")] == [True, False, False, False]
    assert not RouteTable.by_method().covers("/a")


def test_methods_have_tables_of_their_own(tmp_path: Any) -> None:
    table = RouteTable.from_openapi(document({"/a": {"get": {"x-chio-side-effects": True}, "post": {}}}))
    assert table.match("GET", "/a").policy == DENY_BY_DEFAULT
    assert table.match("HEAD", "/a").policy == SESSION_ALLOW  # HEAD is not derived from GET
    assert table.match("PUT", "/a").policy == DENY_BY_DEFAULT
    assert len(table) == 2


@pytest.mark.parametrize("method", METHODS)
def test_without_a_specification_the_method_decides(method: str) -> None:
    rule = RouteTable.by_method().match(method, "/any/path")
    assert rule.pattern == "/any/path"
    assert rule.policy == (SESSION_ALLOW if method in ("GET", "HEAD", "OPTIONS") else DENY_BY_DEFAULT)
    assert rule.policy == method_policy(method)


EXTENSIONS = [
    ("GET", {}, SESSION_ALLOW),
    ("POST", {}, DENY_BY_DEFAULT),
    ("GET", {"x-chio-side-effects": True}, DENY_BY_DEFAULT),
    ("POST", {"x-chio-side-effects": False}, SESSION_ALLOW),
    ("POST", {"x-chio-side-effects": False, "x-chio-approval-required": True}, DENY_BY_DEFAULT),
    ("GET", {"x-chio-approval-required": True}, DENY_BY_DEFAULT),
    ("POST", {"x-chio-approval-required": False}, DENY_BY_DEFAULT),
    ("GET", {"x-chio-side-effects": "true"}, SESSION_ALLOW),
    ("GET", {"x-chio-side-effects": 1, "x-chio-approval-required": "true"}, SESSION_ALLOW),
    ("POST", {"x-chio-side-effects": None}, DENY_BY_DEFAULT),
    ("GET", {"x-chio-sensitivity": "restricted", "x-chio-budget-limit": 1}, SESSION_ALLOW),
]


@pytest.mark.parametrize(("method", "operation", "policy"), EXTENSIONS)
def test_the_extensions_of_an_operation_decide(method: str, operation: dict[str, Any], policy: str) -> None:
    assert operation_rule(method, "/a", operation).policy == policy


def test_an_extension_that_is_no_boolean_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    RouteTable.from_openapi(document({"/a": {"get": {"x-chio-side-effects": "yes"}}}))
    assert "x-chio-side-effects of GET /a is neither true nor false and therefore ignored" in caplog.text


def test_the_policy_hash_is_the_digest_of_the_text_as_loaded() -> None:
    text = "openapi: 3.0.3\ninfo: {}\npaths: {}\n# é\r\n"
    assert RouteTable.from_openapi(text).policy_hash == sha256_hex(text.encode())
