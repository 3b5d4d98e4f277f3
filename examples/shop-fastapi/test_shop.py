"""The shop in a test: a login, an order, and what another user's capability opens."""

import pytest
from app import app
from fastapi.testclient import TestClient


@pytest.fixture
def client(chio, tmp_path, monkeypatch):
    monkeypatch.setattr("app.DATABASE", str(tmp_path / "data.sqlite3"))
    return TestClient(chio.connect(app))


@pytest.fixture
def log_in(client):
    """Return a login: the headers of a user, as the page sends them."""

    def send(name):
        found = client.post("/token", data={"username": name, "password": name}).json()
        return {"Authorization": f"Bearer {found['access_token']}", "X-Chio-Capability": found["capability"]}

    return send


def test_a_visitor_reads_and_cannot_order(client):
    assert client.get("/orders").json() == []
    assert client.post("/orders", json={"item": "tea"}).status_code == 401


def test_alice_orders_and_cannot_refund(chio, client, log_in):
    alice = log_in("alice")
    ordered = client.post("/orders", json={"item": "tea"}, headers=alice)
    assert ordered.json()["receipt"] == chio.receipt_of(ordered).id
    assert client.delete("/orders", headers=alice).status_code == 403
    assert client.get("/orders").json() == ["tea for alice"]


def test_the_capability_of_max_serves_max_alone(client, log_in):
    alice, max_ = log_in("alice"), log_in("max")
    stolen = alice | {"X-Chio-Capability": max_["X-Chio-Capability"]}
    assert client.delete("/orders", headers=stolen).status_code == 403
    assert client.delete("/orders", headers=max_).status_code == 200


def test_a_logout_ends_the_capability_too(client, log_in):
    alice = log_in("alice")
    client.post("/logout", headers=alice)
    assert client.post("/orders", json={"item": "tea"}, headers=alice).status_code == 401
