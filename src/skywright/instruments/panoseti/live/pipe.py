"""Frames announced over a named pipe: the name of a product after each frame.

Hashpipe writes a name of 10 bytes, padded with blanks, into ``read_status_2`` of a run directory
after each frame; the newest file of that product is read then.
"""

import asyncio
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from skywright.errors import DataError
from skywright.instruments.panoseti.live.follow import Followed, newest_files, run_directories
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.products import PRODUCTS, parse_file_name

logger = logging.getLogger(__name__)

NAME_BYTES = 10
LIST_PERIOD_S = 0.5
"""How often new run directories and pipes are looked for."""


class PipeReader:
    """Publish the newest frame of a product whenever a pipe names it.

    Parameters
    ----------
    data_dir
        As of `follow.newest_files`.
    publisher
        Where frames go.
    pipe_name
        Name of the pipe in a run directory.
    """

    def __init__(self, data_dir: Path, publisher: Publisher, pipe_name: str) -> None:
        self._data_dir = data_dir
        self._publisher = publisher
        self._pipe_name = pipe_name
        self._pipes: dict[Path, tuple[int, bytearray]] = {}
        self._files: dict[Path, Followed] = {}

    async def run(self) -> None:
        """Read pipes until cancelled."""
        try:
            while True:
                self._open_pipes()
                await asyncio.sleep(LIST_PERIOD_S)
        finally:
            for path in list(self._pipes):
                self._close(path)
            for followed in self._files.values():
                followed.file.close()

    def _open_pipes(self) -> None:
        wanted = {directory / self._pipe_name for directory in run_directories(self._data_dir)}
        for path in set(self._pipes) - wanted:
            self._close(path)
        for path in wanted - set(self._pipes):
            with suppress(OSError):
                if not stat.S_ISFIFO(path.stat().st_mode):
                    continue
                # Open for writing too: the pipe then never ends when its writer comes and goes.
                fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
                self._pipes[path] = (fd, bytearray())
                asyncio.get_running_loop().add_reader(fd, self._read, path)
                logger.info("%s is read", path)

    def _close(self, path: Path) -> None:
        fd, _ = self._pipes.pop(path)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)

    def _read(self, path: Path) -> None:
        fd, pending = self._pipes[path]
        with suppress(BlockingIOError):
            pending += os.read(fd, 65536)
        whole = len(pending) - len(pending) % NAME_BYTES
        names = {
            bytes(pending[at : at + NAME_BYTES]).decode("ascii", "replace").strip()
            for at in range(0, whole, NAME_BYTES)
        }
        del pending[:whole]
        for name in sorted(names - set(PRODUCTS)):
            logger.error("%s: %r is no data product", path, name)
        for name in sorted(names & set(PRODUCTS)):
            self._publish(path.parent, name)

    def _publish(self, directory: Path, product: str) -> None:
        for (_, name), path in newest_files(directory, self._publisher.modules).items():
            if name != product:
                continue
            try:
                if path not in self._files:
                    self._forget(path)
                    self._files[path] = Followed(path, parse_file_name(path))
                self._files[path].publish_new(self._publisher)
            except (OSError, DataError) as error:
                logger.error("%s: %s", path, error)

    def _forget(self, newer: Path) -> None:
        """Close the file that `newer` follows."""
        key = parse_file_name(newer)
        for path, followed in list(self._files.items()):
            name = followed.file.name
            if (name.module, name.product) == (key.module, key.product):
                followed.file.close()
                del self._files[path]
