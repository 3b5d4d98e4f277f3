"""A shop in FastAPI: OAuth2 password flow, a database, and a page whose script keeps the capability.

    python -m uvicorn app:app

Alice may order, Max may also refund. A login returns an access token and a capability that is bound to it. The page
sends both with each request, so no cookie is involved, and no other site can use them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from fastapi.security import OAuth2PasswordBearer, OAuth2PasswordRequestForm
from pydantic import BaseModel

from chio_core.models import CallerIdentity
from chio_fastapi import ChioReceipt, IssuerDep, Policy, RequireCapability, add_chio

DATABASE = os.environ.get("SHOP_DATABASE", "shop-data.sqlite3")
MINUTES = 15
GRANTS = {"alice": ["shop/order"], "max": ["shop/order", "shop/refund"]}

app = FastAPI(title="Shop")
add_chio(app, sidecar_url=os.environ.get("CHIO_SIDECAR_URL", "embedded:shop.sqlite3"))


def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(DATABASE, check_same_thread=False)) as connection:
        connection.executescript(
            "CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, salt BLOB, password BLOB, access TEXT);"
            "CREATE TABLE IF NOT EXISTS orders (item TEXT, name TEXT)"
        )
        for name in GRANTS:
            salt = os.urandom(16)
            row = (name, salt, hashed(name, salt))  # the password is the name
            connection.execute("INSERT OR IGNORE INTO users (name, salt, password) VALUES (?, ?, ?)", row)
        yield connection
        connection.commit()


def hashed(text: str, salt: bytes) -> bytes:
    return hashlib.scrypt(text.encode(), salt=salt, n=2**14, r=8, p=1)


Database = Annotated[sqlite3.Connection, Depends(database)]
Bearer = Annotated[str, Depends(OAuth2PasswordBearer(tokenUrl="token"))]


def user(access: Bearer, connection: Database) -> str:
    digest = hashlib.sha256(access.encode()).hexdigest()
    found = connection.execute("SELECT name FROM users WHERE access = ?", (digest,)).fetchone()
    if found is None:
        raise HTTPException(401, "log in")
    return str(found[0])


User = Annotated[str, Depends(user)]


class Order(BaseModel):
    item: str


@app.get("/", response_class=HTMLResponse)
def home() -> str:
    return (Path(__file__).parent / "home.html").read_text()


@app.get("/orders")
def orders(connection: Database) -> list[str]:
    return [f"{item} for {name}" for item, name in connection.execute("SELECT item, name FROM orders")]


@app.post("/token", dependencies=[Depends(Policy(side_effects=False))])
def log_in(
    form: Annotated[OAuth2PasswordRequestForm, Depends()], connection: Database, issuer: IssuerDep
) -> dict[str, str]:
    row = connection.execute("SELECT salt, password FROM users WHERE name = ?", (form.username,)).fetchone()
    if row is None or not secrets.compare_digest(hashed(form.password, row[0]), row[1]):
        raise HTTPException(401, "wrong name or password")
    access = secrets.token_urlsafe()
    digest = hashlib.sha256(access.encode()).hexdigest()
    connection.execute("UPDATE users SET access = ? WHERE name = ?", (digest, form.username))
    # Later requests carry the access token, so that is the holder.
    token = issuer.issue(*GRANTS[form.username], ttl=60 * MINUTES, holder=CallerIdentity.bearer(access))
    return {"access_token": access, "token_type": "bearer", "capability": token.to_header()}


@app.post("/logout", dependencies=[Depends(Policy(side_effects=False))])
def log_out(name: User, connection: Database) -> None:
    connection.execute("UPDATE users SET access = NULL WHERE name = ?", (name,))


@app.post("/orders", dependencies=[Depends(RequireCapability("shop", "order"))])
def order(new: Order, name: User, connection: Database, receipt: ChioReceipt) -> dict[str, str]:
    connection.execute("INSERT INTO orders VALUES (?, ?)", (new.item, name))
    return {"receipt": receipt.id}


@app.delete("/orders", dependencies=[Depends(RequireCapability("shop", "refund"))])
def refund(name: User, connection: Database) -> None:
    connection.execute("DELETE FROM orders")
