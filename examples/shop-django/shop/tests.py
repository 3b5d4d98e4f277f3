"""The shop in a test: a login, an order, the admin, and what another user's capability opens.

python manage.py test
"""

from django.contrib.auth.models import Permission, User
from django.test import Client, TestCase

from shop.models import Order


class ShopTests(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        User.objects.create_user("alice", password="alice")
        refunds = Permission.objects.get(codename="delete_order")
        User.objects.create_user("max", password="max").user_permissions.add(refunds)
        User.objects.create_superuser("root", password="root")

    def log_in(self, name: str) -> Client:
        client = Client(headers={"Sec-Fetch-Site": "same-origin"})  # as a browser says of a form of this shop
        assert client.post("/account/login", {"name": name, "password": name}).status_code == 302
        return client

    def api(self, name: str) -> dict[str, str]:
        """Return the headers of a user of the API."""
        found = self.client.post("/api/token", {"name": name, "password": name}).json()
        return {"Authorization": f"Bearer {found['token']}", "X-Chio-Capability": found["capability"]}

    def test_a_visitor_reads_and_cannot_order(self) -> None:
        assert self.client.get("/").status_code == 200
        assert self.client.post("/orders/", {"item": "tea"}).status_code == 401

    def test_alice_orders_and_cannot_refund(self) -> None:
        alice = self.log_in("alice")
        assert alice.post("/orders/", {"item": "tea"}).status_code == 302
        assert alice.post("/orders/refund").status_code == 403
        assert [str(one) for one in Order.objects.all()] == ["tea for alice"]

    def test_the_capability_of_max_serves_max_alone(self) -> None:
        alice, max_ = self.api("alice"), self.api("max")
        stolen = alice | {"X-Chio-Capability": max_["X-Chio-Capability"]}
        assert self.client.post("/api/refund", headers=stolen).status_code == 403
        assert self.client.post("/api/refund", headers=max_).status_code == 200

    def test_a_logout_ends_the_capability_too(self) -> None:
        alice = self.log_in("alice")
        kept = alice.session["chio_capability"]
        alice.post("/account/logout")
        refused = alice.post("/orders/", {"item": "tea"}, headers={"X-Chio-Capability": kept})
        assert refused.status_code == 403

    def test_the_admin_needs_its_own_permissions_and_no_capability(self) -> None:
        added = {"item": "coffee", "user": "root"}
        assert "/admin/login/" in self.client.post("/admin/shop/order/add/", added)["Location"]
        root = Client()
        root.post("/admin/login/", {"username": "root", "password": "root"})
        assert root.post("/admin/shop/order/add/", added)["Location"] == "/admin/shop/order/"
        assert [str(one) for one in Order.objects.all()] == ["coffee for root"]
