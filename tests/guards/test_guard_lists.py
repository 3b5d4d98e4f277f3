"""The option `guards` takes a list, and what is none is said in every framework in the same words."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask

from chio_asgi import ChioASGIMiddleware
from chio_core import ConfigurationError, GuardRequest, Response
from chio_core.guards import SecurityHeaders
from chio_core.guards.chain import Chain, guard_list
from chio_fastapi import add_chio
from chio_flask import Chio
from tests.support import settings


async def look(request: GuardRequest) -> Response | None:
    return None


@pytest.mark.parametrize(("guards", "name"), [(look, "look"), (SecurityHeaders(), "security_headers")])
def test_one_guard_that_is_no_list_is_said_where_it_is_given(guards: Any, name: str) -> None:
    said = rf"^guards takes a list: write guards=\[{name}\]$"
    with pytest.raises(ConfigurationError, match=said):
        add_chio(FastAPI(), guards=guards)
    with pytest.raises(ConfigurationError, match=said):
        ChioASGIMiddleware(FastAPI(), settings(), guards=guards)
    with pytest.raises(ConfigurationError, match=said):
        Chio(Flask("app"), guards=guards)


def test_lists_tuples_generators_and_chains_are_lists() -> None:
    chain = Chain(look)
    assert guard_list(chain) == [chain]
    assert guard_list([look, chain]) == guard_list((look, chain)) == guard_list(one for one in (look, chain))
    assert guard_list(()) == []
    with pytest.raises(ConfigurationError, match="guards takes a list, not one text"):
        guard_list("look")
