"""What every `ReceiptStore` must do. A backend inherits the suite and opens its store in a `Kit`.

A backend that cannot promise a category lists it in `skips`, with the reason; everything else must hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ClassVar, Protocol

import pytest

from chio_core.errors import InvalidDocument
from chio_sidecar.store import (
    AlreadyRequested,
    ApprovalRefused,
    ApprovalRequest,
    ApprovalResponse,
    ApprovalUse,
    BudgetExceeded,
    Charge,
    Conflict,
    Exhausted,
    Invocation,
    NewReceipt,
    ReceiptStore,
    Revoked,
    StoreBusy,
    Stored,
    StoreUnavailable,
    TooManyWaiting,
)
from chio_sidecar.store.hash_chain import FIRST, follow, link
from tests.support import run

Test = Callable[..., Coroutine[Any, Any, None]]

CATEGORIES = {
    "keeping": "what was stored is found again, also after a restart, in the order of insertion",
    "append-only": "no call and no plain SQL of a second writer changes or removes a row",
    "chain": "each row carries a digest that covers itself and the digest of the row before, whoever wrote them",
    "request ids": "one request id has one receipt",
    "revocations": "a revocation is permanent and counts at once",
    "invocations": "a limited grant is spent exactly as often as it allows",
    "budgets": "an account is charged exactly as far as its limits allow, together with the receipt",
    "approvals": "an approval is requested once, has one response, and is used once, together with the receipt",
    "many callers": "tasks, threads, event loops and openers at the same time",
    "bounds": "a store that cannot keep up raises",
    "closing": "closing finishes what waits, and refuses what comes later",
}


class Kit(Protocol):
    """How one backend is opened, always on the same data."""

    refusal: type[Exception]
    """What the database raises when plain SQL breaks a rule."""

    def open(self, **options: Any) -> ReceiptStore:
        """Open the store; options as `max_waiting`."""
        ...

    def execute(self, sql: str) -> None:
        """Run plain SQL as a second writer and commit."""
        ...

    def chained(self) -> list[tuple[int, list[str], str]]:
        """Return sequence, the members that a digest covers, and digest of all rows: one chain after the other."""
        ...


def category(name: str) -> Callable[[Test], Test]:
    """Mark a test as part of a category, which a backend may skip."""
    assert name in CATEGORIES

    def decorate(test: Test) -> Test:
        @wraps(test)
        async def wrapper(self: StoreConformance, **fixtures: Any) -> None:
            if name in self.skips:
                pytest.skip(f"{name}: {self.skips[name]}")
            await test(self, **fixtures)

        return wrapper

    return decorate


def entry(number: int | str = 1, *, content: str = "a", **more: Any) -> NewReceipt:
    """A receipt with its number in its ids; the store does not read the text."""
    verdict = '{"verdict":{"verdict":"allow"},"method":"GET","number":"%s","content":"%s"}'
    return NewReceipt(
        receipt_id=f"receipt-{number}-{content}",
        request_id=f"request-{number}",
        fingerprint=content,
        receipt_json=verdict % (number, content),
        **more,
    )


def charge(cost: int = 1, *, account: str = "account-1", count: int | None = None, most: int | None = None) -> Charge:
    return Charge(account, cost, "USD", "POST /pay", count, most)


def wait(number: int | str = 1, *, intent: str | None = None, now: int = 1000, **more: Any) -> ApprovalRequest:
    """An approval request that is pending for 100 seconds; by default each has another intent."""
    limits = {"requester": "cap-1", "max_open": 100, "max_open_each": 100} | more
    intent = f"intent-{number}" if intent is None else intent
    return ApprovalRequest(
        f"apr-{number}", intent, request_json=f'{{"n":"{number}"}}', created_at=now, expires_at=now + 100, **limits
    )


def reply(number: int | str = 1, outcome: Any = "approved", *, now: int = 1001, token: str | None = None) -> Any:
    """A response that counts for 100 seconds."""
    token_id = f"apt-{number}" if token is None else token
    return ApprovalResponse(f"apr-{number}", outcome, "key", token_id, "{}", now, now + 100, "because")


def use(number: int | str = 1, *, intent: str | None = None, at: int = 1002, token: Any = None) -> ApprovalUse:
    return ApprovalUse(f"apr-{number}", f"intent-{number}" if intent is None else intent, at, token)


def refused(number: int | str, why: Any) -> ApprovalRefused:
    return ApprovalRefused(f"apr-{number}", why)


@asynccontextmanager
async def opened(kit: Kit, **options: Any) -> AsyncIterator[ReceiptStore]:
    store = kit.open(**options)
    try:
        yield store
    finally:
        await store.close()


def assert_chained(kit: Kit, *, earlier: bool = False) -> None:
    """Compare the digest of each row with the one that follows from it and the row before, in each chain.

    With `earlier` rows may have the digests of an earlier version.
    """
    digest, before = FIRST, 0
    for sequence, members, stored in kit.chained():
        previous = FIRST if sequence == 1 else digest
        digest = follow(previous, sequence, members, stored).digest if earlier else link(previous, sequence, members)
        assert sequence in (1, before + 1)
        before = sequence
        assert stored == digest, sequence


RULES = [
    "UPDATE http_receipts SET receipt_json = '{}'",
    "UPDATE http_receipts SET created_at = '' WHERE request_id = 'request-1'",
    "DELETE FROM http_receipts",
    "INSERT INTO http_receipts (id, receipt_json, request_id, fingerprint, created_at)"
    " VALUES ('receipt-1-a', '{}', 'other', '', '')",
    "UPDATE revoked_capabilities SET capability_id = 'other'",
    "DELETE FROM revoked_capabilities",
    "UPDATE capability_invocations SET ordinal = ordinal + 1",
    "DELETE FROM capability_invocations",
    "UPDATE budget_charges SET total = 0",
    "DELETE FROM budget_charges",
    "REPLACE INTO budget_charges VALUES ('account-1', 1, 0, 0, 'other')",
    "UPDATE chio_hitl_pending SET expires_at = expires_at + 1",
    "DELETE FROM chio_hitl_pending",
    "UPDATE chio_hitl_resolved SET outcome = 'approved'",
    "DELETE FROM chio_hitl_resolved",
    "REPLACE INTO chio_hitl_resolved VALUES ('apr-1', 'denied', NULL, 'k', 't', '{}', 0, 0)",
    "UPDATE chio_hitl_consumed_tokens SET approval_id = 'other'",
    "DELETE FROM chio_hitl_consumed_tokens",
]


class StoreConformance:
    """The suite. Subclasses give the fixture `kit`, and reasons for what they skip."""

    skips: ClassVar[dict[str, str]] = {}

    @pytest.fixture
    def kit(self) -> Kit:
        raise NotImplementedError

    @pytest.fixture
    def store(self, kit: Kit) -> Iterator[ReceiptStore]:
        store = kit.open()
        yield store
        run(store.close())

    def test_only_known_categories_are_skipped(self) -> None:
        assert set(self.skips) <= set(CATEGORIES)

    def test_the_backend_is_a_receipt_store(self, store: ReceiptStore) -> None:
        assert isinstance(store, ReceiptStore)

    async def test_a_store_without_an_authority_names_no_key_of_one(self, store: ReceiptStore) -> None:
        assert await store.authority_keys() == frozenset()

    @category("keeping")
    async def test_a_receipt_is_found_by_its_own_id(self, store: ReceiptStore) -> None:
        assert await store.append(entry()) == Stored(entry().receipt_json, fresh=True)
        found = await store.get("receipt-1-a")
        assert found is not None
        assert (found.receipt_id, found.request_id) == ("receipt-1-a", "request-1")
        assert found.receipt_json == entry().receipt_json
        assert found.created_at[10] == "T"
        assert await store.get("receipt-2-a") is None
        assert await store.get("request-1") is None

    @category("keeping")
    async def test_receipts_are_listed_in_order_and_by_pages(self, store: ReceiptStore) -> None:
        for number in (3, 1, 2):
            await store.append(entry(number))
        everything = await store.list()
        assert [row.request_id for row in everything] == ["request-3", "request-1", "request-2"]
        first = await store.list(limit=2)
        assert [row.request_id for row in first] == ["request-3", "request-1"]
        rest = await store.list(after=first[-1].sequence)
        assert [row.request_id for row in rest] == ["request-2"]
        assert await store.list(after=rest[-1].sequence) == []

    @category("keeping")
    async def test_everything_is_there_after_a_restart(self, kit: Kit) -> None:
        async with opened(kit) as store:
            await store.append(entry())
            await store.revoke("cap-1")
        async with opened(kit) as store:
            assert [row.receipt_json for row in await store.list()] == [entry().receipt_json]
            assert await store.is_revoked("cap-1")
            assert await store.append(entry()) == Stored(entry().receipt_json, fresh=False)

    @category("keeping")
    async def test_any_text_is_kept_as_it_is(self, store: ReceiptStore) -> None:
        for number, text in enumerate(["", "é漢🙂", "a\"b'c;--", "line\nline", " x "]):
            row = NewReceipt(f"r{number}{text}", text, "f", '{"verdict":{"verdict":"deny"}}')
            assert isinstance(await store.append(row), Stored)
            found = await store.get(row.receipt_id)
            assert found is not None
            assert (found.receipt_id, found.request_id) == (f"r{number}{text}", text)

    @category("keeping")
    async def test_a_health_probe_leaves_no_receipt(self, store: ReceiptStore) -> None:
        health = await store.health()
        assert health.writable
        assert health.detail
        assert await store.list() == []

    @category("append-only")
    async def test_plain_sql_of_a_second_writer_changes_nothing(self, store: ReceiptStore, kit: Kit) -> None:
        await store.request_approval(wait())
        await store.respond(reply())
        await store.append(entry(invocation=Invocation("cap-1", 0, 5), obligations=(use(), charge())))
        await store.revoke("cap-2")
        before = await store.list()
        for rule in RULES:
            with pytest.raises(kit.refusal):
                kit.execute(rule)
        assert await store.list() == before
        assert await store.is_revoked("cap-2")

    @category("append-only")
    async def test_a_receipt_id_that_is_taken_by_another_request_is_an_error(self, store: ReceiptStore) -> None:
        await store.append(entry(1))
        thief = NewReceipt("receipt-1-a", "request-2", "f", "{}")
        with pytest.raises(StoreUnavailable, match="receipt-1-a is taken"):
            await store.append(thief)
        assert len(await store.list()) == 1

    @category("append-only")
    async def test_one_bad_entry_does_not_take_its_neighbours_with_it(self, store: ReceiptStore) -> None:
        await store.append(entry(1))
        thief = NewReceipt("receipt-1-a", "thief", "f", "{}")
        unwritable = NewReceipt("\ud800", "unwritable", "f", "{}")
        waiting = [entry(2), thief, entry(3), unwritable, entry(4)]
        outcomes = await asyncio.gather(*map(store.append, waiting), return_exceptions=True)
        assert [isinstance(outcome, Stored) for outcome in outcomes] == [True, False, True, False, True]
        assert len(await store.list()) == 4

    @category("chain")
    async def test_every_row_is_chained_to_the_one_before(self, kit: Kit) -> None:
        async with opened(kit) as store:
            await store.append(entry(1))
            await asyncio.gather(*(store.append(entry(number)) for number in range(300)))
            await store.append(entry(2, content="b"))
            await store.append(entry("charged", obligations=(charge(),)))
        async with opened(kit) as store:
            await store.append(entry("é漢🙂"))
        assert len(kit.chained()) == 302
        assert_chained(kit)

    @category("chain")
    async def test_what_is_refused_leaves_no_gap_in_the_chain(self, kit: Kit) -> None:
        async with opened(kit) as store:
            entries = [entry(number, content=content) for number in range(100) for content in "ab"]
            thief = NewReceipt("receipt-1-a", "thief", "f", "{}")
            unwritable = NewReceipt("\ud800", "unwritable", "f", "{}")
            await asyncio.gather(*map(store.append, [*entries, thief, unwritable]), return_exceptions=True)
            spend = Invocation("cap-1", 0, 3)
            for number in range(5):
                await store.append(entry(f"spent-{number}", invocation=spend))
        assert [sequence for sequence, _, _ in kit.chained()] == list(range(1, 104))
        assert_chained(kit)

    @category("chain")
    async def test_several_openers_leave_no_chain_with_a_gap(self, kit: Kit) -> None:
        async with opened(kit) as one, opened(kit) as two:
            for start in range(0, 200, 20):
                numbers = range(start, start + 20)
                await asyncio.gather(*((one, two)[number % 2].append(entry(number)) for number in numbers))
        assert len(kit.chained()) == 200
        assert_chained(kit)

    @category("request ids")
    async def test_the_same_content_gives_the_same_receipt(self, store: ReceiptStore) -> None:
        await store.append(entry())
        again = NewReceipt("another-id", "request-1", "a", "{}")
        assert await store.append(again) == Stored(entry().receipt_json, fresh=False)
        assert len(await store.list()) == 1

    @category("request ids")
    async def test_other_content_is_a_conflict(self, store: ReceiptStore) -> None:
        await store.append(entry())
        assert await store.append(entry(content="b")) == Conflict()
        assert len(await store.list()) == 1

    @category("request ids")
    async def test_a_thousand_races_have_one_winner_each(self, store: ReceiptStore) -> None:
        entries = [entry(number, content=content) for number in range(1000) for content in "ab"]
        outcomes = await asyncio.gather(*map(store.append, entries))
        winners = [outcome for outcome in outcomes if isinstance(outcome, Stored) and outcome.fresh]
        assert len(winners) == 1000
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 1000
        assert len(await store.list(limit=3000)) == 1000

    @category("revocations")
    async def test_a_revocation_is_new_once(self, store: ReceiptStore) -> None:
        assert not await store.is_revoked("cap-1")
        assert await store.revoke("cap-1")
        assert not await store.revoke("cap-1")
        assert await store.is_revoked("cap-1")
        assert not await store.is_revoked("cap-2")

    @category("revocations")
    async def test_a_malformed_name_of_an_issuer_is_not_revoked(self, store: ReceiptStore) -> None:
        for name in ("issuer:", "issuer:cap-1", f"issuer:{'AB' * 32}"):
            with pytest.raises(InvalidDocument):
                await store.revoke(name)
            assert not await store.is_revoked(name)
        assert await store.revoke(f"issuer:{'ab' * 32}")

    @category("revocations")
    async def test_a_revoked_capability_stores_nothing(self, store: ReceiptStore) -> None:
        await store.revoke("root")
        assert await store.append(entry(unless_revoked=("cap-1", "root"))) == Revoked("root")
        await store.revoke("cap-1")
        assert await store.append(entry(unless_revoked=("cap-1", "root"))) == Revoked("cap-1")
        assert await store.list() == []
        assert isinstance(await store.append(entry(unless_revoked=("cap-2",))), Stored)

    @category("revocations")
    async def test_an_earlier_receipt_of_the_request_precedes_a_later_revocation(self, store: ReceiptStore) -> None:
        await store.append(entry(unless_revoked=("cap-1",)))
        await store.revoke("cap-1")
        again = await store.append(entry(unless_revoked=("cap-1",)))
        assert again == Stored(entry().receipt_json, fresh=False)
        assert await store.append(entry(content="b", unless_revoked=("cap-1",))) == Conflict()

    @category("revocations")
    async def test_no_receipt_is_stored_after_a_revocation_was_acknowledged(self, store: ReceiptStore) -> None:
        revoked = asyncio.Event()
        late: list[Any] = []

        async def ask(number: int) -> None:
            known = revoked.is_set()
            outcome = await store.append(entry(number, unless_revoked=("cap-1",)))
            if known:
                late.append(outcome)

        async def ask_again_and_again(start: int) -> None:
            for number in range(start, start + 40):
                await ask(number)

        async def revoke() -> None:
            await ask(10_000)
            await store.revoke("cap-1")
            revoked.set()

        await asyncio.gather(revoke(), *(ask_again_and_again(1000 * number) for number in range(8)))
        assert late
        assert set(late) == {Revoked("cap-1")}

    @category("invocations")
    async def test_a_grant_is_spent_as_often_as_it_allows(self, kit: Kit) -> None:
        spend = Invocation("cap-1", 0, 3)
        async with opened(kit) as store:
            outcomes = [await store.append(entry(number, invocation=spend)) for number in range(5)]
            assert [isinstance(outcome, Stored) for outcome in outcomes] == [True] * 3 + [False] * 2
            assert outcomes[-1] == Exhausted(spend)
            assert len(await store.list()) == 3
        async with opened(kit) as store:
            assert await store.append(entry(9, invocation=spend)) == Exhausted(spend)
            for other in (Invocation("cap-1", 1, 3), Invocation("cap-2", 0, 3)):
                row = entry(f"{other.capability_id}-{other.grant_index}", invocation=other)
                assert isinstance(await store.append(row), Stored)

    @category("invocations")
    async def test_uses_that_several_tokens_share_are_spent_with_the_own_one_or_not_at_all(self, kit: Kit) -> None:
        shared = Invocation("root", -7, 3)
        async with opened(kit) as store:
            rows = [
                entry(number, invocation=Invocation(f"cap-{number % 2}", 0, 2), obligations=(shared,))
                for number in range(5)
            ]
            outcomes = [await store.append(row) for row in rows]
            assert [isinstance(outcome, Stored) for outcome in outcomes] == [True] * 3 + [False] * 2
            assert outcomes[3:] == [Exhausted(shared), Exhausted(Invocation("cap-0", 0, 2))]
        async with opened(kit) as store:
            # What was refused has spent nothing of the own limit either.
            own = Invocation("cap-1", 0, 2)
            assert isinstance(await store.append(entry(6, invocation=own)), Stored)
            assert await store.append(entry(7, invocation=own)) == Exhausted(own)

    @category("invocations")
    async def test_a_repeated_request_spends_nothing(self, kit: Kit) -> None:
        spend = Invocation("cap-1", 0, 2)
        async with opened(kit) as store:
            for _ in range(3):
                assert isinstance(await store.append(entry(1, invocation=spend)), Stored)
            assert await store.append(entry(1, content="b", invocation=spend)) == Conflict()
            assert isinstance(await store.append(entry(2, invocation=spend)), Stored)
            assert await store.append(entry(1, invocation=spend)) == Stored(entry(1).receipt_json, fresh=False)
            assert await store.append(entry(3, invocation=spend)) == Exhausted(spend)

    @category("invocations")
    async def test_a_revoked_capability_spends_nothing(self, kit: Kit) -> None:
        spend = Invocation("cap-1", 0, 1)
        async with opened(kit) as store:
            await store.revoke("root")
            row = entry(1, invocation=spend, unless_revoked=("root",))
            assert await store.append(row) == Revoked("root")
            assert isinstance(await store.append(entry(2, invocation=spend)), Stored)

    @category("budgets")
    async def test_an_account_is_charged_up_to_its_total(self, kit: Kit) -> None:
        async with opened(kit) as store:
            costs = [40, 50, 20, 10, 0, 1]
            outcomes = [await store.append(entry(n, obligations=(charge(c, most=100),))) for n, c in enumerate(costs)]
            assert [isinstance(outcome, Stored) for outcome in outcomes] == [True, True, False, True, True, False]
            assert outcomes[2] == BudgetExceeded(charge(20, most=100), "total", 10)
            assert outcomes[5] == BudgetExceeded(charge(1, most=100), "total", 0)
            assert len(await store.list()) == 4
        async with opened(kit) as store:
            late = await store.append(entry(9, obligations=(charge(1, most=100),)))
            assert late == BudgetExceeded(charge(1, most=100), "total", 0)
            assert isinstance(await store.append(entry(10, obligations=(charge(1, account="other", most=1),))), Stored)

    @category("budgets")
    async def test_an_account_is_charged_as_often_as_it_may(self, store: ReceiptStore) -> None:
        outcomes = [await store.append(entry(number, obligations=(charge(0, count=2),))) for number in range(3)]
        assert outcomes[2] == BudgetExceeded(charge(0, count=2), "invocations", 0)
        assert isinstance(await store.append(entry(3, obligations=(charge(0, count=3),))), Stored)

    @category("budgets")
    async def test_no_total_grows_beyond_what_can_be_counted(self, kit: Kit) -> None:
        most = 2**63 - 1
        async with opened(kit) as store:
            assert isinstance(await store.append(entry(1, obligations=(charge(most),))), Stored)
            assert await store.append(entry(2, obligations=(charge(1),))) == BudgetExceeded(charge(1), "total", 0)

    @category("budgets")
    async def test_a_repeated_request_is_charged_once(self, store: ReceiptStore) -> None:
        row = entry(1, obligations=(charge(6, most=10),))
        for fresh in (True, False, False):
            assert await store.append(row) == Stored(row.receipt_json, fresh=fresh)
        assert await store.append(entry(1, content="b", obligations=(charge(1, most=10),))) == Conflict()
        assert isinstance(await store.append(entry(2, obligations=(charge(4, most=10),))), Stored)

    @category("budgets")
    async def test_of_two_accounts_both_are_charged_or_none(self, kit: Kit) -> None:
        small = charge(5, account="small", most=4)
        async with opened(kit) as store:
            row = entry(1, obligations=(charge(5, most=5), small))
            assert await store.append(row) == BudgetExceeded(small, "total", 4)
            assert isinstance(await store.append(entry(2, obligations=(charge(5, most=5),))), Stored)

    @category("budgets")
    async def test_a_revoked_capability_is_not_charged(self, store: ReceiptStore) -> None:
        await store.revoke("cap-1")
        row = entry(1, obligations=(charge(5, most=5),), unless_revoked=("cap-1",))
        assert await store.append(row) == Revoked("cap-1")
        assert isinstance(await store.append(entry(2, obligations=(charge(5, most=5),))), Stored)

    @category("budgets")
    async def test_a_thousand_races_for_an_account_have_one_winner_each(self, kit: Kit) -> None:
        async with opened(kit) as one, opened(kit) as two:
            rows = [
                entry(f"{n}-{racer}", obligations=(charge(3, account=f"account-{n}", most=5),))
                for racer in "ab"
                for n in range(1000)
            ]
            outcomes = await asyncio.gather(*map(one.append, rows[:1000]), *map(two.append, rows[1000:]))
            assert [
                sum(isinstance(o, Stored) for o in pair) for pair in zip(outcomes[:1000], outcomes[1000:], strict=True)
            ] == [1] * 1000
            assert sum(isinstance(outcome, BudgetExceeded) for outcome in outcomes) == 1000
            assert len(await one.list(limit=3000)) == 1000

    @category("approvals")
    async def test_an_approval_request_is_pending_until_its_response_or_its_expiry(self, kit: Kit) -> None:
        async with opened(kit) as store:
            assert await store.request_approval(wait(1)) is None
            assert await store.request_approval(wait(2, now=1050)) is None
        async with opened(kit) as store:
            assert [one.approval_id for one in await store.open_approvals(now=1060, limit=10)] == ["apr-1", "apr-2"]
            assert [one.approval_id for one in await store.open_approvals(now=1060, limit=1)] == ["apr-1"]
            assert [one.approval_id for one in await store.open_approvals(now=1100, limit=10)] == ["apr-2"]
            assert await store.respond(reply(2, now=1101)) == "recorded"
            assert await store.open_approvals(now=1060, limit=1) == [await store.approval("apr-1")]
            found = await store.approval("apr-2")
            assert found is not None
            assert (found.request_json, found.response, found.used_by) == ('{"n":"2"}', reply(2, now=1101), None)
            assert await store.approval("apr-3") is None

    @category("approvals")
    async def test_an_intent_has_one_pending_request(self, store: ReceiptStore) -> None:
        assert isinstance(await store.append(entry(1, obligations=(wait(1, intent="i"),))), Stored)
        again = entry(2, obligations=(wait(2, intent="i", now=1099),))
        assert await store.append(again) == AlreadyRequested("apr-1", denied=False)
        assert await store.request_approval(wait(3, intent="i")) == AlreadyRequested("apr-1", denied=False)
        assert len(await store.list()) == 1
        assert await store.request_approval(wait(4, intent="i", now=1100)) is None

    @category("approvals")
    async def test_a_denial_counts_until_it_expires_and_an_approval_until_it_is_used(self, store: ReceiptStore) -> None:
        for number, outcome in ((1, "denied"), (2, "approved")):
            await store.request_approval(wait(number))
            assert await store.respond(reply(number, outcome)) == "recorded"
        assert await store.request_approval(wait("x", intent="intent-1", now=1100)) == AlreadyRequested(
            "apr-1", denied=True
        )
        assert await store.request_approval(wait("x", intent="intent-1", now=1101)) is None
        assert await store.request_approval(wait("y", intent="intent-2", now=1100)) == AlreadyRequested(
            "apr-2", denied=False
        )
        assert isinstance(await store.append(entry(1, obligations=(use(2),))), Stored)
        assert await store.request_approval(wait("y", intent="intent-2", now=1003)) is None

    @category("approvals")
    async def test_an_approval_request_has_one_response(self, store: ReceiptStore) -> None:
        await store.request_approval(wait(1))
        await store.request_approval(wait(2))
        assert await store.respond(reply(3)) == "unknown"
        assert await store.respond(reply(1, now=1100)) == "expired"
        assert await store.respond(reply(1)) == "recorded"
        assert await store.respond(reply(1)) == "replayed"
        assert await store.respond(reply(1, "denied", token="apt-9")) == "resolved"
        assert await store.respond(reply(2, token="apt-1")) == "replayed"

    @category("approvals")
    async def test_an_approval_is_used_once_and_for_its_intent_only(self, kit: Kit) -> None:
        async with opened(kit) as store:
            await store.request_approval(wait())
            assert await store.append(entry(1, obligations=(use(),))) == refused(1, "waiting")
            await store.respond(reply())
            assert await store.append(entry(1, obligations=(use(2),))) == refused(2, "unknown")
            assert await store.append(entry(1, obligations=(use(intent="i"),))) == refused(1, "another request")
            assert await store.append(entry(1, obligations=(use(at=1101),))) == refused(1, "expired")
            assert await store.list() == []
            row = entry(1, obligations=(use(),))
            assert await store.append(row) == Stored(row.receipt_json, fresh=True)
            assert await store.append(row) == Stored(row.receipt_json, fresh=False)
            assert await store.append(entry(2, obligations=(use(),))) == refused(1, "used")
        async with opened(kit) as store:
            assert await store.append(entry(2, obligations=(use(),))) == refused(1, "used")
            found = await store.approval("apr-1")
            assert found is not None
            assert found.used_by == "request-1"

    @category("approvals")
    async def test_what_was_denied_or_has_expired_cannot_be_used(self, store: ReceiptStore) -> None:
        await store.request_approval(wait(1))
        await store.respond(reply(1, "denied"))
        assert await store.append(entry(1, obligations=(use(1),))) == refused(1, "denied")
        given = reply(1, token="other")
        assert await store.append(entry(1, obligations=(use(1, token=given),))) == refused(1, "denied")
        await store.request_approval(wait(2))
        assert await store.append(entry(2, obligations=(use(2, at=1100),))) == refused(2, "expired")

    @category("approvals")
    async def test_a_token_that_a_request_presents_is_the_response(self, store: ReceiptStore) -> None:
        await store.request_approval(wait(1))
        await store.request_approval(wait(2))
        assert isinstance(await store.append(entry(1, obligations=(use(1, token=reply(1)),))), Stored)
        found = await store.approval("apr-1")
        assert found is not None
        assert found.response == reply(1)
        stolen = reply(2, token="apt-1")
        assert await store.append(entry(2, obligations=(use(2, token=stolen),))) == refused(2, "replayed")

    @category("approvals")
    async def test_an_approval_is_not_used_when_the_budget_does_not_allow_the_request(self, kit: Kit) -> None:
        spend = charge(5, most=4)
        async with opened(kit) as store:
            await store.request_approval(wait())
            await store.respond(reply())
            assert await store.append(entry(1, obligations=(use(), spend))) == BudgetExceeded(spend, "total", 4)
            assert isinstance(await store.append(entry(2, obligations=(use(),))), Stored)

    @category("approvals")
    async def test_the_number_of_pending_requests_is_limited(self, kit: Kit) -> None:
        limits = {"max_open": 3, "max_open_each": 2}
        async with opened(kit) as store:
            assert [await store.request_approval(wait(n, **limits)) for n in (1, 2)] == [None, None]
            assert await store.request_approval(wait(3, **limits)) == TooManyWaiting(2, own=True)
            assert await store.request_approval(wait(4, requester="cap-2", **limits)) is None
            late = entry(1, obligations=(wait(5, requester="cap-3", **limits),))
            assert await store.append(late) == TooManyWaiting(3, own=False)
            await store.respond(reply(1))
            assert isinstance(await store.append(late), Stored)
            assert await store.request_approval(wait(6, now=1100, **limits)) is None

    @category("approvals")
    async def test_a_thousand_races_for_an_approval_have_one_winner_each(self, kit: Kit) -> None:
        async with opened(kit) as one, opened(kit) as two:
            questions = [wait(n, max_open=2000, max_open_each=2000) for n in range(1000)]
            assert await asyncio.gather(*map(one.request_approval, questions)) == [None] * 1000
            assert await asyncio.gather(*(one.respond(reply(n)) for n in range(1000))) == ["recorded"] * 1000
            rows = [entry(f"{n}-{racer}", obligations=(use(n),)) for racer in "ab" for n in range(1000)]
            outcomes = await asyncio.gather(*map(one.append, rows[:1000]), *map(two.append, rows[1000:]))
            assert [
                sum(isinstance(o, Stored) for o in pair) for pair in zip(outcomes[:1000], outcomes[1000:], strict=True)
            ] == [1] * 1000
            assert sum(isinstance(outcome, ApprovalRefused) for outcome in outcomes) == 1000

    @category("approvals")
    async def test_of_two_responses_at_once_one_is_recorded(self, kit: Kit) -> None:
        async with opened(kit) as one, opened(kit) as two:
            await asyncio.gather(*(one.request_approval(wait(n)) for n in range(50)))
            yes = [reply(n) for n in range(50)]
            no = [reply(n, "denied", token=f"no-{n}") for n in range(50)]
            outcomes = await asyncio.gather(*map(one.respond, yes), *map(two.respond, no))
            assert [{*pair} for pair in zip(outcomes[:50], outcomes[50:], strict=True)] == [
                {"recorded", "resolved"}
            ] * 50

    @category("many callers")
    async def test_many_tasks_spend_no_more_than_granted(self, kit: Kit) -> None:
        spend = Invocation("cap-1", 0, 17)
        async with opened(kit) as store:
            outcomes = await asyncio.gather(*(store.append(entry(number, invocation=spend)) for number in range(300)))
            assert sum(isinstance(outcome, Stored) for outcome in outcomes) == 17

    @category("many callers")
    async def test_threads_with_loops_of_their_own_share_a_store(self, store: ReceiptStore) -> None:

        async def fill(name: int) -> None:
            rows = [entry(f"{name}-{number}") for number in range(100)]
            outcomes = await asyncio.gather(*map(store.append, rows))
            assert outcomes == [Stored(row.receipt_json, fresh=True) for row in rows]

        await asyncio.gather(*(asyncio.to_thread(run, fill(number)) for number in range(8)))
        assert len(await store.list(limit=1000)) == 800

    @category("many callers")
    async def test_a_loop_that_is_gone_does_not_disturb_the_others(self, store: ReceiptStore) -> None:

        async def ask_and_leave() -> None:
            asyncio.ensure_future(store.append(entry("gone"))).cancel()
            task = asyncio.ensure_future(store.append(entry("left")))
            await asyncio.sleep(0)
            task.cancel()

        await asyncio.to_thread(asyncio.run, ask_and_leave())
        assert isinstance(await store.append(entry("here")), Stored)

    @category("many callers")
    async def test_several_openers_write_to_one_database(self, kit: Kit) -> None:
        async with opened(kit) as one, opened(kit) as two:
            rows = [entry(number) for number in range(100)]
            outcomes = await asyncio.gather(*map(one.append, rows), *map(two.append, rows))
            assert sum(isinstance(outcome, Stored) and outcome.fresh for outcome in outcomes) == 100
            assert len(await one.list(limit=200)) == 100
            await one.revoke("cap-1")
            assert await two.append(entry("x", unless_revoked=("cap-1",))) == Revoked("cap-1")

    @category("bounds")
    async def test_more_than_may_wait_are_refused_at_once(self, kit: Kit) -> None:
        async with opened(kit, max_waiting=4) as store:
            outcomes = await asyncio.gather(
                *(store.append(entry(number)) for number in range(500)), return_exceptions=True
            )
            stored = sum(isinstance(outcome, Stored) for outcome in outcomes)
            busy = sum(isinstance(outcome, StoreBusy) for outcome in outcomes)
            assert stored >= 4
            assert busy > 0
            assert stored + busy == 500
            assert len(await store.list(limit=1000)) == stored
            assert isinstance(await store.append(entry("later")), Stored)

    @category("closing")
    async def test_closing_finishes_what_waits(self, kit: Kit) -> None:
        store = kit.open()
        waiting = [asyncio.ensure_future(store.append(entry(number))) for number in range(500)]
        await asyncio.sleep(0)
        await store.close()
        assert all(isinstance(outcome, Stored) for outcome in await asyncio.gather(*waiting))
        async with opened(kit) as again:
            assert len(await again.list(limit=1000)) == 500

    @category("closing")
    async def test_a_closed_store_refuses(self, kit: Kit) -> None:
        store = kit.open()
        await store.close()
        await store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.append(entry())
        assert not (await store.health()).writable
