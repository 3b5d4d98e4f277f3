"""The quick way to canonical bytes gives the same bytes as the library, or is not taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chio_core.canonical import canonical_json, canonical_parsed
from chio_core.errors import InvalidDocument

_numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(2**53 - 3, 2**53 + 3)
_texts = st.text() | st.text(alphabet='09.e+-:,[]{}"\\ \x00\x1f\x7f', max_size=12)
_values = st.recursive(
    st.none() | st.booleans() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_texts, _values, max_size=5))
def test_both_ways_give_the_same_bytes_for_any_document(document: dict[str, Any]) -> None:
    assert canonical_parsed(document) == canonical_json(document)


@pytest.mark.parametrize(
    "document",
    [
        {"a": 1.0},
        {"a": [1e22, -1e-7, 5e-324]},
        {"a": -0.0},
        {"a": 2**53 + 1},
        {"a": 999999999999999, "b": 9999999999999999},
        {"\U00010000": 1, "\ue000": 2},
        {"a": "\u2028\x7f/"},
        {"t": "12:30.5,1e5"},
    ],
)
def test_documents_that_the_quick_encoder_would_write_otherwise_are_written_canonically(document: Any) -> None:
    assert canonical_parsed(document) == canonical_json(document)


@pytest.mark.parametrize("document", [{"a": float("nan")}, {"a": "\ud800"}, {"a": b"x"}])
def test_what_has_no_canonical_form_is_refused_by_both(document: Any) -> None:
    with pytest.raises(InvalidDocument):
        canonical_parsed(document)
