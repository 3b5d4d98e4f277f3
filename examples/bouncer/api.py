"""Eighty endpoints without a word about addresses, limits, tokens or headers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request

router = APIRouter()


def endpoint(number: int) -> Callable[[], Coroutine[Any, Any, dict[str, int]]]:
    """Return the handler of one price list."""

    async def prices() -> dict[str, int]:
        return {"list": number, "price": number * 100}

    return prices


for _number in range(1, 80):
    router.get(f"/prices/{_number}")(endpoint(_number))


@router.get("/me")
async def who_am_i(request: Request) -> dict[str, Any]:
    """The eightieth: the claims of the token."""
    return {"claims": request.state.chio_claims}
