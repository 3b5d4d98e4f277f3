"""Properties of all paths, hosts, scopes and arguments."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chio_core.capabilities import is_subset, issue_capability, match_grant, scope_allows
from chio_core.capabilities.constraints import Arguments
from chio_core.capabilities.places import host_matches, host_of, path_is_under
from chio_core.errors import InvalidDocument
from chio_core.models.capability import ChioScope, Constraint, PromptGrant, ResourceGrant, ToolGrant
from chio_core.models.request import ModelMetadata
from chio_core.signing import SigningKey

SEGMENT = st.text(alphabet="abé.", min_size=1, max_size=3).filter(lambda text: text not in {".", ".."})
SEGMENTS = st.lists(SEGMENT, max_size=4)
NOISE = st.sampled_from(["/", "\\", "//", "/./", "\\.\\", "/x/../"])
KEYS = st.sampled_from(["path", "to", "a", "store"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(SEGMENTS, SEGMENTS, NOISE)
def test_a_path_is_under_its_beginning_in_every_spelling(start: list[str], rest: list[str], separator: str) -> None:
    prefix = "/" + "/".join(start)
    assert path_is_under(prefix, "/" + separator.join([*start, *rest]))


@given(SEGMENTS, SEGMENTS)
def test_climbing_out_of_a_prefix_never_stays_under_it(start: list[str], rest: list[str]) -> None:
    prefix = "/" + "/".join(["top", *start])
    climbed = prefix + "/.." * (len(start) + 1) + "/" + "/".join(["elsewhere", *rest])
    assert not path_is_under(prefix, climbed)


@given(st.text(alphabet="ab/\\.", max_size=12), st.text(alphabet="ab/\\.", max_size=12))
def test_the_path_rule_agrees_with_a_plain_reading(prefix: str, path: str) -> None:
    def resolve(text: str) -> tuple[bool, list[str]] | None:
        parts: list[str] = []
        for part in text.replace("\\", "/").split("/"):
            if part == ".." and not parts:
                return None
            if part == "..":
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        return text.startswith(("/", "\\")), parts

    one, two = resolve(prefix), resolve(path)
    expected = one is not None and two is not None and one[0] == two[0] and two[1][: len(one[1])] == one[1]
    assert path_is_under(prefix, path) is expected


@given(st.text(alphabet="ab.*", max_size=8), st.text(alphabet="ab.", max_size=8))
def test_a_glob_agrees_with_a_plain_reading(glob: str, host: str) -> None:
    def matches(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(matches(pattern[1:], text[start:]) for start in range(len(text) + 1))
        return bool(text) and pattern[0] == text[0] and matches(pattern[1:], text[1:])

    assert host_matches(glob, host) is (bool(host) and matches(glob, host))


def test_a_long_glob_of_stars_ends() -> None:
    assert not host_matches("*a" * 30_000 + "b", "a." * 30_000)


@given(st.text(max_size=30))
def test_a_host_is_ascii_ambiguous_or_none(text: str) -> None:
    host = host_of(text)
    assert host is None or host == "" or set(host) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")


OPERATION = st.sampled_from(["invoke", "read", "delegate"])
CONSTRAINT = st.sampled_from(
    [
        Constraint(type="path_prefix", value="/srv"),
        Constraint(type="max_length", value=3),
        Constraint(type="max_args_size", value=30),
        Constraint(type="audience_allowlist", value=["a"]),
        Constraint(type="regex_match", value="a"),
        Constraint(type="model_constraint", value={"allowed_model_ids": ["m"]}),
    ]
)
GRANT = st.builds(
    ToolGrant,
    server_id=st.sampled_from(["*", "s", "r"]),
    tool_name=st.sampled_from(["*", "t", "u"]),
    operations=st.lists(OPERATION, max_size=3),
    constraints=st.lists(CONSTRAINT, max_size=2),
    max_invocations=st.none() | st.integers(0, 3),
    dpop_required=st.none() | st.booleans(),
)
SCOPE = st.builds(
    ChioScope,
    grants=st.lists(GRANT, max_size=3),
    resource_grants=st.lists(
        st.builds(ResourceGrant, uri_pattern=st.text("a*", max_size=3), operations=st.lists(OPERATION, max_size=2)),
        max_size=2,
    ),
    prompt_grants=st.lists(
        st.builds(PromptGrant, prompt_name=st.text("a*", max_size=3), operations=st.lists(OPERATION, max_size=2)),
        max_size=2,
    ),
)


@given(SCOPE)
def test_every_scope_is_a_subset_of_itself(scope: ChioScope) -> None:
    assert is_subset(scope, scope)
    assert is_subset(ChioScope(), scope)
    assert all(is_subset(grant, grant) for grant in scope.grants)


@given(SCOPE, SCOPE, SCOPE)
def test_subsets_of_subsets_are_subsets(one: ChioScope, two: ChioScope, three: ChioScope) -> None:
    if is_subset(one, two) and is_subset(two, three):
        assert is_subset(one, three)


@given(SCOPE, SCOPE, JSON)
def test_a_subset_allows_no_call_that_its_parent_refuses(child: ChioScope, parent: ChioScope, arguments: Any) -> None:
    metadata = {"model_id": "m"}
    if is_subset(child, parent) and scope_allows(child, "s", "t", arguments, model_metadata=metadata):
        assert scope_allows(parent, "s", "t", arguments, model_metadata=metadata)


@given(GRANT, CONSTRAINT, JSON)
def test_one_more_constraint_never_allows_more(grant: ToolGrant, extra: Constraint, arguments: Any) -> None:
    narrowed = grant.model_copy(update={"constraints": [*grant.constraints, extra]})
    assert is_subset(narrowed, grant)
    if scope_allows([narrowed], "s", "t", arguments):
        assert scope_allows([grant], "s", "t", arguments)


@given(JSON)
def test_the_size_of_arguments_is_that_of_their_compact_text(arguments: Any) -> None:
    compact = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
    if "e-" not in compact and "e+" not in compact:
        assert Arguments(arguments).size == len(compact.encode())


@pytest.mark.parametrize(
    ("number", "text"),
    [(1e16, "1e16"), (1e-5, "0.00001"), (-1.25e-5, "-0.0000125"), (1e-7, "1e-7"), (1.5e300, "1.5e300"), (0.1, "0.1")],
)
def test_floats_are_counted_as_rust_writes_them(number: float, text: str) -> None:
    assert Arguments([number]).size == len(text) + 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": pathlib.PurePosixPath("/etc/passwd")},
        {"path": b"/etc/passwd"},
        {1: "/etc"},
        [float("nan")],
        [float("inf")],
        ["\ud800"],
        {"\udfff": 1},
        [10**400],
        {"to": {"a", "b"}},
    ],
)
def test_arguments_that_are_not_json_cannot_bypass_a_constraint(arguments: Any) -> None:
    scope = ChioScope(grants=[grant_with("max_length", 100)])
    with pytest.raises(InvalidDocument, match="arguments must be JSON"):
        match_grant(scope, "s", "t", arguments)


def grant_with(name: str, value: Any) -> ToolGrant:
    constraint = Constraint(type=name, value=value)
    return ToolGrant(server_id="s", tool_name="t", operations=["invoke"], constraints=[constraint])


def test_arguments_may_be_nested_to_any_depth() -> None:
    deep: Any = "/etc"
    for _ in range(5000):
        deep = [deep]
    assert not scope_allows([grant_with("path_prefix", "/srv")], "s", "t", {"path": deep})
    assert scope_allows([grant_with("path_prefix", "/etc")], "s", "t", {"path": deep})


def test_tuples_are_arrays() -> None:
    assert not scope_allows([grant_with("audience_allowlist", ["a"])], "s", "t", {"to": ("a", "b")})
    assert scope_allows([grant_with("audience_allowlist", ["a"])], "s", "t", {"to": ("a",)})


def test_integers_beyond_u64_are_counted_and_not_refused() -> None:
    assert Arguments(10**30).size == 31


def test_a_token_its_scope_and_its_grants_allow_the_same() -> None:
    key = SigningKey(bytes(32))
    grant = grant_with("path_prefix", "/srv")
    token = issue_capability(key, subject=key.public_hex, scope=ChioScope(grants=[grant]), ttl_seconds=1)
    for scope in (token, token.scope, token.scope.grants):
        assert scope_allows(scope, "s", "t", "/srv/a")
        assert not scope_allows(scope, "s", "t", "a name without a slash")


def test_the_requested_operation_decides() -> None:
    grant = ToolGrant(server_id="*", tool_name="*", operations=["read"])
    assert not scope_allows([grant], "s", "t")
    assert scope_allows([grant], "s", "t", operation="read")


def test_metadata_may_be_a_model() -> None:
    grant = grant_with("model_constraint", {"allowed_model_ids": ["m"], "min_safety_tier": "high"})
    high = ModelMetadata(model_id="m", safety_tier="high")
    assert scope_allows([grant], "s", "t", model_metadata=high)
    assert not scope_allows([grant], "s", "t", model_metadata=ModelMetadata(model_id="m"))


def test_different_kinds_of_grants_are_never_subsets() -> None:
    resource = ResourceGrant(uri_pattern="*", operations=["read"])
    prompt = PromptGrant(prompt_name="*", operations=["read"])
    assert not is_subset(prompt, resource)
    assert not is_subset(resource, ChioScope(resource_grants=[resource]))


def test_an_absent_and_an_empty_member_of_a_constraint_are_the_same() -> None:
    values: list[dict[str, Any]] = [{"allowed_model_ids": ["m"]}, {"allowed_model_ids": ["m"], "min_safety_tier": None}]
    one, two = (grant_with("model_constraint", value) for value in values)
    assert is_subset(one, two)
    assert is_subset(two, one)
