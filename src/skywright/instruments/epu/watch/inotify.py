"""Linux's events of a directory and of all directories below it."""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from skywright.instruments.epu.scan import identity_of

logger = logging.getLogger(__name__)

WATCH_AGAIN_S = 1.0
"""Pause between two tries to watch directories that could not be listed."""


class TooManyDirectoriesError(OSError):
    """The kernel refuses a watch of another directory. It is no full disk, whose errno it has."""

    def __init__(self) -> None:
        super().__init__(
            "there are more directories than fs.inotify.max_user_watches allows; raise that limit "
            "with sysctl"
        )


class InotifyTree:
    """Events of all paths below a root, in order, with a watch on every directory.

    Parameters
    ----------
    root
        The directory.
    removals
        Whether paths that are removed or renamed away give events too.
    found
        Called with each file, and its path below `root`, that is there when its directory's watch
        is placed: files written into a new directory before that give no events.

    Raises
    ------
    TooManyDirectoriesError
        If the kernel refuses to watch more directories; `read` raises it too.
    OSError
        If the kernel gives no events.
    """

    def __init__(
        self,
        root: Path,
        removals: bool = False,
        found: Callable[[str, "os.DirEntry[str]"], None] = lambda path, entry: None,
    ) -> None:
        from inotify_simple import INotify, flags

        self.flags = flags
        self._root, self._found = root, found
        self._mask = (
            flags.CLOSE_WRITE
            | flags.MOVED_TO
            | flags.CREATE
            | flags.MODIFY
            | flags.ONLYDIR
            | flags.DONT_FOLLOW
        )
        if removals:
            self._mask |= flags.DELETE | flags.MOVED_FROM
        self._inotify = INotify()
        self._directories: dict[int, str] = {}
        self._watched_root: tuple[int, int] | None = None
        """Device and inode: a mount may cover the root, and it may be made anew."""
        self.failed: set[str] = set()
        """Directories of which not all is watched, because of an error of the disk."""
        self._watch_again = 0.0
        self._watch("")

    def _watch(self, directory: str, report: bool = True) -> None:
        """Watch a directory and all below; `report` gives the files that are there to `found`."""
        waiting = [directory]
        while waiting:
            directory = waiting.pop()
            path = f"{self._root}/{directory}" if directory else str(self._root)
            prefix = f"{directory}/" if directory else ""
            try:
                identity = None if directory else identity_of(self._root)
                self._directories[self._inotify.add_watch(path, self._mask)] = directory
                if not directory:
                    self._watched_root = identity
                with os.scandir(path) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(prefix + entry.name)
                        elif report:
                            self._found(prefix + entry.name, entry)
            except (FileNotFoundError, NotADirectoryError):
                self.failed.discard(directory)
                continue  # removed in the meantime
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise TooManyDirectoriesError from error
                if directory not in self.failed:
                    logger.warning("%s: %s", path, error.strerror)
                self.failed.add(directory)
                continue
            self.failed.discard(directory)

    def watch_failed(self) -> bool:
        """Try to watch the directories in `failed`, and a root that is another directory now.

        That is done at most every `WATCH_AGAIN_S`.

        Returns
        -------
        bool
            Whether one of them is watched now: the caller must compare what is in it.
        """
        if time.monotonic() < self._watch_again:
            return False
        with suppress(OSError):
            if self._watched_root != identity_of(self._root):
                self.failed.add("")
        before = set(self.failed)
        for directory in sorted(before):
            self._watch(directory, report=False)
        self._watch_again = time.monotonic() + WATCH_AGAIN_S
        return not before <= self.failed

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with an event."""
        return int(self._inotify.fileno())

    def read(self, timeout_s: float) -> Iterator[tuple[str, Any, int]]:
        """Yield path below the root, `flags` and cookie of each event of the next `timeout_s`.

        An event with ``Q_OVERFLOW`` says that others were lost: the caller must compare the whole
        directory. Every directory has its watch by then.
        """
        flags = self.flags
        for event in self._inotify.read(timeout=timeout_s * 1000):
            if event.mask & flags.Q_OVERFLOW:
                self._watch("", report=False)  # new directories may be among what was lost
                yield "", event.mask, 0
                continue
            directory = self._directories.get(event.wd)
            if directory is None or event.mask & flags.IGNORED:
                if self._directories.pop(event.wd, None) == "":
                    self._watched_root = None
                continue
            path = f"{directory}/{event.name}" if directory else event.name
            if event.mask & flags.ISDIR and event.mask & (flags.CREATE | flags.MOVED_TO):
                self._watch(path)
            yield path, event.mask, event.cookie

    def close(self) -> None:
        """Stop listening."""
        self._inotify.close()
