"""Tampering: every small change of a signed JSON document.

`mutations` changes the value, so each of its results must be refused. `text_mutations` changes the text; it skips
results that parse to the same value. `equivalents` are other spellings of the same signed value, which must still be
accepted.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import InvalidDocument

Path = tuple[str | int, ...]

_OPTIONAL = ("session_id", "capability_id", "metadata", "observation_outcome")
_LISTS = ("evidence", "actor_chain")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One changed copy of a document.

    Attributes:
        kind: `change`, `delete`, `add`, `retype`, `reorder` or `wrap`.
        place: path of names and positions.
        document: the changed copy.
    """

    kind: str
    place: Path
    document: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {'/'.join(map(str, self.place))}"


def places(document: Any) -> Iterator[tuple[Path, Any]]:
    """Yield each place in a JSON value, containers before what they contain, with the value there."""
    pending: list[tuple[Path, Any]] = [((), document)]
    while pending:
        path, value = pending.pop()
        if path:
            yield path, value
        if isinstance(value, dict):
            pending += [((*path, name), item) for name, item in value.items()]
        elif isinstance(value, list):
            pending += [((*path, index), item) for index, item in enumerate(value)]


def mutations(document: Mapping[str, Any]) -> Iterator[Mutation]:
    """Yield changed copies of a document: every place changed, retyped and deleted, members and items added.

    Changes without meaning by the presence rules of receipts (wire protocol, section 3.1) are skipped.
    """
    source = dict(document)
    for path, value in places(source):
        for kind, new in _replacements(value):
            yield Mutation(kind, path, _replaced(source, path, new))
        if not _may_be_absent(path, value):
            yield Mutation("delete", path, _deleted(source, path))
        if isinstance(value, dict):
            yield Mutation("add", path, _replaced(source, path, {**value, "added": True}))
        if isinstance(value, list):
            yield Mutation("add", path, _replaced(source, path, [*value, "added"]))
            if value and value[::-1] != value:
                yield Mutation("reorder", path, _replaced(source, path, value[::-1]))
    yield Mutation("add", (), {**source, "added": None})
    yield Mutation("add", (), {**source, "added": "text"})


def digit_mutations(document: Mapping[str, Any], member: str) -> Iterator[Mutation]:
    """Yield copies in which one hex digit of a member is another one, for each digit in turn."""
    digits = str(document[member])
    for index, digit in enumerate(digits):
        other = f"{int(digit, 16) ^ (1 << index % 4):x}"
        yield Mutation("change", (member, index), {**document, member: digits[:index] + other + digits[index + 1 :]})


def text_mutations(document: Mapping[str, Any], *, step: int = 1) -> Iterator[bytes]:
    """Yield the document's compact text with one byte changed, for each byte in turn.

    Some of these texts are no JSON: a reader must refuse them.

    Args:
        step: distance of the changed bytes.
    """
    text = json.dumps(document, separators=(",", ":")).encode()
    for index in range(0, len(text), step):
        changed = text[:index] + bytes([text[index] ^ (1 << index % 7)]) + text[index + 1 :]
        if not _reads_as(changed, document):
            yield changed


def with_member_twice(text: bytes, name: str, value: Any) -> bytes:
    """Return a JSON text in which the first member `name` is preceded by another of the same name.

    Raises:
        ValueError: the text has no such member.
    """
    at = text.index(json.dumps(name).encode() + b":")
    return text[:at] + f"{json.dumps(name)}:{json.dumps(value)},".encode() + text[at:]


def duplicates(document: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield texts of the document in which one member, at any depth, occurs twice with the same value."""
    for path, _ in places(dict(document)):
        if isinstance(path[-1], str):
            yield _text_with_twin(dict(document), path)


def equivalents(receipt: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield other spellings of a receipt that sign the same bytes.

    Members in another order, and absent optional members written as null or as an empty list.
    """
    yield dict(reversed(list(receipt.items())))
    yield {name: dict(reversed(v.items())) if isinstance(v, dict) else v for name, v in receipt.items()}
    for name in _OPTIONAL:
        if receipt.get(name) is None:
            yield {**receipt, name: None}
    for name in _LISTS:
        if not receipt.get(name):
            yield {**receipt, name: []}
            yield {**receipt, name: None}


def _may_be_absent(path: Path, value: Any) -> bool:
    if len(path) != 1:
        return False
    return (path[0] in _OPTIONAL and value is None) or (path[0] in _LISTS and not value)


def _replacements(value: Any) -> Iterator[tuple[str, Any]]:
    yield "wrap", [value]
    if isinstance(value, bool):
        yield from (("change", not value), ("retype", int(value)), ("retype", str(value).lower()))
    elif isinstance(value, int):
        yield from (("change", value + 1), ("change", -value - 1), ("retype", str(value)), ("change", value + 2**64))
    elif isinstance(value, float):
        yield from (("change", value + 1.5), ("retype", repr(value)))
    elif isinstance(value, str):
        yield from (
            ("change", value + " "),
            ("change", value[:-1] if value else "x"),
            ("change", value.swapcase() + "."),
        )
        yield from (("change", "\u00e4" + value), ("retype", {"text": value}), ("retype", len(value)))
    elif isinstance(value, dict):
        yield "retype", list(value)
    elif isinstance(value, list) and value:
        yield "retype", {"items": value}
    if value is not None:
        yield "retype", None


def _replaced(source: dict[str, Any], path: Path, new: Any) -> dict[str, Any]:
    copied = copy.deepcopy(source)
    _parent(copied, path)[path[-1]] = new
    return copied


def _deleted(source: dict[str, Any], path: Path) -> dict[str, Any]:
    copied = copy.deepcopy(source)
    del _parent(copied, path)[path[-1]]
    return copied


def _parent(document: Any, path: Path) -> Any:
    for part in path[:-1]:
        document = document[part]
    return document


def _reads_as(text: bytes, document: Mapping[str, Any]) -> bool:
    try:
        return bool(parse_json(text) == document)
    except InvalidDocument:
        return False


def _text_with_twin(source: dict[str, Any], path: Path) -> bytes:
    # A name that occurs nowhere else marks the place of the twin; in the text it is replaced by the real one.
    name, mark = path[-1], "\x00twin\x00"
    copied = copy.deepcopy(source)
    parent = _parent(copied, path)
    parent[mark] = parent[name]
    text = json.dumps(copied, separators=(",", ":"))
    return text.replace(json.dumps(mark), json.dumps(name)).encode()
