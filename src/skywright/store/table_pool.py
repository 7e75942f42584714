"""Connections of the embedded server to its tables: one for each request under way.

The one module that touches private names of ``tiled.storage``. tiled 0.2.20 lets all its threads
share a single connection to DuckDB, which ADBC's connections are not made for: a reader beside the
ingester, or two readers, get each other's errors or take the process down (SIGABRT, SIGSEGV).
DuckDB itself takes any number of connections from one process, each with a transaction of its own.
"""

from sqlalchemy.pool import QueuePool
from tiled.storage import EmbeddedSQLStorage, parse_storage

KEPT = 5
"""Connections that stay open."""

AT_ONCE = 40
"""Maximum number of connections: that of the threads in which the server reads (anyio's limit), so
that no thread waits for a connection."""


def separate_connections(uri: str) -> None:
    """Have each use of the tables at `uri`, in this process, take a connection of its own.

    Parameters
    ----------
    uri
        Uri of a storage in DuckDB: ``duckdb:///...``, as in tiled's ``writable_storage``.

    Raises
    ------
    TypeError
        If it names another kind of storage.
    """
    storage = parse_storage(uri)  # the one of this process
    if not isinstance(storage, EmbeddedSQLStorage) or storage.dialect != "duckdb":
        raise TypeError(f"{uri}: {type(storage).__name__}; expected one in DuckDB")
    connection = storage.create_adbc_connection()
    pool = QueuePool(connection.adbc_clone, pool_size=KEPT, max_overflow=AT_ONCE - KEPT)
    # The values of cached properties: tiled finds these there, and closes them with the storage.
    storage.__dict__.update(_adbc_connection=connection, _connection_pool=pool)
