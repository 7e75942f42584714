"""Frames announced over a named pipe: the name of a product after each frame.

Hashpipe writes a name of 10 bytes, padded with blanks, into ``read_status_2`` of a run directory
after each frame; the newest file of that product is read then.
"""

import asyncio
import logging
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from skywright.errors import DataError
from skywright.instruments.panoseti.live.follow import (
    FileKey,
    Followed,
    RunFinder,
    is_replaced,
    newest_files,
    publish_new,
)
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
        self._finder = RunFinder(data_dir)
        self._publisher = publisher
        self._pipe_name = pipe_name
        self._pipes: dict[Path, tuple[int, bytearray]] = {}
        self._files: dict[FileKey, Followed] = {}
        self._announced: dict[tuple[Path, str], None] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Read pipes until cancelled."""
        loop = asyncio.get_running_loop()
        next_list = 0.0
        try:
            while True:
                if loop.time() >= next_list:
                    self._open_pipes(await asyncio.to_thread(self._finder.directories))
                    next_list = loop.time() + LIST_PERIOD_S
                announced = list(self._announced)
                self._announced.clear()
                for directory, product in announced:
                    await self._publish(directory, product)
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(next_list):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            for path in list(self._pipes):
                self._close(path)
            for followed in self._files.values():
                followed.file.close()

    def _open_pipes(self, directories: Sequence[Path]) -> None:
        wanted = {directory / self._pipe_name for directory in directories}
        for path, (fd, _) in list(self._pipes.items()):
            if path not in wanted or is_replaced(path, os.fstat(fd)):
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
        for name in sorted(names & set(self._publisher.products)):
            self._announced[path.parent, name] = None
            self._wake.set()

    async def _publish(self, directory: Path, product: str) -> None:
        """Publish the newest frames of a product, after another thread has looked for its files."""
        newest = await asyncio.to_thread(newest_files, [directory], self._publisher.modules)
        named = {
            key: path
            for key, path in newest.items()
            if key[1] == product and self._publisher.takes(*key)
        }
        for key, path in named.items():
            try:
                self._follow(key, path)
            except (OSError, DataError) as error:
                logger.error("%s: %s", path, error)
        followed = [self._files[key] for key in named if key in self._files]
        await publish_new(followed, self._publisher)

    def _follow(self, key: FileKey, path: Path) -> None:
        """Follow a file in place of the one of the same module and product."""
        followed = self._files.get(key)
        if followed is None or followed.file.path != path or followed.replaced:
            if followed is not None:
                del self._files[key]
                followed.file.close()
            self._files[key] = Followed(path, parse_file_name(path))
