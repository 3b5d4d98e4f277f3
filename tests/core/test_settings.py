"""ChioSettings: the sources of a value, and one clear sentence for each value that cannot be used."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from chio_asgi import ChioASGIConfig
from chio_core import ChioSettings, ConfigurationError
from chio_core.refusals.problems import explain_link
from chio_core.settings import LONGEST_EXPLAIN_URL
from chio_core.settings_report import report_settings, unknown_names, unsafe_options

KEY = "ab" * 32


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory and no `CHIO_*` variable."""
    for name in [name for name in os.environ if name.startswith("CHIO_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_defaults_are_those_of_the_published_packages() -> None:
    settings = ChioSettings()
    assert settings.sidecar_url == "http://127.0.0.1:9090"
    assert settings.timeout == 5.0
    assert settings.receipt_header == "X-Chio-Receipt"
    assert settings.exclude_methods == {"OPTIONS"}
    assert settings.fail_open is False
    assert settings.exclude_paths == settings.exclude_prefixes == frozenset()


def test_a_keyword_beats_the_environment_which_beats_the_file_which_beats_the_default(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ChioSettings().timeout == 5.0
    (bare / ".env").write_text("CHIO_TIMEOUT=4\nCHIO_CONNECT_TIMEOUT=1\n")
    assert ChioSettings().timeout == 4.0
    monkeypatch.setenv("CHIO_TIMEOUT", "3")
    assert ChioSettings().timeout == 3.0
    assert ChioSettings(timeout=2.0).timeout == 2.0
    assert ChioSettings(timeout=2.0).connect_timeout == 1.0


def test_the_published_name_has_the_same_options() -> None:
    assert set(ChioASGIConfig.model_fields) == set(ChioSettings.model_fields)
    assert ChioASGIConfig(sidecar_url="http://h:1").sidecar_url == "http://h:1"


@pytest.mark.parametrize(
    "text", ["/health,/metrics", " /health , /metrics ,", '["/health", "/metrics"]', "/metrics,/health,/health"]
)
def test_a_list_may_have_commas_or_be_json_or_any_collection(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIO_EXCLUDE_PATHS", text)
    assert ChioSettings().exclude_paths == {"/health", "/metrics"}
    assert ChioSettings(exclude_paths=text).exclude_paths == {"/health", "/metrics"}
    for paths in (["/a"], ("/a",), {"/a"}, frozenset({"/a"})):
        assert ChioSettings(exclude_paths=paths).exclude_paths == {"/a"}


def test_an_empty_list_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIO_EXCLUDE_METHODS", "")
    assert ChioSettings().exclude_methods == frozenset()


def test_methods_are_upper_cased_and_prefixes_lose_their_slash() -> None:
    settings = ChioSettings(exclude_methods="options,head", exclude_prefixes="/static/,/docs")
    assert settings.exclude_methods == {"OPTIONS", "HEAD"}
    assert settings.exclude_prefixes == {"/static", "/docs"}


def test_keys_are_normalised() -> None:
    assert ChioSettings(trusted_kernel_keys=f"0x{KEY.upper()}").trusted_kernel_keys == (KEY,)


@pytest.mark.parametrize("word", ["1", "true", "True", "yes", "on"])
def test_a_switch_may_be_written_in_words(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIO_FAIL_OPEN", word)
    assert ChioSettings().fail_open is True


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9090", "https://chio.example/base", "http://[::1]:9", "unix:/run/chio.sock",
        "unix:///run/chio.sock", "embedded:receipts.sqlite3", "embedded:/var/lib/r.db?spec=api.yaml",
    ],
)  # fmt: skip
def test_a_sidecar_may_be_anywhere(url: str) -> None:
    assert ChioSettings(sidecar_url=url).sidecar_url == url


def test_several_urls_with_spaces_between_them_are_told_to_have_commas() -> None:
    with pytest.raises(ConfigurationError, match="separate several URLs with commas"):
        ChioSettings(sidecar_url="http://127.0.0.1:9090 http://127.0.0.1:9091")


def test_a_closing_slash_of_the_sidecar_url_does_not_count() -> None:
    assert ChioSettings(sidecar_url=" http://h:1/base/ ").sidecar_url == "http://h:1/base"


BAD: list[tuple[str, Any]] = [
    ("sidecar_url", ""),
    ("sidecar_url", "localhost:9090"),
    ("sidecar_url", "ftp://h"),
    ("sidecar_url", "http://"),
    ("sidecar_url", "http://h:port"),
    ("sidecar_url", "http://h:70000"),
    ("sidecar_url", "http://h:hunter2"),
    ("explain_url", "http://h:hunter2"),
    ("sidecar_url", "http://[::1"),
    ("sidecar_url", "http://user:hunter2@h"),
    ("sidecar_url", "http://h?token=hunter2"),
    ("sidecar_url", "http://h/#hunter2"),
    ("sidecar_url", "http://h\u00f6st"),
    ("sidecar_url", "http://h/a b"),
    ("sidecar_url", "unix:"),
    ("sidecar_url", "unix://"),
    ("sidecar_url", "unix:/run/" + "x" * 103),
    ("sidecar_url", "unix:/run/" + "\u00fc" * 60),
    ("sidecar_url", "embedded:"),
    ("sidecar_url", None),
    ("sidecar_url", 9090),
    ("timeout", 0),
    ("timeout", -1),
    ("timeout", "soon"),
    ("timeout", float("nan")),
    ("timeout", float("inf")),
    ("timeout", 301),
    ("connect_timeout", 0),
    ("max_connections", 0),
    ("max_connections", 1.5),
    ("max_connections", "many"),
    ("exclude_paths", "health"),
    ("exclude_paths", '["/a"'),
    ("exclude_paths", "[1]"),
    ("exclude_paths", 5),
    ("exclude_prefixes", "/"),
    ("exclude_prefixes", "//"),
    ("exclude_prefixes", "/a,///"),
    ("exclude_prefixes", "static"),
    ("exclude_methods", "GET POST"),
    ("receipt_header", ""),
    ("receipt_header", "X Receipt"),
    ("receipt_header", "X-Receipt\r\nSet-Cookie: a"),
    ("receipt_header", "X-R\u00e9ceipt"),
    ("capability_header", "X:Capability"),
    ("api_key_header", ""),
    ("fail_open", "perhaps"),
    ("trusted_kernel_keys", "hunter2"),
    ("trusted_kernel_keys", f"{KEY},{KEY}00"),
    ("receipt_tolerance", -1),
    ("receipt_tolerance", float("nan")),
    ("max_body_bytes", -1),
    ("max_body_bytes", "10 MB"),
    ("spool_bytes", -1),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda value: repr(value)[:40])
def test_an_unusable_value_is_one_clear_sentence_as_a_keyword_and_from_the_environment(
    name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        ChioSettings(**{name: value})
    message = str(refused.value)
    assert message.startswith(name)
    assert f"CHIO_{name.upper()})" in message
    assert "hunter2" not in message
    assert "Value error" not in message
    assert "\n" not in message
    assert len(message) < 250
    if isinstance(value, str):
        monkeypatch.setenv(f"CHIO_{name.upper()}", value)
        with pytest.raises(ConfigurationError, match=f"^{name}") as refused:
            ChioSettings()
        assert "hunter2" not in str(refused.value)


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"timeout .*; receipt_header "):
        ChioSettings(timeout=0, receipt_header="")


def test_connecting_cannot_take_longer_than_the_whole_evaluation() -> None:
    with pytest.raises(ConfigurationError, match=r"^connect_timeout must not be longer than timeout$"):
        ChioSettings(timeout=1, connect_timeout=2)
    assert ChioSettings(timeout=1).connect_timeout == 2.0  # a default gives way; the client takes the smaller


def test_a_misspelled_keyword_is_refused_and_the_right_one_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^fail_opn is not an option of Chio; did you mean fail_open\?$"):
        ChioSettings(fail_opn=True)
    with pytest.raises(ConfigurationError, match=r"^zzz is not an option of Chio$"):
        ChioSettings(zzz=1)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ChioSettings().fail_open = True  # type: ignore[misc]


def test_a_configuration_error_is_a_value_error_with_a_code() -> None:
    with pytest.raises(ValueError, match="timeout") as refused:
        ChioSettings(timeout=0)
    assert isinstance(refused.value, ConfigurationError)
    assert refused.value.code == "chio_configuration"
    assert refused.value.__suppress_context__


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIO_CONTROL_TOKEN", "hunter2")
    settings = ChioSettings()
    assert settings.control_token is not None
    assert settings.control_token.get_secret_value() == "hunter2"
    shown = [repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()]
    assert not [text for text in shown if "hunter2" in text]
    with pytest.raises(ConfigurationError) as refused:
        ChioSettings(control_token=["hunter2"])
    assert "hunter2" not in str(refused.value)


def test_a_file_that_is_not_text_is_named(bare: Path) -> None:
    (bare / ".env").write_bytes(b"CHIO_TIMEOUT=\xff\n")
    with pytest.raises(ConfigurationError, match=r"^the file \.env cannot be read"):
        ChioSettings()


# The report at start


def test_safe_settings_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert report_settings(ChioSettings(trusted_kernel_keys=KEY), {}) == []
    assert report_settings(ChioSettings(sidecar_url="embedded:r.db"), {}) == []
    assert not caplog.records


@pytest.mark.parametrize(
    ("options", "routes", "line"),
    [
        (
            {},
            None,
            "requests are evaluated by the sidecar http://127.0.0.1:9090; key: first key seen; not governed: OPTIONS",
        ),
        (
            {"sidecar_url": "embedded:r.db", "exclude_methods": "", "control_token": "canary"},
            3,
            "requests are evaluated by the sidecar embedded:r.db; key: its own; governed routes: 3",
        ),
        (
            {"trusted_kernel_keys": KEY, "exclude_paths": "/up", "exclude_prefixes": "/static", "fail_open": True,
             "observe_prefixes": "/v2"},
            0,
            f"requests are evaluated by the sidecar http://127.0.0.1:9090; key: {KEY}; governed routes: 0;"
            " not governed: /static/…, /up, OPTIONS; observe mode on /v2/…; fail_open is on",
        ),
    ],
)  # fmt: skip
def test_one_line_says_which_sidecar_evaluates_and_what_is_not_governed(
    options: dict[str, Any], routes: int | None, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="chio"):
        report_settings(ChioSettings(**options), {}, routes=routes)
    lines = [record for record in caplog.records if record.levelno == logging.INFO]
    assert [(record.name, record.getMessage()) for record in lines] == [("chio", f"chio: {line}")]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"fail_open": True}, "fail_open"),
        ({"trusted_kernel_keys": ()}, "trusted_kernel_keys"),
        ({"sidecar_url": "http://chio.example:9090"}, "sidecar_url"),
        ({"sidecar_url": "http://127.evil.example"}, "sidecar_url"),
        ({"capability_in_query": True}, "capability_in_query"),
        ({"exclude_methods": "OPTIONS,GET"}, "exclude_methods"),
    ],
)
def test_an_unsafe_choice_is_warned_about_once(
    options: dict[str, Any], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="chio"):
        found = report_settings(ChioSettings(**{"trusted_kernel_keys": KEY, **options}), {})
    assert len(found) == 1
    assert word in found[0]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert found[0] in caplog.text


@pytest.mark.parametrize("url", ["https://chio.example", "http://localhost:1", "http://[::1]:9", "http://127.9.0.1"])
def test_a_safe_way_to_the_sidecar_is_not_warned_about(url: str) -> None:
    assert unsafe_options(ChioSettings(trusted_kernel_keys=KEY, sidecar_url=url)) == {}


def test_an_unknown_variable_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIO_FAIL_OPN", "1")
    monkeypatch.setenv("CHIO_CONTROL_TOKN", "hunter2")
    found = report_settings(ChioSettings(trusted_kernel_keys=KEY))
    assert [sentence.split()[2] for sentence in found] == ["CHIO_CONTROL_TOKN", "CHIO_FAIL_OPN"]
    assert [sentence.rpartition("; ")[2] for sentence in found] == [
        "did you mean CHIO_CONTROL_TOKEN?",
        "did you mean CHIO_FAIL_OPEN?",
    ]
    assert report_settings(ChioSettings(trusted_kernel_keys=KEY), {"CHIO_TRUSTED_ISUER_KEYS": "", "CHIO_XYZ": ""}) == [
        "environment variable CHIO_TRUSTED_ISUER_KEYS is not an option of Chio; did you mean CHIO_TRUSTED_ISSUER_KEYS?",
        "environment variable CHIO_XYZ is not an option of Chio; is it misspelled?",
    ]
    assert "hunter2" not in "".join(found)


def test_an_unknown_name_in_the_file_is_warned_about(bare: Path) -> None:
    (bare / ".env").write_text("CHIO_FAIL_OPN=1\nOTHER=2\n")
    (sentence,) = report_settings(ChioSettings(trusted_kernel_keys=KEY))
    assert "CHIO_FAIL_OPN" in sentence


def test_names_of_other_parts_and_other_programs_are_not_unknown() -> None:
    assert unknown_names({"CHIO_BIN": "x", "CHIO_TRUSTED_ISSUER_KEY": "x", "PATH": "x", "CHIO_TIMEOUT": "1"}) == []


def test_every_option_is_described() -> None:
    for name, option in ChioSettings.model_fields.items():
        assert option.description, name
        assert option.description.endswith("."), name


# The setting `explain_url`: usable addresses, and the link that a refusal makes of them

BASE = "https://chio.internal/chio/viewer/"
RECEIPT = "01a/b #<é>"


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
    assert explain_link(ChioSettings(explain_url=value).explain_url, RECEIPT) == link


def test_there_is_no_link_without_the_setting_or_without_a_receipt() -> None:
    assert explain_link(None, RECEIPT) is None
    assert explain_link(BASE, None) is None
    assert explain_link(BASE, "") is None


def test_an_empty_setting_is_none_and_space_around_it_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {ChioSettings(explain_url=value).explain_url for value in (None, "", "  ")} == {None}
    monkeypatch.setenv("CHIO_EXPLAIN_URL", f" {BASE} ")
    assert ChioSettings().explain_url == BASE


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
        ChioSettings(explain_url=value)
    assert rule in str(refused.value)
    assert str(refused.value).startswith("explain_url (environment CHIO_EXPLAIN_URL): ")
    assert "s3cret" not in str(refused.value)


def test_fail_open_does_not_apply_to_an_embedded_sidecar_so_nothing_warns_of_it() -> None:
    found = report_settings(ChioSettings(fail_open=True, sidecar_url="embedded:receipts.sqlite3"), environ={})
    assert not any("fail_open" in sentence for sentence in found)


def test_several_sidecars_without_known_keys_are_refused_with_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="CHIO_TRUSTED_KERNEL_KEYS"):
        ChioSettings(sidecar_url="http://127.0.0.1:1,http://127.0.0.1:2")
