"""Middleware that was added before `add_chio` is inside of it, and a warning says so."""

from __future__ import annotations

import logging

import pytest
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from chio_fastapi import add_chio


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_middleware_that_was_added_first_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    app.add_middleware(GZipMiddleware)
    app.add_middleware(CORSMiddleware)
    add_chio(app, sidecar_url="embedded:r.sqlite3")
    app.build_middleware_stack()
    (said,) = (text for text in warnings(caplog) if "add_chio" in text)
    assert "CORSMiddleware, GZipMiddleware, added before add_chio, will be inside Chio" in said


def test_middleware_that_was_added_afterwards_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    add_chio(app, sidecar_url="embedded:r.sqlite3")
    app.add_middleware(GZipMiddleware)
    assert not [text for text in warnings(caplog) if "add_chio" in text]
