"""How much an evaluate call may hold: one event loop serves everybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sidecar.sidecar_tools import evaluate, sidecar


@pytest.mark.parametrize("name", ["query", "headers"])
async def test_a_request_with_very_many_members_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        most = {f"k{number}": "v" for number in range(1000)}
        assert (await evaluate(app, **{name: most})).status == 200
        answer = await evaluate(app, request_id="req-2", **{name: most | {"k": "v"}})
        assert answer.status == 400
        assert answer.document == {
            "error": "chio_bad_request",
            "message": f"invalid ChioHttpRequest payload: {name} has more than 1000 members",
        }


async def test_arguments_have_a_longest_text(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        longest = "x" * (1024 * 1024 - 2)  # two quotation marks
        assert (await evaluate(app, arguments=longest)).status == 200
        for number, arguments in enumerate((longest + "x", [0] * 600_000, "é" * 600_000)):
            answer = await evaluate(app, request_id=f"req-{number + 2}", arguments=arguments)
            assert answer.status == 400
            assert "arguments are longer than 1048576 bytes" in answer.document["message"]
        other = await evaluate(app, request_id="req-9", path="/" + "x" * 1_200_000, arguments="short")
        assert other.status == 200
