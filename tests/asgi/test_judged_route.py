"""Which route patterns a receipt may state, given the route that runs."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from tests.asgi.routes import Govern, both_ways, says
from tests.support import Judge, call, run

PATTERNS = [
    # application's routes in order, path, pattern of the receipt, accepted
    (["/pets/mine", "/pets/{id}"], "/pets/mine", "/pets/mine", True),
    (["/pets/{id}"], "/pets/7", "/pets/{petId}", True),
    (["/pets/{id}"], "/pets/7", "/pets/7", True),
    (["/pets/{id}", "/pets/mine"], "/pets/mine", "/pets/{id}", True),
    (["/pets/mine", "/pets/{id}"], "/pets/mine", "/pets/{id}", False),
    (["/pets/{id}"], "/pets/7", "/{kind}/7", False),
    (["/pets/{id}"], "/pets/7", "/{kind}/{id}", False),
    (["/{kind}/{id}"], "/pets/7", "/pets/{id}", False),
    (["/pets/{id}"], "/pets/7", "/pets/{id}/toys", False),
    (["/pets/{id}"], "/pets/7", "/PETS/{id}", False),
    (["/pets/{id}"], "/pets/7", "/pets/8", False),
    (["/pets/{id}"], "/pets/7", "", False),
    (["/files/{rest:path}"], "/files/a/b", "/files/a/b", True),
    (["/files/{rest:path}"], "/files/a/b", "/files/{rest}", True),
    (["/files/{rest:path}"], "/files/a/b", "/files/{x}/{y}", False),
    ([], "/pets/7", "/pets/{id}", True),
    ([], "/pets/7", "/toys/{id}", False),
    ([], "/pets/7", "/pets/{id}/toys", False),
    # A path that is spelled like another template says nothing about the route that runs.
    (["/{y}/{z}"], "/a/{x}", "/a/{x}", False),
    (["/pets/{id}"], "/pets/{id}", "/pets/{id}", True),
    (["/pets/{id}"], "/pets/{other}", "/pets/{other}", True),
    (["/files/{rest:path}"], "/files/a/{x}", "/files/a/{x}", False),
    ([], "/a/{x}", "/a/{x}", True),
]


@both_ways
@pytest.mark.parametrize(("routes", "path", "pattern", "accepted"), PATTERNS)
def test_a_receipt_for_another_route_than_the_one_that_runs_is_refused(
    governed: Govern, routes: list[str], path: str, pattern: str, accepted: bool
) -> None:
    app, _ = governed(
        Starlette(routes=[Route(template, says(template)) for template in routes]),
        Judge(pattern=lambda question: pattern),
    )
    reply = run(call(app, "GET", path))
    if accepted:
        assert reply.status == (200 if routes else 404)
    else:
        assert (reply.status, reply.json()["error"], reply.receipt) == (502, "chio_invalid_receipt", None)
