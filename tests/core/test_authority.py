"""The application's own authority: an embedded key, a key file, or a trust service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from chio_core import ChioSettings, ConfigurationError
from chio_core.capabilities import verify_capability
from chio_core.client.authority import Authority
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.errors import InvalidDocument, NotIssued
from chio_core.models.capability import ToolGrant
from chio_core.models.request import CallerIdentity
from chio_core.signing import SigningKey
from chio_core.testing import ChioFixture
from chio_sidecar.store.issuers import issuer_name
from chio_sidecar.store.place import open_store
from chio_sidecar.trust.app import TrustConfig, TrustService, create_trust_app
from tests.core.views import View, question
from tests.support import run, serve

ALICE = CallerIdentity.user("7")
KEY = SigningKey(bytes([0x51]) * 32)


def local(**options: Any) -> Authority:
    return Authority(ChioSettings(sidecar_url="http://localhost", **options), KEY)


def issued(authority: Authority, how: str, *grants: Any, **options: Any) -> Any:
    options = {"holder": ALICE, **options}
    if how == "issue":
        return authority.issue(*grants, **options)
    return asyncio.run(authority.aissue(*grants, **options))


each_way = pytest.mark.parametrize("how", ["issue", "aissue"])


@each_way
def test_several_grants_are_bound_to_the_holder_and_expire(how: str) -> None:
    grants = ("shop/order", "shop/refund:invoke,read", ToolGrant(server_id="a", tool_name="b", operations=("read",)))
    token = verify_capability(issued(local(), how, *grants, {"server_id": "c", "tool_name": "d"}, ttl=60).to_header())
    assert [(g.server_id, g.tool_name, sorted(g.operations)) for g in token.scope.grants] == [
        ("shop", "order", ["invoke"]),
        ("shop", "refund", ["invoke", "read"]),
        ("a", "b", ["read"]),
        ("c", "d", ["invoke"]),
    ]
    assert all(str(ALICE.holder) in str(grant.to_wire()["constraints"]) for grant in token.scope.grants)
    assert token.issuer == KEY.public_hex
    assert 0 < token.expires_at - token.issued_at <= 60 + 300


def test_the_subject_tells_holders_apart_and_may_be_a_key() -> None:
    def subject(**options: Any) -> str:
        return str(issued(local(), "issue", "shop/order", **options).subject)

    assert subject() == subject() != subject(holder=CallerIdentity.user("8"))
    assert subject(holder=None) == "0" * 64
    assert subject(subject=KEY.public_hex) == KEY.public_hex


@pytest.mark.parametrize("subject", ["alice@example.com", "7", "", "z" * 64])
def test_a_subject_that_is_a_name_is_refused_with_what_to_write(subject: str) -> None:
    with pytest.raises(InvalidDocument, match="name the user as the holder") as refused:
        local().issue("shop/order", holder=ALICE, subject=subject)
    assert "64 hex digits" in str(refused.value)


@pytest.mark.parametrize("grant", ["shop", "shop/", "/order", "", "shop:invoke"])
def test_a_grant_that_is_no_tool_is_refused_with_how_to_write_one(grant: str) -> None:
    with pytest.raises(InvalidDocument, match="SERVER/TOOL"):
        local().issue(grant, holder=ALICE)


def test_a_capability_without_grants_or_for_the_anonymous_caller_is_not_issued() -> None:
    with pytest.raises(InvalidDocument, match="needs a grant"):
        local().issue(holder=ALICE)
    with pytest.raises(ConfigurationError, match="anonymous caller"):
        local().issue("shop/order", holder=CallerIdentity.anonymous())


def test_a_key_file_signs_and_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "authority.key"
    path.write_text(f"{KEY.seed_hex()}\n")
    path.chmod(0o600)
    authority = Authority(ChioSettings(sidecar_url="http://localhost", authority_seed_file=str(path)))
    assert authority.issue("shop/order", holder=ALICE).issuer == KEY.public_hex
    path.chmod(0o644)
    for broken, text in (
        (path, "chmod 600"),
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory|must be"),
    ):
        settings = ChioSettings(sidecar_url="http://localhost", authority_seed_file=str(broken))
        with pytest.raises(ConfigurationError, match=text):
            Authority(settings).issue("shop/order", holder=ALICE)
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(ConfigurationError, match="holds no key") as refused:
        Authority(ChioSettings(authority_seed_file=str(path))).issue("shop/order", holder=ALICE)
    assert "no key\n" not in str(refused.value)


def test_an_embedded_sidecar_trusts_what_its_key_has_issued(tmp_path: Path) -> None:
    settings = ChioSettings(sidecar_url=f"embedded:{tmp_path / 's.sqlite3'}")
    first = Authority(settings).issue("shop/order", holder=ALICE)
    assert first.issuer == Authority(settings).issue("shop/order", holder=ALICE).issuer


@each_way
def test_an_embedded_sidecar_issues_nothing_with_a_key_once_it_is_withdrawn(tmp_path: Path, how: str) -> None:
    path = tmp_path / "s.sqlite3"
    authority = Authority(ChioSettings(sidecar_url=f"embedded:{path}"))
    key = issued(authority, how, "shop/order").issuer

    async def withdraw() -> None:
        store = open_store(path)
        await store.revoke(issuer_name(key))
        await store.close()

    run(withdraw())
    with pytest.raises(ConfigurationError, match=f"the key {key} was withdrawn"):
        issued(authority, how, "shop/order")


def test_an_embedded_sidecar_whose_key_is_lost_issues_nothing_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    url = f"embedded:{path}"
    with SyncChioClient(ChioSettings(sidecar_url=url)) as client:
        receipt = client.evaluate(question(View("GET"))).receipt
    assert receipt is not None
    former = receipt.kernel_key
    (tmp_path / "s.sqlite3.key").unlink()
    with pytest.raises(ConfigurationError, match=f"s.sqlite3.key is missing, and the receipts of .* with {former}"):
        Authority(ChioSettings(sidecar_url=url)).issue("shop/order", holder=ALICE)
    assert not Path(f"{path}.key").exists()


def test_without_an_authority_the_error_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match="CHIO_TRUST_URL, CHIO_TRUST_TOKEN, CHIO_AUTHORITY_SEED_FILE"):
        Authority(ChioSettings(sidecar_url="http://localhost"))
    with pytest.raises(ConfigurationError, match="CHIO_TRUST_TOKEN"):
        ChioSettings(trust_url="http://localhost:1")
    with pytest.raises((ConfigurationError, ValueError), match=r"(?i)trust_url"):
        ChioSettings(trust_url="embedded:a.sqlite3")


@each_way
async def test_a_trust_service_issues_what_was_ordered(how: str, tmp_path: Path) -> None:
    async def ordered(port: int, token: str) -> Any:
        settings = ChioSettings(trust_url=f"http://127.0.0.1:{port}", trust_token=SecretStr(token))
        authority = Authority(settings)
        if how == "issue":
            found = await asyncio.to_thread(authority.issue, "shop/order", holder=ALICE, ttl=60)
        else:
            found = await authority.aissue("shop/order", holder=ALICE, ttl=60)
        authority.close()
        await authority.aclose()
        return found

    service = TrustService(TrustConfig(service_token=SecretStr("right"), authority_db=tmp_path / "a.sqlite3"))
    async with serve(create_trust_app(service)) as port:
        token = verify_capability((await ordered(port, "right")).to_header())
        assert str(ALICE.holder) in token.to_header()
        with pytest.raises(NotIssued, match="check trust_token") as refused:
            await ordered(port, "canary-of-the-test")
        assert "canary" not in str(refused.value)
    service.close()
    with pytest.raises(NotIssued, match="is it running at trust_url"):
        await ordered(port, "right")


def test_in_a_test_the_key_of_the_test_signs() -> None:
    with ChioFixture() as chio:
        own = ChioClient(ChioSettings(sidecar_url="http://localhost"))
        ways = [own, chio.new_client(), chio.new_sync_client(), SyncChioClient(chio.settings())]
        chio.connect(own)
        assert {one.authority.issue("shop/order", holder=ALICE).issuer for one in ways} == {chio.public_key}
    with pytest.raises(ConfigurationError, match="no authority"):
        _ = own.authority
