"""Checks by real writes and reads whether the store accepts data and returns them."""

import io
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pyarrow
from tiled.client.utils import ClientError
from tiled.structures.array import ArrayStructure
from tiled.structures.core import StructureFamily

from skywright.errors import ConfigError
from skywright.files.readers import HDF5
from skywright.store.client import connect
from skywright.store.external import external_source

PREFIX = "skywright-probe-"
REFUSED_STATUS = {401, 403}
"""Answers to a wrong key, or to a request that the access policy does not accept."""
TABLE_KEY = f"{PREFIX}{uuid.uuid4().hex}"
"""Key of the container that `takes_writes` creates; each process has its own."""
FRAME = np.arange(6, dtype="|u1").reshape(1, 2, 3)

log = logging.getLogger(__name__)


def check_readable(uri: str, api_key: str, directories: Sequence[Path]) -> None:
    """Read one tiny frame of each directory through the server.

    tiled accepts an asset outside its readable storage and then fails each read of it, so only
    a read shows that a directory is served.

    Raises
    ------
    ConfigError
        Naming the directory whose frame did not come back.
    """
    client = connect(uri, api_key)
    content = io.BytesIO()  # HDF5 does not survive each failure of a write
    with h5py.File(content, "w", libver="latest") as file:
        file["frame"] = FRAME
    for directory in directories:
        if not os.access(directory, os.W_OK):
            log.warning("%s: not writable here, so reading from it is not checked", directory)
            continue
        path = directory / f"{PREFIX}{uuid.uuid4().hex}.h5"
        try:
            try:
                path.write_bytes(content.getvalue())
            except OSError as error:
                log.warning("reading from this directory is not checked: %s", error)
                continue
            _read_back(client, path)
        finally:
            path.unlink(missing_ok=True)


def _read_back(client: Any, path: Path) -> None:
    source = external_source(
        StructureFamily.array,
        ArrayStructure.from_array(FRAME),
        HDF5,
        {"dataset": "frame", "locking": False},
        [f"file://localhost{path}"],
    )
    try:
        node = client.new(StructureFamily.array, [source], key=path.stem)
        try:
            frame = node.read()
        finally:
            _remove(client, path.stem)
    except httpx.HTTPError as error:
        raise ConfigError(
            f"{path.parent}: tiled does not serve files of this directory ({error}); "
            "add it to store.readable and start the server again"
        ) from error
    if not np.array_equal(frame, FRAME):
        raise ConfigError(f"{path.parent}: a frame read through tiled differs from its file")


def takes_writes(client: Any) -> bool:
    """Return whether the server takes a new container with a table now.

    If not, the server or a proxy is the cause of a run that fails (disk full, read-only, wrong
    key), and not the run.
    """
    table = pyarrow.table({"seq_num": [1]})
    try:
        container = _made(client, client.create_container, TABLE_KEY)
        try:
            create = partial(container.create_appendable_table, table.schema)
            _made(container, create, "t").append_partition(0, table)
        finally:
            _remove(client, TABLE_KEY)
    # The other errors: an answer that is not tiled's, such as a page of a proxy
    except (httpx.HTTPError, ValueError, KeyError):
        return False
    return True


def _made(container: Any, create: Callable[..., Any], key: str) -> Any:
    """Return a new node; the one that is there if an earlier probe could not remove it."""
    try:
        return create(key=key)
    except ClientError:
        return container[key]


def _remove(client: Any, key: str) -> None:
    """Remove a node of a probe; without the right to delete, leave it."""
    try:
        client.delete_contents(key, recursive=True, external_only=False)
    except ClientError as error:
        if error.response.status_code not in REFUSED_STATUS:
            raise
        log.warning("%s stays in tiled: this key may not delete nodes", key)
