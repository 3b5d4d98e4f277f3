"""Path templates: the route of a receipt, and the route that runs."""

from __future__ import annotations

import pytest

from chio_core.models.receipt import acceptable_pattern, covers, shape


@pytest.mark.parametrize(
    ("template", "segments"),
    [
        ("/", ("", "")),
        ("/pets/{petId}", ("", "pets", "{}")),
        ("/pets/{id:int}", ("", "pets", "{}")),
        ("/pets/{}/", ("", "pets", "{}", "")),
        ("/pets/x{id}", ("", "pets", "x{id}")),
        ("/files/{path:path}", ("", "files", "{}")),
    ],
)
def test_the_shape_of_a_template_has_no_names(template: str, segments: tuple[str, ...]) -> None:
    assert shape(template) == segments


@pytest.mark.parametrize(
    ("template", "path", "covered"),
    [
        ("/pets/{id}", "/pets/7", True),
        ("/pets/{id}", "/pets/", True),
        ("/pets/{id}", "/pets", False),
        ("/pets/{id}", "/pets/7/", False),
        ("/pets/{id}", "/pets/7/tags", False),
        ("/pets/{id}", "/PETS/7", False),
        ("/pets", "/pets", True),
        ("/{a}/{b}", "/x/y", True),
        ("/pets/%7Bid%7D", "/pets/7", False),
        ("", "", True),
    ],
)
def test_a_template_covers_a_path_segment_by_segment(template: str, path: str, covered: bool) -> None:
    assert covers(template, path) is covered


@pytest.mark.parametrize(
    ("pattern", "path", "template", "accepted"),
    [
        ("/pets/{petId}", "/pets/7", "/pets/{id}", True),
        ("/pets/{id}", "/pets/7", "/pets/{id:int}", True),
        ("/pets/7", "/pets/7", "/pets/{id}", True),  # the sidecar does not know the route
        ("/pets/{id}", "/pets/mine", "/pets/mine", False),  # a route of another rule
        ("/{kind}/{id}", "/pets/7", "/pets/{id}", False),
        ("/pets/mine", "/pets/7", "/pets/{id}", False),
        ("/pets/{id}/", "/pets/7", "/pets/{id}", False),
        ("/pets/{id}", "/pets/7", None, True),
        ("/pets/7", "/pets/7", None, True),
        ("/admin/{id}", "/pets/7", None, False),
        ("", "/pets/7", None, False),
        ("", "/pets/7", "/pets/{id}", False),
    ],
)
def test_a_receipt_counts_for_the_route_that_runs(
    pattern: str, path: str, template: str | None, accepted: bool
) -> None:
    assert acceptable_pattern(pattern, path, template) is accepted
