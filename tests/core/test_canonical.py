"""Canonical JSON and strict parsing: a document has one canonical text, by the fast and by the general encoder."""

from __future__ import annotations

import json
import math
import random
from datetime import datetime
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from chio_core.canonical import MAX_DEPTH, canonical_json, compact_json, parse_json, sha256_hex
from chio_core.errors import InvalidDocument


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ({}, "{}"),
        ([], "[]"),
        ("", '""'),
        ({"b": 1, "a": 2, "": 0}, '{"":0,"a":2,"b":1}'),
        ([3, 1, 2], "[3,1,2]"),
        ('\b\t\n\f\r"\\\x00\x1f', '"\\b\\t\\n\\f\\r\\"\\\\\\u0000\\u001f"'),
        ("/\x7f\u2028\u00e4\U0001f600", '"/\x7f\u2028\u00e4\U0001f600"'),
        (1e-7, "1e-7"),
        (0.1 + 0.2, "0.30000000000000004"),
        (5e-324, "5e-324"),
        (2**53 - 1, "9007199254740991"),
    ],
)
def test_a_value_has_one_text(value: Any, text: str) -> None:
    assert canonical_json(value) == text.encode()


@pytest.mark.parametrize("number", [2**53, 2**53 + 1, 2**63, 2**64 - 1, -(2**53) - 1, -(2**63)])
def test_wide_integers_keep_every_digit(number: int) -> None:
    assert canonical_json({"n": [number, "x"]}) == b'{"n":[%d,"x"]}' % number


def test_integers_beyond_the_wire_types_become_doubles() -> None:
    assert canonical_json(2**64) == b"18446744073709552000"
    assert canonical_json([-(2**63) - 1]) == b"[-9223372036854776000]"


def test_text_that_looks_like_a_replaced_integer_stays_text() -> None:
    value = {"n": 2**60, "s": '":1"', "t": "0:1152921504606846976"}
    assert canonical_json(value) == b'{"n":1152921504606846976,"s":"\\":1\\"","t":"0:1152921504606846976"}'


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, [-math.inf], "\ud800", {"\udc00": 1}, {1: "a"}, b"bytes", {1, 2}, 10**400, object()],
    ids=lambda value: type(value).__name__ + ascii(value)[:12].partition(" object at")[0],
)
def test_a_value_without_canonical_form_is_refused_also_beside_a_wide_integer(value: Any) -> None:
    for document in (value, [2**60, value]):
        with pytest.raises(InvalidDocument):
            canonical_json(document)


def test_endless_nesting_is_refused_without_a_crash() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidDocument):
        canonical_json(value)
    with pytest.raises(InvalidDocument):
        canonical_json([2**60, value])


def test_a_digest_is_64_lower_case_digits() -> None:
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


_NUMBERS = (
    st.integers(-(2**63), 2**64 - 1)
    | st.integers(2**53 - 3, 2**53 + 3)
    | st.floats(allow_nan=False, allow_infinity=False)
)
_TEXTS = st.text() | st.text(alphabet='09.e+-:,[]{}"\\ \x00\x1f\x7f', max_size=12)
_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=12,
)


def _reference(value: Any) -> bytes:
    """Return the canonical bytes by the library of RFC 8785 alone; wide integers are written one by one."""
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be"))
        return b"{%b}" % b",".join(rfc8785.dumps(name) + b":" + _reference(item) for name, item in members)
    if isinstance(value, list):
        return b"[%b]" % b",".join(map(_reference, value))
    wide = isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**53
    return b"%d" % value if wide else rfc8785.dumps(value)


def _document(chance: random.Random, depth: int = 3) -> Any:
    """Return a JSON value: texts with escapes, umlauts and characters above U+FFFF, integers around the limits."""
    kind = chance.randrange(7 if depth else 5)
    if kind == 0:
        return chance.choice((None, True, False, chance.random() * 10.0 ** chance.randint(-30, 30)))
    if kind == 1:
        return chance.choice((chance.randint(-9, 9), 2**53 + chance.randint(-2, 2), -(2**63), 2**64 - 1))
    if kind < 5:
        return "".join(chance.choices(_CHARACTERS, k=chance.randrange(8)))
    items = [_document(chance, depth - 1) for _ in range(chance.randrange(5))]
    if kind == 5:
        return items
    return {"".join(chance.choices(_CHARACTERS, k=chance.randrange(1, 4))): item for item in items}


_CHARACTERS = 'a0Z19.e-:,[]{}"\\/ \x00\x08\n\x1f\x7f\x80\u00e4\u2028\ud7ff\ue000\uffff\U00010000\U0010ffff'


@pytest.mark.slow
def test_the_fast_encoder_and_parser_agree_with_the_slow_ones(full_size: bool) -> None:
    chance = random.Random(8785)  # the same documents in each run
    for _ in range(1_000_000 if full_size else 5_000):
        value = _document(chance)
        text = _reference(value)
        assert canonical_json(value) == text, value
        assert parse_json(text) == json.loads(text), text
        for sort_keys in (False, True):  # the store's fingerprints must stay those of the standard library
            slow = json.dumps(value, sort_keys=sort_keys, ensure_ascii=False, separators=(",", ":"))
            assert compact_json(value, sort_keys=sort_keys) == slow, value


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(_PLAIN)
def test_a_value_that_is_known_to_be_plain_has_the_bytes_of_one_that_is_walked(value: Any) -> None:
    assert canonical_json(value, plain=True) == canonical_json(value)
    for sort_keys in (False, True):
        assert compact_json(value, sort_keys=sort_keys, plain=True) == compact_json(value, sort_keys=sort_keys)


@pytest.mark.parametrize("value", ["\ud800", {"\udc00": 1}])
def test_a_plain_value_without_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(InvalidDocument):
        canonical_json({"a": value}, plain=True)


@given(_JSON)
def test_the_encoder_writes_what_the_library_of_rfc_8785_writes(value: Any) -> None:
    assert canonical_json(value) == _reference(value)


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1.0}, {"a": [1e22, -1e-7, 5e-324]}, {"a": -0.0}, {"a": 2**53 + 1}, {"t": "12:30.5,1e5"},
        {"a": 999999999999999, "b": 9999999999999999}, {"\U00010000": 1, "\ue000": 2}, {"a": "\u2028\x7f/"},
    ],
)  # fmt: skip
def test_documents_that_the_fast_encoder_would_write_otherwise_are_written_canonically(value: Any) -> None:
    assert canonical_json(value) == _reference(value)


@pytest.mark.parametrize("value", [datetime(2026, 1, 1), UUID(int=1), Fraction(1, 2)], ids=lambda v: type(v).__name__)
def test_types_that_only_the_fast_encoder_knows_are_refused(value: Any) -> None:
    with pytest.raises(InvalidDocument):
        canonical_json({"a": value})


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '{"a":1e999}', '{"a":NaN}', '"\\ud800"', "[" * 129 + "]" * 129])
def test_what_the_fast_parser_alone_would_accept_is_refused(text: str) -> None:
    for source in (text, text.encode()):
        with pytest.raises(InvalidDocument):  # a number out of range is parsed, and has no canonical form
            canonical_json(parse_json(source))


@given(_JSON)
def test_canonical_text_reads_back_to_itself(value: Any) -> None:
    text = canonical_json(value)
    assert canonical_json(parse_json(text)) == text


@given(_JSON)
def test_strict_parsing_agrees_with_the_standard_library(value: Any) -> None:
    text = json.dumps(value)
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b"[1,]", b"{'a':1}", b'{"a":1}x', b"\xff", b'"\xff"', b"\xef\xbb\xbf{}", b"01", b"+1", b".5",
        b"NaN", b"Infinity", b"-Infinity", b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}', b'[{"a":1,"\\u0061":2}]',
        b'"\\ud800"', b'{"\\udc00":1}', b'"\t"', b"9" * 5000,
    ],
)  # fmt: skip
def test_text_that_is_not_strict_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidDocument):
        parse_json(text)


def test_text_and_bytes_are_read_alike() -> None:
    assert parse_json('{"a":"\u00e4"}') == parse_json('{"a":"\u00e4"}'.encode()) == {"a": "\u00e4"}


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse_json(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_limited(opening: bytes, closing: bytes) -> None:
    assert parse_json(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH) is not None
    with pytest.raises(InvalidDocument, match="deeper"):
        parse_json(opening * (MAX_DEPTH + 1) + b"1" + closing * (MAX_DEPTH + 1))


def test_brackets_inside_of_text_do_not_count_as_nesting() -> None:
    assert parse_json(b'["' + b"[" * 1000 + b'"]') == ["[" * 1000]
    assert parse_json(b"[" + b"[]," * 1000 + b"[]]") == [[]] * 1001


def test_a_refusal_repeats_no_value() -> None:
    for text in ('{"token":"hunter2"', '{"a":"hunter2","a":1}', '["hunter2",NaN]', '"hunter2\t"'):
        with pytest.raises(InvalidDocument) as refused:
            parse_json(text)
        assert "hunter2" not in refused.value.message
