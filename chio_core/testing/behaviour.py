"""Behaviour: what a scripted sidecar does with a question, as one small object with a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chio_core.testing.delivery import Delivery, whole
from chio_core.testing.question import Asked

JSON_TYPE = (("content-type", "application/json"),)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer before it is put on the wire.

    Attributes:
        headers: without `content-length`, which is counted.
        kept: a receipt that was stored with an answer that does not carry it.
    """

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = JSON_TYPE
    kept: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the sidecar does with one question.

    Attributes:
        name: short, unique, in snake_case.
        summary: one sentence for people.
        reply: makes the answer out of the question.
        delivery: how the answer comes over the wire.
        refuses: connections are not accepted at all.
        slow: whoever waits for the whole answer waits for very long.
    """

    name: str
    summary: str
    reply: Callable[[Asked], Reply] = field(repr=False)
    delivery: Delivery = field(default=whole, repr=False)
    refuses: bool = False
    slow: bool = False

    def __str__(self) -> str:
        return self.name


def allow_reply(asked: Asked) -> Reply:
    """Return the genuine allow."""
    return Reply(asked.answer_bytes())
