"""The setting `explain_url`: usable addresses, and the link that a refusal makes of them."""

from __future__ import annotations

import pytest

from chio_core import ChioSettings, ConfigurationError
from chio_core.refusals.problems import explain_link
from chio_core.settings import LONGEST_EXPLAIN_URL

BASE = "https://chio.internal/chio/viewer/"
RECEIPT = "01a/b #<é>"


def setting(value: str | None) -> str | None:
    return ChioSettings(_env_file=None, explain_url=value).explain_url


@pytest.mark.parametrize(
    ("value", "link"),
    [
        (BASE, f"{BASE}#01a%2Fb%20%23%3C%C3%A9%3E"),
        (f"{BASE}#{{receipt_id}}", f"{BASE}#01a%2Fb%20%23%3C%C3%A9%3E"),
        ("http://h:1/why?id={receipt_id}&x=%20", "http://h:1/why?id=01a%2Fb%20%23%3C%C3%A9%3E&x=%20"),
        ("http://[::1]:8080/{receipt_id}/x", "http://[::1]:8080/01a%2Fb%20%23%3C%C3%A9%3E/x"),
    ],
)  # fmt: skip
def test_a_link_names_one_receipt_whose_id_cannot_change_the_rest_of_the_address(value: str, link: str) -> None:
    assert explain_link(setting(value), RECEIPT) == link


def test_there_is_no_link_without_the_setting_or_without_a_receipt() -> None:
    assert explain_link(None, RECEIPT) is None
    assert explain_link(BASE, None) is None
    assert explain_link(BASE, "") is None


def test_an_empty_setting_is_none_and_space_around_it_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {setting(value) for value in (None, "", "  ")} == {None}
    monkeypatch.setenv("CHIO_EXPLAIN_URL", f" {BASE} ")
    assert ChioSettings(_env_file=None).explain_url == BASE


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("chio.internal/viewer", "must start with http:// or https:// and name a host"),
        ("javascript:alert(1)", "must start with http:// or https:// and name a host"),
        ("https://", "must start with http:// or https:// and name a host"),
        ("https://:80/", "must start with http:// or https:// and name a host"),
        ("https://ops:s3cret@chio.internal/", "without credentials"),
        ("https://@chio.internal/", "without credentials"),
        ("https://{receipt_id}.internal/", "without {receipt_id}"),
        ("https://h/{id}", "braces other than {receipt_id}"),
        ("https://h/a b", "without spaces"),
        ("https://h/a\r\nSet-Cookie:x=1", "without spaces"),
        ('https://h/">', "quotes"),
        ("https://h/é", "printable ASCII"),
        ("https://h:port/", "explain_url"),
        ("https://[::1/", "explain_url"),
        ("https://h/#top", "no fragment"),
        ("https://h/" + "a" * LONGEST_EXPLAIN_URL, "at most 2,048 characters"),
    ],
)
def test_an_unusable_address_is_refused_in_one_sentence_without_its_value(value: str, rule: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        setting(value)
    assert rule in str(refused.value)
    assert str(refused.value).startswith("explain_url (environment CHIO_EXPLAIN_URL): ")
    assert "s3cret" not in str(refused.value)
