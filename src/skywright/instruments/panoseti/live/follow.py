"""Follow the newest files of a data directory and publish their newest frames.

The kernel reports changes (inotify); sizes are checked as well, rarely while the reports come
and often where they do not, as on a network file system. Or Hashpipe announces frames over a named
pipe: it writes the name of the product, 10 bytes padded with blanks, into ``read_status_2`` of a
run directory after each frame.
"""

import asyncio
import logging
import math
import os
import stat
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from inotify_simple import INotify, flags

from skywright.errors import DataError
from skywright.instruments.panoseti.frames import Frames
from skywright.instruments.panoseti.live.publish import Publisher
from skywright.instruments.panoseti.pff import PffFile
from skywright.instruments.panoseti.products import (
    PRODUCTS,
    FileName,
    is_pff_name,
    parse_file_name,
)

logger = logging.getLogger(__name__)

FileKey = tuple[int, str]
"""Module and product."""
DIRECTORY_PERIOD_S = 1.0
"""Directories are listed this often in any case."""
RANK_PERIOD_S = 10.0
"""Runs that are there are put in order this often; a new one is found at the next scan."""
NEW_NS = 3_000_000_000
"""A directory that was changed so short ago may be changed again and keep its time."""
SLOW_POLL_S, FAST_POLL_S = 0.5, 0.005
"""Period of the checks of sizes, where the kernel reports growth and where it does not."""
NAME_BYTES = 10
"""Of a product in a pipe."""
NEWEST_FRAMES = 400
"""Frames at the end of a ph256 file among which the newest of each board is searched."""
_DIRECTORY_CHANGE = (
    flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE_SELF
)


def newest_files(directories: Sequence[Path], modules: frozenset[int]) -> dict[FileKey, Path]:
    """Return the newest file of each module and product.

    A data directory of a node holds ``module_<N>/<run>/*.pff``; that of a head node holds
    ``<run>/*.pff``; a run directory holds the files. `RunFinder` says which run is the newest; the
    newest file of a run is the one with the highest ``seqno``.

    Parameters
    ----------
    directories
        Directories of files, those of newer runs first, the data directory itself last.
    modules
        Modules that are wanted; empty for all.
    """
    found: dict[FileKey, Path] = {}
    for directory in directories:
        best: dict[FileKey, tuple[int, str, str]] = {}
        for name in (entry.name for entry in _entries(directory)):
            if not is_pff_name(name):
                continue
            parsed = parse_file_name(name)
            if modules and parsed.module not in modules:
                continue
            key, rank = (parsed.module, parsed.product.name), (parsed.seqno, parsed.start, name)
            best[key] = max(best.get(key, rank), rank)
        for key, (*_, name) in best.items():
            found.setdefault(key, directory / name)
    return found


class RunFinder:
    """Finds the newest runs of a data directory.

    All methods may be called from any thread.

    Runs that are there at the first scan are ordered by their times of modification. A run that
    appears later is newer than those, whatever its time says: clocks are set back.

    Parameters
    ----------
    data_dir
        See `newest_files`.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = threading.Lock()
        self._scans = 0
        self._appeared: dict[str, int] = {}
        """Number of the scan that has found a run first, by its name."""
        self._changed_ns: dict[Path, int] = {}
        """When runs were made in or removed from a directory for the last time."""
        self._found: list[Path] = []
        self._due = 0.0
        """When `_found` is no longer right though nothing has changed."""

    def directories(self) -> list[Path]:
        """Return the data directory, then the directories of runs that may hold files now.

        Those of newer runs come first: of each module the newest directory, and the newest one
        with files if that is another: a run that begins has none for a moment.
        """
        with self._lock:
            parents = [self._data_dir, *_module_directories(self._data_dir)]
            changed_ns = {parent: _mtime_ns(parent) for parent in parents}
            now = time.monotonic()
            if changed_ns != self._changed_ns or now >= self._due:
                is_old = max(changed_ns.values()) < time.time_ns() - NEW_NS
                self._found, self._changed_ns = self._directories(parents), changed_ns
                self._due = now + RANK_PERIOD_S if is_old else now
            return self._found

    def _directories(self, parents: Sequence[Path]) -> list[Path]:
        scan = self._scans
        self._scans += 1
        runs: list[tuple[tuple[int, int], Path]] = []
        there = set()
        for parent in parents:
            dated = []
            for entry in _entries(parent):
                name = entry.name
                # It may be gone meanwhile, or a link that leads nowhere.
                with suppress(OSError):
                    if not name.startswith("module_") and entry.is_dir():
                        rank = self._appeared.setdefault(name, scan), entry.stat().st_mtime_ns
                        dated.append((rank, name))
                        there.add(name)
            for rank, name in sorted(dated, reverse=True):
                newest = not runs or runs[-1][1].parent != parent
                filled = any(is_pff_name(entry.name) for entry in _entries(parent / name))
                if newest or filled:
                    runs.append((rank, parent / name))
                if filled:
                    break
        self._appeared = {name: number for name, number in self._appeared.items() if name in there}
        runs.sort(reverse=True)
        return [self._data_dir, *(path for _, path in runs)]


def _mtime_ns(directory: Path) -> int:
    """Return when the entries of a directory have changed; 0 if it is gone."""
    try:
        return os.stat(directory).st_mtime_ns  # noqa: PTH116 (asked at each scan)
    except OSError:
        return 0


def _module_directories(data_dir: Path) -> list[Path]:
    names = (entry.name for entry in _entries(data_dir))
    return [data_dir / name for name in names if name.startswith("module_")]


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    """Return what is in a directory; nothing if it is gone or no directory."""
    try:
        with os.scandir(directory) as found:
            return list(found)
    except OSError:
        return []


class Followed:
    """A file and how far it was read."""

    file: PffFile
    frames: int
    broken: bool
    _opened: os.stat_result

    def __init__(self, path: Path, name: FileName) -> None:
        self.size = 0
        self.trouble = ""
        """What could not be done with the file the last time; empty: nothing."""
        self._open(path, name)

    def read_new(self) -> Frames | None:
        """Return the newest of the frames that were not read before; None if there are none."""
        size = self.file.size
        if size == self.size or (self.broken and self.frames):
            return None
        if size < self.size:
            self._start_again()
        frames = None
        try:
            count = len(self.file)
            if count > self.frames:
                several = self.file.product.quabos == 1
                first = max(self.frames, count - NEWEST_FRAMES) if several else count - 1
                frames = self.file.read(first, count)
                self.frames, self.broken = count, False
        except DataError as error:
            if self.file.size >= size and not self.broken:
                self.broken = True
                logger.error("%s is not read any more: %s", self.file.path, error)
        self.size = size  # not after an OSError: the next call tries again
        return frames

    def _start_again(self) -> None:
        logger.warning("%s was truncated: it is read again from its start", self.file.path)
        path, name = self.file.path, self.file.name
        self.file.close()
        self._open(path, name)

    def _open(self, path: Path, name: FileName) -> None:
        self.file, self.frames, self.broken = PffFile(path, name), 0, False
        self._opened = self.file.stat()

    @property
    def place(self) -> tuple[Path, str]:
        """Directory and product, as a pipe names them."""
        return self.file.path.parent, self.file.product.name

    @property
    def replaced(self) -> bool:
        """Whether the path no longer leads to the file that was opened.

        Any thread may ask: the file itself, which is closed and opened again, is left alone.
        """
        return is_replaced(self.file.path, self._opened)


def is_replaced(path: Path, opened: os.stat_result) -> bool:
    """Return whether `path` no longer leads to the file that was `opened`."""
    try:
        return not os.path.samestat(path.stat(), opened)
    except OSError:
        return True


@contextmanager
def faults_logged(followed: Followed) -> Iterator[None]:
    """Log what goes wrong with one file, so that the others are still followed.

    An error that stays, as of a network file system that does not answer, is logged once. One that
    is not expected marks the file as broken: it would come again at each check.
    """
    try:
        yield
        followed.trouble = ""
    except (OSError, DataError) as error:
        if str(error) != followed.trouble:
            logger.warning("%s: %s", followed.file.path, error)
        followed.trouble = str(error)
    except Exception:
        followed.broken = True
        logger.exception("%s is not read any more", followed.file.path)


async def publish_new(several: Collection[Followed], publisher: Publisher) -> None:
    """Publish the newest frames of the files that have grown.

    Another thread reads them: a file whose frames differ in length is scanned, which takes long.
    When this is cancelled, it waits for that thread, so the files may be closed then.
    """
    if not several:
        return
    reading = asyncio.get_running_loop().run_in_executor(None, _read_new, list(several))
    try:
        found = await asyncio.shield(reading)
    except asyncio.CancelledError:
        await asyncio.wait([reading])
        raise
    for followed, frames in found:
        publish_newest(followed, frames, publisher)


def publish_newest(followed: Followed, frames: Frames | None, publisher: Publisher) -> None:
    """Publish the frames that were read from a file, if there are any."""
    if frames is not None:
        with faults_logged(followed):
            publisher.publish_newest(frames)


def _read_new(several: Collection[Followed]) -> list[tuple[Followed, Frames | None]]:
    found = []
    for followed in several:
        frames = None
        with faults_logged(followed):
            frames = followed.read_new()
        found.append((followed, frames))
    return found


@dataclass(frozen=True)
class _Listing:
    """What a scan of the data directory has found.

    Attributes
    ----------
    directories
        Directories in which files may appear.
    outdated
        Followed files that are no longer the newest ones of their module and product.
    opened
        Newest files that were not followed, and the newest frames of each.
    """

    directories: set[Path]
    outdated: list[FileKey]
    opened: dict[FileKey, tuple[Followed, Frames | None]]


def _close_opened(scanning: "asyncio.Future[_Listing]") -> None:
    """Close the files of a listing that nobody waits for any more."""
    if not scanning.cancelled() and scanning.exception() is None:
        for followed, _ in scanning.result().opened.values():
            followed.file.close()


class FileFollower:
    """Publish the newest frame of each module and product of a data directory, as files grow.

    Parameters
    ----------
    data_dir
        See `newest_files`. It need not hold anything yet.
    publisher
        Where frames go.
    interval_s
        Shortest time between two checks of a file.
    pipe_name
        Name of the pipes in run directories; files are then read when a pipe has named their
        product, and at no other time.
    """

    def __init__(
        self, data_dir: Path, publisher: Publisher, interval_s: float, pipe_name: str = ""
    ) -> None:
        self._data_dir = data_dir
        self._pipe_name = pipe_name
        self._pipes: dict[Path, tuple[int, bytearray]] = {}
        """Descriptor of each pipe, and what is no whole name yet."""
        self._announced: set[tuple[Path, str]] = set()
        """Directories and products that a pipe has named."""
        self._wrong_pipes: set[Path] = set()
        """Pipes that have named something else; it was logged."""
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
        self._listing: asyncio.Future[_Listing] | None = None
        self._relist = True
        self._reports = self._unreported = 0
        self._refused: set[str] = set()
        """Why newest files could not be opened at the last scan."""

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
                self._listing.add_done_callback(_close_opened)
            if self._inotify is not None:
                loop.remove_reader(self._inotify.fileno())
            for path in list(self._pipes):
                self._close_pipe(path)
            for followed in self._followed.values():
                followed.file.close()
            if self._inotify is not None:
                # The kernel takes 20 to 200 ms for it; the event loop must not wait so long.
                await asyncio.to_thread(self._inotify.close)

    async def _follow(self) -> None:
        next_list, next_poll = 0.0, math.inf if self._pipe_name else 0.0
        while True:
            now = time.monotonic()
            if self._listing is not None and self._listing.done():
                listing = self._listing.result()  # or what it failed with
                self._listing = None
                self._watch_directories(listing.directories)
                self._open_pipes(listing.directories)
                await self._follow_files(listing)
            if self._listing is None and (self._relist or now >= next_list):
                self._relist = False
                self._listing = self._list_files()
                next_list = now + DIRECTORY_PERIOD_S
            grown = list(self._grown)
            self._grown.clear()
            await publish_new(grown, self._publisher)
            if now >= next_poll:
                next_poll = now + await self._poll_sizes()
            if self._listing is None:
                await asyncio.sleep(self._interval_s)
            else:
                await asyncio.wait([self._listing], timeout=self._interval_s)
            with suppress(TimeoutError):
                # A listing that is under way wakes this loop at its end.
                due = next_poll if self._listing is not None else min(next_poll, next_list)
                until = max(0.0, due - time.monotonic())
                # Not wait_for: on Python 3.11 it may lose a cancellation that comes with the event.
                async with asyncio.timeout(until):
                    await self._wake.wait()
            self._wake.clear()

    async def _poll_sizes(self) -> float:
        """Check all sizes; return when to check again."""
        sizes = {followed: followed.size for followed in self._followed.values()}
        await publish_new(sizes, self._publisher)
        missed = any(followed.size != size for followed, size in sizes.items())
        silent = self._reports == 0
        self._reports = 0
        # A report may still be on its way: only repeated growth without one means there are none.
        if missed or not silent:
            self._unreported = self._unreported + 1 if silent else 0
        if self._inotify is None or self._unreported >= 3:
            return max(self._interval_s, FAST_POLL_S)
        return SLOW_POLL_S

    def _list_files(self) -> "asyncio.Future[_Listing]":
        """Scan for new files and directories beside the frames: years of runs take a while."""
        loop = asyncio.get_running_loop()
        scanning = loop.run_in_executor(None, self._scan, dict(self._followed))
        scanning.add_done_callback(lambda _: self._wake.set())
        return scanning

    def _scan(self, followed: Mapping[FileKey, Followed]) -> _Listing:
        """Find the newest files and open those that are not `followed`; in another thread."""
        here, *runs = self._finder.directories()
        newest = newest_files([*runs, here], self._publisher.modules)
        wanted = {key: path for key, path in newest.items() if key[1] in self._publisher.products}
        outdated = [
            key
            for key, each in followed.items()
            if wanted.get(key) != each.file.path or each.replaced
        ]
        opened: dict[FileKey, tuple[Followed, Frames | None]] = {}
        refused = set()
        for key in wanted:
            if key in followed and key not in outdated:
                continue
            try:
                file = Followed(wanted[key], parse_file_name(wanted[key]))
            except (OSError, DataError) as error:
                refused.add(str(error))
                continue
            opened[key] = (file, None) if self._pipe_name else _read_new([file])[0]
        for why in sorted(refused - self._refused):  # each file is tried again at every scan
            logger.error("%s", why)
        self._refused = refused
        directories = {*_module_directories(self._data_dir), here, *runs}
        return _Listing(directories, outdated, opened)

    async def _follow_files(self, listing: _Listing) -> None:
        outdated = [self._followed.pop(key) for key in listing.outdated]
        for followed in outdated:
            del self._by_path[followed.file.path]
            self._grown.pop(followed, None)
        for key, (followed, _) in listing.opened.items():
            self._followed[key] = self._by_path[followed.file.path] = followed
        try:
            # what was written before the change
            await publish_new(list(filter(self._is_read, outdated)), self._publisher)
        finally:
            for followed in outdated:
                followed.file.close()
        for followed, frames in listing.opened.values():
            publish_newest(followed, frames, self._publisher)
        opened = [followed for followed, _ in listing.opened.values() if self._is_read(followed)]
        await publish_new(opened, self._publisher)  # what was written since

    def _is_read(self, followed: Followed) -> bool:
        """Return whether a file may be read: where pipes announce frames, one has named it."""
        return not self._pipe_name or followed.place in self._announced

    def _open_pipes(self, directories: Collection[Path]) -> None:
        wanted = {path / self._pipe_name for path in directories if self._pipe_name}
        for path, (fd, _) in list(self._pipes.items()):
            if path not in wanted or is_replaced(path, os.fstat(fd)):
                self._close_pipe(path)
        for path in wanted - set(self._pipes):
            with suppress(OSError):
                if not stat.S_ISFIFO(path.stat().st_mode):
                    continue
                # Open for writing too: the pipe then never ends when its writer comes and goes.
                fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
                self._pipes[path] = (fd, bytearray())
                asyncio.get_running_loop().add_reader(fd, self._take_names, path)
                logger.info("%s is read", path)

    def _close_pipe(self, path: Path) -> None:
        fd, _ = self._pipes.pop(path)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)

    def _take_names(self, path: Path) -> None:
        """Take the names of products out of a pipe; the files of these have grown."""
        fd, pending = self._pipes[path]
        with suppress(BlockingIOError):
            pending += os.read(fd, 65536)
        whole = len(pending) - len(pending) % NAME_BYTES
        names = {
            bytes(pending[at : at + NAME_BYTES]).decode("ascii", "replace").strip()
            for at in range(0, whole, NAME_BYTES)
        }
        del pending[:whole]
        if (wrong := names - set(PRODUCTS)) and path not in self._wrong_pipes:
            self._wrong_pipes.add(path)  # it would come again with every frame
            logger.error("%s: %r is no data product", path, min(wrong))
        places = {(path.parent, name) for name in names & set(PRODUCTS)}
        self._announced |= places
        named = (each for each in self._followed.values() if each.place in places)
        self._grown |= dict.fromkeys(named)
        self._wake.set()

    def _watch_directories(self, wanted: Collection[Path]) -> None:
        if self._inotify is None:
            return
        growth = 0 if self._pipe_name else flags.MODIFY
        for path in set(wanted) - set(self._watched):
            try:
                watch = self._inotify.add_watch(path, growth | _DIRECTORY_CHANGE)
            except OSError as error:
                logger.debug("%s is not watched: %s", path, error)
                continue
            self._watched[path], self._paths[watch] = watch, path
            self._relist = True  # it may have changed before it was watched
        for path in set(self._watched) - set(wanted):
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
