"""Follow the newest files of a data directory and publish their newest frames.

The kernel reports changes (inotify); sizes are looked at as well, rarely while the reports come
and often where they do not, as on a network file system.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from inotify_simple import INotify, flags

from skywright.errors import DataError
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.pff import PffFile
from skywright.instruments.panoseti.products import FileName, is_pff_name, parse_file_name

logger = logging.getLogger(__name__)

FileKey = tuple[int, str]
"""Module and product."""
DIRECTORY_PERIOD_S = 1.0
"""Directories are listed this often in any case."""
SLOW_POLL_S, FAST_POLL_S = 0.5, 0.005
"""Period of the look at sizes, where the kernel reports growth and where it does not."""
LOOK_BACK = 400
"""Frames at the end of a ph256 file among which the newest of each board is looked for."""
_DIRECTORY_CHANGE = (
    flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE_SELF
)


def newest_files(
    data_dir: Path,
    modules: frozenset[int] = frozenset(),
    directories: Sequence[Path] | None = None,
) -> dict[FileKey, Path]:
    """Return the newest file of each module and product.

    A data directory of a node holds ``module_<N>/<run>/*.pff``; that of a head node holds
    ``<run>/*.pff``; a run directory holds the files. `RunFinder` says which run is the newest; the
    newest file of a run is the one with the highest ``seqno``.

    Parameters
    ----------
    data_dir
        Any of these directories.
    modules
        Modules to look for; empty for all.
    directories
        `run_directories` of it, where they are known.
    """
    found: dict[FileKey, Path] = {}
    for directory in run_directories(data_dir) if directories is None else directories:
        best: dict[FileKey, tuple[tuple[int, str], Path]] = {}
        for name in _names(directory):
            if not is_pff_name(name):
                continue
            parsed = parse_file_name(name)
            if modules and parsed.module not in modules:
                continue
            key, rank = (parsed.module, parsed.product.name), (parsed.seqno, parsed.start)
            if key not in best or rank > best[key][0]:
                best[key] = (rank, directory / name)
        for key, (_, path) in best.items():
            found.setdefault(key, path)
    return found


def run_directories(data_dir: Path) -> list[Path]:
    """Return the directories that may hold files now; `RunFinder.directories` says which."""
    return RunFinder(data_dir).directories()


class RunFinder:
    """Finds the newest runs of a data directory.

    All methods may be called from any thread.

    Runs that are there at the first look are ordered by their times of modification. A run that
    appears later is newer than those, whatever its time says: clocks are set back.

    Parameters
    ----------
    data_dir
        See `newest_files`.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = threading.Lock()
        self._looks = 0
        self._appeared: dict[str, int] = {}
        """Number of the look that has found a run first, by its name."""

    def directories(self) -> list[Path]:
        """Return the directories that may hold files now, those of newer runs first.

        These are the data directory, and of each module the newest directory, and the newest one
        with files if that is another: a run that begins has none for a moment.
        """
        with self._lock:
            return self._directories()

    def _directories(self) -> list[Path]:
        data_dir, look = self._data_dir, self._looks
        self._looks += 1
        runs: list[tuple[tuple[int, int], Path]] = []
        there = set()
        for parent in [data_dir, *_module_directories(data_dir)]:
            dated = []
            for name in _names(parent):
                modified = -1 if name.startswith("module_") else _modified(parent / name)
                if modified >= 0:
                    there.add(name)
                    rank = self._appeared.setdefault(name, look), modified
                    dated.append((rank, parent / name))
            for pair in sorted(dated, reverse=True):
                newest = not runs or runs[-1][1].parent != parent
                filled = any(is_pff_name(name) for name in _names(pair[1]))
                if newest or filled:
                    runs.append(pair)
                if filled:
                    break
        self._appeared = {name: number for name, number in self._appeared.items() if name in there}
        runs.sort(reverse=True)
        return [data_dir, *(path for _, path in runs)]


def _module_directories(data_dir: Path) -> list[Path]:
    return [data_dir / name for name in _names(data_dir) if name.startswith("module_")]


def _names(directory: Path) -> list[str]:
    """Return the names in a directory; none if it is gone or no directory."""
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError:
        return []


def _modified(path: Path) -> int:
    """Return a directory's time of modification; -1 if it is none."""
    try:
        return path.stat().st_mtime_ns if path.is_dir() else -1
    except OSError:
        return -1


class Followed:
    """A file and how far it was read."""

    def __init__(self, path: Path, name: FileName) -> None:
        self.file = PffFile(path, name)
        self.frames = self.size = 0
        self.broken = False

    def publish_new(self, publisher: Publisher) -> bool:
        """Publish the newest frames if the file has grown; return whether it has."""
        size = self.file.size
        if size == self.size or self.broken:
            return False
        if size < self.size:
            self._start_again()
        self.size = size
        try:
            count = len(self.file)
            if count > self.frames:
                several = self.file.product.quabos == 1
                first = max(self.frames, count - LOOK_BACK) if several else count - 1
                publisher.publish_newest(self.file.read(first, count))
                self.frames = count
        except DataError as error:
            if self.file.size >= size:
                self.broken = True
                logger.error("%s is not read any more: %s", self.file.path, error)
        return True

    def _start_again(self) -> None:
        logger.warning("%s was truncated: it is read again from its start", self.file.path)
        path, name = self.file.path, self.file.name
        self.file.close()
        self.file, self.frames, self.broken = PffFile(path, name), 0, False

    @property
    def replaced(self) -> bool:
        """Whether the path no longer leads to this file."""
        try:
            there = self.file.path.stat()
        except OSError:
            return True
        return not os.path.samestat(there, self.file.stat())


class FileFollower:
    """Publish the newest frame of each module and product of a data directory, as files grow.

    Parameters
    ----------
    data_dir
        See `newest_files`. It need not hold anything yet.
    publisher
        Where frames go.
    interval_s
        Shortest time between two looks at a file.
    """

    def __init__(self, data_dir: Path, publisher: Publisher, interval_s: float) -> None:
        self._data_dir = data_dir
        self._finder = RunFinder(data_dir)
        self._publisher = publisher
        self._interval_s = interval_s
        self._followed: dict[FileKey, Followed] = {}
        self._by_path: dict[Path, Followed] = {}
        self._watched: dict[Path, int] = {}
        self._paths: dict[int, Path] = {}
        self._inotify: INotify | None = None
        self._wake = asyncio.Event()
        self._grown: dict[Followed, None] = {}
        self._listing: asyncio.Task[None] | None = None
        self._relist = True
        self._reports = self._unreported = 0

    async def run(self) -> None:
        """Follow until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            self._inotify = INotify(nonblocking=True)
            loop.add_reader(self._inotify.fileno(), self._take_events)
        except OSError as error:
            logger.warning("no notification of changed files (%s): sizes are polled", error)
        try:
            await self._follow()
        finally:
            if self._listing is not None:
                self._listing.cancel()
            if self._inotify is not None:
                loop.remove_reader(self._inotify.fileno())
                self._inotify.close()
            for followed in self._followed.values():
                followed.file.close()

    async def _follow(self) -> None:
        next_list = next_poll = 0.0
        while True:
            now = time.monotonic()
            if self._listing is not None and self._listing.done():
                self._listing.result()  # raises what it failed with
                self._listing = None
            if self._listing is None and (self._relist or now >= next_list):
                self._relist = False
                self._listing = asyncio.create_task(self._list_files())
                next_list = now + DIRECTORY_PERIOD_S
            for followed in list(self._grown):
                self._publish(followed)
            self._grown.clear()
            if now >= next_poll:
                next_poll = now + self._poll_sizes()
            await asyncio.sleep(self._interval_s)
            with suppress(TimeoutError):
                # A listing that is under way wakes this loop at its end.
                due = next_poll if self._listing is not None else min(next_poll, next_list)
                until = max(0.0, due - time.monotonic())
                # Not wait_for: on Python 3.11 it may lose a cancellation that comes with the event.
                async with asyncio.timeout(until):
                    await self._wake.wait()
            self._wake.clear()

    def _publish(self, followed: Followed) -> bool:
        try:
            return followed.publish_new(self._publisher)
        except (OSError, DataError) as error:
            logger.warning("%s: %s", followed.file.path, error)
            self._relist = True
            return False

    def _poll_sizes(self) -> float:
        """Look at all sizes; return when to look again."""
        missed = [followed for followed in self._followed.values() if self._publish(followed)]
        silent = self._reports == 0
        self._reports = 0
        # A report may still be on its way: only repeated growth without one means there are none.
        if missed or not silent:
            self._unreported = self._unreported + 1 if silent else 0
        if self._inotify is None or self._unreported >= 3:
            return max(self._interval_s, FAST_POLL_S)
        return SLOW_POLL_S

    async def _list_files(self) -> None:
        """Look for new files and directories beside the frames: years of runs take a while."""
        try:
            wanted, directories = await asyncio.to_thread(self._look)
            self._follow_files(wanted)
            self._watch_directories(directories)
        finally:
            self._wake.set()

    def _look(self) -> tuple[dict[FileKey, Path], set[Path]]:
        """Return the newest files, and the directories in which others may appear."""
        runs = self._finder.directories()
        wanted = newest_files(self._data_dir, self._publisher.modules, runs)
        return wanted, {*_module_directories(self._data_dir), *runs}

    def _follow_files(self, wanted: Mapping[FileKey, Path]) -> None:
        for key, followed in list(self._followed.items()):
            if wanted.get(key) != followed.file.path or followed.replaced:
                self._publish(followed)  # what was written before the change
                del self._followed[key]
                del self._by_path[followed.file.path]
                self._grown.pop(followed, None)
                followed.file.close()
        for key, path in wanted.items():
            if key in self._followed:
                continue
            try:
                followed = Followed(path, parse_file_name(path))
            except DataError as error:
                logger.error("%s", error)
                continue
            self._followed[key] = self._by_path[path] = followed
            self._publish(followed)

    def _watch_directories(self, directories: Collection[Path]) -> None:
        if self._inotify is None:
            return
        wanted = {*directories, *(path.parent for path in self._by_path)}
        for path in wanted - set(self._watched):
            try:
                watch = self._inotify.add_watch(path, flags.MODIFY | _DIRECTORY_CHANGE)
            except OSError as error:
                logger.debug("%s is not watched: %s", path, error)
                continue
            self._watched[path], self._paths[watch] = watch, path
            self._relist = True  # it may have changed before it was watched
        for path in set(self._watched) - wanted:
            watch = self._watched.pop(path)
            self._paths.pop(watch, None)
            with suppress(OSError):
                self._inotify.rm_watch(watch)

    def _take_events(self) -> None:
        assert self._inotify is not None
        for event in self._inotify.read(timeout=0):
            path = self._paths.get(event.wd)
            if event.mask & (flags.Q_OVERFLOW | _DIRECTORY_CHANGE):
                self._relist = True
            if event.mask & flags.IGNORED and path is not None:
                self._watched.pop(path, None)
                self._paths.pop(event.wd, None)
                self._relist = True
            elif path is not None and event.mask & flags.MODIFY:
                followed = self._by_path.get(path / event.name)
                if followed is not None:
                    self._reports += 1
                    self._grown[followed] = None
        if self._grown or self._relist:
            self._wake.set()
