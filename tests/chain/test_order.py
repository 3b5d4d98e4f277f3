"""Rows C1 to C9, C14 and C15: the chain itself, without any framework."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from chio_core import AnyResponse, Chain, ConfigurationError, Denial, Downstream, GuardRequest, Next, Response
from chio_core.guards.chain import DecisionMember, Guard
from chio_core.guards.run import ChainRun
from chio_core.models.receipt import GuardEvidence
from tests.chain.tools import Decide, Request, ran, wrapper


def names(chain: Chain) -> list[str]:
    return [member.name for member in chain.order()]


async def look(request: GuardRequest) -> Response | None:
    return None


async def pass_on(request: GuardRequest, next: Next) -> AnyResponse:
    return await next(request)


def test_a_bare_function_is_a_middleware() -> None:
    """C1: no base class, no decorator."""
    assert ran(Chain(pass_on, look, Decide())).status == 200
    assert [member.wraps for member in Chain(pass_on, look)] == [True, False]


def test_members_are_nested_wrappers() -> None:
    """C2"""
    trace: list[str] = []
    chain = Chain(wrapper("A", trace), wrapper("B", trace), Decide(trace))
    ran(chain, trace)
    assert trace == ["decide", "A>", "B>", "h", "<B", "<A"]


def test_registration_order_is_outermost_first() -> None:
    """C3"""
    trace: list[str] = []
    ran(Chain(*(wrapper(name, trace) for name in "ABC"), Decide()), trace)
    assert trace == ["A>", "B>", "C>", "h", "<C", "<B", "<A"]


def test_lower_priority_is_outermost_whatever_was_registered_first() -> None:
    """C4"""
    chain = Chain().add(wrapper("C"), priority=10).add(wrapper("A"), priority=-5).add(wrapper("B"), priority=0)
    assert names(chain) == ["A", "B", "C"]


def test_priority_is_keyword_only() -> None:
    """C4"""
    add: Callable[..., Any] = Chain().add
    with pytest.raises(TypeError):
        add(look, 5)


def test_equal_priorities_keep_the_order_of_registration() -> None:
    """C5"""
    assert names(Chain().add(wrapper("B"), priority=5).add(wrapper("A"), priority=5)) == ["B", "A"]
    assert names(Chain(*(wrapper(name) for name in "DACB"))) == list("DACB")


def test_a_pipe_makes_a_chain_of_chains() -> None:
    a, b, c, d = (wrapper(name) for name in "ABCD")
    assert names((Chain(a) | b) | (Chain(c) | d)) == list("ABCD")
    assert names(a | Chain(b)) == ["A", "B"]


def test_nothing_can_be_added_once_the_chain_is_given_to_an_application() -> None:
    """C7"""
    chain = Chain(look)
    chain.freeze()
    with pytest.raises(ConfigurationError, match=r"frozen: an application has it; add pass_on before"):
        chain.add(pass_on)


def test_the_parts_of_a_running_chain_are_frozen_with_it() -> None:
    """C7: a guard added to the list that the middleware was given would never run."""
    part = Chain(look)
    Chain(part, Decide()).freeze()
    with pytest.raises(ConfigurationError, match="frozen"):
        part.add(pass_on)


def needing(name: str, *needs: str, priority: int) -> Chain:
    return Chain().add(look, name=name, requires=needs, priority=priority)


@pytest.mark.parametrize("name", ["tenant_rules", "cache"])
def test_a_guard_that_needs_the_decision_cannot_be_outside_it(name: str) -> None:
    """C8: a guard that needs the receipt, and a cache."""
    with pytest.raises(ConfigurationError) as caught:
        Chain(needing(name, "decision", priority=-10), Decide()).freeze()
    assert caught.value.message == (
        f"{name} (priority -10) requires 'decision', which decide (priority 0) provides for inner members only; "
        f"give {name} a priority above 0"
    )


def test_a_guard_that_needs_the_identity_cannot_be_outside_the_token_check() -> None:
    """C8"""
    from chio_core.guards import JwtAuth

    jwt = JwtAuth(key="s" * 32, algorithms=["HS256"])
    with pytest.raises(ConfigurationError, match=r"per_tenant .* requires 'identity', which jwt_auth"):
        Chain(needing("per_tenant", "identity", priority=-70), jwt, Decide()).freeze()


def test_a_requirement_that_no_member_provides_is_named() -> None:
    """C8"""
    with pytest.raises(ConfigurationError, match="per_tenant requires 'identity', which no member provides"):
        Chain(needing("per_tenant", "identity", priority=5), Decide()).freeze()


def test_a_member_that_is_only_used_may_be_missing_but_not_be_inside() -> None:
    """C8"""
    user = Chain().add(look, name="user", uses=["identity"], priority=-60)
    Chain(user, Decide()).freeze()
    giver = Chain().add(look, name="giver", provides=["identity"], priority=-50)
    with pytest.raises(ConfigurationError, match=r"user .* requires 'identity', which giver"):
        Chain(user, giver, Decide()).freeze()


def test_names_are_lists_not_texts() -> None:
    with pytest.raises(ConfigurationError, match="requires of look takes a list"):
        Chain().add(look, requires="decision")
    # Otherwise the guard would run for the methods P, O, S and T, and so never.
    with pytest.raises(ConfigurationError, match="methods of look takes a list"):
        Chain().add(look, methods="POST")


def test_the_report_names_each_member_in_run_order_with_its_priority() -> None:
    """C9: functions by their own name too."""
    chain = Chain(look, Decide(), functools.partial(pass_on)).add(wrapper("timing"), priority=-100)
    (finding,) = chain.check()
    assert (finding.severity, finding.category) == ("INFO", "middleware_chain")
    assert finding.message == "timing (-100) → decide (0) → look (10) → pass_on (10)"


def test_the_report_is_silent_without_guards() -> None:
    """C9"""
    assert Chain(Decide()).check() == []


def test_the_report_names_what_is_disabled_filtered_or_impossible() -> None:
    """C9"""
    toggled = Counting()
    toggled.enabled = False
    chain = Chain(toggled, needing("cache", "decision", priority=-1), Decide())
    chain.add(look, methods=["post"])
    order, error = chain.check()
    assert order.message == "cache (-1) → decide (0) → Counting (10, disabled) → look (10, only POST)"
    assert (error.severity, error.category) == ("ERROR", "middleware_order")


class Counting:
    """C14: a callable object with state."""

    def __init__(self) -> None:
        self.enabled = True
        self.seen = 0

    async def __call__(self, request: GuardRequest, next: Next) -> AnyResponse:
        self.seen += 1
        return await next(request)


def test_a_callable_object_counts_across_requests() -> None:
    """C14"""
    counter = Counting()
    chain = Chain(counter, Decide())
    for _ in range(3):
        ran(chain)
    assert counter.seen == 3


def test_a_member_is_switched_off_and_on_while_requests_are_served() -> None:
    """Section 7, toggle: it shows in the evidence; a disabled member never hides."""
    counter = Counting()
    chain = Chain(counter, Decide())
    counter.enabled = False
    evidence: list[GuardEvidence] = []
    ran(chain, evidence=evidence)
    assert counter.seen == 0
    assert [(e.guard_name, e.verdict, e.details) for e in evidence] == [("local/Counting", True, "disabled")]
    counter.enabled = True
    ran(chain)
    assert counter.seen == 1


def test_a_function_is_switched_off_and_on_too() -> None:
    """Section 7, toggle: also one without `enabled` when the chain was frozen."""
    seen: list[str] = []

    async def note(request: GuardRequest) -> None:
        seen.append("note")

    chain = Chain(note, Decide())
    for said in (None, False, True):
        if said is not None:
            note.enabled = said  # type: ignore[attr-defined]
        evidence: list[GuardEvidence] = []
        ran(chain, evidence=evidence)
        assert [e.details for e in evidence] == ["disabled" if said is False else None]
    assert seen == ["note", "note"]


def test_a_method_filter_skips_a_member_case_insensitively() -> None:
    """Section 7, method filter."""
    counter = Counting()
    chain = Chain(Decide()).add(counter, methods=["post", "PUT"])
    for method in ("GET", "POST", "post", "PUT", "HEAD"):
        ran(chain, request=Request(method))
    assert counter.seen == 3


def test_decide_cannot_be_switched_off() -> None:
    """Section 7, toggle."""
    decide = Decide()
    with pytest.raises(ConfigurationError, match="decide cannot be switched off"):
        decide.enabled = False
    assert decide.enabled


@pytest.mark.parametrize(
    "options", [{"priority": 5}, {"priority": -1}, {"methods": ["GET"]}], ids=["inside", "outside", "filtered"]
)
def test_decide_cannot_be_moved_and_runs_for_all_methods(options: dict[str, Any]) -> None:
    """Section 7, method filter; the decision cannot be moved either."""
    with pytest.raises(ConfigurationError, match="priority 0 for all methods"):
        Chain().add(Decide(), **options)


def test_a_chain_has_one_decision() -> None:
    with pytest.raises(ConfigurationError, match="a chain has one decide"):
        Chain(Decide()).add(Decide())


def test_no_other_member_can_claim_to_be_the_decision() -> None:
    with pytest.raises(ConfigurationError, match="a chain has one decide"):
        Chain(Chain().add(look, provides=["decision"], priority=0), Decide())


def test_a_blocking_guard_is_refused_at_registration() -> None:
    """B18"""

    def blocking(request: GuardRequest) -> None: ...

    with pytest.raises(ConfigurationError, match="guard blocking must be `async def`"):
        Chain(blocking)  # type: ignore[arg-type]


class NotMade:
    async def __call__(self, request: GuardRequest) -> None: ...


async def three(request: GuardRequest, next: Next, more: object) -> AnyResponse:
    return await next(request)


@pytest.mark.parametrize(
    ("guard", "message"),
    [(NotMade, "give an instance"), (three, r"must take \(request\) or \(request, next\)"), (5, "is no guard")],
)
def test_what_has_no_guards_shape_is_refused(guard: Guard, message: str) -> None:
    """B18"""
    with pytest.raises(ConfigurationError, match=message):
        Chain(guard)


HEADS = (Response(b"x"), Downstream(), Denial(message="no"))


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_changes_give_new_responses_and_leave_the_old_alone(head: AnyResponse) -> None:
    """C15 and C16: one API on all of them."""
    changed = head.with_status(418).with_header("X-A", "1").with_header("x-a", "2")
    assert type(changed) is type(head)
    assert (changed.status, changed.headers) == (418, (("x-a", "2"),))
    assert head.headers == ()
    assert head.status != 418


def test_two_cookies_both_survive_and_a_single_header_is_replaced() -> None:
    """C15"""
    answer = Response().with_header("Set-Cookie", "a=1").with_header("Set-Cookie", "b=2").with_header("X-A", "1")
    assert answer.with_header("X-A", "2").headers == (("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-A", "2"))
    assert answer.header("x-a") == "1"


def test_a_header_cannot_smuggle_another() -> None:
    for name, value in (("x-a", "1\r\nx-b: 2"), ("x\n", "1")):
        with pytest.raises(ConfigurationError, match="line break"):
            Response().with_header(name, value)


@pytest.mark.parametrize("status", [200, 302, 399, 600])
def test_a_refusal_cannot_be_turned_into_a_success(status: int) -> None:
    """Section 7, with_status."""
    with pytest.raises(ConfigurationError, match="use 400 to 599"):
        Denial(message="no").with_status(status)


async def test_a_run_without_handler_says_so() -> None:
    with pytest.raises(ConfigurationError, match="no handler"):
        await ChainRun(Chain(Decide()).freeze(), None, [])(Request())


def test_the_base_of_decide_is_shared_by_the_frameworks() -> None:
    from chio_asgi.decide import Decide as ASGIDecide

    assert issubclass(ASGIDecide, DecisionMember)
