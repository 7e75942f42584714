"""Files that other programs find whole, or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[Path]:
    """Context that yields the path of a new file; it takes the place of `path` at the end.

    It does so in one step. After an error in the with block `path` is as before, and the new file
    is removed.

    Parameters
    ----------
    path
        The file to be written; its directory must exist.
    sync
        True: also if the machine fails, `path` is whole afterwards. It takes the time that the disk
        needs.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield new
        if sync:
            with new.open("rb+") as file:
                os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
