"""Directories of files that other programs write: tiled reads them where they are."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from skywright.config import Settings
from skywright.instruments import instruments

LOOKS_MAX = 2000
"""Files and directories that are looked at, the newest directories first."""


def data_directories(settings: Settings) -> dict[str, Path]:
    """Return the data directory of each configured IOC of this machine that has one, by its name.

    Those that an IOC makes itself, when it starts, are among them.
    """
    options = {
        offer.module: offer.data_option
        for instrument in instruments().values()
        for offer in instrument.iocs.values()
        if offer.data_option
    }
    found = {}
    for name, ioc in settings.iocs.items():
        option = options.get(ioc.module)
        given = _value_of(settings.ioc_args(name), option) if option and not ioc.address else ""
        if given:
            found[name] = Path(given).expanduser()
    return found


def why_unreadable(directory: Path) -> str:
    """Say why this user, who runs tiled too, cannot read what is in a directory.

    Returns
    -------
    str
        Empty if it can, and if there is no such directory yet.
    """
    try:
        if not directory.exists():
            return ""
        if not directory.is_dir():
            return f"{directory} is no directory"
        for number, path in enumerate(_walk(directory)):
            needed = os.R_OK | (os.X_OK if path.is_dir() else 0)
            if not os.access(path, needed):
                return f"{path} cannot be read by this user ({os.geteuid()})"
            if number >= LOOKS_MAX:
                break
    except PermissionError as error:  # a directory above, or behind a link, may not be entered
        return f"{error.filename} cannot be reached by this user ({os.geteuid()})"
    return ""


def _walk(directory: Path) -> Iterator[Path]:
    """Yield a directory and what is below it, newer directories first."""
    yield directory
    if not os.access(directory, os.R_OK | os.X_OK):
        return
    try:
        entries = sorted(directory.iterdir(), key=lambda path: -path.lstat().st_mtime_ns)
    except OSError:  # it goes away in this moment
        return
    yield from (path for path in entries if path.is_file())
    for path in entries:
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _value_of(args: tuple[str, ...], option: str) -> str:
    """Return the value of an option in a command line; empty if it is not there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, dest="value", nargs="?")
    return parser.parse_known_args(args)[0].value or ""
