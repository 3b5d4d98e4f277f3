"""The PostgreSQL backend: any number of sidecars on one database, each with a log of its own.

`schema` has the tables, `connection` the place and the deadline of a connection, `writer` the transactions, `store` the
`ReceiptStore`. Correctness does not rest on one writer at a time, as in SQLite, but on locks that end with a
transaction, so a pool of connections such as PgBouncer in transaction mode may be between.
"""

from chio_core.errors import ConfigurationError, install_extra

try:
    import psycopg  # noqa: F401
except ImportError:
    raise ConfigurationError(
        f"a receipt store in PostgreSQL needs the extra 'postgresql': {install_extra('postgresql')}"
    ) from None
