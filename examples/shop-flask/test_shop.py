"""The shop in a test: a login, an order, and what another user's capability opens."""

import pytest
from app import COOKIE, ORDERED, create_app


@pytest.fixture
def app(chio):
    ORDERED.clear()
    app = create_app()
    app.config["WTF_CSRF_ENABLED"] = False  # its tests are those of Flask-WTF
    return chio.connect(app)


@pytest.fixture
def log_in(app):
    """Return a login: the client of a user, with the cookies that a browser would keep."""

    def send(name):
        client = app.test_client()
        client.environ_base["HTTP_SEC_FETCH_SITE"] = "same-origin"  # as a browser says of a form of this shop
        assert client.post("/account/login", data={"name": name, "password": name}).status_code == 302
        return client

    return send


def test_a_visitor_reads_and_cannot_order(app):
    assert app.test_client().get("/").status_code == 200
    assert app.test_client().post("/orders/", data={"item": "tea"}).status_code == 401


def test_alice_orders_and_cannot_refund(log_in):
    alice = log_in("alice")
    assert alice.post("/orders/", data={"item": "tea"}).status_code == 302
    assert alice.post("/orders/refund").status_code == 403
    assert ORDERED == ["tea for alice"]


def test_the_capability_of_max_serves_max_alone(log_in):
    alice, max_ = log_in("alice"), log_in("max")
    alice.set_cookie(COOKIE, max_.get_cookie(COOKIE).value)
    assert alice.post("/orders/refund").status_code == 401  # a cookie of another user counts as none
    assert max_.post("/orders/refund").status_code == 302


def test_a_logout_ends_the_capability_too(log_in):
    alice = log_in("alice")
    kept = alice.get_cookie(COOKIE).value
    alice.post("/account/logout")
    alice.set_cookie(COOKIE, kept)
    assert alice.post("/orders/", data={"item": "tea"}).status_code == 401
