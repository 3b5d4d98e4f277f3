"""Canonical JSON and SHA-256: the bytes that are hashed and signed.

Canonical JSON is RFC 8785 with one deviation of the protocol (wire protocol, section 3.3): integers of the
ranges i64 and u64 keep every digit, also above 2**53, where the RFC would round to a double.

`orjson` encodes and parses what it provably treats as the slower code does. All other documents take the slower code,
and `tests/core/test_canonical.py` compares the bytes of both.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from typing import Any

import orjson
import rfc8785

from chio_core.errors import InvalidDocument

MAX_DEPTH = 128
"""Deepest nesting of arrays and objects that a document may have (wire protocol, conventions)."""

_I64_MIN, _U64_MAX = -(2**63), 2**64 - 1
_SAFE = 2**53 - 1
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False, allow_nan=False)
_SORTED = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, separators=(",", ":"), check_circular=False, allow_nan=False
)
_PLAIN = frozenset({str, int, bool, type(None)})
_ASTRAL = re.compile(rb"[\xf0-\xf4]")  # the first byte of a character above U+FFFF in UTF-8
_MARK = secrets.token_hex(16)  # never leaves the process, so no client can write it
_MARKED = re.compile(rf'"{_MARK}:(-?\d+)"'.encode())
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 digest of `data` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any, *, plain: bool = False) -> bytes:
    """Return the canonical UTF-8 bytes of a JSON value (RFC 8785; integers as described above).

    Args:
        value: the value.
        plain: it is known to consist of dicts, lists, strings, integers, booleans and None alone. It is not walked
            then, which takes more time than the encoding; with anything else in it the bytes may be wrong.

    Raises:
        InvalidDocument: NaN, an infinity, a lone surrogate, a key that is no string, or a type that JSON
            does not have.
    """
    # `orjson` sorts keys by UTF-8 bytes, the RFC by UTF-16 units: the orders differ only above U+FFFF.
    text = _encode_plain(value, orjson.OPT_SORT_KEYS, known=plain)
    if text is not None and (text.isascii() or not _ASTRAL.search(text)):
        return text
    try:
        try:
            return rfc8785.dumps(value)
        except rfc8785.IntegerDomainError:
            # The library refuses integers that a double cannot hold. Replace each by a string with the mark, and
            # write its digits into the finished bytes.
            text = rfc8785.dumps(_replace_wide(value))
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError, OverflowError) as exc:
        raise InvalidDocument(f"value has no canonical JSON form: {exc}") from None
    return _MARKED.sub(rb"\1", text)


def _encode_plain(value: Any, option: int, *, known: bool) -> bytes | None:
    """Return compact JSON if `value` consists of dicts, lists, strings, integers, booleans and None alone, else None.

    With `known` it does. Such values have one spelling in compact JSON. `orjson` spells floats otherwise than the RFC,
    writes NaN as `null`, and accepts dataclasses, dates and subclasses.
    """
    try:
        text = orjson.dumps(value, option=option)
    except TypeError:  # an integer beyond 64 bits, a lone surrogate, deep nesting, another type
        return None
    if known:
        return text
    # The walk ends: `orjson` has refused a value that contains itself.
    found = [value]
    for item in found:
        kind = type(item)
        if kind in _PLAIN:
            continue
        if kind is dict:
            found.extend(item.values())
        elif kind is list:
            found.extend(item)
        else:
            return None
    return text


def _replace_wide(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace_wide(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_wide(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _SAFE:
        return f"{_MARK}:{value}" if _I64_MIN <= value <= _U64_MAX else float(value)
    return value


def compact_json(value: Any, *, sort_keys: bool = False, plain: bool = False) -> str:
    """Return JSON without white space, non-ASCII characters raw.

    Args:
        value: the value.
        sort_keys: sort members by code point; else they keep their order.
        plain: see `canonical_json`.

    Raises:
        ValueError: NaN or an infinity.
    """
    # Code points and UTF-8 bytes sort alike.
    text = _encode_plain(value, orjson.OPT_SORT_KEYS if sort_keys else 0, known=plain)
    return (_SORTED if sort_keys else _COMPACT).encode(value) if text is None else text.decode()


def compact_bytes(value: Any, *, plain: bool = False) -> bytes:
    """Return `compact_json` of a value in UTF-8.

    Raises:
        ValueError: NaN, an infinity, or a lone surrogate.
    """
    text = _encode_plain(value, 0, known=plain)
    return _COMPACT.encode(value).encode() if text is None else text


def parse_json(text: bytes | str) -> Any:
    """Parse a JSON document strictly.

    Raises:
        InvalidDocument: no JSON, not UTF-8, a member that occurs twice, NaN or an infinity, a lone surrogate, or
            nesting deeper than `MAX_DEPTH`.
    """
    # `orjson` accepts a repeated member, and integers that lose digits. Text that it writes again byte for byte has
    # neither: it is the one compact spelling of the value. Sidecars send compact JSON.
    try:
        data = text if isinstance(text, bytes) else text.encode()
        if len(data) - len(data.translate(None, b"[{")) <= MAX_DEPTH:
            known = orjson.loads(data)
            if orjson.dumps(known) == data:
                return known
    except (TypeError, ValueError):
        pass  # no JSON, or half of a surrogate pair: the slower code says which
    try:
        source = text.decode("utf-8") if isinstance(text, bytes) else text
        value = _DECODER.decode(source)
    except InvalidDocument:
        raise
    except (ValueError, RecursionError) as exc:
        raise InvalidDocument(f"not a JSON document: {exc}") from None
    # Walk level by level, because the client chooses the depth; and only a document with enough brackets.
    if source.count("[") + source.count("{") > MAX_DEPTH:
        level, depth = [value], 0
        while level := [item for item in level if isinstance(item, (dict, list))]:
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidDocument(f"JSON is nested deeper than {MAX_DEPTH} levels")
            level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    # An escape can spell half of a surrogate pair, which no UTF-8 text can hold.
    if _SURROGATE.search(source):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InvalidDocument("JSON text contains half of a surrogate pair") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidDocument(f"member {twice[:80]!r} occurs twice in one JSON object")
    return found


def _no_constant(name: str) -> Any:
    raise InvalidDocument(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)
