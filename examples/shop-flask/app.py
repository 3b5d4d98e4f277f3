"""A shop in Flask: blueprints, a login by session, forms with CSRF tokens, and a capability in a cookie.

    python -m flask --app app run

Alice may order, Max may also refund. A login issues a capability that is bound to the user. What it does not grant is
refused, whatever the page offers.
"""

from __future__ import annotations

import os

from flask import Blueprint, Flask, g, redirect, render_template, request, session
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFProtect
from werkzeug.security import check_password_hash, generate_password_hash

from chio_flask import Chio, Policy, RequireCapability, from_session, issue_capability

COOKIE = "capability"
MINUTES = 15
USERS = {
    "alice": (generate_password_hash("alice"), ("shop/order",)),
    "max": (generate_password_hash("max"), ("shop/order", "shop/refund")),
}

pages = Blueprint("pages", __name__)
account = Blueprint("account", __name__, url_prefix="/account")
orders = Blueprint("orders", __name__, url_prefix="/orders")
ORDERED: list[str] = []

# Everybody may log in and out. The other form states what it requires.
Policy(side_effects=False)(account)


@pages.get("/")
def home() -> str:
    return render_template("home.html", user=session.get("user"), orders=ORDERED, receipt=g.chio_receipt.id)


@account.post("/login")
def log_in() -> ResponseReturnValue:
    name = request.form["name"]
    password, grants = USERS.get(name, (None, ()))
    if password is None or not check_password_hash(password, request.form["password"]):
        return "wrong name or password", 401
    session.clear()
    session["user"] = name
    response = redirect("/")
    token = issue_capability(*grants, ttl=60 * MINUTES).to_cookie()
    response.set_cookie(COOKIE, token, max_age=60 * MINUTES, httponly=True, samesite="Lax", secure=request.is_secure)
    return response


@account.post("/logout")
def log_out() -> ResponseReturnValue:
    session.clear()
    response = redirect("/")
    response.delete_cookie(COOKIE)
    return response


@orders.post("/")
@RequireCapability("shop", "order")
def order() -> ResponseReturnValue:
    ORDERED.append(f"{request.form['item']} for {session['user']}")
    return redirect("/")


@orders.post("/refund")
@RequireCapability("shop", "refund")
def refund() -> ResponseReturnValue:
    ORDERED.clear()
    return redirect("/")


def create_app() -> Flask:
    app = Flask(__name__, static_folder=None)
    app.secret_key = os.environ.get("SHOP_SECRET", os.urandom(16))
    CSRFProtect(app)
    for blueprint in (pages, account, orders):
        app.register_blueprint(blueprint)
    Chio(
        app,
        sidecar_url=os.environ.get("CHIO_SIDECAR_URL", "embedded:shop.sqlite3"),
        capability_source=f"cookie:{COOKIE}",
        extractor=from_session("user"),
    )
    return app
