"""The indexes for filters of receipts, and the conditions that they serve.

A receipt is a text, which an index looks into without parsing it: the index of a condition has every receipt that meets
it, and few others, and a reader compares the receipts themselves.
"""

from __future__ import annotations

# What a receipt says under a name, if its text has the name once, as sidecars write it; NULL if that is not certain.
FACT = r"""
CREATE OR REPLACE FUNCTION chio.fact(receipt text, name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN strpos(receipt, '\u') > 0 OR split_part(receipt, name, 3) <> '' THEN NULL
        WHEN strpos(receipt, '"' || name || '":"') = 0 THEN NULL
        ELSE split_part(split_part(receipt, '"' || name || '":"', 2), '"', 1)
    END
$$;
"""

UNCERTAIN = 0
"""A number and not NULL, for which the planner estimates so many rows that it would read the table."""


def key(name: str) -> str:
    """Return the indexed number of what receipts say under a name; a reader compares the receipts themselves."""
    return f"coalesce(hashtextextended(chio.fact(receipt_json, '{name}'), 0), {UNCERTAIN})"


def keyed(name: str) -> str:
    """Return the condition of the receipts that the index of a member has: the others do not have the member."""
    return rf"(strpos(receipt_json, '{name}') > 0 OR strpos(receipt_json, '\u') > 0)"


REFUSALS = ("deny", "cancel", "incomplete")
REFUSED = "(" + " OR ".join(f"strpos(receipt_json, '{verdict}') > 0" for verdict in REFUSALS) + ")"
"""A condition of every receipt that is no allow, and of few others."""

INDEXED = ("capability_id", "caller_identity_hash")
INDEXES = {
    "http_receipts_refused": f"chio.http_receipts (position) WHERE {REFUSED}",
    **{f"http_receipts_{name}": f"chio.http_receipts ({key(name)}, position) WHERE {keyed(name)}" for name in INDEXED},
}
"""What the indexes for filters are about, by name; they are made while sidecars write."""
