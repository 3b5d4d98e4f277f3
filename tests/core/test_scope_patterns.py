"""Patterns mean the same as in the Rust crate, take bounded work, and are refused in doubt."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chio_core.capabilities import ConstraintError, match_grant, scope_allows
from chio_core.capabilities.patterns import Searcher, compile_pattern
from chio_core.capabilities.rust_regex import ASCII, MAX_NESTING, UNICODE, translate
from chio_core.capabilities.tokens import PatternError
from chio_core.models.capability import Constraint, ToolGrant


def grants(*constraints: tuple[str, object]) -> list[ToolGrant]:
    listed = [Constraint(type=name, value=value) for name, value in constraints]
    return [ToolGrant(server_id="s", tool_name="t", operations=["invoke"], constraints=listed)]


def found(pattern: str, text: str) -> bool:
    return scope_allows(grants(("regex_match", pattern)), "s", "t", [text])


MATCHES = [
    (r"", ""),
    (r"b", "abc"),
    (r"^\w+$", "größe_١"),
    (r"^\w+$", "\u24d0\U0001f130\u0301\u200d\u203f"),
    (r"^\d{2}$", "\u0967\u0968"),
    (r"^\s+$", "\u2028\u00a0\x0b\x85\u3000"),
    (r"^\S+$", "a\u200bb"),
    (r"^\D$", "a"),
    (r"^\W$", "\u2013"),
    (r"^[\w-]{1,64}$", "a-ü"),
    (r"^[\w.-]{1,128}$", "x" * 128),
    (r"^[^\W_]+$", "aé9"),
    (r"^[^\W\d_]+$", "aé"),
    (r"^[\W\d]+$", "1-\u0967"),
    (r"^[^\S]$", "\u2003"),
    (r"^[\D]$", "x"),
    (r"(?i)^k$", "\u212a"),
    (r"(?i:straSSe)", "STRASSE"),
    (r"(?s)^.$", "\n"),
    (r"(?m)^b$", "a\nb"),
    (r"(?U)a+", "aa"),
    (r"(?P<year>[0-9]{4})-(?<month>[0-9]{2})", "2026-11"),
    (r"^[]a]+$", "]a"),
    (r"^[a-]+$", "-a"),
    (r"^[a-b-c]+$", "-abc"),
    (r"^[[:alpha:]_]+$", "ab_"),
    (r"^[[:^digit:]]$", "x"),
    (r"^\pL\p{Lu}\p{Greek}\PN$", "aBα-"),
    (r"^[\p{Lu}\PL]+$", "A-1"),
    (r"^\x41\x{e9}\u00e9\U0001F600\u{42}$", "A\u00e9\u00e9\U0001f600B"),
    (r"^\.\-\/\ \_\]$", ".-/ _]"),
    (r"^a]}$", "a]}"),
    (r"^\n\t\r\f\v\a$", "\n\t\r\f\v\a"),
    (r"\bword\b", "a word!"),
    (r"\Aa\z", "a"),
    (r"^a{2}b{1,}c{01,2}?$", "aabbc"),
    (r"^(?:|a)+$", "aa"),
]
MISSES = [
    (r"^\w$", "-"),
    (r"^\w$", "\u2013"),
    (r"^\d$", "x"),
    (r"^\s$", "\u200b"),
    (r"^\W$", "é"),
    (r"^\D$", "\u0967"),
    (r"^[^\W_]$", "_"),
    (r"^[^\W_]$", "-"),
    (r"^[^\W\d_]$", "\u0967"),
    (r"^[\W\d]$", "é"),
    (r"^a$", "a\n"),
    (r"^.$", "\n"),
    (r"^[[:alpha:]]$", "é"),
    (r"(?i)(?-i:a)", "A"),
    (r"\bword\b", "swords"),
]


@pytest.mark.parametrize(("pattern", "text"), MATCHES)
def test_a_pattern_matches_where_rust_matches(pattern: str, text: str) -> None:
    assert found(pattern, text)


@pytest.mark.parametrize(("pattern", "text"), MISSES)
def test_a_pattern_does_not_match_where_rust_does_not(pattern: str, text: str) -> None:
    assert not found(pattern, text)


# RE2 alone accepts these with another meaning; Rust refuses them.
REFUSED_BY_RUST = [
    r"\C", r"\Qa.b\E", r"\0", r"\12", r"\123", r"a{", r"{", r"a{,3}", r"a{x}", r"[\w-z]", r"[a-\d]", r"[z-a]",
    r"(?P<1a>x)", r"(?<n>a)(?<n>b)", r"(?ii)", r"(?i-i)", r"(?-)", r"(?i-)", r"(?)", r"(?i)*", r"a(?i)*", r"*", r"a|*",
    r"(*a)", r"(?=a)", r"(?!a)", r"(?<=a)", r"(?<!a)", r"(a)\1", r"(?P=n)", r"(?>a)", r"(?(1)a)", r"(?#c)", r"(", r")",
    r"[", r"[^]", r"[a", "\\", r"a\Z", r"\e", r"\h", r"\K", r"\G", r"\x", r"\x4", r"\x{}", r"\x{110000}", r"\x{D800}",
    r"\p", r"\p{", r"\p{^L}", r"\p{Nonsense}", r"\é", r"[\b]", r"[\A]", r"\b{4x}", r"(?i", r"(?<n", r"a{3,2}",
]  # fmt: skip
# Rust accepts these; refusing them denies the request, which is the safe side.
REFUSED_HERE = [
    r"[a&&b]", r"[a--b]", r"[a~~b]", r"[a[b]]", r"[^\W-]", r"[^\W\s]", r"(?x) a", r"(?u)a", r"(?-u)a", r"(?R)a", r"a**",
    r"a*+", r"a{2}{3}", r"a{1001}", r"a{ 3 }", r"\<a", r"a\>", r"\b{start}a", r"\b{2}",
    r"\p{C}", r"\p{Cn}", r"\p{letter}",
    r"\p{sc=Greek}", r"(?<é>a)", r"\w{1000}",
    "(" * (MAX_NESTING + 1) + "a" + ")" * (MAX_NESTING + 1),
]  # fmt: skip


@pytest.mark.parametrize("pattern", REFUSED_BY_RUST + REFUSED_HERE)
def test_a_pattern_in_doubt_refuses_the_request_and_is_named(pattern: str) -> None:
    for name, value, words in (
        ("regex_match", pattern, "regex"),
        ("memory_write_deny_patterns", [pattern], "memory write deny pattern"),
    ):
        with pytest.raises(ConstraintError) as refused:
            match_grant(grants((name, value)), "s", "t", ["a"])
        start = (
            "failed to evaluate capability scope: invalid capability constraint: "
            f'{words} "{pattern}" failed to compile: '
        )
        assert refused.value.reason.startswith(start)
        assert refused.value.reason != start


@pytest.mark.parametrize("name", ["regex_match", "memory_write_deny_patterns"])
@pytest.mark.parametrize("pattern", [r"\bword\b", r"\Bord"])
def test_word_boundaries_beyond_ascii_err_on_the_refusing_side(name: str, pattern: str) -> None:
    value = pattern if name == "regex_match" else [pattern]
    assert not scope_allows(grants((name, value)), "s", "t", ["wort — größe"])


def test_nothing_is_written_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    for pattern in ("(", "\\w{1000}", "(?P<n>a)(?P<n>b)", "a{1001}"):
        assert not found(pattern, "a")
    assert capfd.readouterr() == ("", "")


def test_a_failed_pattern_fails_again_from_the_cache() -> None:
    for _ in range(2):
        with pytest.raises(PatternError, match="pattern too large"):
            compile_pattern("\\w{1000}")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"(a+)+$", "a" * 50_000 + "!"),
        (r"(a|a)*b", "a" * 50_000),
        (r"(.*)*x", "a" * 50_000),
        (r"(?:a?){500}a{500}", "a" * 499),
        (r"1[01]{30}x", "01" * 20_000),
    ],
)
def test_a_catastrophic_pattern_ends(pattern: str, text: str) -> None:
    assert not found(pattern, text)


def test_work_is_bounded_over_all_patterns_and_texts() -> None:
    heavy = ("regex_match", "1" + "[01]{1000}" * 20 + "x")
    with pytest.raises(ConstraintError, match="too much work"):
        match_grant(grants(heavy), "s", "t", ["01" * 500_000])
    many = [("memory_write_deny_patterns", [f"{number}[\\w-]{{1,120}}" for number in range(40)])]
    with pytest.raises(ConstraintError, match="too much work"):
        match_grant(grants(*many), "s", "t", ["x"])


def test_the_same_pattern_is_counted_once_in_an_evaluation() -> None:
    searcher = Searcher(limit=5_000_000)
    for _ in range(3):
        searcher.prepare("[\\w-]{1,64}", kind="regex")
    with pytest.raises(ConstraintError):
        searcher.prepare("[\\w+]{1,120}", kind="regex")


@given(st.text(alphabet="ab1_- \n", max_size=8), st.sampled_from([pattern for pattern, _ in MATCHES]))
def test_both_programs_of_a_pattern_agree_on_ascii_text(text: str, pattern: str) -> None:
    compiled = compile_pattern(pattern)
    raw = text.encode()
    assert (compiled.ascii_text.search(raw) is None) is (compiled.any_text.search(raw) is None)


@given(st.text(alphabet="ab(){}[]?*+|^$.\\dwWsSbpPLkxuQEC<>-&~:imU0,é", max_size=20))
def test_any_pattern_is_translated_or_refused(pattern: str) -> None:
    with contextlib.suppress(PatternError):
        assert compile_pattern(pattern).any_text.programsize > 0


@given(st.text(max_size=20))
def test_a_pattern_of_literals_finds_itself(text: str) -> None:
    escaped = "".join(f"\\x{{{ord(char):x}}}" for char in text)
    assert found(escaped, f"<{text}>")
    unescaped = "".join(char for char in text if char not in "\\^$.|?*+()[]{}")
    assert found(unescaped, f"<{unescaped}>")


def test_capturing_groups_are_translated_into_plain_ones() -> None:
    assert translate("(a)(?P<n>b)(?<m>c)") == ("(?:a)(?:b)(?:c)", False)
    assert translate(r"\b\d", ASCII) == (r"\b[0-9]", True)
    assert translate(r"\d", UNICODE).text == r"[\p{Nd}]"
