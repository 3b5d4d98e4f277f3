"""Two applications in one process share nothing (C7): each has its sidecar, and the end of one is not the other's.

Django has one application in a process.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chio_core.testing import ScriptedSidecar
from chio_core.testing.behaviours import ALLOW, DENY
from tests.faces.faces import FACES, Face, pointing_at
from tests.faces.wire import request

SEVERAL = [face for face in FACES if "django" not in face.name]
pytestmark = pytest.mark.parametrize("face", SEVERAL, ids=str)


def test_each_of_two_applications_is_judged_by_its_own_sidecar(face: Face) -> None:
    with face.governed(ALLOW) as one:
        with face.governed(DENY) as other:
            for number in range(5):
                assert one.get(f"/anything?one={number}").status == 200
                assert other.get(f"/anything?other={number}").status == 403
            assert [list(asked["query"]) for asked in one.asked] == [["one"]] * 5
            assert [list(asked["query"]) for asked in other.asked] == [["other"]] * 5
        assert one.get("/anything?one=6").status == 200
    assert len(other.asked) == 5


def test_the_end_of_an_application_leaves_the_sidecar_to_another_one(face: Face) -> None:
    with ScriptedSidecar().serving_in_thread() as sidecar, face.opened(**pointing_at(sidecar)) as one:
        for _ in range(2):
            with face.opened(**pointing_at(sidecar)) as other:
                assert other(request("GET", "/anything")).status == 200
                assert one(request("GET", "/anything")).status == 200
        assert one(request("GET", "/anything")).status == 200


def test_two_applications_on_one_embedded_store_write_to_it_until_the_last_ends(face: Face, tmp_path: Path) -> None:
    url = f"embedded:{tmp_path / 'receipts.sqlite3'}"
    receipts = []
    with face.opened(sidecar_url=url) as one:
        with face.opened(sidecar_url=url) as other:
            receipts += [send(request("GET", "/anything")).receipt for send in (one, other, one)]
        receipts.append(one(request("GET", "/anything")).receipt)
    assert None not in receipts
    assert len(set(receipts)) == 4
