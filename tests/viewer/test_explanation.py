"""The explanation of a refusal on the page: the words of `chio-sidecar explain`, for genuine receipts only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from chio_core.evaluation.outcomes import FILL_IN
from chio_core.refusals.problems import explain_link
from chio_sidecar.cli import main
from chio_sidecar.viewer import VIEWER_PATH, create_viewer_app
from chio_sidecar.viewer.explained import Explainer
from tests.viewer.browser import Browser, open_row
from tests.viewer.records import KEY, MARKUP, STORE, STRANGER, fill, hostile, receipt
from tests.viewer.test_data import get

MISSING = "side-effect route requires a capability token"
TOO_LITTLE = "capability does not authorize tool transfer on server payments"
GENUINE = {"valid": True, "signer_is_own": True}


def denied(number: int = 1, reason: str = TOO_LITTLE, **changes: Any) -> dict[str, Any]:
    verdict = {"verdict": "deny", "reason": reason, "guard": "CapabilityGuard", "http_status": 403}
    return receipt(number, verdict=verdict, response_status=403, **changes)


def explanation(path: Path, receipt_id: str, keys: frozenset[str] = frozenset({KEY.public_hex})) -> Any:
    app: ASGIApp = create_viewer_app(path, keys=keys, token=None)
    return get(app, "receipt", id=receipt_id).json()["explanation"]


def test_a_refused_receipt_is_explained_in_the_words_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = denied()
    found = explanation(fill(tmp_path / STORE, [one]), one["id"])
    (tmp_path / "one.json").write_text(json.dumps(one))
    assert main(["explain", "--format", "json", str(tmp_path / "one.json")]) == 0
    assert found == json.loads(capsys.readouterr().out)
    assert found["passes"] == "payments/transfer:invoke"


@pytest.mark.parametrize("verdict", ["cancel", "incomplete"])
def test_every_verdict_but_an_allow_is_explained(verdict: str, tmp_path: Path) -> None:
    one = receipt(1, verdict={"verdict": verdict})
    assert explanation(fill(tmp_path / STORE, [one]), one["id"])["outcome"] == "refused"


def test_an_allowed_request_needs_no_explanation_unless_it_lacked_what_its_route_requires(tmp_path: Path) -> None:
    observed = {"chio_enforcement": {"mode": "observe", "requires": "payments/transfer"}}
    plain, lacking = receipt(1), receipt(2, metadata=observed)
    path = fill(tmp_path / STORE, [plain, lacking])
    assert explanation(path, plain["id"]) is None
    assert explanation(path, lacking["id"])["passes"] == "payments/transfer:invoke"


def test_the_words_of_a_receipt_that_is_not_genuine_are_no_advice(tmp_path: Path) -> None:
    forged, foreign = {**denied(1), "method": "PUT"}, denied(2, key=STRANGER)
    path = fill(tmp_path / STORE, [forged, foreign, "{not json"])
    assert explanation(path, forged["id"]) is None
    assert explanation(path, foreign["id"]) is None
    assert explanation(path, "damaged-2") is None
    assert explanation(path, foreign["id"], frozenset())["outcome"] == "refused"  # no key is known at all


def test_the_sidecars_document_says_which_capability_a_route_requires() -> None:
    operation = {"x-chio-capability": [{"server": "payments", "tool": "transfer"}], "responses": {}}
    document = {"openapi": "3.1.0", "info": {}, "paths": {"/things/1": {"post": operation}}}
    text = json.dumps(denied(1, MISSING))
    known, unknown = Explainer(json.dumps(document))(text, GENUINE), Explainer(None)(text, GENUINE)
    assert known is not None
    assert unknown is not None
    assert known["passes"] == "payments/transfer:invoke"
    assert unknown["passes"].startswith("not known")


@pytest.mark.parametrize("text", MARKUP)
def test_hostile_texts_can_be_explained(text: str) -> None:
    assert Explainer(None)(json.dumps(hostile(1, text)), GENUINE) is not None


def test_the_page_shows_the_reason_and_the_capability_that_would_pass(browser: Browser, show: Any) -> None:
    show([receipt(1), denied(2)])
    open_row(browser, 1)
    shown = browser.text("#explanation")
    command = "chio-sidecar capability issue --receipt-store FILE"
    for said in ("Why", "To do", "Would pass", "payments/transfer:invoke", command, "Where", FILL_IN):
        assert said in shown
    open_row(browser, 2)
    assert browser.number_of("#explanation") == 0


def test_the_link_of_a_refusal_opens_its_receipt_with_the_explanation(browser: Browser, show: Any, served: Any) -> None:
    one = denied(2, id="01a/b #<é>")
    link = explain_link(f"http://127.0.0.1{VIEWER_PATH}", one["id"])
    assert link is not None
    show([receipt(1), one], hash=f"#{link.partition('#')[2]}")
    browser.until(f"document.querySelector('#detail').dataset.id === {json.dumps(one['id'])}")
    assert "payments/transfer:invoke" in browser.text("#explanation")


def test_no_explanation_can_inject_markup(browser: Browser, show: Any) -> None:
    reason = "capability does not authorize tool {0} on server {0}"
    show([denied(number, reason.format(text)) for number, text in enumerate(MARKUP)])
    own = "return ['script', 'img', 'iframe', 'b', 'table', 'a'].map((tag) => document.querySelectorAll(tag).length)"
    elements = browser.run(own)
    for position in range(1, len(MARKUP) + 1):
        open_row(browser, position)
        assert browser.number_of("#explanation dd") >= 3
        assert browser.run(own) == elements
    seen = browser.run("return document.body.innerText")
    assert not any(character in seen for character in "\u202e\u2066\u0000\u001b")
