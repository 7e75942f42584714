"""The embedded tiled server: ``python -m skywright.store.server --directory STORE``."""

import argparse
import asyncio
import logging
import math
import os
import secrets
import signal
import sqlite3
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import zarr
from sqlalchemy.ext.asyncio import create_async_engine
from tiled.adapters import hdf5
from tiled.adapters import zarr as tiled_zarr
from tiled.alembic_utils import stamp_head
from tiled.catalog.alembic_constants import ALEMBIC_DIR, ALEMBIC_INI_TEMPLATE_PATH
from tiled.catalog.core import initialize_database
from tiled.server.app import build_app_from_config

from skywright.config import load_settings
from skywright.errors import ConfigError, DataError, SkywrightError
from skywright.files.hdf5 import READING, check_rows
from skywright.files.readers import HDF5, readers
from skywright.processes import http_server
from skywright.processes.lifecycle import announce_ready, end_with_parent, lower_priority
from skywright.processes.logs import named_level
from skywright.processes.ports import free_port, http_url, port_number
from skywright.processes.supervisor import CONFIGURATION_ERROR
from skywright.store.dependencies import remember_dependencies
from skywright.store.probe import check_readable
from skywright.store.reader_adapter import ADAPTER
from skywright.store.table_adapter import MIMETYPE
from skywright.store.table_pool import separate_connections

GRACE_S = 2
"""Open streams and downloads get this long after SIGTERM."""

CATALOG = "catalog.db"
CHUNK_BYTES = 1 << 20
"""Size of the parts in which tiled reads an HDF5 dataset without chunks, bytes."""

log = logging.getLogger(__name__)


def read_or_make_api_key(directory: Path) -> str:
    """Return the key of the embedded server of the store `directory`, made at the first call.

    Letters and digits only, as tiled wants it; the file can be read by its owner alone.
    """
    path = directory / "tiled" / "api_key"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_text().strip()
        if not key.isalnum():
            raise ConfigError(
                f"{path}: not a key of letters and digits; delete the file for a new one"
            ) from None
        return key
    key = secrets.token_hex(32)
    with os.fdopen(fd, "w") as file:
        file.write(key)
    return key


def tiled_config(directory: Path, readable: Sequence[Path]) -> dict[str, Any]:
    """Return tiled's own configuration of the embedded server.

    Parameters
    ----------
    directory
        The store: catalog, tables and arrays go to its ``tiled``.
    readable
        Further directories with assets, beside ``assets`` of the store.
    """
    home = directory / "tiled"
    data = home / "data"
    for needed in (data, directory / "assets"):
        needed.mkdir(parents=True, exist_ok=True)
    tree = {
        "uri": f"sqlite:///{home / CATALOG}",
        "writable_storage": [str(data), tables_uri(directory)],
        "readable_storage": [str(path) for path in (directory / "assets", *readable)],
        "adapters_by_mimetype": {
            MIMETYPE: "skywright.store.table_adapter:ColumnsAdapter",
            **{mimetype: ADAPTER for mimetype in readers() if mimetype != HDF5},
        },
    }
    return {
        "trees": [{"path": "/", "tree": "catalog", "args": tree}],
        "authentication": {"single_user_api_key": read_or_make_api_key(directory)},
        "streaming_cache": {"uri": "memory"},
        # A client with a write key may register any path of this machine: never send raw files.
        "expose_raw_assets": False,
        # What the bluesky client asks for: run.documents() and run.validate().
        "media_types": {
            "BlueskyRun": {"application/json-seq": "skywright.store.documents:export_documents"}
        },
        "routers": [
            "bluesky_tiled_plugins.routers.validator:router",
            "skywright.store.routes:router",
        ],
    }


def tables_uri(directory: Path) -> str:
    """Return where tiled keeps the tables of the store `directory`."""
    return f"duckdb:///{directory / 'tiled' / 'storage.duckdb'}"


def make_catalog(directory: Path) -> None:
    """Make tiled's catalog of the store `directory`, unless it is there.

    tiled would do it in a process of its own, which has to import tiled once more: seconds.
    tiled also tries to switch the database to write-ahead logging, but within a transaction, in
    which SQLite refuses that.

    Raises
    ------
    DataError
        If the file is no SQLite database, or another process has locked it.
    """
    path = directory / "tiled" / CATALOG
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path)) as database:  # rolls back what a killed process left
            database.execute("PRAGMA journal_mode=WAL")
            if _is_catalog(database):
                return
    except sqlite3.Error as error:
        raise DataError(f"{path}: {error}; expected tiled's catalog, used by nobody") from error
    make_tables(f"sqlite+aiosqlite:///{path}")


def make_tables(uri: str) -> None:
    """Make the tables of tiled's catalog in an empty database.

    Parameters
    ----------
    uri
        SQLAlchemy's, with an asynchronous driver: ``postgresql+asyncpg://...``.
    """

    async def make() -> None:
        engine = create_async_engine(uri)
        try:
            await initialize_database(engine)
        finally:
            await engine.dispose()

    asyncio.run(make())
    stamp_head(ALEMBIC_INI_TEMPLATE_PATH, ALEMBIC_DIR, uri)


def _is_catalog(database: sqlite3.Connection) -> bool:
    """Return whether all of tiled's tables are there; the version is written last."""
    named = "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
    return bool(
        database.execute(named).fetchone()
        and database.execute("SELECT * FROM alembic_version").fetchone()
    )


def with_targets(directories: Sequence[Path]) -> list[Path]:
    """Return directories by the paths that are given, and by those without symbolic links.

    Documents may refer to a file by either, and tiled compares paths as text.
    """
    given = [path.expanduser().absolute() for path in directories]
    return list(dict.fromkeys(each for path in given for each in (path, path.resolve())))


def _check_directories(readable: Sequence[Path]) -> None:
    for path in readable:
        if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
            raise ConfigError(
                f"store.readable: {path} is not a directory that this process can read; "
                "make it, or take it out of the configuration"
            )


class OpenHdf5(hdf5.h5open):
    """tiled's way to open an HDF5 file, with the options of skywright's readers.

    With tiled's own options a damaged file is read for ever, and one that is cut short as zeros.
    """

    def __init__(self, filename: str | Path, dataset: str | None = None, **_: Any) -> None:
        super().__init__(filename, dataset, **READING)

    def __enter__(self) -> Any:
        found = super().__enter__()
        is_array = isinstance(found, h5py.Dataset) and found.shape
        return _CheckedRows(found.id) if is_array else found


class _CheckedRows(h5py.Dataset):
    """A dataset; to read rows that its file lacks is an error."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Chunks in which tiled reads the dataset.

        Some datasets have none in their file, such as the virtual one of a resumed run. Of these
        tiled would read all rows for each request.
        """
        if (in_file := super().chunks) is not None:
            return tuple(in_file)
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        return (max(CHUNK_BYTES // max(row_bytes, 1), 1), *self.shape[1:])

    def __getitem__(self, key: Any, new_dtype: Any = None) -> Any:
        first = key[0] if isinstance(key, tuple) and key else key
        is_range = isinstance(first, slice) and (first.step or 1) > 0
        start, stop, _ = (first if is_range else slice(None)).indices(len(self))
        check_rows(self, start, stop)
        return super().__getitem__(key, new_dtype)


def serve(directory: Path, host: str, port: int, readable: Sequence[Path] = ()) -> None:
    """Run the embedded server until SIGTERM; the ready line has its ``uri``.

    It is announced once a real frame has come back through HTTP.

    Raises
    ------
    ConfigError
        When a directory cannot be read through the server, or it does not start.
    """
    readable = with_targets(readable)
    _check_directories(readable)
    make_catalog(directory)
    remember_dependencies()
    hdf5.h5open = OpenHdf5
    # A server that was killed, or a full disk, may leave an array without its node. When tiled
    # makes an array, the catalog has no other node of its path, so an array there is such a rest.
    tiled_zarr.create_array = partial(zarr.create_array, overwrite=True)
    app = build_app_from_config(tiled_config(directory, readable))
    separate_connections(tables_uri(directory))
    failures: list[Exception] = []

    def check(port: int) -> None:
        uri = http_url(host, port)
        try:
            key = read_or_make_api_key(directory)
            check_readable(uri, key, (directory / "assets", *readable))
        except Exception as error:
            failures.append(error)
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            announce_ready(uri=uri)

    http_server.serve(
        app,
        host,
        port or free_port(host),
        lambda port: threading.Thread(target=check, args=(port,), daemon=True).start(),
        log_level="warning",
        loop="asyncio",
        timeout_graceful_shutdown=GRACE_S,
    )
    for failure in failures:
        raise failure


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server from the command line; defaults come from the configuration."""
    end_with_parent()
    lower_priority()
    logging.basicConfig(level=named_level(logging.WARNING))
    try:
        settings = load_settings()
        parser = argparse.ArgumentParser(prog="skywright.store.server", description=__doc__)
        parser.add_argument("--directory", type=Path, default=settings.directory, help="the store")
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument(
            "--port", type=port_number, default=settings.store.tiled_port, help="0: a free one"
        )
        parser.add_argument(
            "--readable",
            type=Path,
            nargs="*",
            default=list(settings.store.readable),
            help="further directories with assets",
        )
        options = parser.parse_args(argv)
        directory = options.directory.expanduser().resolve()
        serve(directory, options.host, options.port, options.readable)
        return 0
    except SkywrightError as error:
        log.error("%s", error)
        return CONFIGURATION_ERROR


if __name__ == "__main__":
    sys.exit(main())
