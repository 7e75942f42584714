"""Paths inside EPU's files are Windows paths; here they become paths of other machines."""

import posixpath
import re
from collections.abc import Mapping

_DRIVE = re.compile(r"([A-Za-z]):")
_DOUBLED = re.compile("/{2,}")


def cygwin_path(path: str | None) -> str | None:
    r"""Return a Windows path in cygwin's form: ``Z:\a\b`` is ``/cygdrive/z/a/b``.

    A UNC path has no drive: ``\\host\share`` is ``/host/share``.
    """
    if path is None:
        return None
    slashed = path.replace("\\", "/")
    if drive := _DRIVE.match(slashed):
        slashed = f"/cygdrive/{drive[1].lower()}/{slashed[drive.end() :]}"
    return _DOUBLED.sub("/", slashed)


def map_path(path: str | None, prefixes: Mapping[str, str]) -> str | None:
    r"""Return where another machine sees a path of EPU's; None where no prefix matches.

    Parameters
    ----------
    path
        Windows path, or its cygwin form; None stays None.
    prefixes
        Windows prefix (``Z:\DoseFractions``), or its cygwin form -> prefix there; the longest that
        matches holds, and case does not matter.
    """
    if path is None:
        return None
    plain = _plain(path)
    starts = {_plain(prefix).lower(): place for prefix, place in prefixes.items()}
    for start in sorted(starts, key=len, reverse=True):
        below = _below(plain, start)
        if below is not None:
            place = starts[start].rstrip("/\\")
            return f"{place}/{below}" if below else place
    return None


def micrograph_path(storage: str | None, directory: str, file: str) -> str | None:
    """Return where EPU itself has a file of a session; None before its storage path is known.

    Parameters
    ----------
    storage
        The session's storage path, in the form that the entity database has.
    directory
        The session's directory, relative to the directory that is read; a copy may stand in
        ``metadata_<session>``.
    file
        The file, relative to the same.
    """
    if not storage:
        return None
    inside = file.removeprefix(f"{directory}/")
    session = posixpath.basename(directory).removeprefix("metadata_")
    return posixpath.join(storage, session, inside)


def _plain(path: str) -> str:
    """Return the cygwin form of a path, without ``/`` at its end."""
    return (cygwin_path(path) or "").rstrip("/")


def atlas_relative(atlas: str | None, storage: str | None) -> str | None:
    """Return an atlas's path relative to the visit: AtlasId without the storage path in front.

    An atlas outside the storage path has no such path; its cygwin form is returned.
    """
    if atlas is None:
        return None
    below = None if storage is None else _below(_slashed(atlas), _slashed(storage))
    return below or cygwin_path(atlas)


def atlas_candidates(session: str, relative: str | None) -> list[str]:
    """Return where the atlas of a session may be, best first, relative to the directory read.

    Parameters
    ----------
    session
        The session's directory, relative to the directory that is read.
    relative
        Result of `atlas_relative`.
    """
    if relative is None or relative.startswith("/") or ".." in relative.split("/"):
        return []
    ups = [posixpath.join(session, ".."), posixpath.join(session, "../..")]
    places = [posixpath.join(up, relative) for up in ups]
    places += [posixpath.join(up, "atlas", relative) for up in ups]
    return [posixpath.normpath(place) for place in places]


def _slashed(path: str) -> str:
    """Return a path with single ``/`` (two at the start of a UNC path), and none at the end."""
    slashed = path.replace("\\", "/")
    return (slashed[:1] + _DOUBLED.sub("/", slashed[1:])).rstrip("/")


def _below(path: str, start: str) -> str | None:
    """Return the part of a path below `start`, empty for `start` itself; None for one outside.

    Case does not matter. Directories are counted, not characters: a letter in lower case may have
    another length.
    """
    names, depth = path.split("/"), start.count("/") + 1
    is_below = "/".join(names[:depth]).lower() == start.lower()
    return "/".join(names[depth:]) if is_below else None
