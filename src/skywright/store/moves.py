"""Moves journals to the directories ``done`` and ``aside``, and back."""

import os
import stat
from pathlib import Path

from skywright.callbacks.journal import fsync_directory


def move_journal(path: Path, target: Path) -> None:
    """Rename a journal to `target`; make the directory of `target` if it is missing.

    Raises
    ------
    PermissionError
        If this process may not; the message has the permissions of the directories.
    OSError
        If it cannot be renamed, or the directories cannot be synced; it may be renamed then.
    """
    directories = list(dict.fromkeys((path.parent, target.parent)))
    try:
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    except PermissionError as error:
        closed = [each for each in directories if not os.access(each, os.W_OK | os.X_OK)]
        words = map(_permissions, closed or directories)
        raise PermissionError(
            f"user {os.geteuid()} may not rename it to {target}: {'; '.join(words)}"
        ) from error
    for directory in reversed(directories):
        fsync_directory(directory)


def _permissions(directory: Path) -> str:
    try:
        status = directory.stat()
    except FileNotFoundError:
        return f"the directory {directory} is not there"
    except OSError as error:
        return str(error)
    mode = stat.filemode(status.st_mode)
    return f"the directory {directory} has the permissions {mode} and the owner {status.st_uid}"
