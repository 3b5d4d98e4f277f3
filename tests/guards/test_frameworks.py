"""Guards as each framework is given them, and their thread; what they do is in tests/faces/test_guards.py."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings
from fastapi import FastAPI
from flask import Flask

import chio_core.guards
from chio_asgi import ChioASGIMiddleware
from chio_core import Chain, ConfigurationError, Downstream, GuardRequest
from chio_core.guards import RateLimit, SecurityHeaders
from chio_core.guards.chain import guard_list
from chio_core.testing import ScriptedSidecar
from chio_core.threads.guards import ChainRunner
from chio_fastapi import add_chio
from chio_flask import Chio
from tests.chain.tools import Request
from tests.support import settings


async def waits(request: GuardRequest) -> None:
    """A guard that really awaits (G16)."""
    await asyncio.sleep(0.01)
    await asyncio.get_running_loop().run_in_executor(None, int)
    request.state.seen = "waited"


async def notes(request: GuardRequest) -> None:
    request.state.seen = "looked"


def test_a_guard_that_claims_not_to_wait_and_does_is_an_error() -> None:
    class Liar:
        waits = False

        async def __call__(self, request: GuardRequest) -> None:
            await asyncio.sleep(0)

    chain = ChainRunner([Chain().add(Liar(), priority=-1)])
    with pytest.raises(ConfigurationError, match="has waited"):
        chain.run(Request(), [], lambda: None, Downstream)


def test_the_guards_thread_is_made_when_it_is_needed_and_ended() -> None:
    chain = ChainRunner([waits])

    def running() -> set[int | None]:
        return {thread.ident for thread in threading.enumerate() if thread.name == "chio-guards"}

    others = running()
    for _ in range(2):
        assert chain.run(Request(), [], lambda: None, Downstream) == Downstream()
        assert len(running() - others) == 1
        chain.close()
        assert not running() - others


def test_flask_names_an_order_that_cannot_work() -> None:
    with pytest.raises(ConfigurationError, match=r"cache .* requires 'decision', which decide"):
        Chio(Flask("x"), guards=[Chain().add(notes, name="cache", requires=["decision"], priority=-1)])


def test_the_command_prints_the_chain_of_a_flask_application() -> None:
    """C9"""
    from chio_sidecar.cli.application import check_application

    app = Flask("x")
    Chio(app, ScriptedSidecar().settings(), guards=[notes, SecurityHeaders()])
    assert check_application(app)[0].message == "security_headers (-90) → decide (0) → notes (10)"


def found(**overrides: Any) -> list[tuple[str, str]]:
    with override_settings(CHIO_TRUSTED_KERNEL_KEYS=["00" * 32], **overrides):
        return [(str(message.id), str(message.msg)) for message in run_checks()]


def test_dotted_paths_name_guards_chains_and_classes_and_the_check_prints_their_order() -> None:
    """CHIO_GUARDS in Django's settings, and what `manage.py check` says."""
    paths = ["tests.guards.test_frameworks.notes", "chio_core.guards.SecurityHeaders", RateLimit("1/minute")]
    order, memory = found(CHIO_GUARDS=paths)
    assert order == (
        "chio.I001",
        "Guards run in this order: security_headers (-90) → rate_limit (-60) → decide (0) → notes (10).",
    )
    assert memory[0] == "chio.W007"
    assert found(CHIO_GUARDS=Chain(notes))[0][1] == "Guards run in this order: decide (0) → notes (10)."
    assert found() == []


@pytest.mark.parametrize(
    ("guards", "said"),
    [
        (["nowhere.guard"], "cannot be imported"),
        ("chio_core.guards.SecurityHeaders", "takes a list, not one text"),
        (notes, "CHIO_GUARDS takes a list: write CHIO_GUARDS=[notes]"),
        (["chio_core.guards.IpBlock"], "IpBlock cannot be made without arguments"),
        ([Chain().add(notes, requires=["decision"], priority=-1)], "requires 'decision'"),
        (["tests.guards.tools.redis_server"], "must be `async def`"),
    ],
)
def test_guards_that_cannot_be_used_are_errors_of_the_check(guards: Any, said: str) -> None:
    ((number, message),) = found(CHIO_GUARDS=guards)
    assert number == "chio.E005"
    assert said in message


@pytest.mark.parametrize(("guards", "name"), [(notes, "notes"), (SecurityHeaders(), "security_headers")])
def test_one_guard_instead_of_a_list_is_an_error(guards: Any, name: str) -> None:
    said = rf"^guards takes a list: write guards=\[{name}\]$"
    with pytest.raises(ConfigurationError, match=said):
        add_chio(FastAPI(), guards=guards)
    with pytest.raises(ConfigurationError, match=said):
        ChioASGIMiddleware(FastAPI(), settings(), guards=guards)
    with pytest.raises(ConfigurationError, match=said):
        Chio(Flask("app"), guards=guards)


def test_lists_tuples_generators_and_chains_are_lists() -> None:
    chain = Chain(notes)
    assert guard_list(chain) == [chain]
    assert guard_list([notes, chain]) == guard_list((notes, chain)) == guard_list(one for one in (notes, chain))
    assert guard_list(()) == []
    with pytest.raises(ConfigurationError, match="guards takes a list, not one text"):
        guard_list("notes")


@pytest.mark.parametrize(
    ("guard", "module", "library"), [("JwtAuth", "jwt_auth", "jwt"), ("RateLimit", "rate_limit", "limits")]
)
def test_without_its_library_a_guard_names_the_extra(
    guard: str, module: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"chio_core.guards.{module}", raising=False)
    with pytest.raises(
        ModuleNotFoundError, match=rf"{guard} needs the extra 'guards' \({library}\S* is missing\): pip"
    ):
        getattr(chio_core.guards, guard)
